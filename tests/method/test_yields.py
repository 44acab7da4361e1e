"""A curation that comes to nothing ends early, by a binomial test, and says what became of its replies."""

import contextlib
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from ssb_unsloth.backends.sampler import Completion
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.curate import Curator
from ssb_unsloth.method.yields import at_most, is_hopeless
from ssb_unsloth.recipe.schema import CurateConfig, SamplingConfig
from ssb_unsloth.records import Pair, Problem, read_jsonl, stable_id
from ssb_unsloth.run.rundir import RunDir

PROBLEMS = [Problem(stable_id(f"q{i}"), f"q{i}", "7") for i in range(600)]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 3000), st.floats(1e-4, 0.9))
def test_the_probability_of_so_few_is_the_binomials(k, n, p):
    assert at_most(k, n, p) == pytest.approx(binom.cdf(k, n, p), rel=1e-6, abs=1e-12)


def test_no_pair_is_beyond_doubt_after_228_questions_and_a_few_after_more():
    assert next(n for n in range(1, 300) if is_hopeless(0, n, 0.02)) == 228
    for paired in (1, 5, 40):
        first = next(n for n in range(1, 10_000) if is_hopeless(paired, n, 0.02))
        assert binom.cdf(paired, first, 0.02) < 0.01 <= binom.cdf(paired, first - 1, 0.02)
    assert not is_hopeless(0, 10**6, None)
    assert not is_hopeless(20, 1000, 0.02)


class Model:
    """Answers by a rule on (is it a refinement, which rollout of its question)."""

    def __init__(self, reply):
        self._reply, self.asked = reply, 0

    def render(self, messages):
        return [ord(c) for c in json.dumps(messages)]

    def sample(self, requests, decoding, adapter=None, title="sample", keep=None):
        self.asked += len(requests)
        given = [self._reply(title == "refinements", number) for number, _ in enumerate(requests)]
        return [g if isinstance(g, Completion) else Completion([5, 2], g, "stop") for g in given]


def curate(folder, reply, problems=PROBLEMS, **config):
    folder.mkdir(exist_ok=True)
    model = Model(reply)
    sampling = {"rollout": SamplingConfig(max_tokens=50), "refine": SamplingConfig(max_tokens=60)}
    config = CurateConfig(**{"wave": 100, "rollouts": 2, **sampling, **config})
    try:
        Curator(config, lambda: model, 100_000, 1, folder).run(problems)
    except UserError as error:
        return str(error), model
    return "", model


CUT, RIGHT, WRONG, UNBOXED = Completion([5], "So", "length"), "\\boxed{7}", "\\boxed{8}", "It is so."
mixed = lambda number: (RIGHT, WRONG)[number % 2]  # noqa: E731


@pytest.mark.parametrize(
    ("reply", "first", "shares"),
    [
        (lambda refining, n: CUT, r"curate.rollout.max_tokens \(50\)", "100.0% cut off"),
        (lambda refining, n: UNBOXED, "without an answer that the verifier reads", "100.0% without an answer"),
        (lambda refining, n: RIGHT, r"too easy .* curate.rollout.temperature \(0.8\)", "100.0% with right rollouts"),
        (lambda refining, n: WRONG, "too hard .* problems.gold_format", "100.0% with none"),
        (lambda refining, n: WRONG if refining else mixed(n), "refinements were refused", "100.0% mixed"),
        (lambda refining, n: CUT if refining else mixed(n), r"raise curate.refine.max_tokens \(60\)", "100.0% mixed"),
    ],
    ids=["cut off", "unboxed", "all right", "all wrong", "refused", "refused, cut off"],
)
def test_the_cause_is_named_with_its_share_and_the_key_to_change(tmp_path, reply, first, shares):
    said, model = curate(tmp_path, reply)
    assert "No pair came out of 300 questions. Did 2.00% of them give one" in said
    assert model.asked in (600, 900)  # three waves of six, and where there is a contrast, refinements
    assert shares in said
    remedies = said.partition("What to change:\n")[2].splitlines()
    assert re.search(first, remedies[0])


def test_a_prompt_without_room_is_a_cause_too(tmp_path):
    long = [Problem(stable_id(str(i)), "q" * 100_000 + str(i), "7") for i in range(3)]
    said, model = curate(tmp_path, lambda refining, n: RIGHT, long)
    assert model.asked == 0
    assert "questions skipped: too long for sampler.max_model_len" in said


def test_what_was_sampled_is_kept_and_resumed_where_it_is_not_given_up(tmp_path):
    def reply(refining, number):
        return RIGHT if refining else mixed(number) if model_asks[0] > 300 else WRONG

    model_asks = [0]
    said, first = curate(tmp_path, reply)
    assert "curation ends here" in said
    model_asks[0] = 400
    said, rest = curate(tmp_path, reply, min_yield=None, pairs=200)
    assert said == ""
    assert (first.asked, rest.asked) == (600, 2 * 200 + 200)
    assert len(read_jsonl(tmp_path / "pairs.jsonl", Pair)) == 200


def test_fewer_pairs_than_wanted_at_the_end_are_pairs_and_none_are_not(tmp_path, capsys):
    said, _ = curate(tmp_path / "some", lambda refining, n: RIGHT if refining else mixed(n), PROBLEMS[:3])
    assert said == ""
    assert "Fewer pairs than asked for: 3 of 256" in capsys.readouterr().err
    said, _ = curate(tmp_path / "none", lambda refining, n: WRONG, PROBLEMS[:3])
    assert said.startswith("No pair came out of 3 questions.\n")


def test_a_few_pairs_in_many_questions_are_given_up_and_a_small_share_is_not(tmp_path):
    def every(nth):
        return lambda refining, n: RIGHT if refining or n % (2 * nth) == 0 else WRONG

    said, model = curate(tmp_path / "one", every(100), min_yield=0.1)
    assert said.startswith("Only 1 of 100 questions gave a pair. Did 10.00% of them")
    assert model.asked == 201
    assert curate(tmp_path / "ten", every(10), min_yield=0.1)[0] == ""


def test_rollouts_made_elsewhere_need_not_be_there_for_every_question(tmp_path):
    rows = [{"question": f"q{i}", "rollouts": [{"text": RIGHT}, {"text": WRONG}]} for i in range(550, 560)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said, model = curate(tmp_path, lambda refining, n: RIGHT, rollouts_file=str(tmp_path / "r.jsonl"), pairs=10)
    assert (said, model.asked) == ("", 10)


def test_a_partial_folder_of_another_key_is_resumed_where_its_replies_depend_on_the_same(tmp_path):
    run = RunDir(tmp_path)

    def stopped(key, origin):
        found = []
        with contextlib.suppress(UserError), run.write("curate", key, {}, origin=origin) as work:
            found += [path.name for path in (work.folder / "kept").glob("*")]
            (work.folder / "kept").mkdir(exist_ok=True)
            (work.folder / "kept" / key).write_text("a reply")
            raise UserError("no yield")
        return found

    assert stopped("one", "same") == []
    assert stopped("two", "same") == ["one"]
    assert sorted(stopped("two", "other")) == ["one", "two"]  # the same key is resumed in any case
    assert stopped("three", "same") == []
    assert stopped("four", "") == []


def test_how_many_are_wanted_is_nothing_that_a_reply_depends_on(tmp_path):
    from recipe_texts import POCKET
    from stage_keys import determined_by

    from ssb_unsloth.pipeline.table import stage
    from ssb_unsloth.recipe.loading import load

    def origin(*overrides):
        return stage("curate").origin(determined_by("curate", load(POCKET, overrides), RunDir(tmp_path)))

    same = ("curate.pairs=3", "curate.questions=7", "curate.min_yield=null", "problems.limit=9", "train.epochs=1")
    assert {origin(change) for change in same} == {origin()}
    others = ("curate.rollout.max_tokens=99", "curate.wave=9", "prompts.wording=released", "curate.unboxed=excluded")
    assert len({origin(), *map(origin, others)}) == 5
