"""A simulated cluster of samplers that curates, beside the plan's arithmetic for as many cards.

python -m benchmarks.cluster

Nothing is measured, and no model is asked: events of fake samplers. Each card samples up to AT_A_TIME replies side by
side, a token of each in a step; a step takes what reading the weights and the caches takes, or what its operations do.
Cards take replies from one queue, in waves of the recipe, rollouts before refinements, and nobody begins a phase before
all replies of the last are there and graded, one after another. Cards differ: each one's shares of the peak and of the
bandwidth, and the seconds of each start, are drawn from the plan's ranges, and so is what grading a reply takes.
Replies have exponential lengths with the plan's mean, cut at the limit. Cards fail: a failed one starts again, the
replies that it had not finished go back into the queue, and finished ones are kept (`kept` of the curate stage). The
same seed gives the same figures.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ssb_unsloth.machine.assumptions import AT_A_TIME, BANDWIDTH, CHECK, PEAK, START
from ssb_unsloth.machine.cards import CARDS, Card
from ssb_unsloth.machine.geometry import Geometry, geometry
from ssb_unsloth.machine.planner import Planner
from ssb_unsloth.machine.scaling import Cluster, make_scale
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import Recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "qwen2.5-3b-gsm8k.yaml"
ITEMSIZE = 2


@dataclass
class Costs:
    """Seconds of what a card does at its full stated speed."""

    reading: float  # of the weights
    cache: float  # reading one reply's cache
    token: float  # operations of one token that is sampled
    prompt: float  # operations of one token that is read

    @classmethod
    def of(cls, shape: Geometry, card: Card, length: float) -> Costs:
        assert card.tflops
        assert card.bandwidth
        peak, bandwidth = 1e12 * card.tflops, 1e9 * card.bandwidth
        return cls(
            reading=shape.weight_bytes(ITEMSIZE) / bandwidth,
            cache=length * shape.cache_bytes(ITEMSIZE) / bandwidth,
            token=shape.forward_operations(1, 1, length) / peak,
            prompt=shape.forward_operations(1, 0, length) / peak,
        )


@dataclass
class Sampler:
    """One card. `running`: (its step after which the reply is done, the reply's number, prompt and length)."""

    peak: float
    bandwidth: float
    now: float  # the second until which it has worked
    dies: float
    step: int = 0
    running: list[tuple[int, int, int, int]] = field(default_factory=list)

    def seconds_of_a_step(self, costs: Costs) -> float:
        active = len(self.running)
        return max((costs.reading + active * costs.cache) / self.bandwidth, active * costs.token / self.peak)


@dataclass
class Outcome:
    seconds: float
    tokens: int  # of finished replies
    sampled_twice: int  # tokens that were lost with a card
    failures: int
    idle: float  # share of the cards' time in which they had nothing to sample


class Simulation:
    """`mtbf`: hours between two failures of a card, in the mean; infinite for none."""

    def __init__(self, costs: Costs, cards: int, mtbf: float, seed: int) -> None:
        self.rng, self.costs, self.mtbf = random.Random(seed), costs, 3600 * mtbf
        self.samplers = [self._fresh(0.0) for _ in range(cards)]
        self.outcome = Outcome(0.0, 0, 0, 0, 0.0)
        self.ends: list[int] = []  # how often each reply was finished, over all phases

    def _fresh(self, now: float) -> Sampler:
        draw = self.rng.uniform
        start = now + draw(*START)
        lives = self.rng.expovariate(1 / self.mtbf) if math.isfinite(self.mtbf) else math.inf
        return Sampler(draw(*sorted(PEAK)), draw(*sorted(BANDWIDTH)), start, start + lives)

    def phase(self, replies: Sequence[tuple[int, int]]) -> None:
        """Sample replies (tokens of prompt, of reply) and wait for all of them."""
        base = len(self.ends)
        self.ends += [0] * len(replies)
        queue = [(base + number, *reply) for number, reply in reversed(list(enumerate(replies)))]
        turn = [(sampler.now, place) for place, sampler in enumerate(self.samplers)]
        heapq.heapify(turn)
        left, end, idle = len(replies), 0.0, []
        while left:
            if not turn:  # all wait, and a failure has put replies back
                turn = [(self.samplers[place].now, place) for place in idle]
                heapq.heapify(turn)
                idle = []
            _, place = heapq.heappop(turn)
            sampler = self.samplers[place]
            self._admit(sampler, queue)
            if not sampler.running:
                idle.append(place)
                continue
            done = self._advance(place, queue)
            left -= done
            end = max(end, self.samplers[place].now) if done else end
            heapq.heappush(turn, (self.samplers[place].now, place))
            if queue:
                for waiting in idle:
                    self.samplers[waiting].now = max(self.samplers[waiting].now, sampler.now)
                    heapq.heappush(turn, (self.samplers[waiting].now, waiting))
                idle = []
        end += sum(self.rng.uniform(*CHECK) for _ in replies)  # graded and written by one process
        for sampler in self.samplers:
            self.outcome.idle += max(0.0, end - sampler.now)
            sampler.now = max(sampler.now, end)
        self.outcome.seconds = end

    def _admit(self, sampler: Sampler, queue: list[tuple[int, int, int]]) -> None:
        """A share of what waits, so that the first card does not take all of it; prompts are read at once."""
        share = max(1, min(AT_A_TIME, math.ceil(len(queue) / len(self.samplers))))
        while queue and len(sampler.running) < min(AT_A_TIME, share):
            number, prompt, length = queue.pop()
            sampler.now += prompt * self.costs.prompt / sampler.peak
            heapq.heappush(sampler.running, (sampler.step + length, number, prompt, length))

    def _advance(self, place: int, queue: list[tuple[int, int, int]]) -> int:
        """Work until the next reply of this card ends, or the card does. Returns how many replies ended."""
        sampler = self.samplers[place]
        steps = sampler.running[0][0] - sampler.step
        end = sampler.now + steps * sampler.seconds_of_a_step(self.costs)
        if end > sampler.dies:
            self.outcome.failures += 1
            at = max(sampler.now, sampler.dies)
            got = sampler.step + int((at - sampler.now) / sampler.seconds_of_a_step(self.costs))
            for last, number, prompt, length in sampler.running:
                self.outcome.sampled_twice += length - max(0, last - got)
                queue.append((number, prompt, length))
            self.samplers[place] = self._fresh(at)
            return 0
        sampler.now, sampler.step, done = end, sampler.step + steps, 0
        while sampler.running and sampler.running[0][0] == sampler.step:
            _, number, _, length = heapq.heappop(sampler.running)
            self.ends[number] += 1
            self.outcome.tokens += length
            done += 1
        return done


def curate(recipe: Recipe, card: Card, cards: int, mtbf: float, seed: int) -> tuple[Outcome, Simulation]:
    """The curate stage of a recipe on so many fake samplers."""
    shape, _ = geometry(recipe.model)
    planner, c = Planner(recipe, card, shape), recipe.curate
    stage = planner.curate()
    asked, pairs = planner.questions(), planner.assume.pairs / planner.assume.refined_right
    replies = asked * c.rollouts + asked * pairs * c.refinements
    simulation = Simulation(Costs.of(shape, card, (stage.read + stage.sampled) / replies), cards, mtbf, seed)
    lengths = random.Random(seed + 1)  # its own, so that the replies are the same whatever fails

    def draw(limit: int) -> int:
        return max(1, min(limit, round(lengths.expovariate(1 / (planner.assume.reply * limit)))))

    for start in range(0, asked, c.wave):
        wave = min(c.wave, asked - start)
        prompt = round(planner.student_prompt)
        simulation.phase([(prompt, draw(c.rollout.max_tokens)) for _ in range(wave * c.rollouts)])
        refined = round(wave * pairs) * c.refinements
        if refined:
            prompt = round(planner.teacher_prompt)
            simulation.phase([(prompt, draw(c.refine.max_tokens)) for _ in range(refined)])
    outcome = simulation.outcome
    outcome.idle /= outcome.seconds * cards
    return outcome, simulation


def table(overrides: Sequence[str], cards: Sequence[int], mtbf: float, seed: int) -> list[list[str]]:
    """The simulation beside the plan's range, a line each number of cards."""
    recipe, card = load(RECIPE, ["variants=null", *overrides]), CARDS["h100"]
    rows = [["cards", "plan, min", "simulated, min", "failures", "sampled twice", "idle"]]
    for count in cards:
        found, _ = curate(recipe, card, count, mtbf, seed)
        scale = make_scale(recipe, Cluster(card, min(count, 8), max(1, count // 8)))
        low, high = next(row for row in scale.rows if row.name == "curate").seconds
        twice = found.sampled_twice / (found.tokens + found.sampled_twice)
        minutes = f"{low / 60:.1f} to {high / 60:.1f}"
        rows.append(
            [
                f"{count:,}",
                minutes,
                f"{found.seconds / 60:.1f}",
                str(found.failures),
                f"{twice:.1%}",
                f"{found.idle:.0%}",
            ]
        )
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--mtbf", type=float, default=math.inf, help="hours between failures of a card (none)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")
    args = parser.parse_args(argv)
    if min(args.cards) < 1 or not args.mtbf > 0:
        parser.error("--cards and --mtbf: expected numbers above 0.")
    for line in table(args.overrides, args.cards, args.mtbf, args.seed):
        print("  ".join(f"{cell:>16}" for cell in line))


if __name__ == "__main__":
    main()
