"""What the curate stage leaves for the stages that read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from ..errors import UserError
from ..io.files import read_object
from ..records import WORKED_EXAMPLES, Pair, Problem, Rollout, Stored, iter_jsonl
from .rundir import RunDir


def iter_pairs(run: RunDir) -> Iterator[Pair]:
    """The curated pairs, one at a time. Raises UserError where there are none, with the counts that say why."""
    pair = None
    for pair in iter_jsonl(run.stage("curate") / "pairs.jsonl", Pair):
        yield pair
    if pair is None:
        s = read_object(run.stage("curate") / "statistics.json")
        raise UserError(
            f"No pair came out of {s['questions']:,} questions: {s['all_right']:,} with only right rollouts,"
            f" {s['all_wrong']:,} with only wrong ones, {s['mixed']:,} mixed, {s['accepted']:,} of {s['refined']:,}"
            f" refinements right, {s['skipped']:,} skipped ({run.stage('curate') / 'statistics.json'}). Without a pair"
            " there is nothing to train on: take questions that the model gets right now and then."
        )


def read_pairs(run: RunDir) -> list[Pair]:
    """All of them."""
    return list(iter_pairs(run))


def first_pairs(run: RunDir) -> list[Pair]:
    """Those that the report shows; the rest of the file is not read."""
    return list(islice(iter_pairs(run), WORKED_EXAMPLES))


def questions_of(run: RunDir) -> Iterable[Problem]:
    """All questions that were sampled, in their order."""
    return Stored(run.stage("curate") / "questions.jsonl", Problem)


def rollouts_of(run: RunDir) -> Iterable[Rollout]:
    """All rollouts of these questions, in the questions' order; none where the pairs were made elsewhere."""
    path = run.stage("curate") / "rollouts.jsonl"
    return Stored(path, Rollout) if path.exists() else ()
