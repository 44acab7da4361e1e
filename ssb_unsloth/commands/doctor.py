"""`ssb doctor`: what works on this machine, and for each thing that does not, the command that fixes it.

Two kinds of recipe are asked about: the pocket's, and those for a GPU. A finding says which of them it stands in the
way of. What is imported to see whether it can be, is imported in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io.addresses import server_address
from ..io.terminal import folded, tell
from ..machine import hardware, hub, versions
from ..machine.assumptions import ENVIRONMENT_BYTES
from ..machine.findings import BOTH, GPU, POCKET, STOP, Finding, look, wrong_lengths
from ..machine.geometry import geometry, needs_gpu, shipped
from ..pocket import model_folder
from ..recipe.schema import Recipe
from ..recipe.shipped import find
from ..verifier.verifiers import CODE, parts, sandbox_layers, sandbox_wants

IMPORT_SECONDS = 180
SERVER_SECONDS = 10.0


@dataclass(frozen=True)
class Findings:
    findings: tuple[Finding, ...]
    recipe: str | None = None
    kind: str | None = None  # of the recipe

    def can(self, kind: str) -> bool:
        return not any(kind in finding.blocks for finding in self.findings)

    @property
    def can_run(self) -> bool:
        """Whether the recipe can, or without one, whether the pocket at least can."""
        return self.can(self.kind or POCKET)

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.kind,) if self.kind else BOTH

    def as_dict(self) -> dict[str, Any]:
        findings = [{"state": finding.state(self.kinds), **asdict(finding)} for finding in self.findings]
        can = {kind: self.can(kind) for kind in BOTH}
        return {"recipe": self.recipe, "can_run": self.can_run, "can": can, "findings": findings}


def main(arguments: argparse.Namespace) -> int:
    recipe = None
    if arguments.recipe:
        from ..recipe.loading import load  # by OmegaConf; without a recipe nothing is asked for but Python

        recipe = load(find(arguments.recipe), arguments.overrides)
    findings = examine(recipe, machine_only=arguments.machine)
    tell(json.dumps(findings.as_dict(), indent=1) if arguments.json else describe(findings))
    return 0 if findings.can_run else 2


def examine(recipe: Recipe | None = None, machine_only: bool = False) -> Findings:
    """Look at the machine, the packages (unless `machine_only`), and what the recipe needs of the hub."""
    kind = None
    if recipe is not None:
        try:
            kind = GPU if needs_gpu(geometry(recipe.model)[0]) else POCKET
        except UserError:  # the findings below say why
            kind = GPU
    found = [*look(recipe)]
    if recipe is not None:
        found += _recipe(recipe, kind or GPU, machine_only)
    found += [*_sandbox(recipe, kind)]
    found += [*_hub(recipe, kind)]
    if not machine_only:
        found += [*_packages(), *_imports(recipe)]
    return Findings(tuple(found), recipe.name if recipe else None, kind)


# -- The recipe


def _recipe(recipe: Recipe, kind: str, machine_only: bool) -> Iterator[Finding]:
    from ..machine.plan import make_plan

    cards = hardware.find_cards().cards
    try:
        plan = make_plan(recipe, cards[0] if cards and kind == GPU else None)
    except UserError as error:
        yield Finding("model", str(error), "see above", (kind,))
        return
    yield Finding("model", f"{plan.model}, {plan.parameters:,} parameters")
    if not machine_only:
        yield from _template(recipe, kind)
    for said, fix in wrong_lengths(recipe):
        yield Finding("length", said, fix, (kind,))
    if recipe.sampler.engine == "ray":
        from .doctor_replicas import replicas

        yield from replicas(recipe, plan, kind, machine_only)
    else:
        yield from _engine(recipe, kind, machine_only)
    for stage in plan.stages:
        if stage.fits is False:
            said = f"{stage.name} needs {stage.bytes / 2**30:.1f} GiB on the card, more than there is"
            yield Finding("memory", said, f"set {'; '.join(stage.advice)}", (kind,))
    if plan.fits:
        most = max(plan.stages, key=lambda stage: stage.bytes)
        said = f"the most is {most.bytes / 2**30:.1f} GiB, for {most.name}"
        free = plan.card.free_mib if plan.card else None
        if free is None or most.bytes <= free * 2**20:
            yield Finding("memory", f"every stage fits; {said}")
        else:
            said = f"every stage would fit, and {free / 1024:.1f} GiB are free; {said}"
            yield Finding("memory", said, f"{STOP}, or name another card by CUDA_VISIBLE_DEVICES", (kind,))
    environment = ENVIRONMENT_BYTES if machine_only and kind == GPU else 0.0
    yield from _disk(plan.disk - plan.download + environment, plan.download, kind)


def _engine(recipe: Recipe, kind: str, machine_only: bool) -> Iterator[Finding]:
    """The cards that the sampler is to be spread over, and the servers that it asks."""
    sampler = recipe.sampler
    try:
        hardware.check_cards(sampler.tensor_parallel)
    except UserError as error:
        yield Finding("cards", str(error), "see there", (kind,))
    if machine_only or not sampler.servers or not find_spec("httpx"):
        return
    from ..backends.dispatch import Unavailable
    from ..backends.servers.answers import models, names
    from ..backends.servers.endpoint import Endpoint

    for given in sampler.servers:
        root = server_address(given, "sampler.servers").root
        try:
            served = Endpoint(root, SERVER_SECONDS).ask("/v1/models", models)
            yield Finding("server", f"{root} serves {names(served) or 'no model'}")
        except (UserError, Unavailable) as error:
            said = error.reason if isinstance(error, Unavailable) else str(error)
            fix = f"start it: vllm serve {recipe.model.name} --max-model-len {sampler.max_model_len}"
            yield Finding("server", f"{root}: {said}", f"{fix} (docs/servers.md)", (kind,))


def _template(recipe: Recipe, kind: str) -> Iterator[Finding]:
    """Whether the chat template can say what the method does, of a model that is on this machine."""
    name = recipe.model.name
    if find_spec("transformers") is None or find_spec("torch") is None:
        return
    if (
        model_folder(name) is None
        and not Path(name).exists()
        and hub.cached(name, recipe.model.revision, "models") is None
    ):
        return
    try:
        from ..backends.transformers import load_tokenizer
        from ..pipeline.preflight import check_template

        said = check_template(load_tokenizer(recipe.model), [recipe.prompts.texts])
    except UserError as error:
        yield Finding("template", str(error), "set the key that is named there", (kind,))
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # of torch or transformers: said below
        yield Finding("template", f"not looked at: {(str(error) or type(error).__name__).splitlines()[0]}")
    else:
        yield Finding("template", said or "has a place for every message, and ends its replies")


def _disk(here: float, downloads: float, kind: str) -> Iterator[Finding]:
    """Room for the run in this folder, and for what is downloaded in the hub's cache, often on another disk."""
    cache = next(folder for folder in (hub.cache_folder(), *hub.cache_folder().parents) if folder.exists())
    needs = {Path.cwd(): here, cache: downloads}
    if Path.cwd().stat().st_dev == cache.stat().st_dev:
        needs = {Path.cwd(): here + downloads}
    for folder, need in needs.items():
        free = shutil.disk_usage(folder).free
        said = f"{free / 1e9:.1f} GB free in {folder}, {need / 1e9:.1f} GB needed"
        if free < need:
            yield Finding("disk", said, "make room, or set HF_HOME and --runs to a larger disk", (kind,))
        else:
            yield Finding("disk", said)


def _wanted(recipe: Recipe) -> Iterator[tuple[str, str, str | None]]:
    """("models" or "datasets", name, revision) of what the recipe takes from the hub."""
    sources = [recipe.problems, *recipe.evaluate.benchmarks.values()]
    names = [("models", recipe.model.name, recipe.model.revision), *(("datasets", s.source, None) for s in sources)]
    seen = set()
    for kind, name, revision in names:
        local = model_folder(name) is not None or name.startswith((".", "/", "~")) or Path(name).exists()
        if not local and "/" in name and name not in seen:
            seen.add(name)
            yield kind, name, revision


def _hub(recipe: Recipe | None, kind: str | None) -> Iterator[Finding]:
    wanted = list(_wanted(recipe)) if recipe else []
    yield Finding("token", "there is one" if hub.token() else "none; only gated models need one (`hf auth login`)")
    if recipe is not None and not wanted:
        yield Finding("hub", "not needed: model and data are local")
        return
    absent = [item for item in wanted if hub.cached(item[1], item[2], item[0]) is None]
    if recipe is not None and not absent:
        yield Finding("hub", f"not needed: {', '.join(item[1] for item in wanted)} are in {hub.cache_folder()}")
        return
    blocks = (kind,) if kind else ()
    missing = ", ".join(item[1] for item in absent)
    if hub.offline() and recipe is None:
        yield Finding("hub", "HF_HUB_OFFLINE is set: nothing is downloaded")
        return
    if hub.offline():
        said = f"HF_HUB_OFFLINE is set, and the cache {hub.cache_folder()} lacks {missing}"
        fix = "`unset HF_HUB_OFFLINE`, or copy them here and name their folders in the recipe"
        yield Finding("hub", said, fix, blocks)
        return
    if recipe is None:
        try:
            hub.get_json("api/models?limit=1")
        except hub.HubError as error:
            yield Finding("hub", str(error), "connect to the network, or use local models and data")
        else:
            yield Finding("hub", f"{hub.endpoint()} answers")
        return
    for item in absent:
        finding = _on_hub(*item, blocks)
        if finding is not None:
            yield finding
            if "does not answer" in finding.found:  # once is enough
                return
    yield Finding("hub", f"{hub.endpoint()} answers; to be downloaded: {missing}")


def _on_hub(kind: str, name: str, revision: str | None, blocks: tuple[str, ...]) -> Finding | None:
    """What is wrong with a model or data set that is not in the cache, None if it can be downloaded."""
    page = f"{hub.endpoint()}/{'' if kind == 'models' else 'datasets/'}{name}"
    accept = f"accept its licence at {page}, then `hf auth login` or set HF_TOKEN"
    try:
        about = hub.get_json(f"api/{kind}/{name}")
        if about.get("gated") and not hub.token():
            return Finding("hub", f"{name} is gated, and there is no token", accept, blocks)
        if about.get("gated") and kind == "models":
            hub.get_json(f"{name}/resolve/{revision or 'main'}/config.json")
    except hub.HubError as error:
        if error.status in (401, 403):
            return Finding(
                "hub", f"{name} is gated or does not exist, and the hub refuses it ({error})", accept, blocks
            )
        if error.status == 404:
            return Finding("hub", f"{name} is not on {hub.endpoint()}", "correct its name in the recipe", blocks)
        gated = shipped(name) if kind == "models" else None
        more = f"; it is gated: {accept}" if gated and gated["gated"] and not hub.token() else ""
        said = f"{error}, and {name} is not in the cache {hub.cache_folder()}"
        fix = f"connect, set HF_ENDPOINT to a mirror, or copy it here and name its folder in the recipe{more}"
        return Finding("hub", said, fix, blocks)
    return None


# -- What holds programs


def _sandbox(recipe: Recipe | None, kind: str | None) -> Iterator[Finding]:
    """The sandbox of the verifier `code`; only where the recipe asks for that does it stand in anyone's way."""
    asked = [recipe.problems, *recipe.evaluate.benchmarks.values()] if recipe else []
    specs = [parts(problems.verifier) for problems in asked]
    needed = any(name == CODE and options.get("sandbox", "full") == "full" for name, options in specs)
    if recipe is not None and not needed:
        return
    missing = sandbox_wants()
    said = "; ".join(f"{name}: {gives}" for name, _, gives in sandbox_layers())
    if missing is None:
        yield Finding("sandbox", f"holds programs (verifier code). {said}")
    else:
        fix = "use Linux 6.2 or newer, or in a machine that you can lose {name: code, sandbox: limits}"
        blocks = (kind,) if needed and kind else ()
        yield Finding("sandbox", f"holds no programs (verifier code): {missing}. {said}", fix, blocks)


# -- The packages


def _packages() -> Iterator[Finding]:
    absent = [package for package in versions.ESSENTIAL if versions.installed(package) is None]
    if absent:
        yield Finding("packages", f"not installed: {', '.join(absent)}", versions.remedy(), BOTH)
    for clash in versions.clashes():
        yield Finding("versions", clash, versions.remedy(), BOTH)
    if versions.installed("packaging") is None:
        return
    lock = versions.lock_name()
    differences = versions.compare_with_lock(lock)
    if differences is None:
        yield Finding("locked set", "this installation does not carry constraints/: compare in a checkout")
        return
    said = f"{differences.packages} packages in constraints/{lock}.txt"
    if not differences.missing and not differences.other:
        yield Finding("locked set", f"{said}, all as locked")
        return
    for title, names in (("not installed", differences.missing), ("other", differences.other)):
        if names:
            said += f"; {title}: {', '.join(names[:8])}{' and more' if len(names) > 8 else ''}"
    yield Finding("locked set", said, versions.remedy(lock))


def _imports(recipe: Recipe | None) -> Iterator[Finding]:
    """vLLM and Unsloth, each imported in a process of its own."""
    engine = recipe.sampler.samples_by if recipe else "auto"
    backend = getattr(recipe.model, "backend", "auto") if recipe else "auto"
    if engine not in ("transformers", "servers"):
        if find_spec("vllm") is None:
            pocket = (POCKET,) if engine == "vllm" else ()
            yield Finding("vllm", "not installed; transformers samples", versions.remedy(), (GPU, *pocket))
        else:
            said, works = try_import("vllm")
            fix = f"set sampler.engine=transformers, or {versions.remedy()}"
            # `auto` takes vLLM where it is installed, so one that cannot be imported stands in the way of both.
            yield Finding("vllm", said) if works else Finding("vllm", said, fix, BOTH)
    if backend != "transformers":
        on_gpu = hardware.here() is not None
        if find_spec("unsloth") is None:
            yield Finding("unsloth", "not installed", versions.remedy("gpu"), (GPU,))
        elif not on_gpu:
            yield Finding("unsloth", f"{versions.installed('unsloth')}, not tried: it needs a GPU")
        else:
            said, works = try_import("unsloth")
            fix = f"set model.backend=transformers, or {versions.remedy()}"
            yield Finding("unsloth", said) if works else Finding("unsloth", said, fix, (GPU,))


def try_import(module: str, seconds: float = IMPORT_SECONDS) -> tuple[str, bool]:
    """What an import in another process comes to: its version and how long it took, or its last line of error.

    Unsloth is imported as a stage does it, without vLLM, which it would import too.
    """
    here = "from ssb_unsloth.backends.unsloth import prepare; module = prepare()"
    code = here if module == "unsloth" else f"import {module} as module"
    code += "; print('version', getattr(module, '__version__', '?'))"
    start = time.monotonic()
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=seconds, env={**os.environ, **quiet}
        )
    except subprocess.TimeoutExpired:
        return f"its import does not end within {seconds:.0f} seconds", False
    if done.returncode == 0:
        version = done.stdout.split("version ")[-1].strip()
        return f"{version}, imported in {time.monotonic() - start:.0f} s", True
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return f"cannot be imported: {lines[-1] if lines else f'exit code {done.returncode}'}", False


# -- As text


def describe(findings: Findings) -> str:
    """One line a finding, its remedy below it, and what follows for the recipe."""
    lines = []
    for finding in findings.findings:
        lines.append(folded(finding.found, f"  {finding.state(findings.kinds):<6} {finding.name:<12} ", " " * 22))
        if finding.fix:
            lines.append(folded(finding.fix, f"{'':22}-> ", " " * 25))
    lines.append("")
    if findings.recipe is None:
        for kind, title in ((POCKET, "The pocket (make demo)"), (GPU, "Recipes for a GPU")):
            lines.append(f"{title}: {'can run here' if findings.can(kind) else 'cannot run here yet'}.")
    elif findings.can_run:
        lines.append(f"{findings.recipe} can run here.")
    else:
        count = sum(finding.state(findings.kinds) == "wrong" for finding in findings.findings)
        lines.append(f"{findings.recipe} cannot run here: {count} thing{'s' * (count > 1)} to fix.")
    return "\n".join(lines)
