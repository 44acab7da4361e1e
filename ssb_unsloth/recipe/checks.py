"""Values of a recipe that are of the right type and cannot work."""

from __future__ import annotations

import datetime
import keyword
import math
from collections.abc import Sequence
from typing import Any

from ..io.files import is_finite
from . import trackers
from .schema import BASE, DEFAULT_PROMPT, LORA_RANKS, Recipe

LONGEST_NAME = 60  # bytes: several of them stand in one file's name, which has 255


MOST_STUDENTS = 500


# Names that a chat template cannot be given a value of: Jinja's words, and what it renders.
TEMPLATE_WORDS = {
    *(word.lower() for word in keyword.kwlist),
    *("block", "call", "filter", "macro", "set"),
    *("messages", "add_generation_prompt", "continue_final_message"),
    *("bos_token", "eos_token", "strftime_now", "raise_exception"),
}


def names_a_file(name: str, signs: str) -> bool:
    """Whether a name is of letters, digits and these signs, and short enough to be part of a file's."""
    return len(name.encode()) <= LONGEST_NAME and "".join(c for c in name if c not in signs).isalnum()


def _is_plain(value: Any) -> bool:
    """Whether a chat template can be given the value as a literal."""
    return isinstance(value, str | None) or (isinstance(value, int | float) and is_finite(value))


def impossible(recipe: Recipe) -> list[str]:
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
        if not names_a_file(name, "-") or name in (
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
    if not names_a_file(r.name, "-_.") or r.name.startswith("."):
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


def too_many(recipe: Recipe, everyone: Sequence[Recipe]) -> list[str]:
    count = max(len(recipe.seeds), 1) * sum(one.rounds for one in everyone)
    if count <= MOST_STUDENTS:
        return []
    return [f"seeds, variants, rounds: {count:,} students; at most {MOST_STUDENTS} can be run as one recipe."]


def models_to_train(everyone: Sequence[Recipe]) -> list[str]:
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
