"""How the work of a stage is shared among cards.

    time on N cards = starting + what nothing shortens + work / N + waiting for the storage + all-reduces

What nothing shortens is waiting for the last replies, and grading, which the stage's one process does. What one replica
of the model does is the planner's. Curating, teaching and evaluating go question by question, so that each replica
works on its share; training shares out the examples of a batch and sums the gradients after each step. Standard library
and OmegaConf only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..recipe.methods import METHODS
from .assumptions import BETWEEN, CHECK, LINK, RAY, REDUCE, START, STEP, STORAGE
from .planned import Plan, StagePlan
from .planner import Planner
from .reckoning import Reckoning, question_count, target_bytes
from .replicas import cards_of

MOST_CARDS = 65_536
PAYS = 0.75  # of the speed that so many cards should have: with less, they have stopped to pay
Range = tuple[float, float]  # at best, at worst


@dataclass(frozen=True)
class Task:
    """One stage of one student and seed, and how its work can be spread.

    Attributes:
        work: seconds on one replica that replicas share.
        alone: seconds that no replica shortens.
        checks: seconds in which the stage's one process grades and writes replies.
        starts: how often the stage begins (rounds).
        split: cards of one replica.
        width: parts that can be worked on side by side.
        weights: bytes that each node reads for a start.
        stored: bytes read from and written to the storage.
        reduces, reduced: all-reduces, and the bytes of one on each card.
        waits, narrow: in words, what the seconds alone are, and what limits the width.
        start: seconds that a start takes.
        replicas: how many the recipe says that there are; None where that is found out.
    """

    work: Range
    alone: Range
    checks: Range
    starts: int
    split: int
    width: int
    weights: float
    stored: float
    reduces: int
    reduced: float
    waits: str
    narrow: str
    start: Range = START
    replicas: int | None = None

    @property
    def fewest(self) -> int:
        """Cards that it takes at least."""
        return self.split * (self.replicas or 1)

    @property
    def busy(self) -> tuple[float, int]:
        """By which one split is better than another: for how long cards are busy in all, to a hundredth; how many."""
        return round(math.log(self.split * (sum(self.work) + sum(self.alone) + sum(self.checks))), 2), self.split

    def parts(self, cards: int, gpus: int, k: int) -> dict[str, float]:
        """The seconds on so many cards in nodes of `gpus`, at best (k = 0) or at worst (k = 1), by what they go to."""
        replicas = min(cards // self.split, self.width)
        used = replicas * self.split
        work = self.work[k] * math.ceil(self.width / replicas) / self.width
        link = LINK if used <= gpus else BETWEEN
        ring = 2 * (replicas - 1) / replicas * self.reduced / link[k]
        more_nodes = math.ceil(used / gpus) - 1  # START has the first one's reading
        return {
            "starting": self.starts * self.start[k],
            "loading": self.starts * more_nodes * self.weights / STORAGE[k],
            "alone": self.alone[k],
            "checks": self.checks[k],
            "work": work,
            "storage": max(0.0, self.stored / STORAGE[k] - work - self.alone[k] - self.checks[k]),
            "all-reduces": self.reduces * (ring + REDUCE[k]) if replicas > 1 else 0.0,
        }

    def cards(self, most: int, gpus: int) -> int:
        """Of at most so many those with which it is done first; the fewest of equally fast ones."""
        if self.replicas is not None:
            return self.fewest
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
    "checks": "one process grades and writes all replies",
    "storage": "the shared storage reads and writes no faster",
    "all-reduces": "the gradients are summed over all cards after each step",
}


# -- How a stage can be spread


def task_of(p: Reckoning, stage: StagePlan, kind: str, split: int, replicas: int | None = None) -> Task:
    """Of a stage as it is planned on one replica, the one of a single seed."""
    assert stage.seconds is not None
    r, tasks = p.recipe, seeds_of(p, kind)
    rounds = 1 if kind == "evaluate" else r.rounds
    alone, waits = _alone(p, stage, kind)
    checks = stage.replies / tasks * CHECK[0], stage.replies / tasks * CHECK[1]
    whole = [s / tasks - rounds * START[k] - checks[k] for k, s in enumerate(stage.seconds)]
    kept = [min(rounds * alone[k], whole[k]) for k in (0, 1)]
    width, narrow = _width(p, kind)
    trains = kind == "train"
    gradients = p.itemsize * p.whole if r.train.lora is None else 4 * p.lora
    return Task(
        work=(whole[0] - kept[0], whole[1] - kept[1]),
        alone=(kept[0], kept[1]),
        checks=checks,
        starts=rounds,
        split=split,
        width=width,
        weights=stage.memory["weights"],
        stored=rounds * _stored(p, kind),
        reduces=rounds * p.steps if trains else 0,
        reduced=gradients / split if trains else 0.0,
        waits=waits,
        narrow=narrow,
        start=(START[0] + RAY[0], START[1] + RAY[1]) if on_replicas(p, kind) else START,
        replicas=replicas,
    )


def _alone(p: Reckoning, stage: StagePlan, kind: str) -> tuple[Range, str]:
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


def _width(p: Reckoning, kind: str) -> tuple[int, str]:
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


def _stored(p: Reckoning, kind: str) -> float:
    """Bytes of targets that a round's stage writes, or reads in each epoch."""
    t = p.recipe.teach
    if "teach" not in METHODS[p.recipe.train.method].reads or kind not in ("teach", "train"):
        return 0.0
    once = p.lessons * p.reply * target_bytes(t.targets, p.shape, t.top_k, p.itemsize)
    return once * (p.recipe.train.epochs if kind == "train" else 1)


# -- Replicas on a Ray cluster


def on_replicas(p: Reckoning, kind: str) -> bool:
    """Whether a stage of that kind is done by replicas (`sampler.engine: ray`)."""
    return p.recipe.sampler.engine == "ray" and kind in ("curate", "teach", "evaluate")


def share_out(planner: Planner, plan: Plan) -> None:
    """What replicas do in a plan of one: the time that so many take, all on one machine, and how many cards."""
    students = {p.name: p for p in (planner, *planner.variants())}
    for stage in plan.stages:
        kind, _, name = stage.name.partition(" ")
        p = students[name]
        if not stage.memory or not on_replicas(p, kind):
            continue
        said, split = p.recipe.sampler.replicas, cards_of(p.recipe.sampler, engine_of(p, kind))
        stage.cards = split * (said or 1)
        stage.note += f"; {_replicas(p, said, split)}"
        if stage.seconds is not None:
            seeds, task = seeds_of(p, kind), task_of(p, stage, kind, split, said or 1)
            best, worst = task.seconds(stage.cards, stage.cards)
            stage.seconds = (seeds * best, seeds * worst)


def engine_of(p: Reckoning, kind: str) -> str:
    """What a replica of that stage computes with."""
    return "transformers" if kind == "teach" else p.engine


def _replicas(p: Reckoning, said: int | None, split: int) -> str:
    here = p.card is None
    if said is None:
        each = "two cores" if here else "card" if split == 1 else f"{split} cards"
        return f"planned for one replica, of which there will be one for each {each} (sampler.replicas)"
    of = "" if split == 1 else f" of {split} cards each"
    return f"{said:,} replica{'s' * (said > 1)}{of}, memory is that of one {'process' if here else 'card'}"


def seeds_of(p: Reckoning, kind: str) -> int:
    return 1 if kind == "evaluate" else max(1, len(p.recipe.seeds))
