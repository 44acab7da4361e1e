"""Would the tests see it? Makes small mistakes in the package, one at a time, and runs the tests that are about them.

    python scripts/mutants.py                            # the named mistakes, and 12 drawn ones of each module
    python scripts/mutants.py method.losses --drawn 40   # of this module
    python scripts/mutants.py --seed 2                   # other ones

A mistake that no test sees has survived: it is shown with its line, and the exit code is 1. Named mistakes are those
that were once made or missed; drawn ones are a setting that is not handed on, a turned comparison, a wrong constant, a
swapped attribute, a call that is left out. Nothing is written: a mutant is a module compiled from changed source, in a
process forked from one that has imported torch and transformers already. About 5 seconds each, as its tests take.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ssb_unsloth"
SECONDS = 300  # a mutant that hangs is seen, too

# The tests that are about a module: those that should see what is wrong with it, the quick ones first.
TESTS = {
    "commands.verify": "test_verify",
    "data.pairs": "test_pairs",
    "data.problems": "test_problems",
    "evaluation.evaluate": "test_evaluate",
    "evaluation.scores": "test_scores",
    "evaluation.stats": "test_stats",
    "method.collator": "test_collator test_guidance test_trainer",
    "method.curate": "test_curate",
    "method.examples": "test_lessons test_teach test_presets",
    "method.guidance": "test_guidance",
    "method.lessons": "test_lessons",
    "method.losses": "test_losses test_row_weights test_divergences",
    "method.modeling": "test_selfchecks test_trainer",
    "method.targets": "test_teach test_trainer",
    "method.teach": "test_teach test_guidance",
    "method.votes": "test_votes",
    "records": "test_records test_curate",
    "report.costs": "test_costs",
    "run.rundir": "test_rundir",
    "pipeline.students": "test_students",
    "training.arguments": "test_library",
    "training.common": "test_train_arguments test_common test_baselines",
    "training.rows": "test_library",
    "training.ssb": "test_train_arguments test_trainer",
    "training.trainer": "test_guidance test_trainer test_library",
    "verifier.answers": "test_grading",
    "verifier.boxed": "test_verifiers test_grading",
    "verifier.equality": "test_grading",
    "verifier.mathematical": "test_grading test_curate",
    "verifier.replies": "test_grading",
}
NAMED: list[tuple[str, str, str, str]] = [  # module, right, wrong, tests beyond the module's own
    ("method.curate", "self.config.contrast,", '"random",', ""),
    ("method.curate", "self.config.unboxed,", '"wrong",', ""),
    ("method.curate", 'exact = self.config.equality == "string"', "exact = False", ""),
    ("method.curate", "self._sample(wanted, self.config.refine,", "self._sample(wanted, self.config.rollout,", ""),
    ("method.curate", "problem.gold, completion.finish_reason,", 'problem.gold, "stop",', ""),
    ("method.curate", "finish_reason=completion.finish_reason,", 'finish_reason="stop",', ""),
    ("method.curate", "if refinement.verdict == Verdict.RIGHT", "if refinement.verdict != Verdict.WRONG", ""),
    ("training.common", '"max_grad_norm": config.max_grad_norm,', "", ""),
    ("training.common", '"weight_decay": config.weight_decay,', "", ""),
    ("training.common", '"warmup_steps": config.warmup_steps,', "", ""),
    ("training.common", '"lr_scheduler_type": config.lr_scheduler,', "", ""),
    ("training.common", '"seed": seed,', "", ""),
    ("evaluation.scores", "places.setdefault(g.benchmark, {})", "{}", ""),
    ("method.modeling", "Head(layer.weight, layer.bias,", "Head(layer.weight, None,", ""),
    # The wrong teacher subtracted, or added; the hint of the reply itself; a window that is a token off.
    ("method.guidance", "bare + guidance * (hinted - unhinted)", "bare + guidance * (hinted - bare)", ""),
    ("method.guidance", "bare + guidance * (hinted - unhinted)", "hinted + guidance * (hinted - unhinted)", ""),
    ("method.guidance", "rows = (known.bare, known.hinted, known.unhinted)", "rows = (known.unhinted,) * 3", ""),
    ("method.lessons", "if not others or any(rollout.id == usual[1] for rollout in others):", "if True:", ""),
    ("method.lessons", "if answer_part(rollout.text) != answer_part(reply.text)", "if rollout.id != reply.id", ""),
    ("method.collator", "(place >= start)", "(place > start)", ""),
    ("method.collator", "(place < start + self._window)", "(place <= start + self._window)", ""),
    ("training.trainer", "yield ~own_N, teacher", "yield own_N, teacher", ""),
    ("method.votes", "ranked[0][1] < 2", "ranked[0][1] < 1", ""),
]


@dataclass(frozen=True)
class Mutant:
    module: str
    says: str
    source: str
    tests: str


def source_of(module: str) -> Path:
    """The file of a module, which is named as within the package: "method.curate"."""
    return PACKAGE / f"{module.replace('.', '/')}.py"


def files_of(names: str) -> list[str]:
    """The files of these tests, each in one of the folders of tests/."""
    files = [list((ROOT / "tests").glob(f"*/{name}.py")) for name in names.split()]
    return [str(path) for (path,) in files]


# ---- what is drawn

TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OTHER: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
}
SPOKEN = ("say", "bar", "UserError", "ValueError", "RuntimeError", "print", "warn")  # what is said may change


def _called(call: ast.Call) -> str:
    return str(getattr(call.func, "id", getattr(call.func, "attr", "")))


def spots(tree: ast.Module) -> list[ast.AST]:
    """The nodes that may be changed: not annotations, docstrings, messages, or the names of a module's imports."""
    found: list[ast.AST] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Assert)):
            return
        if isinstance(node, ast.Expr):
            value = node.value
            if isinstance(value, ast.Constant) or (isinstance(value, ast.Call) and _called(value) in SPOKEN):
                return
        if isinstance(node, ast.Call) and _called(node) in SPOKEN:
            return
        found.append(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "type_params", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child)

    visit(tree)
    return found


def _is_text(node: ast.BinOp) -> bool:
    """A path or a text put together, as far as can be told."""
    parts = [part for part in ast.walk(node) if isinstance(part, (ast.Constant, ast.JoinedStr))]
    return any(isinstance(part, ast.JoinedStr) or isinstance(part.value, str) for part in parts)


def changes(node: ast.AST, siblings: dict[str, list[str]]) -> Iterator[tuple[str, Any]]:
    """(what it is, a function that makes the change) for every mistake that can be made at this node."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in TURNED:
        turned = TURNED[type(node.ops[0])]
        yield f"{ast.unparse(node)}: turned", lambda: node.ops.__setitem__(0, turned())
    if isinstance(node, ast.BinOp) and type(node.op) in OTHER and not _is_text(node):
        other = OTHER[type(node.op)]
        yield f"{ast.unparse(node)}: {other.__name__}", lambda: setattr(node, "op", other())
    if isinstance(node, ast.BoolOp):
        turned_bool = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield f"{ast.unparse(node)}: and for or", lambda: setattr(node, "op", turned_bool)
    if isinstance(node, ast.Constant) and type(node.value) in (int, bool):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield f"{node.value}: {value}", lambda: setattr(node, "value", value)
    if isinstance(node, ast.IfExp):
        yield (
            f"{ast.unparse(node)}: branches swapped",
            lambda: (node.body, node.orelse) == node.__dict__.update(body=node.orelse, orelse=node.body),
        )
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg:
                yield f"{keyword.arg}= not handed on", lambda k=keyword: node.keywords.remove(k)
    if isinstance(node, ast.Dict):
        for i, key in enumerate(node.keys):
            if isinstance(key, ast.Constant):
                yield f"{key.value!r} left out", lambda i=i: (node.keys.pop(i), node.values.pop(i))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield f"{ast.unparse(node)[:60]}: left out", lambda: setattr(node, "value", ast.Constant(None))
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        for name in siblings.get(ast.unparse(node.value), []):
            if name != node.attr:
                yield f"{ast.unparse(node)}: .{name}", lambda n=name: setattr(node, "attr", n)


def drawn(module: str, count: int, rng: random.Random) -> list[Mutant]:
    source = source_of(module).read_text(encoding="utf-8")
    tree = ast.parse(source)
    siblings: dict[str, set[str]] = {}
    for node in ast.walk(tree):  # config.a and config.b may be mistaken for each other
        if isinstance(node, ast.Attribute) and "config" in ast.unparse(node.value).lower():
            siblings.setdefault(ast.unparse(node.value), set()).add(node.attr)
    named = {key: sorted(value) for key, value in siblings.items()}
    all_of = [(i, j) for i, node in enumerate(spots(tree)) for j, _ in enumerate(changes(node, named))]
    mutants = []
    for i, j in rng.sample(all_of, min(count, len(all_of))):
        changed = copy.deepcopy(tree)
        node = spots(changed)[i]
        says, change = list(changes(node, named))[j]
        change()
        line = getattr(node, "lineno", 0)
        mutants.append(
            Mutant(module, f"line {line}: {says}", ast.unparse(ast.fix_missing_locations(changed)), TESTS[module])
        )
    return mutants


def named(modules: list[str]) -> list[Mutant]:
    mutants = []
    for module, right, wrong, more in NAMED:
        source = source_of(module).read_text(encoding="utf-8")
        if right not in source:
            sys.exit(f"scripts/mutants.py: {right!r} does not stand in {source_of(module)} any more; correct NAMED.")
        if module in modules:
            says = f"named: {right.strip()} -> {wrong.strip() or 'nothing'}"
            mutants.append(Mutant(module, says, source.replace(right, wrong, 1), f"{more} {TESTS[module]}".strip()))
    return mutants


# ---- whether it is seen


class Changed(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Gives the module from the changed source."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return (
            importlib.util.spec_from_loader(name, self, origin=self.get_filename(name)) if name == self.name else None
        )

    def get_filename(self, name: str) -> str:
        return str(source_of(name.partition(".")[2]))

    def get_data(self, path: str | bytes) -> bytes:
        return self.source.encode()

    def path_stats(self, path: str | bytes) -> Any:
        raise OSError  # no byte code is written or read


def seen(mutant: Mutant | None, tests: str) -> bool:
    """Whether a test fails, or it takes too long, or does not even import."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            signal.alarm(SECONDS)
            with (
                Path(os.devnull).open("w") as nothing,
                contextlib.redirect_stdout(nothing),
                contextlib.redirect_stderr(nothing),
            ):
                if mutant is not None:
                    sys.meta_path.insert(0, Changed(f"ssb_unsloth.{mutant.module}", mutant.source))
                import pytest

                code = int(pytest.main(["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *files_of(tests)]))
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # what a hanging test has started
    return status != 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(TESTS)} (default: all)")
    parser.add_argument("--drawn", type=int, default=12, help="mistakes drawn for each module (default 12)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    modules = args.modules or list(TESTS)
    unknown = sorted(set(modules) - set(TESTS))
    if unknown:
        parser.error(f"no tests are named for {', '.join(unknown)}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
    import peft  # noqa: F401 # once, before the forks
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    unsound = [module for module in modules if seen(None, TESTS[module])]
    for module in unsound:
        print(f"{module}: {TESTS[module]} fails without any mistake, or takes more than {SECONDS} s.", flush=True)
        modules.remove(module)
    mutants = [*named(modules)]
    for module in modules:
        mutants += drawn(module, args.drawn, random.Random(f"{args.seed}|{module}"))
    began, survived = time.monotonic(), []
    counts: dict[str, list[int]] = {}
    for number, mutant in enumerate(mutants):
        caught = seen(mutant, mutant.tests)
        made = counts.setdefault(mutant.module, [0, 0])
        made[0] += 1
        made[1] += caught
        if not caught:
            survived.append(mutant)
            print(f"survived  {mutant.module}, {mutant.says}", flush=True)
        rate = (time.monotonic() - began) / (number + 1)
        left = rate * (len(mutants) - number - 1)
        print(
            f"{number + 1}/{len(mutants)}, {rate:.1f} s each, {left:.0f} s left", end="\r", file=sys.stderr, flush=True
        )
    print(f"\n{'module':<22}{'made':>6}{'seen':>6}")
    for module, (made_, seen_) in counts.items():
        print(f"{module:<22}{made_:>6}{seen_:>6}")
    print(f"{'all':<22}{len(mutants):>6}{len(mutants) - len(survived):>6}   seed {args.seed}")
    return int(bool(survived or unsound))


if __name__ == "__main__":
    sys.exit(main())
