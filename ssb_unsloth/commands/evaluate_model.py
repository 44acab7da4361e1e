"""`ssb evaluate MODEL --benchmark NAME`: a model on benchmarks, without a recipe of one's own.

It does what the stage does: what is kept is not sampled again. A model has a folder of its own; what other calls have
asked of it stays there, and is not part of the table.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..data.problems import load_benchmark
from ..errors import UserError
from ..evaluation.carried import copy, sealed
from ..evaluation.evaluate import Benchmarks, Contestant, assert_adapters_fit, base_contestants
from ..evaluation.run import Evaluation, Rows
from ..io import disk
from ..io.files import local, read_object
from ..io.markdown import escaped
from ..io.progress import hush
from ..io.terminal import tell
from ..machine.auto import choose
from ..machine.hardware import here
from ..machine.out_of_memory import explained
from ..pocket import NAME, model_folder
from ..recipe.benchmarks import BENCHMARKS
from ..recipe.loading import load, resolve, save
from ..recipe.schema import Recipe, SamplerConfig
from ..records import Problem, read_jsonl
from ..report.sections import evaluation_section
from ..report.tables import small_lines
from ..run.keys import as_written, of_path
from ..run.manifests import FORMAT, digest
from ..run.rundir import RunDir

MODEL = "model"  # the contestant's name where no adapter makes it a base


def main(arguments: argparse.Namespace) -> int:
    hush()
    tell(evaluate_model(arguments))
    return 0


def evaluate_model(arguments: argparse.Namespace) -> str:
    """Evaluate, and return what is to be shown.

    Raises:
        UserError: no benchmark, no such adapter, or whatever is wrong with the recipe that comes out.
    """
    word = str(arguments.recipe)
    model, own = _model(word)
    adapters = {**own, **dict(_adapter(given) for given in arguments.adapter)}
    if len(adapters) < len(own) + len(arguments.adapter):
        raise UserError("--adapter: two adapters have the same name; say NAME=DIR.")
    out = arguments.out or arguments.runs / f"evaluate-{_file_name(word)}-{_distinction(word)}"
    recipe = _recipe(arguments, model, adapters)
    texts = recipe.prompts.texts
    contestants = []
    if not own:  # MODEL is itself an adapter otherwise, and is not asked without it
        name = "base" if adapters else MODEL
        bases = base_contestants(recipe.model, recipe.seed, arguments.default_prompt, texts)
        contestants = [replace(contestant, name=contestant.name.replace("base", name, 1)) for contestant in bases]
    for name in adapters:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name in [contestant.name for contestant in contestants]:
            raise UserError(
                f"--adapter: {name!r} cannot be its name; say NAME=DIR, with a name of letters, digits, -, _ and dots"
                " that no other row has."
            )
    contestants += [Contestant(name, recipe.model, path, recipe.seed, texts) for name, path in adapters.items()]
    return _evaluate(recipe, contestants, RunDir(out), arguments.force)


def _evaluate(recipe: Recipe, contestants: list[Contestant], run: RunDir, force: bool) -> str:
    benchmarks = {name: (config, load_benchmark(name, config)) for name, config in recipe.evaluate.benchmarks.items()}
    against = [(contestant.name, contestants[0].name) for contestant in contestants[1:]]
    asked = Evaluation(contestants, benchmarks, recipe.sampler, recipe.seed, against)
    determined_by = {
        "format": FORMAT,
        "seed": recipe.seed,
        "entrants": [[c.name, c.prompt] for c in contestants],  # as contestants were called when FORMAT was made
        "benchmarks": {name: {**as_written(config), "source": None} for name, (config, _) in benchmarks.items()},
        "replies": asked.origins,
    }
    key, folder = digest(determined_by), run.stage("evaluate")
    with run.lock(), explained("evaluate", recipe, folder):
        run.settle("evaluate")
        if force or not run.is_fresh("evaluate", key):
            assert_adapters_fit(contestants, recipe.sampler)
            known = sealed(folder)
            _refuse_to_replace(run, key, known, asked.origins, force)
            before = (run.manifest("evaluate") or {"summary": {}})["summary"].get("verifiers", {})
            with run.write("evaluate", key, determined_by) as work:
                others = _others(folder, known, asked)
                rows = asked.run(work, folder, others, again=force)
                copy(folder, work.folder, _problem_files(folder, others, benchmarks))
                if stay := {name: before[name] for name in before if others and name not in benchmarks}:
                    work.summary["verifiers"] = {**stay, **work.summary.get("verifiers", {})}
                disk.write_text(work.folder / "report.md", _page(recipe, rows))
            save(recipe, run.root / "recipe.yaml")
    scored = read_object(folder / "scores.json")
    lines = small_lines(scored["scores"], scored["differences"])
    return "\n".join([*lines, "", f"Report  {folder / 'report.md'}", f"Replies {folder}/*.jsonl"])


def _refuse_to_replace(run: RunDir, key: str, known: Mapping[str, str], wanted: Mapping[str, str], force: bool) -> None:
    """No reply goes that the user has not given up by --force, and nothing of a recipe's run at all."""
    folder, manifest = run.stage("evaluate"), run.manifest("evaluate")
    of_recipe = manifest is not None and "entrants" not in manifest["determined_by"]
    if of_recipe or any(run.stage(name).exists() for name in ("curate", "teach", "train", "report")):
        raise UserError(f"--out {run.root}: holds the run of a recipe; take another folder.")
    if force:
        return
    what = ""
    if run.kept("evaluate") not in (None, key):
        what = "what an evaluation that was stopped has kept; its own command resumes it"
    elif folder.is_dir() and any(folder.iterdir()) and not known:
        what = "an evaluation of an older version, or one that has been changed"
    elif other := [name for name, origin in wanted.items() if known.get(name, origin) != origin]:
        what = f"{other[0]}, replies of another model, to other problems or sampled otherwise"
    if what:
        raise UserError(f"--out {run.root}: holds {what}. Take another folder, or --force to replace it.")


def _others(folder: Path, known: Mapping[str, str], asked: Evaluation) -> dict[str, str]:
    """The replies of earlier calls that this one does not ask for; none where a benchmark's problems are others now."""
    for name, (_, problems) in asked.benchmarks.items():
        before = folder / f"problems-{name}.jsonl"
        if before.exists() and read_jsonl(before, Problem) != list(problems):
            return {}
    return {name: origin for name, origin in known.items() if name not in asked.origins}


def _problem_files(folder: Path, others: Mapping[str, str], benchmarks: Benchmarks) -> list[str]:
    """The files of problems that earlier calls asked, if their replies stay."""
    asked = [path.name for path in folder.glob("problems-*.jsonl")] if others else []
    return [name for name in asked if name not in [f"problems-{benchmark}.jsonl" for benchmark in benchmarks]]


def _page(recipe: Recipe, rows: Rows) -> str:
    described = {name: as_written(config) for name, config in recipe.evaluate.benchmarks.items()}
    section = evaluation_section(rows["scores"], rows["differences"], described, recipe.seed, recipe.prompts.texts)
    return f"# Evaluation of {escaped(recipe.model.name)}\n\nSeed {recipe.seed}.\n\n{section}\n"


def _model(word: str) -> tuple[str, dict[str, Path]]:
    """The base model's name, and the adapter that MODEL is if it is one."""
    config = local(word, "MODEL") / "adapter_config.json"
    if not config.is_file():
        return word, {}
    base = read_object(config).get("base_model_name_or_path")
    if not isinstance(base, str) or not base or "://" in base:  # never a server: it would be sent the user's key
        raise UserError(
            f"{config}: names no model as base_model_name_or_path; give the base as MODEL, and --adapter {word}."
        )
    return base, {MODEL: config.parent}


def _adapter(given: str) -> tuple[str, Path]:
    name, sign, path = given.partition("=")
    folder = local(path if sign else given, "--adapter")
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"--adapter {given}: {folder} holds no adapter_config.json, so it is no PEFT adapter.")
    return (name if sign else _file_name(str(folder))), folder


def _file_name(word: str) -> str:
    """A name for files: the last part of a path, URL or hub id, or the run that an adapter/ lies in."""
    parts = [part for part in re.split(r"[/#]", word) if part not in ("", "adapter", "train", "v1", "http:", "https:")]
    return re.sub(r"[^A-Za-z0-9_.-]", "-", parts[-1]).strip(".") if parts else MODEL


def _distinction(word: str) -> str:
    """Sets models apart whose names end alike; the same for a folder however its path is spelt."""
    return digest([word.partition("#")[2], of_path(word, "MODEL")])[:6]


def _limits(model: str) -> dict[str, Any]:
    """The keys that a model with less context than the default needs. Of a hub model the engine will say."""
    folder = model_folder(model) or local(model, "MODEL")
    try:
        context = read_object(folder / "config.json").get("max_position_embeddings")
    except UserError:
        return {}
    if type(context) is not int or not 1 < context < SamplerConfig.max_model_len:
        return {}
    unused = {"max_tokens": context - 1}
    return {"sampler": {"max_model_len": context}, "curate": {"rollout": unused, "refine": unused}}


def _prompts(students: Mapping[str, Path]) -> dict[str, Any]:
    """The prompts that these adapters and models were trained under: of those that lie in the folder of a run, its
    recipe's.

    Raises:
        UserError: they were trained under different ones, so no table of them would compare them alone.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, path in students.items():
        saved = path.resolve().parent.parent / "recipe.yaml"
        if path.resolve().parent.name == "train" and saved.is_file():
            found[name] = asdict(load(saved).prompts)
    kinds = list(found.values())
    if other := next((name for name, prompts in found.items() if prompts != kinds[0]), None):
        raise UserError(
            f"--adapter: {next(iter(found))} and {other} were trained under different `prompts`; evaluate them one by"
            " one."
        )
    return kinds[0] if kinds else {}


def _recipe(arguments: argparse.Namespace, model: str, adapters: Mapping[str, Path]) -> Recipe:
    """The command as a recipe, under the prompts of the run that its model or adapters come from."""
    if not arguments.benchmark:
        raise UserError(f"--benchmark: name at least one: {', '.join(BENCHMARKS)}, or NAME=FILE.")
    sampled = arguments.samples is not None or arguments.temperature is not None
    keys: dict[str, Any] = {"temperature": None}
    if sampled:
        temperature = 0.8 if arguments.temperature is None else arguments.temperature
        keys = {"temperature": temperature, "samples": 1 if arguments.samples is None else arguments.samples}
    if arguments.max_tokens is not None:
        keys["max_tokens"] = arguments.max_tokens
    benchmarks: dict[str, dict[str, Any]] = {}
    for given in arguments.benchmark:
        name, sign, source = given.partition("=")
        if not sign and name not in BENCHMARKS:
            raise UserError(f"--benchmark {name}: not known; known are {', '.join(BENCHMARKS)}, or say NAME=FILE.")
        benchmarks[name] = {**keys, **({"source": source} if sign else {})}
    recipe = {
        "name": "evaluate",
        "model": {"name": model},
        "problems": {"source": NAME},  # a recipe has to name some; nothing here reads them
        "prompts": _prompts({MODEL: local(model, "MODEL"), **adapters}),
        "evaluate": {"benchmarks": benchmarks, "default_prompt": arguments.default_prompt},
        **_limits(model),
    }
    return choose(resolve(recipe, arguments.overrides, "ssb evaluate", servers=True), here())
