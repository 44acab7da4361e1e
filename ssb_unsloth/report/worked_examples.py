"""The page of worked examples: pairs followed from the question to what base and student now answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from ..io.markdown import code, escaped, fenced, opening
from ..records import EXAMPLES_BENCHMARK, Generation, Pair, Problem, Rollout, generations_file, iter_jsonl, read_jsonl
from ..run.curated import first_pairs, rollouts_of
from ..run.rundir import RunDir
from ..verifier.verifiers import CODE, MATH, Spec, parts, verifier_for


def worked_examples(run: RunDir, student: str, seed: int, verifiers: Mapping[str, Spec] | None = None) -> str:
    """Pairs with their origins, then benchmark questions that base and student answer differently.

    `verifiers`: those of the pairs' questions (under "") and of each benchmark; the mathematical one where none is.
    """
    verifiers = verifiers or {}
    page = ["# Worked examples", ""]
    if (run.stage("curate") / "pairs.jsonl").exists():  # not where GRPO alone was trained
        page += _pairs(run, student, seed, verifiers.get("", MATH))
    page += ["## Questions that neither was trained on", ""]
    for path in sorted(run.stage("evaluate").glob("problems-*.jsonl")):
        benchmark = path.stem.removeprefix("problems-")
        telling = _telling(*(_greediest(run, benchmark, seed, model) for model in ("base", student)))
        shown = {before.problem_id for before, _ in telling}
        problems = {p.id: p for p in iter_jsonl(path, Problem) if p.id in shown}
        for before, after in telling:
            problem = problems[before.problem_id]
            page += [
                *_asked(f"{opening(benchmark)}, {escaped(problem.id)}", problem, verifiers.get(benchmark, MATH)),
                _fenced(f"Base: {before.verdict}", before.text),
                _fenced(f"Student: {after.verdict}", after.text),
            ]
    return "\n".join(page)


def _asked(title: str, asked: Problem | Pair, verifier: Spec) -> list[str]:
    """Heading and question; the gold answer as its verifier shows it, below the question where it has several lines."""
    gold, question = verifier_for(verifier).shown(asked.gold), _fenced("Question", asked.question)
    if "\n" in gold:
        return [f"### {title}", "", question, _fenced("Gold answer", gold)]
    return [f"### {title}, gold answer {code(gold)}", "", question]


def _shown_to_teacher(pair: Pair, rollouts: Mapping[str, Rollout], verifier: Spec) -> list[str]:
    """The two rollouts; of a pair that was made elsewhere, what it has of them."""
    if pair.teacher_prompt is not None:
        return [_fenced("What the teacher is shown, as it was given", pair.teacher_prompt[-1]["content"])]
    wrong = rollouts.get(pair.wrong_id)
    answer = ""
    if wrong is not None and parts(verifier)[0] != CODE:  # a program is nearly all of its rollout
        answer = f", answer {code(wrong.answer or 'none')}"
    return [
        _fenced(f"Wrong rollout {escaped(pair.wrong_id)}{answer}", pair.wrong),
        _fenced(f"Right rollout {escaped(pair.right_id)}", pair.right),
    ]


def _pairs(run: RunDir, student: str, seed: int, verifier: Spec) -> list[str]:
    pairs = first_pairs(run)
    shown = {pair.wrong_id for pair in pairs}
    rollouts = {r.id: r for r in rollouts_of(run) if r.id in shown}
    answers = {model: _answers(run, model, seed) for model in ("base", student)}
    page = ["## From a question to a pair, and what base and student now answer", ""]
    for pair in pairs:
        page += [
            *_asked(opening(pair.problem_id), pair, verifier),
            *_shown_to_teacher(pair, rollouts, verifier),
            *([_fenced(f"Refinement {escaped(pair.refinement_id)}", pair.reply)] if pair.reply else []),
            _fenced(f"Base, greedy: {answers['base'][pair.problem_id].verdict}", answers["base"][pair.problem_id].text),
            _fenced(
                f"Student, greedy: {answers[student][pair.problem_id].verdict}", answers[student][pair.problem_id].text
            ),
        ]
    return page


def _answers(run: RunDir, model: str, seed: int) -> dict[str, Generation]:
    """A model's greedy replies to the first pairs' questions, by problem."""
    path = run.stage("evaluate") / generations_file(model, seed, EXAMPLES_BENCHMARK, 0.0)
    return {g.problem_id: g for g in read_jsonl(path, Generation)}


def _greediest(run: RunDir, benchmark: str, seed: int, model: str) -> Iterator[Generation]:
    """The model's generations on the benchmark at its lowest temperature under that seed; none where it has no score
    there.
    """
    folder = run.stage("evaluate")
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["scores"]
    scores = [s for s in scores if (s["benchmark"], s["seed"]) == (benchmark, seed)]
    lowest = min((s["temperature"] for s in scores), default=0.0)
    if (model, lowest) in {(s["model"], s["temperature"]) for s in scores}:
        yield from iter_jsonl(folder / generations_file(model, seed, benchmark, lowest), Generation)


def _telling(base: Iterable[Generation], student: Iterable[Generation]) -> list[tuple[Generation, Generation]]:
    """Both ways in which the verdicts can differ, and one question that both get wrong, as far as there are such."""
    wanted = {(False, True): 2, (True, False): 1, (False, False): 1}  # by whether base and student are right
    found: dict[tuple[bool, bool], list[tuple[Generation, Generation]]] = {kind: [] for kind in wanted}
    for b, s in zip(base, student, strict=True):
        kind = (b.verdict == "right", s.verdict == "right")
        if b.sample == 0 and kind in found and len(found[kind]) < wanted[kind]:
            found[kind].append((b, s))
    return [both for of_kind in found.values() for both in of_kind]


def _fenced(title: str, text: str) -> str:
    """A block under its title, which is Markdown."""
    return f"{title}:\n\n{fenced(text)}\n"
