"""What the curate stage leaves for the stages that read it."""

from __future__ import annotations

from ..errors import UserError
from ..io.files import read_object
from ..records import Pair, Problem, Rollout, read_jsonl
from .rundir import RunDir


def read_pairs(run: RunDir) -> list[Pair]:
    """The curated pairs. Raises UserError where there are none, with the counts that say why."""
    pairs = read_jsonl(run.stage("curate") / "pairs.jsonl", Pair)
    if not pairs:
        s = read_object(run.stage("curate") / "statistics.json")
        raise UserError(
            f"No pair came out of {s['questions']:,} questions: {s['all_right']:,} with only right rollouts,"
            f" {s['all_wrong']:,} with only wrong ones, {s['mixed']:,} mixed, {s['accepted']:,} of {s['refined']:,}"
            f" refinements right, {s['skipped']:,} skipped ({run.stage('curate') / 'statistics.json'}). Without a pair"
            " there is nothing to train on: take questions that the model gets right now and then."
        )
    return pairs


def read_questions(run: RunDir) -> list[Problem]:
    """All questions that were sampled, in their order."""
    return read_jsonl(run.stage("curate") / "questions.jsonl", Problem)


def read_rollouts(run: RunDir) -> list[Rollout]:
    """All rollouts of these questions; none where the pairs were made elsewhere."""
    path = run.stage("curate") / "rollouts.jsonl"
    return read_jsonl(path, Rollout) if path.exists() else []
