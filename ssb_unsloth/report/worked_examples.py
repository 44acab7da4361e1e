"""The page of worked examples: pairs followed from the question to what base and student now answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ..io.markdown import code, escaped, fenced, opening
from ..records import (
    EXAMPLES_BENCHMARK,
    WORKED_EXAMPLES,
    Generation,
    Pair,
    Problem,
    Rollout,
    generations_file,
    read_jsonl,
)
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
        problems = {p.id: p for p in read_jsonl(path, Problem)}
        replies = _greediest(run, benchmark, seed)
        for before, after in _telling(replies.get("base", []), replies.get(student, [])):
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
    pairs = read_jsonl(run.stage("curate") / "pairs.jsonl", Pair)[:WORKED_EXAMPLES]
    rollouts = {r.id: r for r in read_jsonl(run.stage("curate") / "rollouts.jsonl", Rollout)}
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


def _greediest(run: RunDir, benchmark: str, seed: int) -> dict[str, list[Generation]]:
    """The benchmark's generations at its lowest temperature under that seed, by model."""
    folder = run.stage("evaluate")
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["scores"]
    scores = [s for s in scores if (s["benchmark"], s["seed"]) == (benchmark, seed)]
    lowest = min((s["temperature"] for s in scores), default=0.0)
    return {
        model: read_jsonl(folder / generations_file(model, seed, benchmark, lowest), Generation)
        for model in dict.fromkeys(s["model"] for s in scores if s["temperature"] == lowest)
    }


def _telling(base: Sequence[Generation], student: Sequence[Generation]) -> list[tuple[Generation, Generation]]:
    """Both ways in which the verdicts can differ, and one question that both get wrong, as far as there are such."""
    both = [(b, s) for b, s in zip(base, student, strict=True) if b.sample == 0]
    gained = [(b, s) for b, s in both if b.verdict != "right" == s.verdict]
    lost = [(b, s) for b, s in both if s.verdict != "right" == b.verdict]
    neither = [(b, s) for b, s in both if "right" not in (b.verdict, s.verdict)]
    return gained[:2] + lost[:1] + neither[:1]


def _fenced(title: str, text: str) -> str:
    """A block under its title, which is Markdown."""
    return f"{title}:\n\n{fenced(text)}\n"
