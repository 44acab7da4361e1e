"""The words of the command line: every command with its options, what its help says of it, and one example.

Nothing heavy is imported, since `ssb --help` is made here.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..io.terminal import folded, write
from ..pipeline.table import STAGES
from ..recipe.benchmarks import BENCHMARKS
from ..recipe.shipped import is_recipe


@dataclass(frozen=True)
class About:
    """What help says of a command. `line`: in the list of all commands; `more`: in its own help."""

    line: str
    more: str
    example: str


IN_PROCESSES = (
    " Each stage runs in a process of its own. Stages that are up to date are skipped, so the same command resumes a"
    " run that was stopped."
)
ABOUT = {
    "run": About(
        "run a recipe: all stages, each in a process of its own",
        "Run a recipe from its questions to its report, in the folder runs/NAME." + IN_PROCESSES,
        "ssb run pocket",
    ),
    "sweep": About(
        "run a recipe with several students (variants, seeds), for one table of all",
        "Run a recipe that names several students (variants, seeds). What they share is made once, and all of them are"
        " evaluated together and compared in one table and one figure." + IN_PROCESSES,
        "ssb sweep evidence-tuning --workers 2",
    ),
    "base": About(
        STAGES["base"].help,
        "The stage that begins every round but the first, in a recipe with `rounds`: the adapter that the previous"
        " round trained is merged into the weights, which become this round's base.",
        "ssb base pocket rounds=2 --student ssb-round2-s3407",
    ),
    "curate": About(
        STAGES["curate"].help,
        "The first stage: the model answers each question several times (rollouts), and each answer is graded. Shown a"
        " right and a wrong one, the model writes a better solution (a refinement); if that is right, it becomes a pair"
        " to learn from. Writes pairs, rollouts, refinements and their statistics to runs/NAME/curate.",
        "ssb curate pocket curate.pairs=64",
    ),
    "teach": About(
        STAGES["teach"].help,
        "The second stage: the model, as the teacher, is shown the right and the wrong rollout of each pair. What it"
        " predicts at each token of the refinement is stored, and the student is to learn it (its targets). Reads"
        " runs/NAME/curate, and writes runs/NAME/teach.",
        "ssb teach pocket teach.targets=top_k",
    ),
    "train": About(
        STAGES["train"].help,
        "The third stage: a LoRA adapter is trained to predict the targets from the questions alone, or by another"
        " method that `train.method` names. Reads runs/NAME/curate and runs/NAME/teach, and writes the adapter to"
        " runs/NAME/train.",
        "ssb train pocket train.epochs=3",
    ),
    "evaluate": About(
        STAGES["evaluate"].help,
        "The fourth stage: base and students answer every question of the benchmarks, each reply is graded, and"
        " accuracies are compared question by question. Reads runs/NAME/train, and writes runs/NAME/evaluate. With"
        " --benchmark, any MODEL can be evaluated without a recipe.",
        "ssb evaluate pocket --benchmark pocket-test",
    ),
    "report": About(
        STAGES["report"].help,
        "The last stage: writes report.md for people, report.json for programs, figures, and worked examples (questions"
        " with rollouts, refinement and answers). Loads no model. Reads what the other stages wrote, and writes"
        " runs/NAME/report.",
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
        "Work out what a recipe needs, before anything runs: memory, disk, tokens and time of each stage, on this"
        " machine's card or on one that you name. If a stage does not fit or cannot run there, the keys to change are"
        " named, and the exit code is 2.",
        "ssb plan qwen2.5-0.5b-t4 --gpu t4",
    ),
    "doctor": About(
        "check this machine, and say how to fix what is wrong",
        "Check the machine and the installed packages, and say how to fix each thing that is wrong; with a RECIPE, say"
        " also whether it can run here (exit code 2 if it cannot). --machine works before any package is installed:"
        " from a checkout, `python3 -m ssb_unsloth doctor --machine`.",
        "ssb doctor --machine",
    ),
    "export": About(
        "write a run's student as adapter, merged weights or GGUF",
        "Write the student of a finished run as a PEFT adapter, as merged weights and as GGUF, each with a model card.",
        "ssb export runs/pocket --format merged",
    ),
    "push": About(
        "upload a run's student, pairs, targets or rollouts to the hub; asks first",
        "Upload the student of a finished run, or its pairs, targets or rollouts, to the Hugging Face hub. The upload"
        " is private unless you say --public, and you are asked first unless you say --yes. With --to, a data set is"
        " written to a folder, and nothing is uploaded.",
        "ssb push runs/pocket --what pairs --to my-pairs",
    ),
    "chat": About(
        "base and student answer the same question side by side",
        "Ask the base and the student of a finished run the same questions, and read their answers side by side.",
        "ssb chat runs/pocket",
    ),
    "verify": About(
        "check that no file of a run has changed since it was written",
        "Read every byte of a run, and check files, manifests, and that each stage was made from the stages before it."
        " Exit code 2 if anything differs.",
        "ssb verify runs/pocket",
    ),
    "recipes": About(
        "list, show and copy the included recipes, or write a new one",
        "List the recipes that come with the package. With an ACTION: show every key of a recipe and where its value"
        " comes from, copy a recipe to change it, or write a new one for a model and data of your own.",
        "ssb recipes",
    ),
    "recipes show": About(
        "every key of a recipe, and where its value comes from",
        "Print a recipe with every key that it has or inherits, and where each value comes from: the file, its base,"
        " the command line, a preset, or the default.",
        "ssb recipes show pocket seed=1",
    ),
    "recipes copy": About(
        "copy a recipe's file into this folder, to change it",
        "Copy a recipe's file into this folder, to change it.",
        "ssb recipes copy pocket --out mine.yaml",
    ),
    "recipes new": About(
        "write a recipe for a model and data of your own",
        "Write a recipe for a model and data of your own. The columns of questions and answers are guessed"
        " unless you name them; the guess is printed.",
        "ssb recipes new --model Qwen/Qwen3-1.7B --data questions.jsonl",
    ),
}


class Parser(argparse.ArgumentParser):
    """Argparse's own, whose messages repeat what was typed, and say what to do."""

    example = "ssb run pocket"

    def _print_message(self, message: str, file: Any = None) -> None:
        write(message, file or sys.stderr)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Of a word that is no command, or no value of an option: what may be meant."""
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        near = difflib.get_close_matches(str(value), known, n=1)
        meant = near[0] if near else f"`ssb run {value}`" if action.dest == "command" and is_recipe(str(value)) else ""
        said = f"{value!r} is not known." + (f" Did you mean {meant}?" if meant else "")
        raise argparse.ArgumentError(action, f"{said} Known are {', '.join(known)}")

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
    top.set_defaults(error=top.error)
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for name in ("run", "sweep"):
        command = _command(commands, name, stages=True)
        _recipe_arguments(command)
        command.add_argument(
            "--workers",
            type=int,
            default=1,
            metavar="N",
            help="stages that run at the same time, on a CPU (default: 1)",
        )
        if name == "sweep":
            command.add_argument(
                "--ray",
                action="store_true",
                help="run the stages on a Ray cluster (at RAY_ADDRESS; if that is not set, here)",
            )
    for name, row in STAGES.items():
        stage = _command(commands, name)
        _recipe_arguments(stage)
        if name == "evaluate":
            _model_arguments(stage)
        if not row.of_all:
            stage.add_argument(
                "--student",
                metavar="NAME-sSEED",
                help="which student: of a variant, with a seed (default: the recipe's own)",
            )
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
    command.set_defaults(error=command.error)  # which speaks of the command that was typed
    return command


def _looking_commands(commands: Any) -> None:
    """What looks at replies, recipes and machines."""
    grading = _command(commands, "grade")
    grading.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="a .jsonl file of replies, or a folder of such files"
    )
    grading.add_argument(
        "--out", type=Path, metavar="DIR", help="write the replies with their new verdicts to this folder"
    )
    grading.add_argument(
        "--verifier",
        metavar="NAME",
        help="default: the run's own, and math outside of a run; with options as '{name: numeric, absolute: 0.01}'",
    )
    plan = _command(commands, "plan")
    _recipe_words(plan)
    plan.add_argument(
        "--gpu", metavar="CARD", help="plan for this card, e.g. t4, rtx4090, a100-40gb; `none` for the CPU"
    )
    plan.add_argument(
        "--gpus", type=int, metavar="N", help="plan for N such cards per node, and say up to how many more cards help"
    )
    plan.add_argument("--nodes", type=int, metavar="N", help="plan for N such nodes (default: 1)")
    plan.add_argument(
        "--measure", action="store_true", help="measure this machine's card for two seconds, and plan with its speed"
    )
    plan.add_argument("--json", action="store_true", help="print JSON")
    doctor = _command(commands, "doctor")
    _recipe_words(doctor, needed=False)
    doctor.add_argument(
        "--machine", action="store_true", help="check only the machine; works before the packages are installed"
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")


def _recipes_command(commands: Any) -> None:
    recipes = _command(commands, "recipes")
    actions = recipes.add_subparsers(dest="action", metavar="ACTION")
    show = _command(actions, "show", "recipes")
    _recipe_words(show)
    copy = _command(actions, "copy", "recipes")
    copy.add_argument("recipe", metavar="NAME", help="as `ssb recipes` lists it")
    copy.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default: NAME.yaml)")
    new = _command(actions, "new", "recipes")
    new.add_argument("--model", metavar="ID", help="hub id or folder of the base model")
    new.add_argument("--data", metavar="FILE", help="questions and gold answers: a file, or a hub data set's name")
    new.add_argument("--question", metavar="COL", help="the column of the questions (default: guessed)")
    new.add_argument("--answer", metavar="COL", help="the column of the gold answers (default: guessed)")
    new.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default: MODEL-DATA.yaml)")


def _student_commands(commands: Any) -> None:
    """What can be done with the student of a finished run."""
    export, push, chat = (_command(commands, name) for name in ("export", "push", "chat"))
    for command in (export, push, chat):
        command.add_argument("folder", type=Path, metavar="RUN", help="a run folder, such as runs/pocket")
    formats = ("adapter", "merged", "gguf")
    export.add_argument(
        "--format", choices=(*formats, "all"), default="all", help="default: all, with GGUF only if llama.cpp is found"
    )
    export.add_argument("--out", type=Path, metavar="DIR", help="where to write it (default: RUN/export)")
    push.add_argument("repo_id", metavar="REPO_ID", nargs="?", help="the repository on the hub, as user/name")
    push.add_argument(
        "--what",
        choices=("adapter", "pairs", "targets", "rollouts"),
        default="adapter",
        help="adapter (default): the student, in the form that --format names; the others: a data set with a card"
        " (docs/sharing.md)",
    )
    push.add_argument("--to", type=Path, metavar="DIR", help="write the data set there, and upload nothing")
    push.add_argument("--format", choices=formats, help="default: adapter, or merged if the student has none")
    push.add_argument("--public", action="store_true", help="let everybody see it")
    push.add_argument("--yes", action="store_true", help="do not ask before uploading")
    chat.add_argument("--temperature", type=float, default=0.0, help="default: 0, which is greedy")


def _recipe_words(command: argparse.ArgumentParser, needed: bool = True) -> None:
    help_ = "a YAML file, or the name of a recipe that comes with the package (`ssb recipes`)"
    command.add_argument("recipe", nargs=None if needed else "?", metavar="RECIPE", help=help_)
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. seed=1 train.learning_rate=1e-4"
    )


def _recipe_arguments(command: argparse.ArgumentParser) -> None:
    _recipe_words(command)
    command.add_argument("--force", action="store_true", help="also repeat stages that are up to date")
    command.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="the folder of all runs (default: runs/)"
    )


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
    options.add_argument(
        "--samples", type=int, metavar="N", help="replies per question at --temperature (default: 0.8)"
    )
    options.add_argument(
        "--temperature", type=float, metavar="T", help="also sample at temperature T, besides greedy decoding"
    )
    options.add_argument(
        "--max-tokens", type=int, metavar="N", help="length limit of a reply (default: the benchmark's)"
    )
    options.add_argument("--default-prompt", action="store_true", help="evaluate also without the tutor prompt")
    options.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for replies and scores (default: runs/evaluate-MODEL-CODE)"
    )
