"""A verifier of one's own that is changed: what it decided is made again, and what was sampled is graded anew."""

import sys

import pytest
from stage_keys import determined_by, key_of

from ssb_unsloth.backends.sampler import Completion
from ssb_unsloth.evaluation.carried import carry_over, origins
from ssb_unsloth.evaluation.evaluate import base_contestants
from ssb_unsloth.io import disk
from ssb_unsloth.method.curate import Curator
from ssb_unsloth.pipeline.stages.curate import STAGE as CURATE
from ssb_unsloth.pipeline.students import students
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import BenchmarkConfig, CurateConfig, ModelConfig, SamplerConfig, SamplingConfig
from ssb_unsloth.records import Problem, stable_id, write_jsonl
from ssb_unsloth.run import keys
from ssb_unsloth.run.manifests import digest
from ssb_unsloth.run.rundir import RunDir
from ssb_unsloth.verifier.verifiers import source_of

MODULE = """
from ssb_unsloth.verifier.boxed import Boxed


class Ends(Boxed):
    def equal(self, answer, gold):
        return answer.endswith(gold)
"""
SPEC = "ends_like:Ends"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module beside the recipe, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ends_like.py"
    path.write_text(MODULE)
    write_jsonl(tmp_path / "q.jsonl", [{"question": f"q{n}", "answer": "1"} for n in range(4)])
    (tmp_path / "mine.yaml").write_text(
        f"name: mine\nmodel: {{name: pocket}}\nproblems: {{source: q.jsonl, verifier: '{SPEC}'}}\n"
        f"evaluate: {{benchmarks: {{own: {{source: q.jsonl, verifier: '{SPEC}'}}, other: {{source: q.jsonl}}}}}}\n"
        "variants: {grpo: {train: {method: grpo}}}\n"
    )
    return path


def what_determines(tmp_path, *overrides):
    """Of each stage that asks a verifier, and of a student that GRPO trained."""
    recipe = load(tmp_path / "mine.yaml", overrides)
    student, other = students(recipe, tmp_path / "run")
    assert other.recipe.train.method == "grpo"
    found = {name: determined_by(name, student.recipe, student.run) for name in ("curate", "teach", "train")}
    run = RunDir(tmp_path / "run")
    return {
        **found,
        "grpo": determined_by("train", other.recipe, other.run),
        "benchmarks": {name: keys.of_problems(config) for name, config in recipe.evaluate.benchmarks.items()},
        "report": determined_by("report", recipe, run),
    }


def test_another_text_of_the_module_makes_stale_what_asked_it_and_nothing_else(module, tmp_path):
    before = what_determines(tmp_path)
    assert what_determines(tmp_path) == before
    module.write_text(MODULE.replace("answer.endswith(gold)", "answer == gold"))
    after = what_determines(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"curate", "grpo", "benchmarks", "report"}  # teach and SSB's train read curate's id
    assert before["benchmarks"]["other"] == after["benchmarks"]["other"]
    module.write_text(MODULE)
    assert what_determines(tmp_path) == before
    student = students(load(tmp_path / "mine.yaml"), tmp_path / "run")[0]
    key, determined = key_of("curate", student.recipe, student.run)
    assert key == digest(determined)
    assert determined["problems"]["verifier_source"] == keys.of_verifier(SPEC)


def test_verifiers_of_the_package_add_nothing_to_a_stages_identity(module, tmp_path):
    for verifier in ("math", "{name: numeric, absolute: 0.1}"):
        overrides = [f"{key}.verifier={verifier}" for key in ("problems", "evaluate.benchmarks.own")]
        assert "verifier_source" not in str(what_determines(tmp_path, *overrides))


def test_the_module_is_found_where_its_process_finds_it_and_not_imported(module, tmp_path):
    assert source_of(SPEC) == module
    inner = tmp_path / "judges" / "strict"
    inner.mkdir(parents=True)
    (tmp_path / "judges" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (inner / "ends.py").write_text(MODULE)  # in a folder without an __init__
    assert source_of("judges.strict.ends:Ends") == inner / "ends.py"
    assert source_of("judges:Ends") == tmp_path / "judges" / "__init__.py"
    for name in ("no_such_module:X", "judges.no.such:X", "ends_like.inner:X", "sys:X"):
        assert source_of(name) is None
    assert source_of("json.decoder:X").name == "decoder.py"
    assert not {"ends_like", "judges"} & {*sys.modules}


class Sampler:
    """Replies with the seed's last digit."""

    def __init__(self):
        self.asked = []

    def render(self, messages):
        return [1]

    def sample(self, requests, decoding, adapter=None, title="", keep=None, quiet=False):
        self.asked += [title] * len(requests)
        replies = [Completion([1], f"\\boxed{{1{request.seed % 2}}}", "stop") for request in requests]
        for place, reply in enumerate(replies):
            keep(place, reply)
        return replies


def test_a_stopped_curation_keeps_its_rollouts_and_asks_for_the_refinements_of_other_verdicts(module, tmp_path):
    problems = [Problem(stable_id(f"q{n}"), f"q{n}", "1") for n in range(8)]
    decoding = SamplingConfig(max_tokens=10)
    config = CurateConfig(pairs=8, rollouts=4, wave=8, rollout=decoding, refine=decoding)

    def asked():
        sampler = Sampler()
        Curator(config, lambda: sampler, 100, 1, tmp_path, verifier=SPEC).run(problems)
        return set(sampler.asked)

    assert asked() == {"rollouts", "refinements"}
    assert asked() == set()
    module.write_text(MODULE + "\n# reads as before, but who knows\n")
    assert asked() == {"refinements"}
    recipe = load(tmp_path / "mine.yaml")
    run = RunDir(tmp_path / "run")
    then = determined_by("curate", recipe, run)
    module.write_text(MODULE)
    now = determined_by("curate", recipe, run)
    assert then != now
    assert CURATE.origin(then) == CURATE.origin(now)  # so the partial folder is resumed


def test_a_stopped_evaluation_grades_what_it_has_sampled_by_the_changed_verifier(module, tmp_path):
    problems = [Problem("p", "q", "1")]
    benchmarks = {
        name: (BenchmarkConfig(source="q.jsonl", verifier=verifier, temperature=None), problems)
        for name, verifier in (("own", SPEC), ("other", "math"))
    }

    def wanted():
        return origins(base_contestants(ModelConfig(name="pocket"), 1), benchmarks, SamplerConfig())

    before = wanted()
    carry_over(tmp_path / "none", tmp_path, before)
    (tmp_path / "kept").mkdir()
    for name in before:
        for folder in (tmp_path, tmp_path / "kept"):
            disk.write_text(folder / name, "{}\n")
    module.write_text(MODULE.replace("endswith", "startswith"))
    carry_over(tmp_path / "none", tmp_path, wanted())
    own, other = sorted(before, key=lambda name: "other" in name)
    assert wanted()[other] == before[other]
    assert sorted(path.name for path in tmp_path.glob("base*.jsonl")) == [other]  # the one with its verdicts is gone
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == sorted([own, other])
