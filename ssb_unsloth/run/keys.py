"""What a recipe's parts are to the stages that they determine: a local file or folder is its contents, not its path.

So a run resumes after it was moved, from another folder, and with a path that is spelt otherwise.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..backends.sources import model_path
from ..io.files import local
from ..pocket import is_pocket
from ..pocket.problems import VERSION
from ..recipe.renamed import with_first_names
from ..recipe.schema import (
    CurateConfig,
    ModelConfig,
    ProblemsConfig,
    PromptsConfig,
    Recipe,
    SamplerConfig,
    TeachConfig,
    TrainConfig,
)
from ..verifier.verifiers import MATH, Spec, source_of, written
from .manifests import file_hash
from .rundir import fingerprint


def of_path(name: str, key: str = "") -> dict[str, str | None]:
    """A name that is a hub id where there is no such file. `key` is the recipe's that names it."""
    path = local(name, key)
    return {"name": None, "files": fingerprint(path)} if path.exists() else {"name": name, "files": None}


def of_model(config: ModelConfig, trained: bool = False) -> dict[str, Any]:
    """`trained`: the stage loads it by `model.backend`; to the samplers that key says nothing."""
    identity = {**asdict(config), **of_path(model_path(config))}
    for key in ("chat_template", "system", "end_of_turn"):  # which there were not always: fresh is what was then made
        if identity[key] == getattr(ModelConfig, key):
            del identity[key]
    if config.chat_template is not None and (path := local(config.chat_template, "model.chat_template")).is_file():
        identity["chat_template"] = fingerprint(path)
    if not trained:
        del identity["backend"]
    return identity


def of_sampler(config: SamplerConfig) -> dict[str, Any]:
    """Without what depends on how full the card is at the moment, and on which servers or how many replicas are up: any
    of them gives the same reply. `tensor_parallel`, which there was not always, sums in another order where it is more
    than 1.
    """
    left_out = {"gpu_memory_utilization", "servers", "server_timeout", "replicas"}
    left_out |= set() if config.engine == "ray" else {"replica_engine"}
    left_out |= {"tensor_parallel"} if config.tensor_parallel == 1 else set()
    return {key: value for key, value in asdict(config).items() if key not in left_out}


def of_problems(config: ProblemsConfig) -> dict[str, Any]:
    identity = as_written(config)
    if (source := of_verifier(config.verifier)) is not None:
        identity["verifier_source"] = source
    if is_pocket(config.source):  # a folder of that name may lie here
        return {**identity, "version": VERSION}
    return {**identity, "source": of_path(config.source, "problems.source")}


def of_verifier(spec: Spec) -> str | None:
    """The hash of the module of a user's own verifier, of its one file; None for those that come with the package."""
    file = source_of(spec)
    return None if file is None else file_hash(file)


def as_written(config: ProblemsConfig) -> dict[str, Any]:
    """The keys as manifests and reports have them: those of verifiers, and `skip`, only where they are others than what
    there was before they could be said, so that what was finished then stays up to date. `streaming` changes no row,
    and a benchmark's `title` no reply.
    """
    identity = {**asdict(config), "verifier": written(config.verifier)}
    del identity["streaming"]
    identity.pop("title", None)
    before = {"verifier": MATH, "choices": None, "entry_point": None, "skip": 0}
    return {key: value for key, value in identity.items() if key not in before or value != before[key]}


def of_prompts(config: PromptsConfig) -> dict[str, Any]:
    """Without the keys that there were not always, where they are at their defaults."""
    later, default = ("tutor", "refine", "answer_form", "thinking"), PromptsConfig()
    values = asdict(config)
    return {key: values[key] for key in values if key not in later or values[key] != getattr(default, key)}


def of_student_prompt(config: PromptsConfig) -> dict[str, Any]:
    """What the student is asked under: the wording, and a text that is another than that wording's."""
    tutor = config.texts.tutor
    own = tutor != PromptsConfig(wording=config.wording).texts.tutor
    return {"wording": config.wording, **({"tutor": tutor} if own else {})}


def of_curation(config: CurateConfig) -> dict[str, Any]:
    from ..data.shared import local_path

    identity = asdict(config)
    del identity["min_yield"]  # it ends what comes to nothing; what was finished is the same for any
    if config.gold == "given":  # which it always was
        del identity["gold"]
    for key in ("rollouts_file", "pairs_file"):
        if identity[key] is not None and (path := local_path(identity[key], f"curate.{key}")) is not None:
            identity[key] = fingerprint(path)
    return identity


def of_teaching(config: TeachConfig) -> dict[str, Any]:
    """Without the keys that there were not always, where they are at their defaults. And without `targets_from`: where
    targets come from says nothing, since they are taken only where they are those of this model, these pairs and these
    keys (method/brought_targets.py), so that students, one by its own targets and one by published ones, are the same.
    """
    first = ("targets", "hint", "top_k", "batch_tokens")
    return {**{key: value for key, value in asdict(config).items() if key in first}, **of_lessons(config)}


def of_lessons(config: TeachConfig) -> dict[str, Any]:
    """What decides which replies are learnt, and from what teacher, besides the hint: keys that are not the paper's."""
    keys = ("replies", "each", "guidance", "right", "window", "weights")
    values, paper = asdict(config), TeachConfig()
    return {key: values[key] for key in keys if values[key] != getattr(paper, key)}


def of_training(config: TrainConfig) -> dict[str, Any]:
    identity = with_first_names(asdict(config), "train")
    if config.drift_texts is not None:
        identity["drift_texts"] = of_path(config.drift_texts, "train.drift_texts")
    return identity


def of_recipe(recipe: Recipe) -> dict[str, Any]:
    """All of it."""
    evaluation = {
        **asdict(recipe.evaluate),
        "adapters": {name: of_path(source) for name, source in recipe.evaluate.adapters.items()},
        "benchmarks": {name: of_problems(config) for name, config in recipe.evaluate.benchmarks.items()},
    }
    return {
        **with_first_names(asdict(recipe)),
        "model": of_model(recipe.model, trained=True),
        "problems": of_problems(recipe.problems),
        "prompts": of_prompts(recipe.prompts),
        "sampler": of_sampler(recipe.sampler),
        "curate": of_curation(recipe.curate),
        "teach": of_teaching(recipe.teach),
        "train": of_training(recipe.train),
        "evaluate": evaluation,
        "card": None,
    }
