"""The command `ssb`. Imports nothing heavy: `ssb --help` answers at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .io.credentials import refuse_credentials
from .io.disk import refusal
from .io.files import control_character
from .io.terminal import complain, tell, write
from .machine.environment import prepare
from .pipeline import stopping
from .recipe.benchmarks import BENCHMARKS

if TYPE_CHECKING:
    from .recipe.schema import Recipe
    from .run.students import Student

STAGE_HELP = {
    "base": "merge the student of the round before into the weights (recipes with rounds)",
    "curate": "sample rollouts, contrast them, keep verified refinements as pairs",
    "teach": "run the hinted teacher over the pairs and store its targets",
    "train": "train the LoRA student on the bare questions",
    "evaluate": "sample base and student on the benchmarks and grade every reply",
    "report": "write tables, figures and worked examples",
}

STOPPED = 130  # exit code after Ctrl-C, as shells have it
AT_LAST = 4.8  # seconds after a signal; a run gives its stages less


class Parser(argparse.ArgumentParser):
    """Argparse's own, whose messages repeat what was typed."""

    def _print_message(self, message: str, file: Any = None) -> None:
        write(message, file or sys.stderr)


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="ssb",
        description="Semantic Soft Bootstrapping: a small language model teaches itself to reason better.",
        epilog="Start with: ssb run recipes/pocket.yaml (a laptop, minutes, no GPU).",
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
    for name, text in STAGE_HELP.items():
        stage = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        _recipe_arguments(stage)
        if name == "evaluate":
            _model_arguments(stage)
        if name not in ("evaluate", "report"):
            stage.add_argument("--student", metavar="NAME-sSEED", help="a variant's (default: the recipe's own)")
    grading = commands.add_parser("grade", help="grade stored replies again, without a model; show what changed")
    grading.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".jsonl of generations, or a folder")
    grading.add_argument("--out", type=Path, metavar="DIR", help="write them there with their new verdicts")
    plan = commands.add_parser("plan", help="what a recipe needs: memory, disk, tokens and time of each stage")
    _recipe_words(plan)
    plan.add_argument("--gpu", metavar="CARD", help="plan for this card, e.g. t4, rtx4090, a100-40gb; none: the CPU")
    plan.add_argument("--measure", action="store_true", help="by the speed that the card here shows, in two seconds")
    plan.add_argument("--json", action="store_true", help="as JSON")
    doctor = commands.add_parser("doctor", help="what works on this machine, and for what does not, how to mend it")
    _recipe_words(doctor, needed=False)
    doctor.add_argument("--machine", action="store_true", help="the machine alone: before the packages are installed")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    _student_commands(commands)
    verify = commands.add_parser("verify", help="read every byte of a run: is it all as it was written?")
    verify.add_argument("folder", type=Path, metavar="RUN", help="a run folder, such as runs/pocket")
    commands.add_parser("recipes", help="list the recipes that come with the package")
    return top


def _student_commands(commands: Any) -> None:
    """What can be done with the student of a finished run."""
    export = commands.add_parser("export", help="write a run's student as adapter, merged weights, GGUF")
    push = commands.add_parser("push", help="upload a run's student to the hub: private, and only after asking")
    chat = commands.add_parser("chat", help="base and student answer the same question side by side")
    for command in (export, push, chat):
        command.add_argument("folder", type=Path, metavar="RUN", help="a run folder, such as runs/pocket")
    formats = ("adapter", "merged", "gguf")
    export.add_argument("--format", choices=(*formats, "all"), default="all", help="all: GGUF only where llama.cpp is")
    export.add_argument("--out", type=Path, metavar="DIR", help="where to (RUN/export)")
    push.add_argument("repo_id", metavar="REPO_ID", help="user/name")
    push.add_argument("--format", choices=formats, default="adapter", help="which export (adapter)")
    push.add_argument("--public", action="store_true", help="for everybody to see; private otherwise")
    push.add_argument("--yes", action="store_true", help="do not ask before uploading")
    chat.add_argument("--temperature", type=float, default=0.0, help="0, greedy, unless given")


def _recipe_words(command: argparse.ArgumentParser, needed: bool = True) -> None:
    help_ = "a YAML file, as in recipes/"
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
        help=f"{', '.join(BENCHMARKS)}, or any name with a .jsonl or .parquet file; may be repeated",
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
    try:
        if rest:
            arguments.overrides += rest
        if arguments.version:
            from . import __version__

            tell(f"ssb_unsloth {__version__}")
            return 0
        if arguments.command is None:
            parser().print_help()
            return 0
        if arguments.command == "recipes":
            return _list_recipes()
        if arguments.command == "grade":
            from .commands.grade import run as regrade

            tell(regrade(arguments.files, arguments.out))
            return 0
        if arguments.command == "evaluate" and not arguments.recipe.endswith((".yaml", ".yml")):
            return _evaluate_model(arguments)
        if arguments.command == "plan":
            return _plan(arguments)
        if arguments.command == "doctor":
            return _doctor(arguments)
        if arguments.command in ("run", "sweep"):
            return _run(arguments)
        if arguments.command == "verify":
            return _verify(arguments)
        if arguments.command in ("export", "push", "chat"):
            return _student(arguments)
        return _stage(arguments)
    except UserError as error:
        complain(f"ssb: {error}")
        return 2
    except OSError as error:
        refused = refusal(error)
        if refused is None:
            raise
        complain(f"ssb: {refused}")
        return 2
    except KeyboardInterrupt as stop:
        if stopping.is_first_to_tell():
            complain("\nssb: stopped. What was finished is kept; the same command goes on from there.")
        return getattr(stop, "code", STOPPED)


def _check_words(words: Sequence[str]) -> None:
    """Before anything is made of them: a word may become a file's name, or stand in a message."""
    for number, word in enumerate(words, start=1):
        refuse_credentials(word, f"word {number} of the command")
        if (found := control_character(word, "\n\t")) is not None:
            raise UserError(f"{word!r} holds the control character {found!r}; leave it out.")


def _run(arguments: argparse.Namespace) -> int:
    from .pipeline.sweep import Sweep
    from .recipe.schema import save
    from .report.write import closing_lines
    from .run.rundir import RunDir

    recipe = _load(arguments)
    if arguments.workers < 1:
        raise UserError(f"--workers: {arguments.workers} is below 1.")
    if arguments.command == "sweep" and not recipe.variants and len(recipe.seeds) < 2:
        raise UserError(f"{arguments.recipe}: names no variants and no seeds, so there is one student: use `ssb run`.")
    if not recipe.evaluate.benchmarks:
        raise UserError("evaluate.benchmarks: empty, so there is nothing to evaluate on; name one in the recipe.")
    root = arguments.runs / recipe.name
    words = [str(arguments.recipe), *arguments.overrides, "--runs", str(arguments.runs)]
    code = Sweep(recipe, root, words, arguments.workers, arguments.force)()
    if code == 0:
        save(recipe, root / "recipe.yaml")  # also where nothing had to be done, after a command that asked for less
        tell(closing_lines(RunDir(root)))
    return code


def _evaluate_model(arguments: argparse.Namespace) -> int:
    from .commands.evaluate_model import run
    from .io.progress import hush

    hush()
    tell(run(arguments))
    return 0


def _stage(arguments: argparse.Namespace) -> int:
    from .io.progress import hush
    from .pipeline.stages import run_stage
    from .recipe.schema import save
    from .run.rundir import RunDir
    from .run.students import students

    hush()
    recipe = _load(arguments)
    if arguments.command != "report":
        from .machine.check import check_before_stage

        check_before_stage(recipe)
    if recipe.threads is not None:  # read by torch and vLLM when they are imported
        os.environ["OMP_NUM_THREADS"] = str(recipe.threads)
    run = RunDir(arguments.runs / recipe.name)
    whole = asked = recipe
    first: Callable[[], None] | None = None
    if arguments.command not in ("evaluate", "report"):
        everyone = students(recipe, run.root)
        labels = {student.label: student for student in everyone}
        if arguments.student is not None and arguments.student not in labels:
            raise UserError(
                f"--student: no {arguments.student!r} in {arguments.recipe}; there are {', '.join(labels)}."
            )
        chosen = labels[arguments.student] if arguments.student else everyone[0]
        recipe, run = chosen.recipe, chosen.run
        whole = whole if chosen is everyone[0] else recipe
        first = partial(_preflight, asked, everyone, arguments.runs / asked.name)
    with run.lock(patience=stopping.SECONDS + 2):
        ran = run_stage(arguments.command, recipe, run, arguments.force, first)
        beside = run.root / "recipe.yaml"  # what the folder's stages were made with: a refused command changes nothing
        if ran or not beside.exists():
            save(whole, beside)
        if not ran:
            complain(f"{arguments.command}: up to date, {run.stage(arguments.command)}")
    return 0


def _preflight(recipe: Recipe, everyone: Sequence[Student], root: Path) -> None:
    from .pipeline.preflight import check

    check(recipe, everyone, root)


def _load(arguments: argparse.Namespace) -> Recipe:
    from .machine.auto import choose
    from .machine.hardware import here
    from .recipe.schema import load
    from .recipe.trackers import refuse_missing

    recipe = load(Path(arguments.recipe), arguments.overrides)
    if arguments.command not in ("evaluate", "report"):  # all others train, or lead to it
        trained = [{"report_to": recipe.train.report_to}, *(v.get("train", {}) for v in recipe.variants.values())]
        refuse_missing([name for train in trained for name in train.get("report_to", [])])
    return choose(recipe, here())


def _plan(arguments: argparse.Namespace) -> int:
    import json

    from .machine.hardware import here
    from .machine.plan import card_for, describe, make_plan
    from .recipe.schema import load

    recipe = load(Path(arguments.recipe), arguments.overrides)
    card, why = card_for(recipe, arguments.gpu)
    if arguments.measure:
        from .machine.speed import measured

        if arguments.gpu is not None:
            raise UserError("--measure: measures the card that is here; leave --gpu out.")
        card, why = measured(here()), ""
    plan = make_plan(recipe, card)
    if why:
        complain(f"ssb: {why}")
    tell(json.dumps(plan.as_dict(), indent=1) if arguments.json else describe(plan))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    import json

    from .commands.doctor import describe, examine
    from .recipe.schema import load

    recipe = load(Path(arguments.recipe), arguments.overrides) if arguments.recipe else None
    findings = examine(recipe, machine_only=arguments.machine)
    tell(json.dumps(findings.as_dict(), indent=1) if arguments.json else describe(findings))
    return 0 if findings.can_run else 2


def _verify(arguments: argparse.Namespace) -> int:
    from .commands.verify import verify

    shown, whole = verify(arguments.folder)
    tell(shown)
    return 0 if whole else 2


def _student(arguments: argparse.Namespace) -> int:
    from .io.progress import hush

    hush()
    if arguments.command == "export":
        from .commands.export import export_all

        export_all(arguments.folder, arguments.format, arguments.out)
    elif arguments.command == "push":
        from .commands.export import push

        tell(push(arguments.folder, arguments.repo_id, arguments.format, arguments.public, arguments.yes))
    else:
        from .commands.chat import chat

        chat(arguments.folder, arguments.temperature)
    return 0


def _list_recipes() -> int:
    folders = [Path("recipes"), Path(__file__).parent.parent / "recipes"]
    folder = next((f for f in folders if f.is_dir()), None)
    if folder is None:
        raise UserError("No folder of recipes here; run this in a checkout of the project.")
    for path in sorted(folder.glob("*.yaml")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        tell(f"{path}  {first.lstrip('# ')}")
    return 0
