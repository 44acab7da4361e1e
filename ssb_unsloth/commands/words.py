"""The words of the command line: every command with its options, what its help says of it, and one example.

Nothing heavy is imported, since `ssb --help` is made here.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..io.terminal import folded, write
from ..pipeline.table import STAGES
from ..recipe.benchmarks import BENCHMARKS


@dataclass(frozen=True)
class About:
    """What help says of a command. `line`: in the list of all commands; `more`: in its own help."""

    line: str
    more: str
    example: str


IN_PROCESSES = (
    " Each stage runs in a process of its own. What is up to date is skipped, so the same command resumes a run that"
    " was stopped."
)
ABOUT = {
    "run": About(
        "run a recipe: all stages, each in a process of its own",
        "Run a recipe from its questions to its report, in the folder runs/NAME." + IN_PROCESSES,
        "ssb run pocket",
    ),
    "sweep": About(
        "run a recipe of several students (variants, seeds): one table, one figure",
        "Run a recipe that names several students (variants, seeds). What they share is made once, and all of them are"
        " evaluated together, into one table and one figure." + IN_PROCESSES,
        "ssb sweep evidence-tuning --workers 2",
    ),
    "base": About(
        STAGES["base"].help,
        "The stage before a later round of a recipe with `rounds`: the student of the round before is merged into the"
        " weights, which are the base of the next.",
        "ssb base pocket rounds=2 --student ssb-round2-s3407",
    ),
    "curate": About(
        STAGES["curate"].help,
        "The first stage: several rollouts of each question are sampled and graded; the model is shown a right and a"
        " wrong one and writes a refinement; a right refinement becomes a pair. Written to runs/NAME/curate: pairs,"
        " rollouts, refinements and their statistics.",
        "ssb curate pocket curate.pairs=64",
    ),
    "teach": About(
        STAGES["teach"].help,
        "The second stage: the model itself, shown the right and the wrong rollout, reads each pair, and what it"
        " predicts at each token of the reply is kept as the student's targets. Reads runs/NAME/curate, and writes"
        " runs/NAME/teach.",
        "ssb teach pocket teach.targets=top_k",
    ),
    "train": About(
        STAGES["train"].help,
        "The third stage: a LoRA adapter learns the targets from the bare questions, or what `train.method` names"
        " in their place. Reads runs/NAME/curate and runs/NAME/teach, and writes the adapter to runs/NAME/train.",
        "ssb train pocket train.epochs=3",
    ),
    "evaluate": About(
        STAGES["evaluate"].help,
        "The fourth stage: base and students answer every question of the benchmarks, each reply is graded, and"
        " accuracies are compared question by question. Reads runs/NAME/train, and writes runs/NAME/evaluate. With"
        " --benchmark any MODEL is evaluated, without a recipe.",
        "ssb evaluate pocket --benchmark pocket-test",
    ),
    "report": About(
        STAGES["report"].help,
        "The last stage: report.md for people, report.json for programs, figures, and questions followed from rollouts"
        " to answers. Loads no model. Reads what the other stages wrote, and writes runs/NAME/report.",
        "ssb report pocket",
    ),
    "grade": About(
        "grade stored replies again, without a model; show what changed",
        "Grade stored replies again, without a model, and show which verdicts changed. Each line of a file has the"
        " `text` of a reply and its `gold` answer. Nothing is overwritten.",
        "ssb grade runs/pocket/evaluate",
    ),
    "plan": About(
        "what a recipe needs: memory, disk, tokens and time of each stage",
        "Work out what a recipe needs, before anything runs: memory, disk, tokens and time of each stage, on the card"
        " here or on a named one. Exit code 2 where a stage does not fit or cannot run there, with the keys to change.",
        "ssb plan qwen2.5-0.5b-t4 --gpu t4",
    ),
    "doctor": About(
        "what works on this machine, and for what does not, how to fix it",
        "Look at the machine and at what is installed, and say for each thing that is wrong how to fix it; with a"
        " RECIPE also whether that one can run here. Exit code 2 where it cannot. --machine needs no package at all:"
        " from a checkout, `python3 -m ssb_unsloth doctor --machine`.",
        "ssb doctor --machine",
    ),
    "export": About(
        "write a run's student as adapter, merged weights, GGUF",
        "Write the student of a finished run as a PEFT adapter, as merged weights and as GGUF, each with a model card.",
        "ssb export runs/pocket --format merged",
    ),
    "push": About(
        "upload a run's student, or its pairs, targets or rollouts, to the hub: private, and after asking",
        "Upload the student of a finished run, or its pairs, targets or rollouts, to the Hugging Face hub: private"
        " unless --public, and never without asking or --yes. With --to a data set is written to a folder, and nothing"
        " is uploaded.",
        "ssb push runs/pocket --what pairs --to my-pairs",
    ),
    "chat": About(
        "base and student answer the same question side by side",
        "Ask the base and the student of a finished run the same questions, and read their answers side by side.",
        "ssb chat runs/pocket",
    ),
    "verify": About(
        "read every byte of a run: is it all as it was written?",
        "Read every byte of a run: files against the manifests of their stages, the manifests, and the chain between"
        " the stages. Exit code 2 where anything differs.",
        "ssb verify runs/pocket",
    ),
    "recipes": About(
        "the recipes that come with the package: list, show, copy; write one",
        "List the recipes that come with the package. With an ACTION: show every key of one and where its value comes"
        " from, copy one to change it, or write a new one for a model and data of your own.",
        "ssb recipes",
    ),
    "recipes show": About(
        "every key of a recipe, and where its value comes from",
        "Print a recipe with every key that it has or inherits, and where each value comes from: the file, its base,"
        " the command line, a preset, or the default.",
        "ssb recipes show pocket seed=1",
    ),
    "recipes copy": About(
        "put a recipe's file here, to change it",
        "Write a copy of a recipe's file to this folder, to change it.",
        "ssb recipes copy pocket --out mine.yaml",
    ),
    "recipes new": About(
        "write a recipe for a model and data of your own",
        "Write a recipe for a model and data of your own. The columns of questions and answers are guessed, and said.",
        "ssb recipes new --model Qwen/Qwen3-1.7B --data questions.jsonl",
    ),
}


class Parser(argparse.ArgumentParser):
    """Argparse's own, whose messages repeat what was typed, and say what to do."""

    example = "ssb run pocket"

    def _print_message(self, message: str, file: Any = None) -> None:
        write(message, file or sys.stderr)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the words, or which are missing, and end with exit code 2."""
        if required := re.fullmatch("the following arguments are required: (.*)", message):
            helps = {action.metavar: action.help for action in self._actions}
            missing = required[1].split(", ")
            message = "; ".join(f"{name} is missing: {helps.get(name) or 'see --help'}" for name in missing)
        said = folded(f"{self.prog}: {message}.")
        self.exit(2, f"{said}\nFor example: {self.example}\n`{self.prog} --help` says more.\n")


def parser() -> Parser:
    """The command `ssb` with all its commands; what it parses has `command`, None where none is named."""
    top = Parser(
        prog="ssb",
        description="Semantic Soft Bootstrapping: a small language model teaches itself to reason better.",
        epilog="Start with: ssb run pocket (a laptop, two minutes, no GPU).",
    )
    top.add_argument("--version", action="store_true", help="print the version, in a checkout its commit too, and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for name in ("run", "sweep"):
        command = _command(commands, name, stages=True)
        _recipe_arguments(command)
        command.add_argument("--workers", type=int, default=1, metavar="N", help="stages at a time, on a CPU (1)")
        if name == "sweep":
            command.add_argument(
                "--ray", action="store_true", help="stages as tasks of a Ray cluster (RAY_ADDRESS, else this machine)"
            )
    for name, row in STAGES.items():
        stage = _command(commands, name)
        _recipe_arguments(stage)
        if name == "evaluate":
            _model_arguments(stage)
        if not row.of_all:
            stage.add_argument("--student", metavar="NAME-sSEED", help="a variant's (default: the recipe's own)")
    _looking_commands(commands)
    _student_commands(commands)
    verify = _command(commands, "verify")
    verify.add_argument("folder", type=Path, metavar="RUN", help="a run folder, such as runs/pocket")
    _recipes_command(commands)
    return top


def _command(commands: Any, name: str, within: str = "", stages: bool = False) -> Parser:
    """A command with its help; `stages`: with a list of them."""
    about = ABOUT.get(f"{within} {name}".strip()) or About(STAGES[name].help, STAGES[name].help, f"ssb {name} pocket")
    told = folded(about.more)
    if stages:
        told += "\n\nstages:\n" + "\n".join(
            folded(row.help, f"  {stage:<10}", " " * 12) for stage, row in STAGES.items()
        )
    command: Parser = commands.add_parser(
        name,
        help=about.line,
        description=told,
        epilog=f"example:\n  {about.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.example = about.example
    return command


def _looking_commands(commands: Any) -> None:
    """What looks at replies, recipes and machines."""
    grading = _command(commands, "grade")
    grading.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".jsonl of generations, or a folder")
    grading.add_argument("--out", type=Path, metavar="DIR", help="write them there with their new verdicts")
    grading.add_argument(
        "--verifier",
        metavar="NAME",
        help="which grades (the run's own; math for files of no run); with options '{name: numeric, absolute: 0.01}'",
    )
    plan = _command(commands, "plan")
    _recipe_words(plan)
    plan.add_argument("--gpu", metavar="CARD", help="plan for this card, e.g. t4, rtx4090, a100-40gb; none: the CPU")
    plan.add_argument(
        "--gpus", type=int, metavar="N", help="on so many of these cards in a node, and where that stops to pay"
    )
    plan.add_argument("--nodes", type=int, metavar="N", help="so many such nodes (1)")
    plan.add_argument("--measure", action="store_true", help="by the speed that the card here shows, in two seconds")
    plan.add_argument("--json", action="store_true", help="as JSON")
    doctor = _command(commands, "doctor")
    _recipe_words(doctor, needed=False)
    doctor.add_argument("--machine", action="store_true", help="the machine alone: before the packages are installed")
    doctor.add_argument("--json", action="store_true", help="as JSON")


def _recipes_command(commands: Any) -> None:
    recipes = _command(commands, "recipes")
    actions = recipes.add_subparsers(dest="action", metavar="ACTION")
    show = _command(actions, "show", "recipes")
    _recipe_words(show)
    copy = _command(actions, "copy", "recipes")
    copy.add_argument("recipe", metavar="NAME", help="as `ssb recipes` lists it")
    copy.add_argument("--out", type=Path, metavar="FILE", help="where to (NAME.yaml)")
    new = _command(actions, "new", "recipes")
    new.add_argument("--model", metavar="ID", help="hub id or folder of the base model")
    new.add_argument("--data", metavar="FILE", help="questions and gold answers: a file, or a hub data set's name")
    new.add_argument("--question", metavar="COL", help="the questions' column (guessed, and said)")
    new.add_argument("--answer", metavar="COL", help="the gold answers' column (guessed, and said)")
    new.add_argument("--out", type=Path, metavar="FILE", help="where to (MODEL-DATA.yaml)")


def _student_commands(commands: Any) -> None:
    """What can be done with the student of a finished run."""
    export, push, chat = (_command(commands, name) for name in ("export", "push", "chat"))
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
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. seed=1 train.learning_rate=1e-4"
    )


def _recipe_arguments(command: argparse.ArgumentParser) -> None:
    _recipe_words(command)
    command.add_argument("--force", action="store_true", help="run also what is up to date")
    command.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (runs/)")


def _model_arguments(command: argparse.ArgumentParser) -> None:
    command.usage = (
        "ssb evaluate RECIPE [key=value ...] [--force] [--runs DIR]\n"
        "       ssb evaluate MODEL --benchmark NAME [--adapter DIR] [...]"
    )
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
