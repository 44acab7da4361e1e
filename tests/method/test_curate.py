"""Curation: the contrast by the paper's rules, every decision traceable, and real recorded solutions."""

import contextlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from scripted import Scripted, make_curator

from ssb_unsloth.backends.sampler import Completion
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.curate import Curator, bring_along, choose
from ssb_unsloth.method.yields import Statistics
from ssb_unsloth.prompts import refinement_messages, student_messages, teacher_messages, texts
from ssb_unsloth.recipe.schema import CurateConfig, SamplingConfig
from ssb_unsloth.records import Pair, Problem, Rollout, read_jsonl, stable_id
from ssb_unsloth.seeds import derive_seed
from ssb_unsloth.verifier import equality

RECORDED = Path(__file__).parents[1] / "fixtures" / "gsm8k" / "recorded_rollouts.jsonl"


def rollout(number, verdict, answer=None):
    return Rollout(f"r{number}", "p", f"text {number}", [1], "stop", 0, verdict, answer)


def drawn(rollouts, draws=300):
    """How often each (right, wrong) is chosen."""
    chosen = [choose(rollouts, random.Random(seed)) for seed in range(draws)]
    return Counter((c.right.id, c.wrong.id) for c in chosen)


def test_a_question_that_is_not_mixed_has_no_contrast():
    assert choose([rollout(i, "right", "1") for i in range(4)], random.Random(0)) is None
    assert choose([rollout(i, "wrong", "1") for i in range(3)] + [rollout(3, "no_answer")], random.Random(0)) is None


def test_the_most_common_wrong_answer_is_shown_and_equal_answers_count_together():
    rollouts = [
        rollout(0, "right", "7"),
        rollout(1, "wrong", "5,600"),
        rollout(2, "wrong", "5600"),
        rollout(3, "wrong", "12"),
        rollout(4, "no_answer"),
    ]
    assert set(drawn(rollouts)) == {("r0", "r1"), ("r0", "r2")}
    assert choose(rollouts, random.Random(0)).repeated


def test_ties_and_right_rollouts_are_drawn_at_random():
    rollouts = [rollout(0, "right", "7"), rollout(1, "right", "7"), rollout(2, "wrong", "1"), rollout(3, "wrong", "2")]
    counts = drawn(rollouts)
    assert len(counts) == 4
    assert min(counts.values()) > 45  # 75 expected of each
    assert not choose(rollouts, random.Random(0)).repeated


@pytest.mark.parametrize("how", ["first", "random"])
def test_without_a_wrong_answer_the_right_rollout_is_the_first_or_a_random_one(how):
    rollouts = [*(rollout(i, "right", "1") for i in range(4)), rollout(4, "no_answer"), rollout(5, "truncated")]
    chosen = {choose(rollouts, random.Random(seed), how).right.id for seed in range(60)}
    assert chosen == ({rollouts[0].id} if how == "first" else {r.id for r in rollouts[:4]})


def test_an_unboxed_or_cut_off_rollout_is_shown_only_where_no_wrong_one_has_an_answer():
    mixed = [rollout(0, "right", "7"), rollout(1, "no_answer"), rollout(2, "truncated", "3"), rollout(3, "wrong", "1")]
    assert set(drawn(mixed)) == {("r0", "r3")}
    assert set(drawn(mixed[:3])) == {("r0", "r1"), ("r0", "r2")}


PROBLEMS = [Problem(stable_id(f"q{i}"), f"q{i}", str(i)) for i in range(30)]


def answer(messages, seed):
    """Right by the flip of the seed's coin; the refinement of an even question is right."""
    content = messages[1]["content"]
    question = content if content.startswith("q") else content.split("-----\n")[1].strip()
    gold = int(question[1:])
    right = gold % 2 == 0 if content != question else seed % 2 == 0
    return f"So \\boxed{{{gold if right else gold + 1}}}."


def varied(messages, seed):
    """`answer`, whose refinements are of two wordings, and now and then wrong."""
    text = answer(messages, seed)
    return text if len(messages[1]["content"]) < 10 else ("So " * (seed % 2)) + ("no." if seed % 5 == 0 else text)


def test_every_pair_can_be_traced_to_its_rollouts(tmp_path):
    sampler = Scripted(answer)
    statistics = make_curator(tmp_path, sampler).run(PROBLEMS)
    pairs = read_jsonl(tmp_path / "pairs.jsonl", Pair)
    rollouts = {r.id: r for r in read_jsonl(tmp_path / "rollouts.jsonl", Rollout)}
    refinements = {r.id: r for r in read_jsonl(tmp_path / "refinements.jsonl", Rollout)}
    assert len(pairs) == 5 == statistics.pairs
    shown = [p for title, prompts, _ in sampler.calls if title == "refinements" for p in prompts]
    for pair in pairs:
        right, wrong, refined = rollouts[pair.right_id], rollouts[pair.wrong_id], refinements[pair.refinement_id]
        assert (right.text, wrong.text, refined.text) == (pair.right, pair.wrong, pair.reply)
        assert (right.verdict, wrong.verdict, refined.verdict) == ("right", "wrong", "right")
        assert refined.token_ids == pair.reply_ids == [5, 6, 2]
        assert teacher_messages(pair.question, pair.right, pair.wrong) in shown


# ---- every setting reaches what it is about


def curated(folder, reply, problems=PROBLEMS, **settings):
    """(statistics, rollouts, refinements, pairs, the sampler) of one curation."""
    folder.mkdir(exist_ok=True)
    sampler = Scripted(reply)
    with contextlib.suppress(UserError):  # where no pair comes out; the files are there
        make_curator(folder, sampler, **{"pairs": 100, **settings}).run(problems)
    statistics = Statistics(**json.loads((folder / "statistics.json").read_text()))
    kinds = {"rollouts": Rollout, "refinements": Rollout, "pairs": Pair}
    return statistics, *(read_jsonl(folder / f"{name}.jsonl", kind) for name, kind in kinds.items()), sampler


def is_refinement(messages):
    return not messages[1]["content"].startswith("q")


def test_rollouts_and_refinements_have_each_their_own_decoding(tmp_path):
    rollout, refine = SamplingConfig(temperature=0.9, max_tokens=11), SamplingConfig(temperature=0.1, max_tokens=22)
    *_, sampler = curated(tmp_path, answer, rollout=rollout, refine=refine)
    assert sampler.decodings == {"rollouts": rollout, "refinements": refine}


def test_as_many_rollouts_and_refinements_as_asked_for(tmp_path):
    _, rollouts, refinements, _, _ = curated(tmp_path, answer, rollouts=7, refinements=3)
    assert set(Counter(r.problem_id for r in rollouts).values()) == {7}
    assert set(Counter(r.problem_id for r in refinements).values()) == {3}


def test_the_wording_is_that_of_both_prompts(tmp_path):
    sampler = Scripted(lambda messages, seed: f"\\boxed{{{seed % 2}}}")
    config = CurateConfig(wave=30, rollout=SamplingConfig(), refine=SamplingConfig())
    Curator(config, lambda: sampler, 10_000, 1, tmp_path, texts=texts("released")).run(PROBLEMS[:2])
    (_, tutored, _), (_, refined, _) = sampler.calls
    assert tutored[0] == student_messages("q0", texts("released")) != student_messages("q0")
    assert refined[0] == refinement_messages("q0", r"\boxed{0}", r"\boxed{1}", texts("released"))


def test_the_contrast_is_chosen_as_the_recipe_says(tmp_path):
    """first: always the first right rollout; random: here and there another."""

    def first_of(rows, verdict):
        found = {}
        for row in rows:
            if row.verdict == verdict:
                found.setdefault(row.problem_id, row.id)
        return found

    _, rollouts, _, pairs, _ = curated(tmp_path / "first", answer, rollouts=8, contrast="first")
    assert len(pairs) > 5
    assert {p.problem_id: p.right_id for p in pairs}.items() <= first_of(rollouts, "right").items()
    assert {p.problem_id: p.wrong_id for p in pairs}.items() <= first_of(rollouts, "wrong").items()
    _, rollouts, _, pairs, _ = curated(tmp_path / "random", answer, rollouts=8, contrast="random")
    assert not {p.problem_id: p.right_id for p in pairs}.items() <= first_of(rollouts, "right").items()
    assert not {p.problem_id: p.wrong_id for p in pairs}.items() <= first_of(rollouts, "wrong").items()


@pytest.mark.parametrize(("unboxed", "some"), [("wrong", True), ("excluded", False)])
def test_unboxed_rollouts_are_wrong_or_left_out_as_the_recipe_says(tmp_path, unboxed, some):
    statistics, *_ = curated(tmp_path, lambda m, seed: answer(m, 0) if seed % 2 else "no idea", unboxed=unboxed)
    assert statistics.no_answer > 0
    assert (statistics.mixed > 0) == some


@pytest.mark.parametrize(("equality", "right"), [("math", 120), ("string", 0)])
def test_answers_are_compared_as_the_recipe_says(tmp_path, equality, right):
    problems = [Problem(p.id, p.question, f"1{i:03}") for i, p in enumerate(PROBLEMS)]
    reply = lambda m, seed: f"\\boxed{{1,{int(m[1]['content'][1:]):03}}}"  # noqa: E731
    _, rollouts, *_ = curated(tmp_path, reply, problems, equality=equality)
    assert sum(r.verdict == "right" for r in rollouts) == right


def test_a_reply_that_was_cut_off_is_recorded_so_and_never_right(tmp_path):
    """Also where its box is."""
    cut = lambda m, seed: Completion([5, 6], answer(m, seed), "length")  # noqa: E731
    statistics, rollouts, *_ = curated(tmp_path / "all", cut)
    assert {(r.verdict, r.finish_reason) for r in rollouts} == {("truncated", "length")}
    assert (statistics.truncated, statistics.mixed) == (120, 0)

    def cut_refinements(messages, seed):
        return cut(messages, seed) if is_refinement(messages) else answer(messages, seed)

    statistics, _, refinements, pairs, _ = curated(tmp_path / "refinements", cut_refinements)
    assert refinements
    assert {r.finish_reason for r in refinements} == {"length"}
    assert (pairs, statistics.accepted, statistics.truncated) == ([], 0, 0)  # the count is of rollouts


def test_a_refinement_without_a_box_makes_no_pair(tmp_path):
    def unboxed(messages, seed):
        return "It is so." if is_refinement(messages) else answer(messages, seed)

    _, _, refinements, pairs, _ = curated(tmp_path, unboxed)
    assert refinements
    assert pairs == []


def test_pairs_brought_along_are_laid_down_as_many_as_asked_for(tmp_path):
    *_, pairs, _ = curated(tmp_path / "made", answer)
    brought = tmp_path / "brought"
    brought.mkdir()
    statistics = bring_along(pairs, PROBLEMS, CurateConfig(pairs=3, questions=20), brought)
    assert (statistics.pairs, statistics.brought, statistics.questions) == (3, len(pairs), 0)
    assert read_jsonl(brought / "pairs.jsonl", Pair) == pairs[:3]
    assert read_jsonl(brought / "questions.jsonl", Problem) == PROBLEMS[:20]
    assert read_jsonl(brought / "rollouts.jsonl", Rollout) == read_jsonl(brought / "refinements.jsonl", Rollout) == []
    assert json.loads((brought / "statistics.json").read_text())["brought"] == len(pairs)


# ---- what is kept, counted and refused


def test_a_reply_that_cannot_be_compared_costs_itself_alone(tmp_path, monkeypatch):
    def same(answer, gold):
        if "7" in (answer, gold):
            raise RecursionError("on purpose")
        return answer == gold

    monkeypatch.setattr(equality, "_equal", same)
    equality._compared.cache_clear()
    statistics = make_curator(tmp_path, Scripted(answer), pairs=100).run(PROBLEMS)
    equality._compared.cache_clear()
    kept = [r for name in ("rollouts", "refinements") for r in read_jsonl(tmp_path / f"{name}.jsonl", Rollout)]
    noted = [r for r in kept if r.note]
    assert len(noted) == statistics.undecided > 0
    assert {(r.verdict, r.note) for r in noted} == {("wrong", "RecursionError: on purpose")}
    assert {r.problem_id for r in noted} <= {stable_id("q6"), stable_id("q7")}
    assert statistics.pairs > 0


def test_statistics_are_a_count_of_the_files(tmp_path):
    statistics = make_curator(tmp_path, Scripted(answer), pairs=100).run(PROBLEMS)
    rollouts = read_jsonl(tmp_path / "rollouts.jsonl", Rollout)
    by_question = {}
    for r in rollouts:
        by_question.setdefault(r.problem_id, []).append(r.verdict == "right")
    assert statistics.questions == len(by_question) == 30
    assert statistics.all_right == sum(all(v) for v in by_question.values())
    assert statistics.all_wrong == sum(not any(v) for v in by_question.values())
    assert statistics.mixed == statistics.refined == sum(any(v) and not all(v) for v in by_question.values())
    assert statistics.accepted == len(read_jsonl(tmp_path / "pairs.jsonl", Pair))
    assert statistics.rollouts == len(rollouts) == 120
    assert statistics.tokens == 3 * (statistics.rollouts + statistics.refined)


def test_several_refinements_of_a_question_are_as_many_pairs_and_equal_ones_are_one(tmp_path):
    """`pairs` asks for questions with a pair; each of them keeps all of its distinct right refinements."""
    curator = make_curator(tmp_path, Scripted(varied), pairs=5, refinements=6, wave=10)
    statistics = curator.run(PROBLEMS)
    pairs = read_jsonl(tmp_path / "pairs.jsonl", Pair)
    refinements = read_jsonl(tmp_path / "refinements.jsonl", Rollout)
    by_question = {}
    for r in refinements:
        by_question.setdefault(r.problem_id, []).append(r)
    assert all(len(group) == 6 for group in by_question.values())
    assert len({r.seed for r in refinements}) == len({r.id for r in refinements}) == len(refinements)
    right = {q: list(dict.fromkeys(r.text for r in g if r.verdict == "right")) for q, g in by_question.items()}
    first = [q for q, texts in right.items() if texts][:5]
    assert [(p.problem_id, p.reply) for p in pairs] == [(q, text) for q in first for text in right[q]]
    assert len({p.id for p in pairs}) == len(pairs) > 5
    assert (statistics.refined, statistics.pairs) == (len(by_question), len(pairs))
    assert statistics.accepted == sum(bool(texts) for texts in right.values())


def test_a_wave_is_one_call_and_the_waves_stop_at_enough_pairs(tmp_path):
    sampler = Scripted(answer)
    make_curator(tmp_path, sampler, pairs=1).run(PROBLEMS)
    title, prompts, _ = sampler.calls[0]
    assert (title, len(prompts)) == ("rollouts", 40)
    assert len(sampler.calls) == 2
    assert sampler.calls[0][1][0] == student_messages("q0")


def test_seeds_belong_to_the_question_and_not_to_the_order(tmp_path):
    one, other = Scripted(answer), Scripted(answer)
    for name, sampler, problems in (("a", one, PROBLEMS), ("b", other, PROBLEMS[::-1])):
        (tmp_path / name).mkdir()
        make_curator(tmp_path / name, sampler, pairs=100).run(problems)
    texts = [
        {r.id: (r.text, r.seed) for r in read_jsonl(tmp_path / name / "rollouts.jsonl", Rollout)} for name in ("a", "b")
    ]
    assert texts[0] == texts[1]
    chosen = [{p.id for p in read_jsonl(tmp_path / name / "pairs.jsonl", Pair)} for name in ("a", "b")]
    assert chosen[0] == chosen[1]
    seeds = [seed for _, _, seeds in one.calls for seed in seeds]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= derive_seed(seed, "x") < 2**31 for seed in range(100))


def test_a_stopped_run_goes_on_without_sampling_again(tmp_path):
    class Stopping(Scripted):
        def sample(self, *args, **kwargs):
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().sample(*args, **kwargs)

    with pytest.raises(KeyboardInterrupt):
        make_curator(tmp_path, Stopping(answer), pairs=100).run(PROBLEMS)
    rest = Scripted(answer)
    make_curator(tmp_path, rest, pairs=100).run(PROBLEMS)
    assert len(rest.calls) == 3  # the refinements of wave 2, and both of wave 3
    (tmp_path / "whole").mkdir()
    make_curator(tmp_path / "whole", Scripted(answer), pairs=100).run(PROBLEMS)
    assert (tmp_path / "pairs.jsonl").read_text() == (tmp_path / "whole" / "pairs.jsonl").read_text()


def test_a_prompt_without_room_for_its_reply_is_skipped_and_counted(tmp_path):
    long = Problem(stable_id("long"), "q" + "1" * 20_000, "1")
    statistics = make_curator(tmp_path, Scripted(answer), pairs=100).run([PROBLEMS[0], long])
    assert (statistics.questions, statistics.skipped) == (1, 1)


def test_recorded_solutions_of_other_models_are_graded_as_they_were_labelled(tmp_path):
    """Real rollouts of one\'s own: no model is asked before the refinement, and then for mixed questions only."""
    rows = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
    problems = [Problem(stable_id(row["question"]), row["question"], row["gold"]) for row in rows]
    sampler = Scripted(lambda messages, seed: "\\boxed{no idea}")
    curator = make_curator(tmp_path, sampler, pairs=10_000, rollouts_file=str(RECORDED), wave=1000)
    with pytest.raises(UserError, match=r"refinements: 0\.0% right, 100\.0% wrong"):
        curator.run(problems)
    statistics = Statistics(**json.loads((tmp_path / "statistics.json").read_text()))
    labels = {stable_id(row["question"]): [r["is_correct"] for r in row["rollouts"]] for row in rows}
    found = {}
    for r in read_jsonl(tmp_path / "rollouts.jsonl", Rollout):
        found.setdefault(r.problem_id, []).append(r.verdict == "right")
    assert found == labels
    mixed = sum(any(v) and not all(v) for v in labels.values())
    assert statistics.mixed == mixed > 10
    assert [len(prompts) for _, prompts, _ in sampler.calls] == [mixed]
    assert statistics.accepted == 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{}", "line 1: expected"),
        ('{"question": "q", "rollouts": []}', "at least one rollout"),
        ('{"question": "q", "rollouts": [{"txt": 1}]}', 'without "text"'),
        ('{"question": "q", "rollouts": [{"text": "a", "finish_reason": "eos"}]}', "finish_reason 'eos'"),
        ("not json", "not JSON"),
    ],
)
def test_a_file_of_rollouts_that_is_wrong_is_named_with_its_line(tmp_path, line, says):
    path = tmp_path / "rollouts.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=says) as error:
        make_curator(tmp_path, Scripted(answer), rollouts_file=str(path)).run(PROBLEMS)
    assert str(path) in str(error.value)
