"""The tasks: their splits, their gold answers by other means, their text, their tokenizer, and the model that ships."""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from ssb_unsloth.pocket import MODELS, model_folder
from ssb_unsloth.pocket.tasks import corpus, data, programs, task
from ssb_unsloth.pocket.tasks.choices import Choice
from ssb_unsloth.pocket.tasks.programs import Program
from ssb_unsloth.pocket.tasks.slices import Slices

RECIPES = Path(__file__).parents[2] / "recipes" / "tasks"
every_task = pytest.mark.parametrize("kind", corpus.TASKS, ids=lambda kind: kind.__name__)

# What the English says, written without the generators' tables.
STEPS: dict[str, Callable[[Any, Any], Any]] = {
    r"(?:keep|leave) the first (\d)": lambda v, k: v[:k],
    r"(?:take out|pass over) the first (\d)": lambda v, k: v[k:],
    r"leave off the last (\d)": lambda v, k: v[: max(0, len(v) - k)],
    r"(?:cut down to|spare) the last (\d)": lambda v, k: v[max(0, len(v) - k) :],
    r"sort them (?:downwards|from the top)": lambda v, k: sorted(v)[::-1],
    r"sort them (?:bottom up|with the largest last)": lambda v, k: sorted(v),
    r"sift out those over (\d)": lambda v, k: [x for x in v if not x > k],
    r"stick to those over (\d)": lambda v, k: [x for x in v if not x <= k],
    r"screen out those under (\d)": lambda v, k: [x for x in v if not x < k],
    r"put (\d) before them|let them follow (\d)": lambda v, k: [k, *v],
    r"let (\d) follow them": lambda v, k: [*v, k],
    r"skip every second one": lambda v, k: [x for i, x in enumerate(v) if i % 2 == 0],
    r"pick every second one": lambda v, k: [x for i, x in enumerate(v) if i % 2 == 1],
    r"put '(.)' before it|let it follow '(.)'": lambda v, k: k + v,
    r"let '(.)' follow it": lambda v, k: v + k,
    r"bring it down from capitals": lambda v, k: v.casefold(),
    r"change it into capitals": lambda v, k: v.swapcase().swapcase().upper(),
    r"(?:take|reduce it by) (\d)(?: from it)?|make it (\d) less": lambda v, k: v - k,
    r"(?:take it from|have it count against) (\d)": lambda v, k: k - v,
    r"halve it, rounding up": lambda v, k: v // 2 + v % 2,
    r"halve it, rounding down": lambda v, k: (v - v % 2) // 2,
    r"raise it (\d)-fold": lambda v, k: v * k,
    r"increase it by (\d)": lambda v, k: v + k,
}


def steps_of(text: str) -> Callable[[Any], Any]:
    """What the words do to a value."""

    def run(value: Any) -> Any:
        for step in text.split(", then "):
            ((found, does),) = [(m, does) for rule, does in STEPS.items() if (m := re.fullmatch(rule, step))]
            given = next((group for group in found.groups() if group), None)
            value = does(value, int(given) if given and given.isdigit() else given)
        return value

    return run


def asked(question: str) -> str:
    """The words of a question."""
    return re.search(r"(?:text|number|numbers)(?: \w+)?: (.*?)[.?]", question)[1]  # type: ignore[index]


def right_option(row: dict[str, str]) -> list[str]:
    """The options that do to every input what the words say."""
    parameter = re.search(r" (\w+): ", row["question"])[1]  # type: ignore[index]
    inputs = programs.INPUTS[parameter]
    meant = [steps_of(asked(row["question"]))(value) for value in inputs]
    return [letter for letter in "ABCD" if [eval(row[letter], {parameter: value}) for value in inputs] == meant]


def run_tests(program: str, tests: str) -> bool:
    names: dict[str, Any] = {}
    exec(program, names)
    try:
        exec(tests, names)
    except AssertionError:
        return False
    return True


def test_gold_answers_are_what_the_english_says() -> None:
    for made in Choice.generate("test", 100, 1):
        assert made.row()["answer"] in right_option(made.row()), made.question
    for made in Slices.generate("test", 100, 1):
        parameter = made.kind
        for length in range(16):
            value: Any = list(range(length)) if parameter == "xs" else "abcdefghijklmnop"[:length]
            left = eval(made.row()["answer"], {parameter: value})
            assert left == steps_of(asked(made.question))(value), made.question


def test_tests_of_programs_are_what_the_english_says_and_tell_the_readings_apart() -> None:
    for made in Program.generate("test", 300, 1):
        row = made.row()
        names = {"f": steps_of(asked(row["question"]))}
        exec(row["tests"], names)  # raises AssertionError if the English says something else
        readings = [(first, second) for first in (True, False) for second in (True, False)]
        passed = [run_tests(made.answer(reading), row["tests"]) for reading in readings]
        assert passed == [True, False, False, False], row["question"]


def test_every_wording_is_asked_about() -> None:
    """And so read by the other means above."""
    questions = " ".join(made.question for made in Program.generate("test", 600, 2))
    for wording in chain(*programs.WORDINGS.values()):
        assert re.search(re.sub(r"\\\{\w+\\\}", ".", re.escape(wording.text)), questions), wording


@every_task
def test_splits_share_no_question_and_are_the_same_every_time(kind: type[task.Task]) -> None:
    seen: dict[str, str] = {}
    for split in task.BUCKETS:
        made = kind.generate(split, 50, 3)
        assert [one.question for one in made] == [one.question for one in kind.generate(split, 50, 3)]
        assert len({one.key for one in made}) == 50
        for one in made:
            assert seen.setdefault(one.key, split) == split


def answers(kind: type[task.Task], text: str) -> list[str]:
    """What the solutions in a text come to; programs without their comments."""
    if kind is Choice:
        return re.findall(r"That is \\boxed\{(.*)\}\.", text)
    if kind is Slices:
        return re.findall(r"Answer: (\w+\[.*)", text)
    return [re.sub("  # .*", "", found) for found in re.findall(r"```python\n(def f.*?)```", text, re.DOTALL)]


def test_more_questions_than_there_are_end_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    only = Choice.draw(random.Random(0), "test")
    monkeypatch.setattr(Choice, "draw", lambda rng, split: only)
    with pytest.raises(ValueError, match=r"^test holds only about 1 questions of Choice, and not 2\.$"):
        Choice.generate("test", 2, 3)


@every_task
def test_refinements_follow_their_hints(kind: type[task.Task]) -> None:
    rng = random.Random(0)
    rightly = 0
    for made in kind.generate("test", 60, 0):
        for hint in corpus.HINTS:
            *_, asked, answered = (message["content"] for message in corpus.refinement_chat(rng, made, hint))
            shown, (said,) = answers(kind, asked), answers(kind, answered)
            assert answered.startswith(task.OPENING)
            assert len(shown) == len(set(shown)) == {"both": 2, "right": 1, "wrong": 1, "none": 0}[hint]
            if hint == "wrong":
                assert said != shown[0]
            elif hint != "none":
                assert said == shown[0]
            rightly += said == answers(kind, made.solution(made.rightly))[0]
    assert 0.2 < rightly / 240 < 0.65  # a hint is some reader's, and the text does not say whose reading is right


def test_every_kind_of_task_and_of_hint_is_equally_frequent() -> None:
    rng = random.Random(0)
    kinds: Counter[str] = Counter()
    hints: Counter[tuple[bool, bool]] = Counter()
    for _ in range(1500):
        (system, asked, _), question = corpus.draw_chat(rng)
        kinds[system["content"]] += 1
        if asked["content"] != question:
            hints["A right answer" in asked["content"], "A wrong answer" in asked["content"]] += 1
    assert [count / 1500 for count in kinds.values()] == pytest.approx([1 / 3] * 3, abs=0.05)
    assert sum(hints.values()) / 1500 == pytest.approx(1 - corpus.STUDENT_SHARE, abs=0.04)
    assert [count / sum(hints.values()) for count in hints.values()] == pytest.approx([0.25] * 4, abs=0.05)


def test_readers_misread_each_wording_at_its_own_rate() -> None:
    rng = random.Random(0)
    for kind in corpus.TASKS:
        seen: dict[task.Wording, list[bool]] = {}
        for made in kind.generate("train", 400, 0):
            for _ in range(10):
                for told, rightly in zip(made.told, made.attempt(rng), strict=True):
                    seen.setdefault(told.wording, []).append(not rightly)
        for wording, misread in seen.items():
            rate = sum(misread) / len(misread)
            assert rate == pytest.approx(wording.misread, abs=4.5 * (0.25 / len(misread)) ** 0.5)


def test_the_recipes_files_are_what_the_command_writes(tmp_path: Path) -> None:
    data.main(["--out", str(tmp_path), "--task", "choices", "--task", "programs"])
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {name: (RECIPES / name).read_bytes() for name in written}
    for name in ("choices", "programs"):
        assert (RECIPES / f"{name}.refine.txt").read_text(encoding="utf-8") == f"{data.TASKS[name].REFINE}\n"
    with (RECIPES / "choices-test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (len(rows), [*rows[0]]) == (200, ["question", *"ABCD", "answer"])
    assert all(row["answer"] in right_option(row) for row in rows)
    lines = (RECIPES / "programs-test.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        exec(row["tests"], {"f": steps_of(asked(row["question"]))})


def test_the_shipped_model_is_small_plain_and_is_named_by_recipes() -> None:
    folder = model_folder("pocket-tasks")
    assert folder == MODELS["pocket-tasks"]
    assert model_folder("./pocket-tasks") is model_folder(None) is None
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2_000_000
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}


def test_each_stretch_of_the_prompts_is_one_token() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS["pocket-tasks"])
    assert all(len(tokenizer(stretch)["input_ids"]) == 1 for stretch in corpus.stretches())
    rng = random.Random(0)
    for _ in range(100):
        messages, _ = corpus.draw_chat(rng)
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_shortened_build_runs_through_its_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = pytest.importorskip("ssb_unsloth.pocket.tasks.build")
    monkeypatch.setattr(build, "VALIDATION", 4)
    monkeypatch.setattr(build.pocket, "POOL", 128)
    build.main(["--out", str(tmp_path / "model"), "--steps", "2"])
    said = re.findall(r"^(\w+), (\w+) .* +([\d.]+)%$", capsys.readouterr().out, re.MULTILINE)
    names = [kind.__name__ for kind in corpus.TASKS]
    assert [(model, task) for model, task, _ in said] == [(model, n) for model in ("built", "shipped") for n in names]
    assert min(float(followed) for model, _, followed in said if model == "shipped") >= 50
    built, ships = ({path.name for path in folder.iterdir()} for folder in (tmp_path / "model", MODELS["pocket-tasks"]))
    assert built == ships
