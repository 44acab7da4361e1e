"""`ssb plan --gpus N`: a recipe on many cards, and where more of them stop to help.

How one stage is shared is `spread`'s. Students and seeds need nothing of each other. A model that one card does not
hold is split over several, which then are one card as large; replicas (`sampler.engine: ray`) are as the recipe says.
Arithmetic on the planner's and on `assumptions`. Standard library and OmegaConf only.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from ..errors import UserError
from ..recipe.schema import Recipe
from .assumptions import SPLIT
from .auto import KEPT_FREE_MIB
from .cards import Card
from .geometry import geometry
from .hardware import stated
from .plan import refusals
from .planned import Plan, StagePlan
from .planner import Planner
from .reckoning import Reckoning
from .replicas import cards_of, how_many
from .spread import MOST_CARDS, Range, Task, engine_of, on_replicas, seeds_of, task_of


@dataclass(frozen=True)
class Cluster:
    """`gpus`: the cards of a node."""

    card: Card
    gpus: int
    nodes: int = 1

    def __post_init__(self) -> None:
        for option, count in (("--gpus", self.gpus), ("--nodes", self.nodes)):
            if not 1 <= count <= MOST_CARDS:
                raise UserError(f"{option} {count}: expected a number from 1 to {MOST_CARDS:,}.")
        if self.cards > MOST_CARDS:
            raise UserError(f"--gpus {self.gpus} --nodes {self.nodes}: {self.cards:,} cards; at most {MOST_CARDS:,}.")

    @property
    def cards(self) -> int:
        return self.gpus * self.nodes


@dataclass(frozen=True)
class Placed:
    """A stage that finds its place: the bytes of a card, and how many tasks like that one there are (seeds)."""

    name: str
    memory: float
    task: Task
    count: int


@dataclass
class Row:
    """One stage on the cluster. `count`: tasks (seeds); `cards`: of one; `memory`: bytes of a card, at most."""

    name: str
    count: int
    cards: int
    split: int
    memory: float
    seconds: Range
    card_hours: Range
    pays_up_to: int
    why: str


@dataclass
class Scale:
    plan: Plan  # on one card
    cluster: Cluster
    rows: list[Row] = field(default_factory=list)
    walls: list[Range] = field(default_factory=list)  # seconds of the phases: all curating, all teaching, ...
    too_large: list[str] = field(default_factory=list)  # stages that no split over a node's cards makes fit
    spread: bool = False  # over replicas, which are split as the recipe says

    @property
    def fits(self) -> bool:
        return not self.too_large

    @cached_property
    def seconds(self) -> Range:
        """From the first stage's start to the end, with what comes before them."""
        walls = [*self.walls, self.plan.before or (0.0, 0.0)]
        return sum(w[0] for w in walls), sum(w[1] for w in walls)

    @property
    def money(self) -> Range | None:
        """Of all cards for all of that time, in the currency of the price."""
        if self.plan.price is None:
            return None
        low, high = (self.cluster.cards * s / 3600 * self.plan.price for s in self.seconds)
        return low, high

    def as_dict(self) -> dict[str, Any]:
        """The one card's plan, and beside it the cluster's."""
        own = {"gpus": self.cluster.gpus, "nodes": self.cluster.nodes, "rows": [asdict(row) for row in self.rows]}
        own |= {"fits": self.fits, "too_large": self.too_large}
        own |= {"seconds": self.seconds if self.fits else None, "money": self.money if self.fits else None}
        return {**self.plan.as_dict(), "scale": own}


def make_scale(recipe: Recipe, cluster: Cluster) -> Scale:
    """A recipe on a cluster.

    Raises:
        UserError: the model's config cannot be had, or the card's speed is not known.
    """
    shape, source = geometry(recipe.model)
    card = stated(cluster.card, recipe.card)
    if card is None or not card.tflops or not card.bandwidth:
        raise UserError("--gpus: the speed of this card is not known; state card.tflops and card.bandwidth.")
    unstated = replace(recipe, card=replace(recipe.card, tflops=None, bandwidth=None))  # they are the card's now
    unstated = replace(unstated, sampler=replace(recipe.sampler, tensor_parallel=1))  # how to split is found out here
    planners = {t: Planner(unstated, _as_one(card, t), shape) for t in _splits(cluster.gpus)}
    plans = {t: planner.plan(source) for t, planner in planners.items()}
    plans[1].refused = refusals(recipe, card)
    students = {(t, p.name): p for t, planner in planners.items() for p in (planner, *planner.variants())}
    own = Planner(replace(unstated, sampler=recipe.sampler), card, shape)
    as_said, owners = own.plan(source).stages, {p.name: p for p in (own, *own.variants())}
    scale = Scale(plans[1], cluster, spread=own.recipe.sampler.engine == "ray")
    phases: dict[str, list[Placed]] = {}
    for place, stage in enumerate(plans[1].stages):
        if not stage.memory:  # nothing to do on a card
            continue
        kind, _, name = stage.name.partition(" ")
        if on_replicas(owners[name], kind):
            tasks = _by_replicas(owners[name], as_said[place], kind, card, cluster)
        else:
            tried = [(t, plans[t].stages[place]) for t in plans if _fits(plans[t].stages[place], card, t)]
            tasks = [(_of_each(one, t), task_of(students[t, name], one, kind, t)) for t, one in tried]
        if not tasks:
            scale.too_large.append(stage.name)
            continue
        memory, task = min(tasks, key=lambda pair: pair[1].busy)
        phases.setdefault(kind, []).append(Placed(stage.name, memory, task, seeds_of(owners[name], kind)))
    for phase in phases.values():
        _lay_out(phase, scale)
    return scale


def _by_replicas(p: Reckoning, stage: StagePlan, kind: str, card: Card, cluster: Cluster) -> list[tuple[float, Task]]:
    """The memory of a card, and the task for as many replicas as the recipe says; none where one does not fit.

    Raises:
        UserError: the cluster has no room for them.
    """
    engine = engine_of(p, kind)
    split = cards_of(p.recipe.sampler, engine)
    if split > cluster.gpus:
        raise UserError(
            f"sampler.tensor_parallel: {split} GPUs a replica, and a node has {cluster.gpus} (--gpus); lower it, or"
            " take larger nodes."
        )
    there = cluster.nodes * (cluster.gpus - cluster.gpus % split)
    count = how_many(p.recipe.sampler, engine, 0, there, "the planned cluster")
    return [(stage.bytes, task_of(p, stage, kind, split, count))] if _fits(stage, card, 1) else []


def _of_each(stage: StagePlan, t: int) -> float:
    """Bytes of each of so many cards that are planned for as one."""
    beside = KEPT_FREE_MIB * 2**20
    return (stage.bytes - beside) / t + beside


def _splits(gpus: int) -> Iterator[int]:
    """Powers of two: heads and widths can be divided by them."""
    return (2**i for i in range(gpus.bit_length()))


def _as_one(card: Card, t: int) -> Card:
    """So many cards that hold one model together, as a card. What each keeps beside torch is taken off but once."""
    if t == 1:
        return card
    assert card.tflops
    assert card.bandwidth
    memory = t * card.memory_mib - (t - 1) * KEPT_FREE_MIB
    speed = t * SPLIT
    return replace(card, memory_mib=memory, tflops=speed * card.tflops, bandwidth=speed * card.bandwidth)


def _fits(stage: StagePlan, card: Card, t: int) -> bool:
    return stage.seconds is not None and stage.bytes <= _as_one(card, t).memory_mib * 2**20


# -- Which cards do what


def _lay_out(phase: Sequence[Placed], scale: Scale) -> None:
    """Spread a phase's tasks over the cards in groups of one size, the one with which the last of them ends first."""
    cluster = scale.cluster
    fewest = max(placed.task.fewest for placed in phase)
    sizes = {fewest * 2**i for i in range((cluster.cards // fewest).bit_length())} | {cluster.cards}

    def wall(size: int) -> Range:
        ends = []
        for k in (0, 1):
            times = [
                placed.task.seconds(placed.task.cards(size, cluster.gpus), cluster.gpus)[k]
                for placed in phase
                for _ in range(placed.count)
            ]
            ends.append(last_end(times, cluster.cards // size))
        return ends[0], ends[1]

    size = min(sizes, key=lambda size: (sum(wall(size)), size))
    scale.walls.append(wall(size))
    for placed in phase:
        task, count = placed.task, placed.count
        cards = task.cards(size, cluster.gpus)
        seconds = task.seconds(cards, cluster.gpus)
        hours = count * cards * seconds[0] / 3600, count * cards * seconds[1] / 3600
        most, why = task.pays(cluster.gpus)
        row = Row(placed.name, count, cards, task.split, placed.memory, seconds, hours, count * most, why)
        scale.rows.append(row)


def last_end(times: Sequence[float], groups: int) -> float:
    """When the last task ends: the longest first, each on the group that is free first."""
    free = [0.0] * min(groups, len(times))
    for time in sorted(times, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + time)
    return max(free)
