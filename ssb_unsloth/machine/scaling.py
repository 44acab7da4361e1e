"""`ssb plan --gpus N`: a recipe on many cards, and where more of them stop to help.

    time on N cards = starting + what nothing shortens + work / N + waiting for the storage + all-reduces

What one card does is `planner`'s. Curating, teaching and evaluating go question by question, so that each card works on
its share; training shares out the examples of a batch and sums the gradients after each step; students and seeds need
nothing of each other. A model that one card does not hold is split over several, which then are one card as large. The
package itself works on one card: this is arithmetic, on its plan and on `assumptions`. Standard library and OmegaConf
only.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from ..errors import UserError
from ..recipe.methods import METHODS
from ..recipe.schema import Recipe
from .assumptions import BETWEEN, LINK, REDUCE, SPLIT, START, STEP, STORAGE
from .auto import KEPT_FREE_MIB
from .cards import Card
from .geometry import geometry
from .hardware import stated
from .plan import refusals
from .planned import Plan, StagePlan
from .planner import Planner
from .reckoning import question_count, target_bytes

MOST_CARDS = 65_536
PAYS = 0.75  # of the speed that so many cards should have: with less, they have stopped to pay
Range = tuple[float, float]  # at best, at worst


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
class Task:
    """One stage of one student and seed, and how its work can be spread.

    Attributes:
        work: seconds on one replica that replicas share.
        alone: seconds that no replica shortens.
        starts: how often the stage begins (rounds).
        split: cards of one replica.
        width: parts that can be worked on side by side.
        weights: bytes that each node reads for a start.
        stored: bytes read from and written to the storage.
        reduces, reduced: all-reduces, and the bytes of one on each card.
        waits, narrow: in words, what the seconds alone are, and what limits the width.
    """

    work: Range
    alone: Range
    starts: int
    split: int
    width: int
    weights: float
    stored: float
    reduces: int
    reduced: float
    waits: str
    narrow: str

    @property
    def busy(self) -> tuple[float, int]:
        """By which one split is better than another: for how long cards are busy in all, to a hundredth; how many."""
        return round(math.log(self.split * (sum(self.work) + sum(self.alone))), 2), self.split

    def parts(self, cards: int, gpus: int, k: int) -> dict[str, float]:
        """The seconds on so many cards in nodes of `gpus`, at best (k = 0) or at worst (k = 1), by what they go to."""
        replicas = min(cards // self.split, self.width)
        used = replicas * self.split
        work = self.work[k] * math.ceil(self.width / replicas) / self.width
        link = LINK if used <= gpus else BETWEEN
        ring = 2 * (replicas - 1) / replicas * self.reduced / link[k]
        more_nodes = math.ceil(used / gpus) - 1  # START has the first one's reading
        return {
            "starting": self.starts * START[k],
            "loading": self.starts * more_nodes * self.weights / STORAGE[k],
            "alone": self.alone[k],
            "work": work,
            "storage": max(0.0, self.stored / STORAGE[k] - work - self.alone[k]),
            "all-reduces": self.reduces * (ring + REDUCE[k]) if replicas > 1 else 0.0,
        }

    def cards(self, most: int, gpus: int) -> int:
        """Of at most so many those with which it is done first; the fewest of equally fast ones."""
        replicas = min(most // self.split, self.width)
        tried = [2**i for i in range(replicas.bit_length())]
        return self.split * min({*tried, replicas}, key=lambda n: (self._middle(n * self.split, gpus), n))

    def seconds(self, cards: int, gpus: int) -> Range:
        best, worst = (sum(self.parts(cards, gpus, k).values()) for k in (0, 1))
        return best, worst

    def _middle(self, cards: int, gpus: int) -> float:
        return sum(self.seconds(cards, gpus)) / 2

    def pays(self, gpus: int) -> tuple[int, str]:
        """The most cards, doubled from one replica's, that still have `PAYS` of the speed that so many times that
        replica would have; and what keeps twice as many from it."""
        one, cards = self._middle(self.split, gpus), self.split
        while 2 * cards <= MOST_CARDS and one / self._middle(2 * cards, gpus) >= PAYS * 2 * cards / self.split:
            cards *= 2
        if 2 * cards > MOST_CARDS:
            return cards, "nothing below the most that can be planned for"
        if 2 * cards > self.width * self.split:
            return cards, self.narrow
        spent = [self.parts(2 * cards, gpus, k) for k in (0, 1)]
        most = max((what for what in spent[0] if what != "work"), key=lambda what: spent[0][what] + spent[1][what])
        return cards, SAID.get(most, self.waits)


SAID = {
    "starting": "starting up takes as long on any number of cards",
    "loading": "each node reads the weights from the shared storage first",
    "storage": "the shared storage reads and writes no faster",
    "all-reduces": "the gradients are summed over all cards after each step",
}


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
    scale = Scale(plans[1], cluster)
    phases: dict[str, list[tuple[StagePlan, Task, int]]] = {}
    for place, stage in enumerate(plans[1].stages):
        if not stage.memory:  # nothing to do on a card
            continue
        kind, _, name = stage.name.partition(" ")
        tried = [(t, plans[t].stages[place]) for t in plans if _fits(plans[t].stages[place], card, t)]
        if not tried:
            scale.too_large.append(stage.name)
            continue
        tasks = [(planned, _task(students[t, name], planned, kind, t)) for t, planned in tried]
        planned, task = min(tasks, key=lambda pair: pair[1].busy)
        count = 1 if kind == "evaluate" else max(1, len(recipe.seeds))
        phases.setdefault(kind, []).append((planned, task, count))
    for phase in phases.values():
        _lay_out(phase, scale)
    return scale


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


# -- How a stage can be spread


def _task(p: Planner, stage: StagePlan, kind: str, split: int) -> Task:
    """Of a stage as it is planned on one replica, the one of a single seed."""
    assert stage.seconds is not None
    r, tasks = p.recipe, 1 if kind == "evaluate" else max(1, len(p.recipe.seeds))
    rounds = 1 if kind == "evaluate" else r.rounds
    alone, waits = _alone(p, stage, kind)
    whole = [s / tasks - rounds * START[k] for k, s in enumerate(stage.seconds)]
    kept = [min(rounds * alone[k], whole[k]) for k in (0, 1)]
    width, narrow = _width(p, kind)
    trains = kind == "train"
    gradients = p.itemsize * p.whole if r.train.lora is None else 4 * p.lora
    return Task(
        work=(whole[0] - kept[0], whole[1] - kept[1]),
        alone=(kept[0], kept[1]),
        starts=rounds,
        split=split,
        width=width,
        weights=stage.memory["weights"],
        stored=rounds * _stored(p, kind),
        reduces=rounds * p.steps if trains else 0,
        reduced=gradients / split if trains else 0.0,
        waits=waits,
        narrow=narrow,
    )


def _alone(p: Planner, stage: StagePlan, kind: str) -> tuple[Range, str]:
    """Seconds of a round that stay however many replicas there are, and what they are in words."""
    r = p.recipe
    probes = p.probed * STEP[0], p.probed * STEP[1]
    if kind == "train" and METHODS[r.train.method].samples:
        waited = p.waits(stage, p.steps * r.train.grpo.max_tokens)
        both = waited[0] / p.assume.reply + probes[0], waited[1] + probes[1]  # the plan has the longest at best too
        return both, "each step waits for its longest reply"
    if kind == "train":
        return probes, "the length probes take as long (train.probe_steps)"
    if kind == "curate":
        said = f"{p.waves:,} waves, each waiting for its longest replies (a larger curate.wave makes fewer)"
        return p.waits(stage, p.waves * p.longest_of_a_wave), said
    if kind == "evaluate":  # whole contestants first, then a contestant's questions
        said = "a contestant waits for the longest replies of each benchmark"
        return p.waits(stage, p.longest_of_a_contestant), said
    return (0.0, 0.0), ""


def _width(p: Planner, kind: str) -> tuple[int, str]:
    r = p.recipe
    if kind == "curate":
        return r.curate.wave * r.curate.rollouts, "a wave has no more rollouts (curate.wave)"
    if kind == "teach":
        return max(1, math.ceil(p.lessons)), "there are no more replies to teach"
    if kind == "evaluate":
        asked = max((question_count(b) or 500) * b.samples for b in r.evaluate.benchmarks.values())
        return p.contestants * asked, "there are no more questions"
    if METHODS[r.train.method].samples:
        a_step = r.train.grpo.questions_per_step * r.train.grpo.generations
        return a_step, f"a step has {a_step} replies (train.grpo.questions_per_step, generations)"
    return r.train.batch_size, f"a step has {r.train.batch_size} examples (train.batch_size)"


def _stored(p: Planner, kind: str) -> float:
    """Bytes of targets that a round's stage writes, or reads in each epoch."""
    t = p.recipe.teach
    if "teach" not in METHODS[p.recipe.train.method].reads or kind not in ("teach", "train"):
        return 0.0
    once = p.lessons * p.reply * target_bytes(t.targets, p.shape, t.top_k, p.itemsize)
    return once * (p.recipe.train.epochs if kind == "train" else 1)


# -- Which cards do what


def _lay_out(phase: Sequence[tuple[StagePlan, Task, int]], scale: Scale) -> None:
    """Spread a phase's tasks over the cards in groups of one size, the one with which the last of them ends first."""
    cluster = scale.cluster
    fewest = max(task.split for _, task, _ in phase)
    sizes = {fewest * 2**i for i in range((cluster.cards // fewest).bit_length())} | {cluster.cards}

    def wall(size: int) -> Range:
        ends = []
        for k in (0, 1):
            times = [
                task.seconds(task.cards(size, cluster.gpus), cluster.gpus)[k]
                for _, task, count in phase
                for _ in range(count)
            ]
            ends.append(last_end(times, cluster.cards // size))
        return ends[0], ends[1]

    size = min(sizes, key=lambda size: (sum(wall(size)), size))
    scale.walls.append(wall(size))
    for stage, task, count in phase:
        cards = task.cards(size, cluster.gpus)
        seconds = task.seconds(cards, cluster.gpus)
        hours = count * cards * seconds[0] / 3600, count * cards * seconds[1] / 3600
        beside = KEPT_FREE_MIB * 2**20
        memory = (stage.bytes - beside) / task.split + beside
        most, why = task.pays(cluster.gpus)
        scale.rows.append(Row(stage.name, count, cards, task.split, memory, seconds, hours, count * most, why))


def last_end(times: Sequence[float], groups: int) -> float:
    """When the last task ends: the longest first, each on the group that is free first."""
    free = [0.0] * min(groups, len(times))
    for time in sorted(times, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + time)
    return max(free)
