"""The recipe: a YAML file read into these dataclasses by OmegaConf. Every key, its type and its default is stated here.

`load` reports everything that is wrong with a recipe in one message: unknown keys with the nearest valid one, wrong
types, impossible values. Where a default comes from is said beside it: the paper (section), its released code, or ours.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import functools
import hashlib
import keyword
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError
from ..io import disk
from ..io.files import is_finite, local
from ..prompts.hints import Hint
from . import trackers
from .benchmarks import BENCHMARKS
from .file import merged, overrides_merged, read, with_references
from .methods import MethodName
from .presets import PRESETS

LONGEST_NAME = 60  # bytes: several of them stand in one file's name, which has 255
LARGEST = 2**31 - 1  # number that a recipe can hold; seeds go up to it
MOST_STUDENTS = 500
# Names that a chat template cannot be given a value of: Jinja's words, and what it renders.
TEMPLATE_WORDS = {
    *(word.lower() for word in keyword.kwlist),
    *("block", "call", "filter", "macro", "set"),
    *("messages", "add_generation_prompt", "continue_final_message"),
    *("bos_token", "eos_token", "strftime_now", "raise_exception"),
}
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes as max_lora_rank (0.32, config/lora.py)


@dataclass
class ModelConfig:
    """The base model. Its weights are student, teacher and sampler at once."""

    name: str = MISSING  # hub id, local folder, or "pocket": the tiny model that comes with the package
    revision: str | None = None  # hub revision; the default branch if null
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: what the card is best at (hardware.py)
    trust_remote_code: bool = False  # ours: never run a repository's code unless the recipe says so
    # Variables that the chat template reads, such as {enable_thinking: false}; they are set in the template itself.
    template: dict[str, Any] = field(default_factory=dict)
    date: str = "2026-01-01"  # ours: "today" in a chat template that asks for it, so that no day renders other prompts
    # What loads the model that teaches and learns by SSB. auto: Unsloth where it is installed and there is a CUDA GPU.
    # The controls learn in TRL's own trainers, on plain transformers.
    backend: Literal["auto", "unsloth", "transformers"] = "auto"
    quantization: Literal["none", "8bit", "4bit"] = "none"  # of the frozen weights, by bitsandbytes; the paper's: none


@dataclass
class ProblemsConfig:
    """Where questions and gold answers come from."""

    source: str = MISSING  # a .jsonl or .parquet file, a hub data set, or "pocket": the built-in generator
    config: str | None = None  # hub data set: its configuration
    split: str = "train"  # hub data set or pocket: the split
    question: str = "question"  # column names
    gold: str = "answer"
    gold_format: Literal["####", "boxed", "plain"] = "plain"  # how the gold answer stands in its column
    limit: int | None = None  # the first so many; pocket: how many to make (1,000 if null)


@dataclass
class PromptsConfig:
    """What the model is shown, and which tokens of the reply are learnt. The second choice of each is the released
    code's (docs/presets.md)."""

    wording: Literal["paper", "released"] = "paper"  # of the tutor and the refinement prompt: paper §3.1, or the code's
    student: Literal["chat", "joined"] = "chat"  # §3.2.1: the chat template; joined: prompt and question with a space
    # A text may spell a control token of the model, such as <|im_end|>: it is tokenized as the text that it is. Where
    # tokenizer or template cannot tell it from their own, the question or pair is left out and counted, or refused.
    control_text: Literal["skip", "refuse"] = "skip"
    reply: Literal["sampled", "retokenized"] = "sampled"  # the sampler's ids and the end of turn; or its text, without


@dataclass
class SamplingConfig:
    """One decoding. Stated whole: nothing is inherited from a model's generation_config."""

    temperature: float = 0.8  # released code: 0.8 for rollouts, 0.4 for refinements; 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    repetition_penalty: float = 1.0
    max_tokens: int = 1024  # ours


@dataclass
class SamplerConfig:
    engine: Literal["auto", "vllm", "transformers"] = "auto"  # auto: vLLM where it is installed
    max_model_len: int = 4096  # prompt and reply, tokens
    gpu_memory_utilization: float | str = "auto"  # vLLM's share of the card; auto: nearly all that is free
    attention_backend: str = "auto"  # vLLM's name of it, e.g. TRITON_ATTN; auto: by the card (hardware.py)
    max_lora_rank: int = 32  # the ranks that vLLM takes are LORA_RANKS
    batch_size: int = 64  # transformers engine only: sequences at a time


@dataclass
class CurateConfig:
    pairs: int = 256  # paper §4.1; with several refinements the questions that give pairs
    rollouts: int = 4  # K, paper §4.1
    refinements: int = 1  # paper §3.1.3: one a question; of several, each right one is a pair, equal texts once
    questions: int | None = None  # use at most so many; all if null
    wave: int = 256  # ours: questions sampled together before looking whether there are enough pairs
    rollout: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.8))
    refine: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.4, max_tokens=2048))
    rollouts_file: str | None = None  # JSONL of rollouts made elsewhere: {"question", "rollouts": [{"text"}, ...]}
    pairs_file: str | None = None  # pairs made elsewhere: a .jsonl, a folder or a hub data set (pairs.py); no sampling
    contrast: Literal["random", "first"] = "random"  # §3.1.2: drawn among those that qualify; released code: the first
    unboxed: Literal["wrong", "excluded"] = "wrong"  # a rollout without a box, §3.1.1: wrong; released code: neither
    equality: Literal["math", "string"] = "math"  # of answer and gold; released code: the same characters


@dataclass
class TeachConfig:
    # What is stored of the teacher. Exact: hidden, logits (the paper's), online (nothing: run in the training step).
    # Approximate: top_k with a tail bucket. An ablation: one_hot, all its mass on its likeliest word.
    targets: Literal["hidden", "logits", "top_k", "one_hot", "online"] = "hidden"
    # What the teacher is shown (prompts/hints.py); the pairs stay the same. The paper: both.
    hint: Hint = "both"
    top_k: int = 64  # for targets: top_k
    batch_tokens: int = 8192  # ours: padded tokens of a teacher-forced batch


@dataclass
class LoraConfig:
    r: int = 32  # paper §4.1
    alpha: int = 32  # released code
    dropout: float = 0.0  # released code
    dtype: Literal["float32", "model"] = "float32"  # of the trained weights; released code: cast to the model's
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


@dataclass
class GrpoConfig:
    """Read where train.method is grpo. The paper states the 2,000 questions, and no other setting of its control."""

    questions: int = 2000  # paper §4.1: the first so many of `problems`
    steps: int | None = None  # optimizer steps; one pass over the questions if null
    questions_per_step: int = 8  # ours
    generations: int = 8  # TRL's default: replies sampled a question
    micro_batch_size: int | None = None  # replies in one forward pass; all of a step's if null
    learning_rate: float = 1e-5  # ours: ten times TRL's default, which is meant for training all weights
    temperature: float = 1.0  # TRL's default
    max_tokens: int = 1024  # ours: length limit of a reply; one that is cut off earns nothing
    beta: float = 0.0  # TRL's default: weight of the KL to the base
    loss: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = "dapo"  # TRL's default
    use_vllm: bool | None = None  # sample by vLLM in the training process; null: where there is a GPU
    gpu_memory_utilization: float = 0.3  # TRL's default: vLLM's share of the card beside the trainer


@dataclass
class TrainConfig:
    # ssb, or a control: sft on the pairs' replies, rft on right rollouts, ssd on any, or grpo (methods.py).
    method: MethodName = "ssb"
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    epochs: int = 3  # paper §4.1
    batch_size: int = 4  # paper §4.1: examples in one optimizer step
    micro_batch_size: int | None = None  # examples in one forward pass; batch_size if null
    learning_rate: float = 2e-4  # released code
    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"  # released code
    warmup_steps: int = 0  # released code
    weight_decay: float = 0.0  # ours
    max_grad_norm: float = 1.0  # ours
    temperature: float = 2.0  # T_KD; the paper says > 1, the released code 2
    denominator: Literal["example", "token"] = "example"  # paper Eq. 6; the released code takes the token mean
    kd_weight: float = 1.0  # released code: lambda_KD, of T² KL
    ce_weight: float = 0.0  # released code: lambda_CE, of the cross-entropy of the reply's own tokens
    sharpen: float = 1.0  # ours: what the teacher's logits are multiplied by; the paper's teacher is as it is
    gradient_checkpointing: bool = False  # recompute activations: less memory, about a third slower; Unsloth: its own
    save_steps: int = 50  # a stopped run goes on from the last multiple
    logging_steps: int = 1
    probe_steps: int = 32  # measure the student's own reply length so often; 0: never
    probe_questions: int = 32
    drift_texts: str | None = None  # ours: KL(base ‖ student) on the "text"s of a .jsonl file, or on "pocket" drills
    token_pairs: int = 24  # ours: pairs followed token by token, KL before and after; 0: none
    report_to: list[str] = field(default_factory=list)  # names of trackers.py, as [tensorboard]; the extra [trackers]


@dataclass
class BenchmarkConfig(ProblemsConfig):
    """Held-out problems. `max_tokens` is the length limit of a reply.

    A benchmark whose key or `name` is one of BENCHMARKS has its source and columns from there; what is given beside it
    wins. All of its problems have to be there (`count`), each once.
    """

    name: str | None = None
    count: int | None = None  # number of problems before `limit`; null: not asserted
    id: str | None = "id"  # column whose values, where there is such a column, have to be present and different
    samples: int = 1  # replies a question at `temperature`
    temperature: float | None = 0.8  # null: greedy only. The paper's decoding is unstated; all of this is ours
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    repetition_penalty: float = 1.0
    greedy: bool = True
    k: list[int] = field(default_factory=list)  # pass@k for each, from the samples
    max_tokens: int = 1024


@dataclass
class CardConfig:
    """What `ssb plan` cannot know. It changes no result."""

    tflops: float | None = None  # dense 16-bit peak of the GPU, 1e12 operations a second; null: as hardware.py knows it
    bandwidth: float | None = None  # of its memory, 1e9 bytes a second; null: as hardware.py knows it
    price: float | None = None  # of the machine for an hour, in any currency; null: no cost in money is shown


BASE = "base"  # rows of every table
DEFAULT_PROMPT = f"{BASE}-default-prompt"  # the base without the tutor prompt


@dataclass
class EvaluateConfig:
    benchmarks: dict[str, BenchmarkConfig] = field(default_factory=dict)
    references: list[str] = field(default_factory=lambda: ["base"])  # what every model is compared with, by name
    default_prompt: bool = False  # the base a second time, with no tutor prompt: its chat template's own default
    adapters: dict[str, str] = field(default_factory=dict)  # more rows: LoRA adapters by name, hub ids or folders


@dataclass
class Recipe:
    name: str = MISSING
    preset: Literal["paper", "author_code"] = "paper"  # whose choices are the defaults of the keys below (presets.py)
    seed: int = 3407  # released code
    seeds: list[int] = field(default_factory=list)  # repeat everything with each of these; empty: `seed` alone
    rounds: int = 1  # ours: how often the student becomes the next base; the paper stops after one
    # More students beside the recipe's own: what differs, by name, as in {sft: {train: {method: sft}}}. All are
    # evaluated by one engine and stand in one table; stages that come out equal are shared.
    variants: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None  # CPU threads of a stage; a tiny model is fastest with 1. All cores if null
    model: ModelConfig = field(default_factory=ModelConfig)
    problems: ProblemsConfig = field(default_factory=ProblemsConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    curate: CurateConfig = field(default_factory=CurateConfig)
    teach: TeachConfig = field(default_factory=TeachConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    card: CardConfig = field(default_factory=CardConfig)


def load(path: Path, overrides: Sequence[str] = (), servers: bool = False) -> Recipe:
    """Read a recipe, put it on top of the one that its `base` names, and apply `key=value` overrides.

    `servers`: whether `model.name` may be the URL of a vLLM server, which can be asked and not trained.

    Raises:
        UserError: a file cannot be read, or anything in it, in the overrides or in a variant is wrong; all of it in one
            message.
    """
    given = _on_preset(read(path, Recipe))
    if "base" in given:
        base_path = path.parent / local(str(given.pop("base")), f"{path}: base")
        base = _on_preset(read(base_path, Recipe))
        if "base" in base:
            raise UserError(f"{base_path}: a recipe that is a `base` cannot have one itself; there is one level.")
        given = merged(base, given)
    return resolve(given, overrides, str(path), servers)


def resolve(given: dict[str, Any], overrides: Sequence[str], where: str, servers: bool = False) -> Recipe:
    """The recipe of these keys, with `key=value` overrides put over them. `where` they stand, for the message.

    Raises:
        UserError: as `load`.
    """
    whole = merged(given, _on_preset(overrides_merged(overrides, Recipe)))
    for section, key in ((whole.get("evaluate"), "benchmarks"), (whole, "variants")):
        if isinstance(section, dict) and key in section:
            section[key] = _without_nulls(section[key])

    wrong: list[str] = []
    recipe = _resolve(with_references(whole, DEFAULTS, wrong), wrong)
    if not wrong and recipe is not None:
        everyone = [recipe]
        for name in recipe.variants:
            resolved, lines = _variant(recipe, name)
            wrong += [f"variants.{name}{'.' * (line[0] != ':')}{line}" for line in lines]
            everyone += [resolved] if resolved is not None else []
        wrong += _too_many(recipe, everyone) + ([] if servers else _servers(everyone))
    if wrong or recipe is None:
        heading = f"{where}: {len(wrong)} thing{'s' * (len(wrong) > 1)} to mend:"
        raise UserError("\n".join([heading, *(f"  {line}" for line in wrong)]))
    return recipe


def variant(recipe: Recipe, name: str) -> Recipe:
    """The recipe with one variant's keys put over its own; `load` has looked at them all."""
    resolved, wrong = _variant(recipe, name)
    if resolved is None or wrong:
        raise UserError(f"variants.{name}: {'; '.join(wrong)}")
    return resolved


def _variant(recipe: Recipe, name: str) -> tuple[Recipe | None, list[str]]:
    overrides = recipe.variants[name]
    if not isinstance(overrides, dict) or not _names_a_file(name, "-_."):
        return None, [": expected a name of letters, digits, -, _ and dots, and a mapping of the keys that differ."]
    if name in (BASE, DEFAULT_PROMPT):
        return None, [": the table has a row of that name already; give it another one."]
    fixed = sorted({"name", "seed", "seeds", "variants", "evaluate", "card"} & set(overrides))
    if fixed:
        return None, [f"{key}: belongs to the whole recipe and cannot differ in a variant." for key in fixed]
    given = merged(dataclasses.asdict(dataclasses.replace(recipe, variants={})), _on_preset(overrides))
    wrong: list[str] = []
    return _resolve(given, wrong), wrong


def _without_nulls(table: Any) -> Any:
    """null takes away what the base has: an entry of a table, or all of them."""
    if isinstance(table, dict):
        return {name: entry for name, entry in table.items() if entry is not None}
    return {} if table is None else table


def _resolve(given: dict[str, Any], wrong: list[str]) -> Recipe | None:
    """`given` with every key that it leaves out at its default. What is wrong with it is added to `wrong`."""
    recipe = OmegaConf.structured(Recipe)
    _fill(recipe, given, Recipe, "", wrong)
    for key in sorted(OmegaConf.missing_keys(recipe)):
        if not any(line.startswith(key) for line in wrong):
            wrong.append(f"{key}: missing; a recipe has to give it.")
        OmegaConf.update(recipe, key, "missing")  # of the right type, so that the other keys can be looked at
    resolved = OmegaConf.to_object(recipe)
    assert isinstance(resolved, Recipe)
    wrong += _impossible(resolved)
    return resolved


def _on_preset(layer: dict[str, Any]) -> dict[str, Any]:
    """A file, a variant or the overrides, on top of the preset that it names: its own keys win over the preset, and the
    preset over what lies below. An unknown one, or a reference, is `_fill`'s to report.
    """
    preset = layer.get("preset")
    if isinstance(preset, str) and "${" in preset:
        layer = {**layer, "preset": "a reference"}
    return merged(PRESETS.get(str(preset), {}), layer)


def save(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe: every key, also those left at their default. `load` reads it back unchanged."""
    text = _sealed(OmegaConf.to_yaml(OmegaConf.structured(recipe)))
    if not path.is_file() or path.read_bytes() != text.encode():
        disk.write_text(path, text)


def is_as_saved(path: Path) -> bool:
    """Whether the recipe's file is still what `save` wrote, byte for byte."""
    text = path.read_bytes().decode("utf-8", "replace")
    return text == _sealed(text.partition("\n")[2])


def _sealed(text: str) -> str:
    return f"# Written by ssb; SHA-256 of the lines below: {hashlib.sha256(text.encode()).hexdigest()}\n{text}"


_types = functools.cache(typing.get_type_hints)


def _fill(section: Any, given: Any, kind: type, path: str, wrong: list[str]) -> None:
    """Set `given`'s leaves in the section one by one, so that every error is seen and not only the first. `path`: where
    in the recipe it is, with a dot at its end.
    """
    types = _types(kind)
    for key, value in given.items():
        here = f"{path}{key}"
        if key not in types:
            near = difflib.get_close_matches(str(key), types, n=1)
            wrong.append(
                f"{here}: unknown key; " + (f"did you mean {path}{near[0]}?" if near else f"known: {', '.join(types)}.")
            )
        elif dataclasses.is_dataclass(types[key]) and isinstance(value, dict):
            _fill(section[key], value, typing.cast(type, types[key]), here + ".", wrong)
        elif _table_of(types[key]) is not None and isinstance(value, dict):
            _fill_table(section[key], value, _table_of(types[key]), here, wrong)
        elif (reason := _unfit(value, types[key])) is not None:
            wrong.append(f"{here}: {reason}; expected {_spell(types[key])}.")
        else:
            try:
                OmegaConf.update(section, str(key), value, merge=False)
            except OmegaConfBaseException as error:
                wrong.append(f"{here}: {str(error).splitlines()[0][:200]}; expected {_spell(types[key])}.")


def _table_of(kind: Any) -> type | None:
    """The dataclass that a table's entries are of, where a key is a table of such."""
    item = typing.get_args(kind)[1] if typing.get_origin(kind) is dict else None
    return item if dataclasses.is_dataclass(item) and isinstance(item, type) else None


def _fill_table(section: Any, table: dict[str, Any], item: Any, here: str, wrong: list[str]) -> None:
    for name, entry in table.items():
        if not _names_a_file(name, "-_"):
            wrong.append(
                f"{here}.{name}: a name of letters, digits, - and _, at most {LONGEST_NAME}, is needed, since files are"
                " named after it."
            )
            continue
        if not isinstance(entry, dict):
            wrong.append(f"{here}.{name}: expected a mapping with the keys of {item.__name__}.")
            continue
        if item is BenchmarkConfig:
            entry = _with_preset(name, entry, f"{here}.{name}", wrong)
        section[name] = OmegaConf.structured(item)
        _fill(section[name], entry, item, f"{here}.{name}.", wrong)


def _names_a_file(name: str, signs: str) -> bool:
    """Whether a name is of letters, digits and these signs, and short enough to be part of a file's."""
    return len(name.encode()) <= LONGEST_NAME and "".join(c for c in name if c not in signs).isalnum()


def _unfit(value: Any, kind: Any) -> str | None:
    """What OmegaConf would not say in a sentence: a mapping for a number, numbers beyond all bounds."""
    if value == "???":
        return "??? is OmegaConf's word for what is missing"
    if isinstance(value, dict):
        return None if typing.get_origin(kind) is dict else "a mapping"
    if isinstance(value, list):
        within = (_unfit(one, typing.get_args(kind)[0]) for one in value) if typing.get_origin(kind) is list else ()
        return next((reason for reason in within if reason is not None), None) if _is_list(kind) else "a list"
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a number of too many digits"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no number to compute with"
    return None


def _is_plain(value: Any) -> bool:
    """Whether a chat template can be given the value as a literal."""
    return isinstance(value, str | None) or (isinstance(value, int | float) and is_finite(value))


def _is_list(kind: Any) -> bool:
    return typing.get_origin(kind) is list


def _with_preset(key: str, entry: dict[str, Any], here: str, wrong: list[str]) -> dict[str, Any]:
    """A benchmark's keys upon those of the preset that its name, or else its own key, stands for."""
    name = entry.get("name") or (key if key in BENCHMARKS else None)
    if name is None:
        return entry
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(str(name), BENCHMARKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(BENCHMARKS)}."
        wrong.append(f"{here}.name: no benchmark {name!r}; {hint} Leave the name out for a source of your own.")
        return {"source": "unknown", **entry}
    return {**BENCHMARKS[name], **entry, "name": name}


def _spell(type_: Any) -> str:
    if typing.get_origin(type_) is Literal:
        return " or ".join(map(str, typing.get_args(type_)))
    if dataclasses.is_dataclass(type_) or typing.get_origin(type_) is dict:
        return "a mapping"
    return getattr(type_, "__name__", None) if isinstance(type_, type) else str(type_).replace("None", "null")  # type: ignore[return-value]


def _impossible(recipe: Recipe) -> list[str]:
    """Values of the right type that cannot work."""
    r = recipe
    positive: dict[str, float | None] = {
        "threads": r.threads,
        "problems.limit": r.problems.limit,
        "sampler.max_model_len": r.sampler.max_model_len,
        "sampler.batch_size": r.sampler.batch_size,
        "sampler.max_lora_rank": r.sampler.max_lora_rank,
        "curate.pairs": r.curate.pairs,
        "curate.refinements": r.curate.refinements,
        "curate.questions": r.curate.questions,
        "curate.wave": r.curate.wave,
        "teach.top_k": r.teach.top_k,
        "teach.batch_tokens": r.teach.batch_tokens,
        "train.epochs": r.train.epochs,
        "train.batch_size": r.train.batch_size,
        "train.micro_batch_size": r.train.micro_batch_size,
        "train.learning_rate": r.train.learning_rate,
        "train.max_grad_norm": r.train.max_grad_norm,
        "train.temperature": r.train.temperature,
        "train.sharpen": r.train.sharpen,
        "train.save_steps": r.train.save_steps,
        "train.logging_steps": r.train.logging_steps,
        "train.grpo.questions": r.train.grpo.questions,
        "train.grpo.steps": r.train.grpo.steps,
        "train.grpo.questions_per_step": r.train.grpo.questions_per_step,
        "train.grpo.micro_batch_size": r.train.grpo.micro_batch_size,
        "train.grpo.learning_rate": r.train.grpo.learning_rate,
        "train.grpo.temperature": r.train.grpo.temperature,
        "train.grpo.gpu_memory_utilization": r.train.grpo.gpu_memory_utilization,
        "train.lora.r": r.train.lora.r,
        "train.lora.alpha": r.train.lora.alpha,
        "card.tflops": r.card.tflops,
        "card.bandwidth": r.card.bandwidth,
        "card.price": r.card.price,
    }
    wrong = [
        f"{key}: {value} is not a number above 0."
        for key, value in positive.items()
        if value is not None and not 0 < value < math.inf
    ]
    decodings = {"curate.rollout": r.curate.rollout, "curate.refine": r.curate.refine}
    for key, decoding in decodings.items():
        if not 0 <= decoding.temperature <= 5:
            wrong.append(f"{key}.temperature: {decoding.temperature} is not between 0 and 5.")
        if not 0 < decoding.top_p <= 1:
            wrong.append(f"{key}.top_p: {decoding.top_p} is not above 0 and at most 1.")
        if decoding.top_k < 0:
            wrong.append(f"{key}.top_k: {decoding.top_k} is below 0; 0 turns it off.")
        if decoding.repetition_penalty <= 0:
            wrong.append(f"{key}.repetition_penalty: {decoding.repetition_penalty} is not above 0; 1 turns it off.")
        if not 0 < decoding.max_tokens < r.sampler.max_model_len:
            wrong.append(f"{key}.max_tokens: {decoding.max_tokens} is not between 1 and sampler.max_model_len - 1.")
    if r.rounds < 1:
        wrong.append(f"rounds: {r.rounds} is below 1.")
    wrong += [
        f"{key}: {value:,} is more than the {most:,} that make sense." for key, value, most in _most(r) if value > most
    ]
    if len(set(r.seeds)) < len(r.seeds) or any(seed < 0 for seed in r.seeds):
        wrong.append(f"seeds: {r.seeds}; expected different numbers, none below 0.")
    if r.curate.rollouts < 2:
        wrong.append(f"curate.rollouts: {r.curate.rollouts}; a right and a wrong one take at least 2.")
    if r.curate.rollout.temperature == 0 and r.curate.rollouts_file is None:
        wrong.append("curate.rollout.temperature: 0 makes all rollouts of a question equal; use about 0.8.")
    if r.curate.rollouts_file is not None and r.curate.pairs_file is not None:
        wrong.append("curate.pairs_file: finished pairs need no curate.rollouts_file; give one of the two.")
    if r.train.lora.dtype == "model" and r.model.dtype == "float16":
        wrong.append("train.lora.dtype: model; gradients of float16 weights cannot be scaled, so leave it at float32.")
    for name, value in r.model.template.items():
        if not str(name).isidentifier() or str(name).lower() in TEMPLATE_WORDS or not _is_plain(value):
            wrong.append(
                f"model.template.{name}: expected a variable's name, none of the template's own words, and a text, a"
                " finite number, true, false or null."
            )
    wrong += trackers.misspelt(r.train.report_to)
    if not _is_day(r.model.date):
        wrong.append(f"model.date: {r.model.date!r} is no day written as 2026-01-31.")
    share = r.sampler.gpu_memory_utilization
    if share != "auto" and not (isinstance(share, float) and 0 < share <= 1):
        wrong.append(f"sampler.gpu_memory_utilization: {share} is not auto, nor a number above 0 and at most 1.")
    if r.sampler.engine != "transformers" and r.sampler.max_lora_rank not in LORA_RANKS:
        wrong.append(
            f"sampler.max_lora_rank: {r.sampler.max_lora_rank} is none of those that vLLM takes"
            f" ({', '.join(map(str, LORA_RANKS))}); use the next above train.lora.r."
        )
    if not 0 <= r.train.lora.dropout < 1:
        wrong.append(f"train.lora.dropout: {r.train.lora.dropout} is not from 0 to below 1.")
    if r.train.lora.r > r.sampler.max_lora_rank:
        wrong.append(
            f"train.lora.r: {r.train.lora.r} is above sampler.max_lora_rank ({r.sampler.max_lora_rank}), so the adapter"
            " could not be sampled; raise the latter."
        )
    micro = r.train.micro_batch_size or r.train.batch_size
    if micro > 0 and r.train.batch_size % micro:
        wrong.append(f"train.micro_batch_size: {micro} does not divide train.batch_size ({r.train.batch_size}).")
    for key, value in (
        ("train.kd_weight", r.train.kd_weight),
        ("train.ce_weight", r.train.ce_weight),
        ("train.warmup_steps", r.train.warmup_steps),
        ("train.weight_decay", r.train.weight_decay),
        ("train.probe_steps", r.train.probe_steps),
        ("train.probe_questions", r.train.probe_questions),
        ("train.token_pairs", r.train.token_pairs),
        ("seed", r.seed),
    ):
        if not value >= 0:
            wrong.append(f"{key}: {value} is below 0 or no number.")
    if r.train.kd_weight == r.train.ce_weight == 0:
        wrong.append("train.kd_weight: 0 with train.ce_weight 0 leaves no loss; give one of them a weight.")
    if r.teach.targets == "one_hot" and r.train.sharpen != 1:
        wrong.append("train.sharpen: changes nothing of one-hot targets; leave it at 1, or take other teach.targets.")
    if r.train.method == "grpo":
        wrong += _impossible_grpo(r)
    for name in r.evaluate.adapters:
        if not _names_a_file(name, "-") or name in (
            *(BASE, DEFAULT_PROMPT, r.train.method),
            *r.variants,
        ):
            wrong.append(
                f"evaluate.adapters.{name}: a name of letters, digits and - is needed, which no other row has."
            )
    for name, benchmark in r.evaluate.benchmarks.items():
        here = f"evaluate.benchmarks.{name}"
        if benchmark.samples < 1:
            wrong.append(f"{here}.samples: {benchmark.samples} is below 1.")
        if benchmark.temperature is None and not benchmark.greedy:
            wrong.append(f"{here}: temperature is null and greedy is false, so nothing would be sampled.")
        if benchmark.temperature is not None and not 0 < benchmark.temperature <= 5:
            wrong.append(f"{here}.temperature: {benchmark.temperature} is not above 0 and at most 5 (greedy: null).")
        if not 0 < benchmark.max_tokens < r.sampler.max_model_len:
            wrong.append(f"{here}.max_tokens: {benchmark.max_tokens} is not between 1 and sampler.max_model_len - 1.")
        for key in ("limit", "count"):
            if (number := getattr(benchmark, key)) is not None and number < 1:
                wrong.append(f"{here}.{key}: {number} is not a number above 0.")
        if not 0 < benchmark.top_p <= 1:
            wrong.append(f"{here}.top_p: {benchmark.top_p} is not above 0 and at most 1.")
        if benchmark.top_k < 0:
            wrong.append(f"{here}.top_k: {benchmark.top_k} is below 0; 0 turns it off.")
        if benchmark.repetition_penalty <= 0:
            wrong.append(f"{here}.repetition_penalty: {benchmark.repetition_penalty} is not above 0; 1 turns it off.")
        most = benchmark.samples if benchmark.temperature is not None else 1
        if not all(1 <= k <= most for k in benchmark.k):
            wrong.append(f"{here}.k: {benchmark.k}; pass@k needs k from 1 to the number of samples ({most}).")
    if not _names_a_file(r.name, "-_.") or r.name.startswith("."):
        wrong.append(
            f"name: {r.name!r} is to name a folder; use letters, digits, -, _ and dots, at most {LONGEST_NAME}."
        )
    return wrong


def _most(r: Recipe) -> list[tuple[str, int, int]]:
    """Keys of which each more is a stage, a list's entry or a thread, with the largest value."""
    return [
        ("rounds", r.rounds, 100),
        ("threads", r.threads or 1, 4096),
        ("curate.rollouts", r.curate.rollouts, 10_000),
        ("curate.refinements", r.curate.refinements, 10_000),
        ("train.grpo.generations", r.train.grpo.generations, 10_000),
        ("train.grpo.questions_per_step", r.train.grpo.questions_per_step, 100_000),
        *((f"evaluate.benchmarks.{name}.samples", b.samples, 100_000) for name, b in r.evaluate.benchmarks.items()),
    ]


def _too_many(recipe: Recipe, everyone: Sequence[Recipe]) -> list[str]:
    count = max(len(recipe.seeds), 1) * sum(one.rounds for one in everyone)
    if count <= MOST_STUDENTS:
        return []
    return [f"seeds, variants, rounds: {count:,} students; at most {MOST_STUDENTS} can be run as one recipe."]


def _servers(everyone: Sequence[Recipe]) -> list[str]:
    return [
        f"model.name: {one.model.name} is a server, which can be asked (`ssb evaluate URL --benchmark NAME`) and not"
        " trained; name a model."
        for one in everyone
        if "://" in one.model.name
    ]


def _is_day(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _impossible_grpo(r: Recipe) -> list[str]:
    grpo, wrong = r.train.grpo, []
    if grpo.generations < 2:
        wrong.append(f"train.grpo.generations: {grpo.generations}; replies to compare take at least 2.")
    replies = grpo.questions_per_step * grpo.generations
    micro = grpo.micro_batch_size or replies
    if micro > 0 and replies % micro:
        wrong.append(f"train.grpo.micro_batch_size: {micro} does not divide the {replies} replies of a step.")
    if not 0 < grpo.max_tokens < r.sampler.max_model_len:
        wrong.append(f"train.grpo.max_tokens: {grpo.max_tokens} is not between 1 and sampler.max_model_len - 1.")
    if not grpo.beta >= 0:
        wrong.append(f"train.grpo.beta: {grpo.beta} is below 0 or no number.")
    if grpo.gpu_memory_utilization > 1:
        wrong.append(f"train.grpo.gpu_memory_utilization: {grpo.gpu_memory_utilization} is above 1.")
    return wrong


DEFAULTS: dict[str, Any] = {str(k): v for k, v in OmegaConf.to_container(OmegaConf.structured(Recipe)).items()}  # type: ignore[union-attr]
