"""Phase 1 of the paper's Algorithm 1: rollouts, verdicts, the contrast, and the verified refinement.

    problems --K rollouts--> right and wrong --contrast--> hinted prompt --refinement--> verified pair

in waves of questions, until there are enough pairs; with `refinements: 0` a pair is a contrast without a reply. All
requests of a wave go to the sampler together. Every reply is kept before it is graded (`kept`), so a stopped run asks
for what is missing, and no verdict costs a reply.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..backends.control_tokens import REMEDY, ControlText
from ..backends.sampler import Completion, Request, Sampler
from ..errors import UserError
from ..io import disk
from ..io.files import local
from ..io.progress import say
from ..prompts import PAPER, Messages, Texts, refinement_messages, student_messages
from ..recipe.schema import CurateConfig, SamplingConfig
from ..records import Pair, Problem, Rollout, stable_id, write_jsonl, writing_jsonl
from ..run import clock
from ..run.kept import Kept
from ..run.keys import of_verifier
from ..seeds import derive_seed
from ..verifier.protocol import Verdict
from ..verifier.replies import answer_part
from ..verifier.verifiers import MATH, Spec, prepare, verifier_for
from .brought import Brought
from .votes import voted
from .yields import Statistics, Verdicts, explanation, is_hopeless

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RESULTS = ("questions", "rollouts", "refinements", "pairs")  # files of records that grow wave by wave


@dataclass(frozen=True)
class Contrast:
    """The two rollouts that the teacher is shown."""

    right: Rollout
    wrong: Rollout
    repeated: bool  # the wrong answer was given more than once


class _Wanted(NamedTuple):
    """A reply to be sampled: to which messages, and which of how many it is."""

    problem: Problem
    messages: Messages
    purpose: str  # "rollout" or "refinement"
    k: int

    @property
    def name(self) -> str:
        return f"{self.problem.id}-{self.purpose}-{self.k}"

    def seed(self, of_run: int) -> int:
        return derive_seed(of_run, self.purpose, self.problem.id, self.k)


class _Wave(NamedTuple):
    """What came of the questions that were sampled together."""

    questions: list[Problem]  # with the answers that count as right
    rollouts: list[Rollout]
    refinements: list[Rollout]
    pairs: list[Pair]
    statistics: Statistics


class Curator:
    """Holds what stays the same from wave to wave. `make_sampler` is called when the first reply is needed. `begun`,
    the opening of thoughts in which a prompt ends (`backends.thinking`), and `tokenizer`: for rollouts that were made
    elsewhere.
    """

    def __init__(
        self,
        config: CurateConfig,
        make_sampler: Callable[[], Sampler],
        max_model_len: int,
        seed: int,
        folder: Path,
        texts: Texts = PAPER,
        control_text: str = "skip",
        verifier: Spec = MATH,
        begun: str = "",
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self.config, self.seed, self.folder, self.texts = config, seed, folder, texts
        self.control_text, self.verifier, self.begun = control_text, verifier, begun
        self._tokenizer = tokenizer
        self._make_sampler, self._max_model_len = make_sampler, max_model_len
        # Verdicts decide which rollouts a refinement is shown: one of before a verifier of one's own was changed is
        # none of today's.
        source = of_verifier(verifier)
        self._judged = f"-{source[:12]}" if source else ""

    @cached_property
    def sampler(self) -> Sampler:
        return self._make_sampler()

    def run(self, problems: Sequence[Problem]) -> Statistics:
        """Curate until there are enough pairs or no more questions; write everything that a pair can be traced by.

        Files: questions.jsonl (Problem), rollouts.jsonl and refinements.jsonl (Rollout), pairs.jsonl (Pair),
        statistics.json. They grow wave by wave and have their names at the end; in memory is one wave and what is
        counted, so `problems`, each of which stands there once, may lie on the disk (`data.problems.OnDisk`).

        Raises:
            UserError: no question gave a pair, or, after some wave, a smaller share of them than `min_yield` for
                certain (`yields`). The files are written then, too, and the replies kept.
        """
        file, least = self.config.rollouts_file, self.config.min_yield
        path = local(file, "curate.rollouts_file") if file else None
        brought = Brought(path, self.folder, self.begun, self._tokenizer) if path else None
        total = min(len(problems), self.config.questions or len(problems))
        statistics, sampled, refined = Statistics(), Verdicts(), Verdicts()
        seen = made = written = 0
        enough = hopeless = False
        with _growing(self.folder) as add:
            for number, start in enumerate(range(0, total, self.config.wave)):
                wave = self._wave(number, problems[start : min(start + self.config.wave, total)], brought)
                counted = _first(wave.pairs, self.config.pairs - statistics.accepted)
                add["questions"](wave.questions)
                add["rollouts"](wave.rollouts)
                add["refinements"](wave.refinements)
                add["pairs"](counted)
                statistics = _add(statistics, wave.statistics)
                sampled.update(rollout.verdict for rollout in wave.rollouts)
                refined.update(refinement.verdict for refinement in wave.refinements)
                seen, made, written = seen + len(wave.questions), made + len(wave.pairs), written + len(counted)
                found_of = f"{min(statistics.accepted, self.config.pairs):,} of {self.config.pairs:,}"
                if self.config.refinements > 1:
                    found_of += f" questions with a pair, {made:,}"
                say(f"{found_of} pairs from {seen:,} of {total:,} questions")
                enough = statistics.accepted >= self.config.pairs
                hopeless = is_hopeless(statistics.accepted, _asked(statistics, brought), least)
                if enough or hopeless:
                    break
                del wave, counted  # before the next is made
        statistics = replace(statistics, pairs=written)
        disk.write_text(self.folder / "statistics.json", json.dumps(asdict(statistics), indent=1) + "\n")
        given_up = hopeless and not enough
        if not written or given_up:
            raise UserError(explanation(self.config, statistics, sampled, refined, self.folder, given_up))
        if not enough:
            say(f"Fewer pairs than asked for: {found_of}. The questions are at their end; training goes on with these.")
        return statistics

    def _wave(self, number: int, asked: Sequence[Problem], brought: Brought | None) -> _Wave:
        questions, rollouts = self._rollouts(number, asked, brought)
        contrasts = self.contrasts(questions, rollouts)
        refinements = self._refinements(number, questions, contrasts)
        refined = self.config.refinements > 0
        pairs = _pairs(questions, contrasts, refinements) if refined else _without_reply(questions, contrasts)
        votes = None if self.config.gold == "given" else self._equal_to_given(asked, questions)
        sampled = rollouts if brought is None else []
        statistics = _count(asked, rollouts, sampled, contrasts, refinements, pairs, votes)
        return _Wave(questions, rollouts, refinements, pairs, statistics)

    def contrasts(self, wave: Sequence[Problem], rollouts: Sequence[Rollout]) -> dict[str, Contrast]:
        """For each mixed question, by its id, the rollouts that are shown to the teacher."""
        of = _by_problem(rollouts)
        drawn = {
            problem.id: choose(
                of.get(problem.id, []),
                random.Random(derive_seed(self.seed, "contrast", problem.id)),
                self.config.contrast,
                self.config.unboxed,
                self.verifier,
            )
            for problem in wave
        }
        return {problem_id: contrast for problem_id, contrast in drawn.items() if contrast is not None}

    def _rollouts(
        self, number: int, wave: Sequence[Problem], brought: Brought | None
    ) -> tuple[list[Problem], list[Rollout]]:
        """The wave's questions with the answers that count as right, and the rollouts, graded by these."""
        replies: list[tuple[Problem, int, Completion, int | None]]
        if brought is not None:
            replies = [(p, k, reply, seed) for p in wave for k, (reply, seed) in enumerate(brought.of(p.id))]
        else:
            wanted = [
                _Wanted(problem, student_messages(problem.question, self.texts), "rollout", k)
                for problem in wave
                for k in range(self.config.rollouts)
            ]
            sampled = self._sample(wanted, self.config.rollout, number, "rollouts")
            replies = [(w.problem, w.k, reply, w.seed(self.seed)) for w, reply in sampled]
        if self.config.gold == "majority":
            of: dict[str, list[Completion]] = {}
            for problem, _, reply, _ in replies:
                of.setdefault(problem.id, []).append(reply)
            wave = voted(wave, of, verifier_for(self.verifier), self.config.equality == "string")
        golds = {problem.id: problem for problem in wave}
        graded = [(golds[p.id], k, reply, seed) for p, k, reply, seed in replies if p.id in golds]
        prepare(verifier_for(self.verifier), ((answer_part(reply.text), p.gold) for p, _, reply, _ in graded))
        return list(wave), [self._graded(p, "rollout", k, reply, seed) for p, k, reply, seed in graded]

    def _equal_to_given(self, asked: Sequence[Problem], wave: Sequence[Problem]) -> int:
        """How many of the votes are the gold answers, where those are known: nothing is decided by it."""
        given = {problem.id: problem.gold for problem in asked}
        exact, verifier = self.config.equality == "string", verifier_for(self.verifier)
        known = [(given[problem.id], problem.gold) for problem in wave if given[problem.id]]
        return sum(len(set(verifier.answer_classes([gold, vote], exact))) == 1 for gold, vote in known)

    def _refinements(self, number: int, wave: Sequence[Problem], contrasts: dict[str, Contrast]) -> list[Rollout]:
        wanted = [
            _Wanted(
                p,
                refinement_messages(
                    p.question, answer_part(shown.right.text), answer_part(shown.wrong.text), self.texts
                ),
                "refinement",
                k,
            )
            for p in wave
            if p.id in contrasts
            for shown in [contrasts[p.id]]
            for k in range(self.config.refinements)
        ]
        replies = self._sample(wanted, self.config.refine, number, "refinements")
        prepare(verifier_for(self.verifier), ((answer_part(reply.text), w.problem.gold) for w, reply in replies))
        return [self._graded(w.problem, w.purpose, w.k, reply, w.seed(self.seed)) for w, reply in replies]

    def _sample(
        self, wanted: Sequence[_Wanted], decoding: SamplingConfig, number: int, title: str
    ) -> list[tuple[_Wanted, Completion]]:
        """A reply for each prompt that leaves room for it. What is kept is not asked for again."""
        judged = self._judged if title == "refinements" else ""
        kept = Kept(self.folder / "kept" / f"wave-{number:04}.{title}{judged}.jsonl")
        requests, too_long, unsafe = {}, [], []
        for w in wanted:
            if w.name in kept.replies:
                continue
            try:
                ids = self.sampler.render(w.messages)
            except ControlText as error:
                if self.control_text == "refuse":
                    raise UserError(f"Question {w.problem.id}: {error}; {REMEDY}") from None
                unsafe.append(w.name)
                continue
            if len(ids) + decoding.max_tokens <= self._max_model_len:
                requests[w.name] = Request(ids, w.seed(self.seed))
            else:
                too_long.append(w.name)
        if unsafe:
            say(f"{title}: {len(unsafe):,} left out, since they spell a control token (prompts.control_text)")
        if too_long or unsafe:
            kept.skip([*too_long, *unsafe])
        if requests:
            sampler = self.sampler  # started here at the latest, which both kinds of reply need
            with clock.on(clock.ROLLOUTS if title == "rollouts" else clock.REFINEMENTS):
                kept.sample(sampler, requests, decoding, title=title)
        return [(w, reply) for w in wanted if (reply := kept.replies[w.name]) is not None]

    def _graded(self, problem: Problem, purpose: str, k: int, completion: Completion, seed: int | None) -> Rollout:
        exact = self.config.equality == "string"
        return graded(problem, f"{purpose}-{k}", completion, seed, self.verifier, exact)


def graded(
    problem: Problem, name: str, completion: Completion, seed: int | None, verifier: Spec, exact: bool
) -> Rollout:
    """The reply with its verdict. `name`: which it is of the question's; `exact`: as `Verifier.grade` has it."""
    grade = verifier_for(verifier).grade(answer_part(completion.text), problem.gold, completion.finish_reason, exact)
    return Rollout(
        id=f"{problem.id}-{name}",
        problem_id=problem.id,
        text=completion.text,
        token_ids=completion.token_ids or None,
        finish_reason=completion.finish_reason,
        seed=seed,
        verdict=grade.verdict,
        answer=grade.answer,
        note=grade.note,
    )


@contextlib.contextmanager
def _growing(folder: Path) -> Iterator[dict[str, Callable[[Iterable[Any]], int]]]:
    """For each file of RESULTS a function that puts records behind those that are in it."""
    with contextlib.ExitStack() as files:
        yield {name: files.enter_context(writing_jsonl(folder / f"{name}.jsonl")) for name in RESULTS}


def _first(pairs: Sequence[Pair], questions: int) -> list[Pair]:
    """The pairs of the first so many questions that have one."""
    first = set(islice(dict.fromkeys(pair.problem_id for pair in pairs), questions))
    return [pair for pair in pairs if pair.problem_id in first]


def bring_along(pairs: Sequence[Pair], problems: Sequence[Problem], config: CurateConfig, folder: Path) -> Statistics:
    """Lay pairs that were made elsewhere down as `Curator.run` would; nothing is sampled.

    questions.jsonl holds the problems, for the trainer to measure reply lengths on those that no pair is about.
    """
    kept = pairs[: config.pairs]
    statistics = Statistics(pairs=len(kept), brought=len(pairs))
    write_jsonl(folder / "questions.jsonl", islice(problems, config.questions))
    write_jsonl(folder / "pairs.jsonl", kept)
    for name in ("rollouts", "refinements"):
        write_jsonl(folder / f"{name}.jsonl", [])
    disk.write_text(folder / "statistics.json", json.dumps(asdict(statistics), indent=1) + "\n")
    say(f"{len(kept):,} of your own {len(pairs):,} pairs; nothing is sampled")
    return statistics


def choose(
    rollouts: Sequence[Rollout],
    rng: random.Random,
    how: str = "random",
    unboxed: str = "wrong",
    verifier: Spec = MATH,
) -> Contrast | None:
    """The contrast of one question's rollouts (§3.1.2), or None where they are not mixed.

    A random right rollout, and a random one among the wrong ones with the most common wrong answer, where answers that
    are equal to the verifier count together; ties between answers are broken at random. A wrong rollout without an
    answer, or cut off, forms no class: it is drawn only where no wrong rollout has an answer. One that has nothing but
    thoughts is never drawn: there is nothing to show.

    The released code takes the first instead (`how="first"`): the first right rollout, and the first with the wrong
    answer that is most common character for character, of ties the first; where no wrong answer is repeated, one of
    them at random. And it knows no wrong rollout without an answer (`unboxed="excluded"`).
    """
    rollouts = [r for r in rollouts if answer_part(r.text) or not r.text]
    right = [r for r in rollouts if r.verdict == Verdict.RIGHT]
    answered = [r for r in rollouts if r.verdict == Verdict.WRONG]
    wrong = answered if unboxed == "excluded" else [r for r in rollouts if r.verdict != Verdict.RIGHT]
    if not right or not wrong:
        return None
    if not answered:
        return Contrast(right[0] if how == "first" else rng.choice(right), rng.choice(wrong), repeated=False)
    answers = [r.answer or "" for r in answered]
    classes = verifier_for(verifier).answer_classes(answers, exact=how == "first")
    counts = Counter(classes)
    most = max(counts.values())
    modes = sorted(c for c, n in counts.items() if n == most)  # in the order in which the answers were given
    modal = modes[0] if how == "first" and most > 1 else rng.choice(modes)
    wrong = [r for r, c in zip(answered, classes, strict=True) if c == modal]
    pick: Callable[[Sequence[Rollout]], Rollout] = (lambda group: group[0]) if how == "first" else rng.choice
    return Contrast(pick(right), pick(wrong), repeated=most > 1)


def _pairs(wave: Sequence[Problem], contrasts: dict[str, Contrast], refinements: Sequence[Rollout]) -> list[Pair]:
    """A pair for each right refinement; of a question's refinements with the same text, for the first."""
    problems = {problem.id: problem for problem in wave}
    made = [
        Pair(
            id=stable_id(problem.id, contrast.right.text, contrast.wrong.text, answer_part(refinement.text)),
            problem_id=problem.id,
            question=problem.question,
            gold=problem.gold,
            right=answer_part(contrast.right.text),
            wrong=answer_part(contrast.wrong.text),
            reply=answer_part(refinement.text),
            reply_ids=refinement.token_ids or [],
            right_id=contrast.right.id,
            wrong_id=contrast.wrong.id,
            refinement_id=refinement.id,
        )
        for refinement in refinements
        if refinement.verdict == Verdict.RIGHT
        for problem, contrast in [(problems[refinement.problem_id], contrasts[refinement.problem_id])]
    ]
    distinct: dict[str, Pair] = {}
    for pair in made:
        distinct.setdefault(pair.id, pair)
    return list(distinct.values())


def _without_reply(wave: Sequence[Problem], contrasts: dict[str, Contrast]) -> list[Pair]:
    """Where no refinement is sampled: each mixed question with its hints, for lessons from the rollouts themselves."""
    return [
        Pair(
            id=stable_id(problem.id, contrast.right.text, contrast.wrong.text),
            problem_id=problem.id,
            question=problem.question,
            gold=problem.gold,
            right=answer_part(contrast.right.text),
            wrong=answer_part(contrast.wrong.text),
            reply="",
            reply_ids=[],
            right_id=contrast.right.id,
            wrong_id=contrast.wrong.id,
            refinement_id="",
        )
        for problem in wave
        if (contrast := contrasts.get(problem.id)) is not None
    ]


def _count(
    wave: Sequence[Problem],
    rollouts: Sequence[Rollout],
    sampled: Sequence[Rollout],
    contrasts: dict[str, Contrast],
    refinements: Sequence[Rollout],
    pairs: Sequence[Pair],
    votes: int | None,
) -> Statistics:
    """`wave`: as it was asked. `sampled`: those of the rollouts whose tokens were paid for here. `votes`: how many are
    equal to the given answer, where a vote decides."""
    verdicts = [[rollout.verdict for rollout in group] for group in _by_problem(rollouts).values()]
    all_verdicts = Counter(rollout.verdict for rollout in rollouts)
    return Statistics(
        questions=len(verdicts),
        all_right=sum(set(v) == {Verdict.RIGHT} for v in verdicts),
        all_wrong=sum(Verdict.RIGHT not in v for v in verdicts),
        mixed=len(contrasts),
        repeated_wrong=sum(contrast.repeated for contrast in contrasts.values()),
        refined=len(_by_problem(refinements)),
        accepted=len({pair.problem_id for pair in pairs}),
        skipped=len(wave) - len(verdicts),
        rollouts=len(rollouts),
        no_answer=all_verdicts[Verdict.NO_ANSWER],
        truncated=all_verdicts[Verdict.TRUNCATED],
        undecided=sum(r.note is not None for r in (*rollouts, *refinements)),
        tokens=sum(len(r.token_ids or []) for r in (*sampled, *refinements)),
        rollout_tokens=sum(len(r.token_ids or []) for r in sampled),
        votes=0 if votes is None else len(verdicts),
        votes_as_given=votes or 0,
    )


def _asked(statistics: Statistics, brought: object | None) -> int:
    """Questions that could have given a pair; a file of rollouts made elsewhere need not have all of them."""
    return statistics.questions + (statistics.skipped if brought is None else 0)


def _by_problem(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.problem_id, []).append(rollout)
    return groups


def _add(one: Statistics, other: Statistics) -> Statistics:
    sums = {name: value + getattr(other, name) for name, value in asdict(one).items()}
    return Statistics(**sums)
