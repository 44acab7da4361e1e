"""Curation wave by wave: the same bytes however large a wave is, nothing half-written, and no more memory for more."""

import contextlib
import gc
import hashlib
import json
import re
import tracemalloc

import pytest
from scripted import Scripted, make_curator

from ssb_unsloth.backends.sampler import Completion
from ssb_unsloth.data.problems import OnDisk, load_problems
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.brought import Brought
from ssb_unsloth.method.curate import RESULTS, Curator
from ssb_unsloth.recipe.schema import CurateConfig, ProblemsConfig, SamplingConfig
from ssb_unsloth.records import Problem, stable_id, write_jsonl

PROBLEMS = [Problem(stable_id(f"q{i}"), f"q{i}", str(i)) for i in range(60)]
FILES = [*(f"{name}.jsonl" for name in RESULTS), "statistics.json"]


def reply(messages, seed):
    """Right, wrong, unboxed or cut off by the seed; refinements of two wordings, now and then wrong."""
    content = messages[1]["content"]
    question = content if content.startswith("q") else content.split("-----\n")[1].strip()
    gold = int(question[1:])
    if content != question:
        return f"{'So ' * (seed % 2)}\\boxed{{{gold if seed % 5 else gold + 1}}}"
    if seed % 11 == 0:
        return Completion([5], " so", "length")
    return "none é" if seed % 7 == 0 else f"So \\boxed{{{gold if seed % 2 == 0 else gold + seed % 3}}}."


def written(folder, sampler=None, **settings):
    """The bytes of each file of a curation."""
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(UserError):  # where it gives up; the files are there
        make_curator(folder, sampler or Scripted(reply), **settings).run(PROBLEMS)
    return {name: (folder / name).read_bytes() for name in FILES}


SETTINGS = [
    ({}, "1e9e7d19358e6742"),
    ({"pairs": 1000}, "71f2ea9acf6c642f"),
    ({"refinements": 3, "pairs": 17}, "35f692db790631dc"),
    ({"refinements": 0, "pairs": 13}, "839f975807562967"),
    ({"gold": "majority", "pairs": 40}, "294d40d5d0811589"),
    ({"pairs": 1000, "min_yield": 0.9}, "33f95c533656833d"),
    ({"pairs": 7, "wave": 7, "questions": 33}, "da74b2e6f6a55893"),
]


@pytest.mark.parametrize(("settings", "digest"), SETTINGS)
def test_the_bytes_are_those_of_when_all_was_held_in_memory(tmp_path, settings, digest):
    """The digests were taken of version 0.14, which wrote all files at the end."""
    files = written(tmp_path, **settings)
    assert hashlib.sha256(b"|".join(files.values())).hexdigest()[:16] == digest


@pytest.mark.parametrize("settings", [{}, {"refinements": 3}, {"refinements": 0}, {"gold": "majority"}], ids=str)
def test_the_size_of_a_wave_changes_no_byte(tmp_path, settings):
    found = [written(tmp_path / str(wave), pairs=1000, wave=wave, **settings) for wave in (1, 7, 1000)]
    assert found[0] == found[1] == found[2]


def test_pairs_are_those_of_the_first_questions_that_have_some(tmp_path):
    everything = written(tmp_path / "all", pairs=1000, refinements=3)["pairs.jsonl"].splitlines()
    questions = list(dict.fromkeys(json.loads(line)["problem_id"] for line in everything))
    for pairs in (1, 4, 9):
        few = written(tmp_path / str(pairs), pairs=pairs, refinements=3)["pairs.jsonl"].splitlines()
        assert few == [line for line in everything if json.loads(line)["problem_id"] in questions[:pairs]]


@pytest.mark.parametrize("stop", [0, 3, 6])
def test_a_stop_leaves_no_file_that_is_not_whole_and_the_rest_is_the_same(tmp_path, stop):
    class Stopping(Scripted):
        def sample(self, *args, **kwargs):
            if len(self.calls) == stop:
                raise KeyboardInterrupt
            return super().sample(*args, **kwargs)

    folder = tmp_path / "stopped"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        written(folder, Stopping(reply), pairs=1000)
    assert not any((folder / name).exists() for name in FILES)
    rest = Scripted(reply)
    assert written(folder, rest, pairs=1000) == written(tmp_path / "whole", pairs=1000)
    assert len(rest.calls) == 12 - stop  # six waves of rollouts and refinements: none is sampled twice


def test_problems_on_the_disk_are_those_of_the_list(tmp_path):
    rows = [{"question": f"What is {i}? é \u2028", "answer": str(i)} for i in range(20)]
    write_jsonl(tmp_path / "q.jsonl", [*rows, rows[3]])
    for config in (ProblemsConfig(source=str(tmp_path / "q.jsonl"), skip=2), ProblemsConfig("pocket", limit=9)):
        expected = load_problems(config)
        problems = OnDisk(config, tmp_path)
        assert list(problems) == expected == problems[:]
        assert (len(problems), problems[-1], problems[3:7]) == (len(expected), expected[-1], expected[3:7])
        assert list(OnDisk(config, tmp_path, most=4)) == expected[:4]
    with pytest.raises(UserError, match="holds no problem after the first 99"):
        OnDisk(ProblemsConfig(source=str(tmp_path / "q.jsonl"), skip=99), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


def test_a_questions_rollouts_are_found_wherever_they_stand_in_the_file(tmp_path):
    rows = [("a", ["1", "2"]), ("b", ["3"]), ("a", ["4"]), ("c", ["5"]), ("a", ["6", "7"])]
    path = tmp_path / "rollouts.jsonl"
    write_jsonl(path, [{"question": q, "rollouts": [{"text": text} for text in texts]} for q, texts in rows])
    brought = Brought(path, tmp_path)
    found = {q: [reply.text for reply, _ in brought.of(stable_id(q))] for q in "abcd"}
    assert found == {"a": ["1", "2", "4", "6", "7"], "b": ["3"], "c": ["5"], "d": []}
    with path.open("a") as file:
        file.write('{"question": "e", "rollouts": []}\n')
    with pytest.raises(UserError, match=r"rollouts\.jsonl, line 6: expected .* with at least one rollout"):
        Brought(path, tmp_path)


def test_our_own_rollouts_keep_token_ids_that_spell_them_and_their_seeds(tmp_path, tokenizer, capsys):
    ids = [*tokenizer.encode("3+4=7.", add_special_tokens=False), tokenizer.eos_token_id]
    row = {"problem_id": "p", "text": "3+4=7.", "token_ids": ids, "finish_reason": "stop", "seed": 5}
    rows = [row, row | {"token_ids": ids[1:], "seed": 6}, row | {"token_ids": [10**6]}, row | {"token_ids": None}]
    cut = row | {"token_ids": ids[:-1], "finish_reason": "length", "seed": None}
    path = tmp_path / "rollouts.jsonl"
    write_jsonl(path, [*rows, cut])
    found = Brought(path, tmp_path, tokenizer=tokenizer).of("p")
    assert [(reply.token_ids, seed) for reply, seed in found] == [(ids, 5), ([], 6), ([], 5), ([], 5), (ids[:-1], None)]
    assert {reply.text for reply, _ in found} == {"3+4=7."}
    assert "the token ids of 2 rollouts do not spell their text" in capsys.readouterr().err
    assert all(reply.token_ids == [] for reply, _ in Brought(path, tmp_path).of("p"))  # as text alone
    for wrong, said in (
        ({"token_ids": "1 2"}, "token_ids is not a list of token ids"),
        ({"token_ids": [1.5]}, "token_ids is not a list of token ids"),
        ({"seed": "x"}, "seed is neither a whole number nor null"),
        ({"text": 3}, 'a rollout without "text"'),
        ({"finish_reason": "tired"}, "finish_reason 'tired'"),
    ):
        write_jsonl(path, [row, row | wrong])
        with pytest.raises(UserError, match=rf"rollouts\.jsonl, line 2: {re.escape(said)}"):
            Brought(path, tmp_path, tokenizer=tokenizer)


class Even(Scripted):
    """Every other reply is right, so that all waves are of a size; it holds nothing of what it was asked."""

    def sample(self, requests, decoding, adapter=None, title="sample", keep=None):
        gc.collect()
        words = "So it is said, at length. " * 400
        return [Completion([5] * 50, f"{words}\\boxed{{{k % 2 + 7}}}", "stop") for k, _ in enumerate(requests)]


def peak_of_curation(folder, count):
    """Bytes at most, above what was there before, while so many questions are curated in waves of 20."""
    folder.mkdir()
    write_jsonl(folder / "q.jsonl", [{"question": f"q{i:04}", "answer": "7"} for i in range(count)])
    config = CurateConfig(pairs=10**6, wave=20, rollout=SamplingConfig(), refine=SamplingConfig())
    tracemalloc.start()
    try:
        problems = OnDisk(ProblemsConfig(source=str(folder / "q.jsonl")), folder)
        Curator(config, lambda: Even(None), 10**6, 1, folder, verifier="exact").run(problems)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_four_times_the_questions_take_no_more_memory(tmp_path):
    peak_of_curation(tmp_path / "warm", 20)  # what is imported and made once
    one, four = (peak_of_curation(tmp_path / str(count), count) for count in (100, 400))
    assert four < 1.05 * one
