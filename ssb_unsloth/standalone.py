"""`ssb evaluate MODEL --benchmark NAME`: a model on benchmarks, without a recipe of one's own.

It writes the recipe that the command amounts to, and then does what the stage does: what is kept is not sampled again.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .config import BENCHMARKS, Recipe, SamplerConfig, load
from .errors import UserError
from .evaluate import Entrant, assert_adapters_fit, base_entrants, evaluate
from .files import local, read_object
from .hardware import choose, here
from .manifests import FORMAT, digest
from .pocket import MODEL_DIR
from .problems import load_benchmark
from .records import write_jsonl
from .report import evaluation_section, plain, score_table
from .rundir import RunDir, fingerprint
from .scores import as_rows, score

MODEL = "model"  # the entrant's name where no adapter makes it a base


def run(arguments: argparse.Namespace) -> str:
    """Evaluate, and return what is to be shown.

    Raises:
        UserError: no benchmark, no such adapter, or whatever is wrong with the recipe that comes out.
    """
    word = str(arguments.recipe)
    model, own = _model(word)
    adapters = {**own, **dict(_adapter(given) for given in arguments.adapter)}
    if len(adapters) < len(own) + len(arguments.adapter):
        raise UserError("--adapter: two adapters have the same name; say NAME=DIR.")
    out = arguments.out or arguments.runs / f"evaluate-{_file_name(word)}"
    recipe = _recipe(arguments, model, out)
    entrants = []
    if not own:  # MODEL is itself an adapter otherwise, and is not asked without it
        name = "base" if adapters else MODEL
        bases = base_entrants(recipe.model, recipe.seed, arguments.default_prompt)
        entrants = [replace(entrant, name=entrant.name.replace("base", name, 1)) for entrant in bases]
    for name in adapters:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name in [entrant.name for entrant in entrants]:
            raise UserError(
                f"--adapter: {name!r} cannot be its name; say NAME=DIR, with a name of letters, digits, -, _ and dots"
                " that no other row has."
            )
    entrants += [Entrant(name, recipe.model, path, recipe.seed) for name, path in adapters.items()]
    return _evaluate(recipe, entrants, RunDir(out), arguments.force)


def _evaluate(recipe: Recipe, entrants: list[Entrant], run: RunDir, force: bool) -> str:
    benchmarks = {name: (config, load_benchmark(name, config)) for name, config in recipe.evaluate.benchmarks.items()}
    determined_by = {
        "format": FORMAT,
        "seed": recipe.seed,
        "entrants": [
            [e.name, asdict(e.model), _identity(e.model.name), e.adapter and fingerprint(e.adapter), e.prompt]
            for e in entrants
        ],
        "sampler": asdict(recipe.sampler),
        "benchmarks": {name: asdict(config) for name, (config, _) in benchmarks.items()},
        "problems": digest({name: [asdict(p) for p in problems] for name, (_, problems) in benchmarks.items()}),
    }
    key = digest(determined_by)
    with run.lock():
        if force or not run.is_fresh("evaluate", key):
            assert_adapters_fit(entrants, recipe.sampler)
            with run.write("evaluate", key, determined_by) as work:
                for name, (_, problems) in benchmarks.items():
                    write_jsonl(work.folder / f"problems-{name}.jsonl", problems)
                generations = evaluate(entrants, benchmarks, recipe.sampler, work.folder)
                against = [(entrant.name, entrants[0].name) for entrant in entrants[1:]]
                scores, differences = score(generations, recipe.evaluate.benchmarks, recipe.seed, against)
                work.tokens = sum(g.n_tokens for g in generations)
                rows = {"scores": as_rows(scores), "differences": as_rows(differences)}
                (work.folder / "scores.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
                (work.folder / "report.md").write_text(_page(recipe, rows), encoding="utf-8")
    folder = run.stage("evaluate")
    rows = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    lines = plain(score_table(rows["scores"], rows["differences"]))
    return "\n".join([*lines, "", f"Report  {folder / 'report.md'}", f"Replies {folder}/*.jsonl"])


def _page(recipe: Recipe, rows: dict[str, list[dict[str, object]]]) -> str:
    described = {name: asdict(config) for name, config in recipe.evaluate.benchmarks.items()}
    section = evaluation_section(rows["scores"], rows["differences"], described, recipe.seed)
    return f"# Evaluation of {recipe.model.name}\n\nSeed {recipe.seed}.\n\n{section}\n"


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


def _identity(name: str) -> str | None:
    path = local(name)
    return fingerprint(path) if path.exists() else None


def _limits(model: str) -> dict[str, Any]:
    """The keys that a model with less context than the default needs. Of a hub model the engine will say."""
    folder = MODEL_DIR if model == "pocket" else local(model, "MODEL")
    try:
        context = read_object(folder / "config.json").get("max_position_embeddings")
    except UserError:
        return {}
    if type(context) is not int or not 1 < context < SamplerConfig.max_model_len:
        return {}
    unused = {"max_tokens": context - 1}
    return {"sampler": {"max_model_len": context}, "curate": {"rollout": unused, "refine": unused}}


def _recipe(arguments: argparse.Namespace, model: str, out: Path) -> Recipe:
    """The command as a recipe, written to `out` and read back with the overrides."""
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
        "problems": {"source": "pocket"},  # a recipe has to name some; nothing here reads them
        "evaluate": {"benchmarks": benchmarks, "default_prompt": arguments.default_prompt},
        **_limits(model),
    }
    path = out / "recipe.yaml"
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")  # JSON is YAML
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written to ({error.strerror}).") from None
    return choose(load(path, arguments.overrides, servers=True), here())
