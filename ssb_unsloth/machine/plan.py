"""`ssb plan`: what a recipe will ask of a card, before anything runs, and what to change where it does not fit."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from ..errors import UserError
from ..io.terminal import folded
from ..recipe.loading import resolve, variant
from ..recipe.methods import METHODS
from ..recipe.schema import Recipe
from . import hardware
from .assumptions import ENVIRONMENT_BYTES, GIB, PEAK
from .auto import KEPT_FREE_MIB
from .cards import CARDS, Card, card_named
from .findings import wrong_formats, wrong_lengths
from .geometry import Geometry, geometry, needs_gpu
from .lora_targets import spell
from .planned import Plan, StagePlan
from .planner import Planner
from .spread import share_out


def make_plan(recipe: Recipe, card: Card | None) -> Plan:
    """The plan of a recipe on a card, or on this machine's CPU.

    Raises:
        UserError: the model's config cannot be had.
    """
    shape, source = geometry(recipe.model)
    planner = Planner(recipe, card, shape)
    plan = planner.plan(source)
    share_out(planner, plan)
    plan.refused = refusals(recipe, card)
    for stage in plan.stages:
        if stage.fits is False:
            stage.advice = list(_advice(recipe, card, shape, stage.name))
    return plan


def refusals(recipe: Recipe, card: Card | None) -> list[str]:
    """Why a recipe cannot run on a card, whatever its memory; each with what to do."""
    return [f"{said}: {fix}" for said, fix in (*wrong_formats(recipe, card), *wrong_lengths(recipe))]


def card_for(recipe: Recipe, gpu: str | None) -> tuple[Card | None, str]:
    """The card to plan for, and why that one: the named one, the one here, or the paper's where the CPU will not do.

    Raises:
        UserError: no card of that name, or the model's config cannot be had.
    """
    if gpu == "none":
        return None, ""
    if gpu is not None:
        return card_named(gpu), ""
    found = hardware.find_cards()
    if found.cards:
        return found.cards[0], ""
    if not needs_gpu(geometry(recipe.model)[0]):
        return None, ""
    return CARDS["a100-40gb"], f"{found.problem} Planned for the paper's card; --gpu names another."


# -- What to change if it does not fit

CHANGES = (  # in the order in which they are tried; the cheapest for the result first
    ("train.gradient_checkpointing=true", {"train"}),
    ("train.grpo.micro_batch_size=8", {"train"}),
    ("train.micro_batch_size=1", {"train"}),
    ("teach.batch_tokens=2048", {"teach"}),
    ("teach.targets=hidden", {"teach"}),
    ("model.quantization=4bit", {"teach", "train"}),
    ("curate.refine.max_tokens=1024", {"teach", "train"}),
    ("sampler.max_model_len=2048", {"curate", "evaluate"}),
)
PAIRS_ONLY = ("train.micro_batch_size", "curate.")  # nothing to GRPO, which trains on replies of its own


def _advice(recipe: Recipe, card: Card | None, shape: Geometry, stage: str) -> Iterator[str]:
    """The overrides after which the stage fits, each with what it then needs; a smaller model if none will do."""
    kind, _, name = stage.partition(" ")
    recipe = variant(recipe, name) if name else recipe
    for change in _changes(recipe, kind):
        changed = _changed(recipe, change)
        if changed is None:
            continue
        before, after = _need(recipe, card, shape, kind), _need(changed, card, shape, kind)
        if after.bytes >= before.bytes:
            continue
        recipe = changed
        whose = f"variants.{name}." if name else ""
        yield f"{whose}{change} ({before.bytes / GIB:.1f} to {after.bytes / GIB:.1f} GiB)"
        if after.fits:
            return
    yield "a smaller model, or a card with more memory"


def _changes(recipe: Recipe, stage: str) -> Iterator[str]:
    """Those of CHANGES that mean something to the stage of this recipe."""
    for change, stages in CHANGES:
        other_method = change.startswith(PAIRS_ONLY if METHODS[recipe.train.method].samples else "train.grpo.")
        if stage in stages and not (stage == "train" and other_method):
            yield change


def _need(recipe: Recipe, card: Card | None, shape: Geometry, stage: str) -> StagePlan:
    alone = replace(recipe, variants={}, seeds=[], rounds=1)
    return next(s for s in Planner(alone, card, shape).plan("").stages if s.name == stage)


def _changed(recipe: Recipe, change: str) -> Recipe | None:
    """The recipe with one key set, or None where it does not take it (a text longer than it may be, say), or would not
    be any smaller for it.
    """
    path, value = change.split("=")
    old = functools.reduce(getattr, path.split("."), recipe)
    if type(old) is int and old <= int(value):
        return None
    try:
        return resolve(asdict(recipe), [change], recipe.name)
    except UserError:
        return None


# -- As text


def describe(plan: Plan) -> str:
    """The plan as a page of text, 80 columns wide."""
    card = plan.card
    where = "this machine's CPU"
    if card is not None:
        where = f"{card.name}, " + (f"{card.memory_mib / 1024:.1f} GiB" if card.memory_mib else "memory not known")
    lines = [
        f"Plan for {plan.recipe} on {where}",
        _line(f"{plan.model}: {_counted(plan)}, {plan.dtype}; config from {plan.source}"),
        *map(_line, _trained(plan)),
        *([_line(LLAMA)] if plan.how == "llama" else []),
        "",
        f"  {'stage':<12}{'memory':>10}{'disk':>10}{'tokens read':>14}{'sampled':>12}   time",
    ]
    if plan.seconds is not None and plan.before is not None:
        lines.append(f"  {'before':<12}{'':>46}   {span(plan.before)}")
    for stage in plan.stages:
        time = "" if stage.seconds is None else span(stage.seconds)
        if len(stage.name) > 12:  # a line of its own, and the numbers below it
            lines.append(f"  {stage.name}")
        name = stage.name if len(stage.name) <= 12 else ""
        lines.append(
            f"  {name:<12}{_gib(stage.bytes):>10}{_gb(stage.disk):>10}{stage.read:>14,.0f}{stage.sampled:>12,.0f}"
            f"   {time}".rstrip()
        )
    total = "" if plan.seconds is None else span(plan.seconds)
    lines += [f"  {'in all':<12}{'':>10}{_gb(plan.disk):>10}{'':>26}   {total}".rstrip(), ""]
    if plan.seconds is not None and plan.before is not None:
        lines.append(_line("before: installing the packages and downloading the model, if missing"))
    for stage in plan.stages:
        parts = ", ".join(f"{what} {_gib(value)}" for what, value in stage.memory.items())
        if told := "; ".join(filter(None, [stage.note, parts])):
            lines.append(_line(f"{stage.name}: {told}"))
    lines.append("")
    for stage in plan.stages:
        if stage.fits is False:
            lines.append(_line(f"{stage.name} does not fit. Change: {'; '.join(stage.advice)}."))
    lines += [_line(f"It cannot run there. {reason}.") for reason in plan.refused]
    if plan.fits:
        lines.append("  Every stage fits.")
    return "\n".join([*lines, *map(_line, _rests_on(plan))])


def _line(text: str) -> str:
    return folded(text, "  ", "    ")


def _rests_on(plan: Plan) -> Iterator[str]:
    """What of it is downloaded, what it costs, and what memory and times rest on."""
    card, a = plan.card, plan.assumptions
    if plan.download:
        environment = f"; the packages take another {_gb(ENVIRONMENT_BYTES)}" if card is not None else ""
        yield f"Disk: {_gb(plan.download)} of this is the model's download{environment}."
    if card is not None or plan.price is not None:
        yield cost(plan)
    reply = "a third" if math.isclose(a.reply, 1 / 3) else f"{a.reply:.0%}"
    yield (
        f"Memory is for the longest replies that the recipe allows. Expected: replies of {reply} of their limit,"
        f" {a.question} tokens and {a.pairs:.2f} pairs per question."
    )
    if plan.seconds is not None and card is not None:
        yield (
            f"Times are calculated, not measured: operations at {100 * PEAK[1]:.0f} to {100 * PEAK[0]:.0f} % of the"
            f" card's peak speed, and start-up. Its peak: {card.tflops:g}e12 operations and {card.bandwidth:g}e9 bytes"
            f" a second ({card.source})."
        )
    elif card is None:
        yield "No times are given: the peak speed of a CPU is not known."
    else:
        yield (
            "No time is given: the speed of this card is not in the table. State it (its data sheet's dense 16-bit peak"
            " and bandwidth, card.tflops=120 card.bandwidth=300), or measure it (`--measure`)."
        )


LLAMA = "Planned as if it were a Llama: this package does not know its layers, and without torch cannot look at them."


def _trained(plan: Plan) -> list[str]:
    if plan.whole:
        return [f"All weights but embeddings and head: {plan.whole:,} parameters"]
    left_out = ", ".join(f"{what} ({count:,})" for what, count in plan.left_out.items())
    return [f"LoRA: {plan.lora_parameters:,} parameters on {spell(plan.hit)}", f"LoRA leaves out: {left_out}"]


def _counted(plan: Plan) -> str:
    said = f"{plan.parameters:,} parameters"
    if plan.tower:
        said += f", {plan.tower:,} of them beside the language model"
    if plan.tower is None:
        said += " in the language model (what reads pictures or sound is not counted)"
    language = plan.parameters - (plan.tower or 0)
    return said + (f", {plan.active:,} of them active" if plan.active < language else "")


def cost(plan: Plan) -> str:
    """What the run costs, in time and in money, as a sentence; what is missing to say so."""
    if plan.seconds is None:
        return "Cost: the speed is not known here, so neither time nor money can be said."
    if plan.money is None:
        return f"Cost: {span(plan.seconds)}. To see it in money, give the card's price per hour, as in card.price=1.50."
    low, high = plan.money
    return f"Cost: {span(plan.seconds)}; at {plan.price:g} per hour, {low:,.2f} to {high:,.2f}."


def beside(recipe: Recipe, stage: str, used: Mapping[str, Any], card: Card) -> str:
    """What a stage used (its manifest's `cost`) beside what was planned for it on the card, as a line; "" where no plan
    can be made of it. `recipe` is the student's own, or the whole one for what is done for all students together.
    """
    alone = recipe if stage in ("evaluate", "report") else replace(recipe, variants={}, seeds=[], rounds=1)
    try:
        planned = next((s for s in make_plan(alone, card).stages if s.name == stage), None)
    except UserError:  # a model whose config says too little
        return ""
    if planned is None or not planned.memory:
        return ""
    time = "no time planned" if planned.seconds is None else f"planned {span(planned.seconds)}"
    sampling = stage in ("curate", "evaluate") or (stage == "train" and METHODS[recipe.train.method].samples)
    sampling = sampling and recipe.sampler.samples_by not in ("transformers", "servers")
    vllm = ", of which vLLM takes all that it is given" if sampling else ""
    memory = f"{used['peak_device_bytes'] / GIB:.2f} GiB by torch{vllm} (planned {planned.bytes / GIB:.2f},"
    memory += f" {KEPT_FREE_MIB / 1024:.1f} of it beside torch)"
    if recipe.sampler.engine == "ray" and stage != "train":
        memory = f"by replicas, whose memory is not seen from here (planned {planned.bytes / GIB:.2f} GiB a card)"
    return (
        f"{stage}: {used['seconds'] / 60:.1f} min ({time}); {memory};"
        f" {used['tokens']:,} tokens (planned {planned.sampled or planned.read:,.0f})"
    )


def span(seconds: tuple[float, float]) -> str:
    """A range of times, in the unit that fits it."""
    low, high = seconds
    unit, name = (3600.0, "h") if high >= 7200 else (60.0, "min")
    return f"{low / unit:.{0 if low / unit >= 10 else 1}f} to {high / unit:.{0 if high / unit >= 10 else 1}f} {name}"


def _gib(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count < 10 * GIB else f"{count / GIB:.1f} GiB"


def _gb(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
