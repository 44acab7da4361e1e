"""Whether a curation gives pairs; and where it does not, what became of its replies, and what to change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..recipe.schema import CurateConfig
from ..verifier.protocol import Verdict

# A curation is given up where so few pairs would come with a smaller probability than this, were the yield what the
# recipe asks for. It is looked at after each wave, so the whole risk is a few times that; with twice the yield there is
# hardly any.
DOUBT = 0.01
NAMED = 0.1  # a cause is named from this share of its kind up
Verdicts = Counter[str]  # how many replies of each verdict
WORDS = {
    Verdict.RIGHT: "right",
    Verdict.WRONG: "wrong",
    Verdict.NO_ANSWER: "without an answer",
    Verdict.TRUNCATED: "cut off",
}


@dataclass(frozen=True)
class Statistics:
    """How questions became pairs; `report.json` carries it as it is. Counts of questions, but for `pairs` and those
    of replies and tokens."""

    questions: int = 0  # that were sampled
    all_right: int = 0
    all_wrong: int = 0
    mixed: int = 0  # right and wrong rollouts
    repeated_wrong: int = 0  # of the mixed: at least two wrong rollouts with the same answer
    refined: int = 0  # of the mixed: a refinement was sampled (not all: a hinted prompt may be too long)
    accepted: int = 0  # of the refined: a refinement's last box is right and it was not cut off
    pairs: int = 0  # of the first accepted questions, as many as the recipe asks for; several refinements give several
    # Too long for the model, or spell its control tokens, or without rollouts in the file that was made elsewhere, or
    # without a majority's answer where that is the gold answer.
    skipped: int = 0
    rollouts: int = 0
    no_answer: int = 0  # rollouts without a box
    truncated: int = 0  # rollouts cut off at the length limit
    undecided: int = 0  # rollouts and refinements whose answer could not be compared to the end: they count as wrong
    tokens: int = 0  # sampled, rollouts and refinements
    rollout_tokens: int = 0  # of these, the rollouts'
    brought: int = 0  # pairs made elsewhere; then all counts but `pairs` are 0
    votes: int = 0  # questions with a majority's answer, where that is the gold answer; those without are skipped
    votes_as_given: int = 0  # of these: equal to the gold answer that the data has


def is_hopeless(paired: int, questions: int, least: float | None) -> bool:
    """Whether `paired` of so many questions gave a pair, where a share of `least` would hardly ever give so few: a
    binomial test at DOUBT. None: never.
    """
    return least is not None and paired < least * questions and at_most(paired, questions, least) < DOUBT


def at_most(k: int, n: int, p: float) -> float:
    """The probability of at most k successes in n trials of probability p, between 0 and 1."""
    logs = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(min(k, n) + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))


def explanation(
    config: CurateConfig,
    s: Statistics,
    rollouts: Verdicts,
    refinements: Verdicts,
    folder: Path,
    given_up: bool,
) -> str:
    """Why so few pairs came, and which keys to change for it, most important first. `folder`: where the replies lie.
    `given_up`: there would be more questions.
    """
    asked = s.questions + s.skipped
    if s.accepted == 0:
        heading = f"No pair came out of {asked:,} question{'s' * (asked != 1)}."
    else:
        heading = f"Only {s.accepted:,} of {asked:,} questions gave a pair."
    if given_up:
        heading += (
            f" Did {config.min_yield:.2%} of them give one (curate.min_yield), so few would come with a probability"
            f" below {DOUBT:.0%}: curation ends here."
        )
    lines = [
        heading,
        f"  questions: {_share(s.all_right, asked)} with right rollouts alone, {_share(s.all_wrong, asked)} with none,"
        f" {_share(s.mixed, asked)} mixed, {_share(s.skipped, asked)} skipped",
        *(f"  {line}" for line in (_verdicts("rollouts", rollouts), _verdicts("refinements", refinements)) if line),
        "What to change:",
        *(f"  - {line}" for line in _remedies(config, s, rollouts, refinements)),
        f"Every reply can be read in {folder / 'rollouts.jsonl'} and refinements.jsonl. With other curate.pairs,"
        " curate.questions, curate.min_yield (null: never give up) or problems.limit they are not sampled again.",
    ]
    return "\n".join(lines)


def _verdicts(what: str, replies: Verdicts) -> str:
    shares = ", ".join(f"{_share(replies[verdict], replies.total())} {word}" for verdict, word in WORDS.items())
    return f"{what}: {shares}, of {replies.total():,}" if replies else ""


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _remedies(config: CurateConfig, s: Statistics, rollouts: Verdicts, refinements: Verdicts) -> Iterator[str]:
    """For each cause that holds NAMED of its kind or more; the causes of the largest shares first."""
    asked = s.questions + s.skipped
    of = {verdict: _part(rollouts, verdict) for verdict in WORDS}
    sampled = config.rollouts_file is None
    limit = f"; raise curate.rollout.max_tokens ({config.rollout.max_tokens:,})" if sampled else " in the file"
    thinks = ", and sampler.max_model_len with it, or switch a model's thinking off (model.template)" * sampled
    causes = [
        (of[Verdict.TRUNCATED], f"rollouts cut off at their length limit{limit}{thinks}."),
        (
            of[Verdict.NO_ANSWER],
            "rollouts without an answer that the verifier reads: look at some. The model may not follow the prompt (a"
            " base model without instruction tuning, another chat template than its own), or give the answer in another"
            " form than the prompt asks for; take an instruction-tuned model, or another prompt or verifier.",
        ),
        (
            s.all_right / asked,
            "questions too easy for this model, with right rollouts alone; take harder ones or a smaller model, raise"
            f" curate.rollout.temperature ({config.rollout.temperature:g}) or curate.rollouts ({config.rollouts}).",
        ),
        (
            s.all_wrong / asked * of[Verdict.WRONG],
            "questions too hard for this model, with answers that are all wrong; take easier ones or a stronger model,"
            f" raise curate.rollouts ({config.rollouts}). Does the gold answer stand there as problems.gold,"
            " problems.gold_format and problems.verifier say?",
        ),
        (
            s.skipped / asked,
            "questions skipped: too long for sampler.max_model_len beside their reply's max_tokens, or they spell a"
            " control token of the model (prompts.control_text)"
            + ("." if sampled else ", or curate.rollouts_file has no rollouts for them."),
        ),
    ]
    if s.mixed:
        refused = 1 - s.accepted / s.mixed
        causes.append((refused, _refused(config, refinements)))
    found = [f"{share:.1%}: {remedy}" for share, remedy in sorted(causes, reverse=True) if share >= NAMED]
    yield from found or ["nothing stands out; more questions, or more curate.rollouts, give more mixed ones."]


def _refused(config: CurateConfig, refinements: Verdicts) -> str:
    if not refinements:
        return (
            "mixed questions whose hinted prompt leaves no room for a reply; raise sampler.max_model_len, or lower"
            " curate.rollout.max_tokens or curate.refine.max_tokens."
        )
    cut = _part(refinements, Verdict.TRUNCATED)
    where = f"; {cut:.1%} of them cut off: raise curate.refine.max_tokens ({config.refine.max_tokens:,})"
    return (
        "mixed questions whose refinements were refused, since they were not right" + where * (cut >= NAMED) + "; raise"
        f" curate.refinements ({config.refinements}), or take a model that can use the hint."
    )


def _part(replies: Verdicts, verdict: str) -> float:
    return replies[verdict] / replies.total() if replies else 0.0
