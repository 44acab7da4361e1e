"""The command `ssb`. Imports nothing heavy: `ssb --help` answers at once."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .errors import UserError
from .io.credentials import refuse_credentials
from .io.files import control_character
from .io.terminal import complain, tell, write
from .machine.environment import prepare
from .pipeline import stopping
from .pipeline.stopping import exit_code
from .pipeline.table import STAGES
from .recipe.benchmarks import BENCHMARKS
from .recipe.shipped import is_recipe

AT_LAST = 4.8  # seconds after a signal; a run gives its stages less


class Parser(argparse.ArgumentParser):
    """Argparse's own, whose messages repeat what was typed."""

    def _print_message(self, message: str, file: Any = None) -> None:
        write(message, file or sys.stderr)


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="ssb",
        description="Semantic Soft Bootstrapping: a small language model teaches itself to reason better.",
        epilog="Start with: ssb run pocket (a laptop, two minutes, no GPU).",
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser("run", help="run a recipe: all stages, each in a process of its own")
    sweep = commands.add_parser(
        "sweep", help="run a recipe of several students (variants, seeds): one table, one figure"
    )
    for command in (run, sweep):
        _recipe_arguments(command)
        command.add_argument("--workers", type=int, default=1, metavar="N", help="stages at a time, on a CPU (1)")
    sweep.add_argument(
        "--ray", action="store_true", help="stages as tasks of a Ray cluster (RAY_ADDRESS, else this machine)"
    )
    for name, row in STAGES.items():
        stage = commands.add_parser(name, help=row.help, description=row.help[0].upper() + row.help[1:] + ".")
        _recipe_arguments(stage)
        if name == "evaluate":
            _model_arguments(stage)
        if not row.of_all:
            stage.add_argument("--student", metavar="NAME-sSEED", help="a variant's (default: the recipe's own)")
    grading = commands.add_parser("grade", help="grade stored replies again, without a model; show what changed")
    grading.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".jsonl of generations, or a folder")
    grading.add_argument("--out", type=Path, metavar="DIR", help="write them there with their new verdicts")
    grading.add_argument(
        "--verifier",
        metavar="NAME",
        help="which grades (the run's own; math for files of no run); with options '{name: numeric, absolute: 0.01}'",
    )
    plan = commands.add_parser("plan", help="what a recipe needs: memory, disk, tokens and time of each stage")
    _recipe_words(plan)
    plan.add_argument("--gpu", metavar="CARD", help="plan for this card, e.g. t4, rtx4090, a100-40gb; none: the CPU")
    plan.add_argument(
        "--gpus", type=int, metavar="N", help="on so many of these cards in a node, and where that stops to pay"
    )
    plan.add_argument("--nodes", type=int, metavar="N", help="so many such nodes (1)")
    plan.add_argument("--measure", action="store_true", help="by the speed that the card here shows, in two seconds")
    plan.add_argument("--json", action="store_true", help="as JSON")
    doctor = commands.add_parser("doctor", help="what works on this machine, and for what does not, how to fix it")
    _recipe_words(doctor, needed=False)
    doctor.add_argument("--machine", action="store_true", help="the machine alone: before the packages are installed")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    _student_commands(commands)
    verify = commands.add_parser("verify", help="read every byte of a run: is it all as it was written?")
    verify.add_argument("folder", type=Path, metavar="RUN", help="a run folder, such as runs/pocket")
    _recipes_command(commands)
    return top


def _recipes_command(commands: Any) -> None:
    recipes = commands.add_parser("recipes", help="the recipes that come with the package: list, show, copy; write one")
    actions = recipes.add_subparsers(dest="action", metavar="ACTION")
    show = actions.add_parser("show", help="every key of a recipe, and where its value comes from")
    _recipe_words(show)
    copy = actions.add_parser("copy", help="put a recipe's file here, to change it")
    copy.add_argument("recipe", metavar="NAME", help="as `ssb recipes` lists it")
    copy.add_argument("--out", type=Path, metavar="FILE", help="where to (NAME.yaml)")
    new = actions.add_parser("new", help="write a recipe for a model and data of your own")
    new.add_argument("--model", metavar="ID", help="hub id or folder of the base model")
    new.add_argument("--data", metavar="FILE", help="questions and gold answers: a file, or a hub data set's name")
    new.add_argument("--question", metavar="COL", help="the questions' column (guessed, and said)")
    new.add_argument("--answer", metavar="COL", help="the gold answers' column (guessed, and said)")
    new.add_argument("--out", type=Path, metavar="FILE", help="where to (MODEL-DATA.yaml)")


def _student_commands(commands: Any) -> None:
    """What can be done with the student of a finished run."""
    export = commands.add_parser("export", help="write a run's student as adapter, merged weights, GGUF")
    push = commands.add_parser(
        "push", help="upload a run's student, or its pairs, targets or rollouts, to the hub: private, and after asking"
    )
    chat = commands.add_parser("chat", help="base and student answer the same question side by side")
    for command in (export, push, chat):
        command.add_argument("folder", type=Path, metavar="RUN", help="a run folder, such as runs/pocket")
    formats = ("adapter", "merged", "gguf")
    export.add_argument("--format", choices=(*formats, "all"), default="all", help="all: GGUF only where llama.cpp is")
    export.add_argument("--out", type=Path, metavar="DIR", help="where to (RUN/export)")
    push.add_argument("repo_id", metavar="REPO_ID", nargs="?", help="user/name")
    push.add_argument(
        "--what",
        choices=("adapter", "pairs", "targets", "rollouts"),
        default="adapter",
        help="adapter: the student, as --format says; the others: a data set with a card (docs/sharing.md)",
    )
    push.add_argument("--to", type=Path, metavar="DIR", help="write the data set there, and upload nothing")
    push.add_argument("--format", choices=formats, help="which export (adapter; merged where there is none)")
    push.add_argument("--public", action="store_true", help="for everybody to see; private otherwise")
    push.add_argument("--yes", action="store_true", help="do not ask before uploading")
    chat.add_argument("--temperature", type=float, default=0.0, help="0, greedy, unless given")


def _recipe_words(command: argparse.ArgumentParser, needed: bool = True) -> None:
    help_ = "a YAML file, or the name of a recipe that comes with the package (`ssb recipes`)"
    command.add_argument("recipe", nargs=None if needed else "?", metavar="RECIPE", help=help_)
    command.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. seed=1 train.learning_rate=1e-4")


def _recipe_arguments(command: argparse.ArgumentParser) -> None:
    _recipe_words(command)
    command.add_argument("--force", action="store_true", help="run also what is up to date")
    command.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (runs/)")


def _model_arguments(command: argparse.ArgumentParser) -> None:
    command.usage = "ssb evaluate RECIPE [key=value ...] | ssb evaluate MODEL --benchmark NAME [--adapter DIR] ..."
    options = command.add_argument_group(
        "a MODEL in place of a RECIPE (hub id, folder, adapter, or a vLLM server's URL)"
    )
    options.add_argument(
        "--benchmark",
        action="append",
        metavar="NAME[=FILE]",
        help=f"{', '.join(BENCHMARKS)}, or any name with a file of problems (docs/data.md); may be repeated",
    )
    options.add_argument("--adapter", action="append", default=[], metavar="[NAME=]DIR", help="may be repeated")
    options.add_argument("--samples", type=int, metavar="N", help="replies a question at --temperature (0.8)")
    options.add_argument("--temperature", type=float, metavar="T", help="sample at T beside greedy decoding")
    options.add_argument("--max-tokens", type=int, metavar="N", help="length limit of a reply (the benchmark's own)")
    options.add_argument("--default-prompt", action="store_true", help="also without the tutor prompt")
    options.add_argument("--out", type=Path, metavar="DIR", help="for replies and scores (runs/evaluate-MODEL-CODE)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; that of this process unless words are given. Exit code 0, or 2 for a user's mistake, or as shells
    have it when stopped: 130 by Ctrl-C, 143 by SIGTERM.
    """
    if argv is None:
        stopping.arm(AT_LAST)
    prepare()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        _check_words(words)
    except UserError as error:
        complain(f"ssb: {error}")
        return 2
    arguments, rest = parser().parse_known_args(words)
    # argparse takes positional words in one row only; overrides may stand before and after options.
    if rest and (not hasattr(arguments, "overrides") or any(word.startswith("-") for word in rest)):
        parser().error(f"unknown: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return exit_code(lambda: _command(arguments))


def _command(arguments: argparse.Namespace) -> int:
    if arguments.version:
        tell(f"ssb_unsloth {__version__}")
        return 0
    if arguments.command is None:
        parser().print_help()
        return 0
    module = arguments.command
    if module == "evaluate" and (arguments.benchmark or not is_recipe(arguments.recipe)):
        module = "evaluate_model"
    elif module in STAGES:
        module = "stage"
    elif module == "sweep":
        module = "run"
    code: int = importlib.import_module(f"{__package__}.commands.{module}").main(arguments)
    return code


def _check_words(words: Sequence[str]) -> None:
    """Before anything is made of them: a word may become a file's name, or stand in a message."""
    for number, word in enumerate(words, start=1):
        refuse_credentials(word, f"word {number} of the command")
        if (found := control_character(word, "\n\t")) is not None:
            raise UserError(f"{word!r} holds the control character {found!r}; leave it out.")
