"""The pocket: its splits, its gold answers, its text, its tokenizer, and the model that it ships and rebuilds."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ssb_unsloth import prompts
from ssb_unsloth.errors import UserError
from ssb_unsloth.pocket import MODEL_DIR, corpus, problems
from ssb_unsloth.records import Problem

WORD_SPLITS = ["train", "bootstrap", "validation", "test", "test_hard", "validation_hard", "untrained"]
# What each sentence does to the amount that is spoken of, told apart by who comes before whom. Written from the English
# alone, without the generator's table: {k} is somebody whose amount is known, {x} somebody new.
GAINS = [
    r"{k} (finds|buys|wins) \d+( from a friend)?\.",
    r"{k} is (given|lent|sold|paid|sent|handed|mailed) \d+\.",
    r"A friend (gives|lends|sells|loses|pays|sends|hands|returns|mails) \d+ to {k}\.",
    r"{k} takes (in \d+|\d+ from a friend)\.",
    r"{k} gets \d+ (lost ones back|returned)\.",
    r"{x} has \d+ more( than (that|{k}))?\.",
    r"(That is|{k} has) \d+ (fewer|less) than {x}( has)?\.",
    r"With \d+ (fewer|less), {x} would have as many\.",
    r"{x} is \d+ ahead of {k}\.",
    r"{k} is \d+ behind {x}\.",
]
LOSSES = [
    r"{k} (breaks|uses up|loses|returns|sells) \d+\.",
    r"{k} (gives|lends|sells|loses|pays|sends|hands|returns|mails) \d+ to a friend\.",
    r"{k} (gives away|lends out|pays out|sends off|hands out|mails off) \d+\.",
    r"A friend takes (away \d+|\d+ from {k})\.",
    r"A friend wins \d+ (of them|from {k})\.",
    r"{x} has \d+ (fewer|less)( than (that|{k}))?\.",
    r"(That is|{k} has) \d+ more than {x}( has)?\.",
    r"With \d+ more, {x} would have as many\.",
    r"{k} is \d+ ahead of {x}\.",
    r"{x} is \d+ behind {k}\.",
]


def read_independently(question: str) -> int:
    """The answer, read sentence by sentence with the rules above."""
    first, *events, asked = (sentence.strip() for sentence in re.findall(r"[^.?]+[.?]", question))
    known, amount = first.split()[0], int(first.split()[2])
    for sentence in events:
        named = set(re.findall("|".join(problems.NAMES), sentence)) - {known}
        new = named.pop() if named else "nobody"
        assert not named
        signs = [
            sign
            for sign, rules in ((1, GAINS), (-1, LOSSES))
            for rule in rules
            if re.fullmatch(rule.format(k=known, x=new), sentence)
        ]
        assert len(signs) == 1, sentence
        amount += signs[0] * int("".join(filter(str.isdigit, sentence)))
        known = known if new == "nobody" else new
    assert f"does {known} have now?" in asked
    return amount


def instance(problem: Problem) -> str:
    """The question with its names and things masked: what must not be shared between splits."""
    text, names = problem.question, list(dict.fromkeys(re.findall("|".join(problems.NAMES), problem.question)))
    for index, name in enumerate(names):
        text = text.replace(name, f"name{index}")
    return re.sub("|".join(problems.NOUNS), "things", text)


def test_splits_share_no_instance() -> None:
    seen: dict[str, str] = {}
    for split in WORD_SPLITS:
        for seed in (0, 1):
            for problem in problems.generate(split, 500, seed):
                assert seen.setdefault(instance(problem), split) == split


def test_held_out_drills_are_not_in_the_pretraining_text() -> None:
    rng = random.Random(0)
    trained = {problems.draw_drill(rng, held_out=False).question for _ in range(2000)}
    assert not trained & {problem.question for problem in problems.generate("drills", 1000, 0)}


def test_the_pretraining_text_holds_no_other_splits_instance() -> None:
    rng = random.Random(0)
    trained = {instance(Problem("", problems.draw_story(rng, "train").question, "")) for _ in range(2000)}
    for split in WORD_SPLITS[1:]:
        assert not trained & {instance(problem) for problem in problems.generate(split, 500, 0)}


@pytest.mark.parametrize("split", [*WORD_SPLITS, "drills"])
def test_generate_is_distinct_and_deterministic(split: str) -> None:
    made = problems.generate(split, 500, 7)
    assert made == problems.generate(split, 500, 7) != problems.generate(split, 500, 8)
    assert len({problem.id for problem in made}) == len({problem.question for problem in made}) == 500
    assert problems.generate(split, 100, 7) == made[:100]


@pytest.mark.parametrize("split", WORD_SPLITS)
def test_gold_is_what_the_english_says(split: str) -> None:
    for problem in problems.generate(split, 500, 3):
        assert read_independently(problem.question) == int(problem.gold), problem.question


def test_gold_of_drills() -> None:
    for problem in problems.generate("drills", 500, 3):
        a, *rest = map(int, re.findall(r"\d+", problem.question))
        if "larger" in problem.question:
            expected = max(a, rest[0])
        elif "twice" in problem.question:
            expected = a + a
        else:
            expected = a + rest[0] if "+" in problem.question else a - rest[0]
        assert problem.gold == str(expected)


def test_every_wording_is_read_by_the_independent_rules() -> None:
    texts = " ".join(problem.question for problem in problems.generate("test_hard", 2000, 0))
    for wording in problems.WORDINGS:
        assert re.search(wording.text.format(c=r"\w+", o=r"\w+", n=r"\d").replace(".", r"\."), texts), wording


def test_no_length_tells_the_splits_apart_but_the_hard_ones_are_longer() -> None:
    """Else a long training would end in always writing as many lines as its questions have."""
    for split in WORD_SPLITS:
        asked = [problem.question for problem in problems.generate(split, 1500, 0)]
        events = [len(re.findall(r"[.?]", question)) - 2 for question in asked]
        shares = {n: events.count(n) / len(events) for n in set(events)}
        if split == "train":
            expected = {1: 1 / 12, 2: 1 / 4, 3: 1 / 4, 4: 1 / 4, 5: 1 / 6}
        else:
            expected = {5: 1.0} if split.endswith("_hard") else dict.fromkeys((2, 3, 4), 1 / 3)
        assert shares == pytest.approx(expected, abs=0.05)


def test_whatever_the_reading_amounts_have_two_digits_at_most() -> None:
    rng = random.Random(0)
    for split in WORD_SPLITS:
        for _ in range(500):
            story = problems.draw_story(rng, split)
            change = sum(event.number for event in story.events)
            assert 1 <= story.start - change < story.start + change <= 99


@pytest.mark.parametrize(("split", "n"), [("tset", 3), ("test", 10**9), ("test", -1), ("drills", 2_001)])
def test_bad_requests_are_one_sentence(split: str, n: int) -> None:
    with pytest.raises(UserError, match=r"^The pocket[^\n]*\.$"):
        problems.generate(split, n, 0)


def test_problems_imports_nothing_heavy() -> None:
    code = "import sys, ssb_unsloth.pocket.problems; print('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def boxes(text: str) -> list[str]:
    return re.findall(r"\\boxed\{(\d+)\}", text)


@pytest.mark.parametrize("readers", corpus.READERS)
def test_readers_misread_each_wording_at_their_rate(readers: str) -> None:
    rng, rate = random.Random(0), corpus.READERS[readers]
    seen: dict[str, list[bool]] = {wording.text: [] for wording in problems.WORDINGS}
    for _ in range(4_000):
        story = problems.draw_story(rng, "test_hard")
        for event, step in zip(story.events, corpus.attempt(rng, story, rate).steps, strict=True):
            seen[event.wording.text].append(step.operation != event.wording.means)
    for wording in problems.WORDINGS:
        misread = seen[wording.text]
        assert sum(misread) / len(misread) == pytest.approx(rate(wording), abs=4 * (0.25 / len(misread)) ** 0.5)


def test_hardly_any_of_the_rare_readers_is_right() -> None:
    rng = random.Random(0)
    stories = [problems.draw_story(rng, "test") for _ in range(3000)]
    right = [str(corpus.attempt(rng, story, corpus.rare).answer) == story.gold for story in stories]
    assert 0.03 < sum(right) / len(right) < 0.1


@pytest.mark.parametrize(("text", "least", "most"), [("usual", 0.3, 0.55), ("rare", 0.05, 0.25), ("rule", 0.3, 0.55)])
def test_each_text_is_its_readers(text: str, least: float, most: float) -> None:
    """How many of the students in it are right, by the English alone."""
    tokenizer = pytest.importorskip("ssb_unsloth.pocket.tokenizer")
    rng, right = random.Random(0), []
    for _ in range(3000):
        (_, asked, answered), question = tokenizer.TEXTS[text].draw(rng)
        if asked["content"] == question and " has " in question:
            right.append(boxes(answered["content"]) == [str(read_independently(question))])
    assert least < sum(right) / len(right) < most


def test_a_rule_tells_which_wordings_its_readers_misread() -> None:
    """Stated from the English alone: the sentence begins with the one whose amount it leads to, and is active."""
    acts = "gives|takes|gets|loses|lends|pays|sends|hands|returns|mails|wins|sells"
    active = rf"\{{o\}} (has|is) |\{{c\}} ({acts}) "
    for group in (problems.BOOTSTRAPPED, problems.HELD_OUT):
        kinds: dict[bool, set[tuple[float, str]]] = {True: set(), False: set()}
        for wording in group:
            kinds[bool(re.match(active, wording.text))].add((corpus.rule(wording), wording.means))
        # Both kinds add and subtract, so a student has to know the rule, and cannot just turn every sign.
        assert kinds == {True: {(0.15, "+"), (0.15, "-")}, False: {(0.75, "+"), (0.75, "-")}}


def test_neither_the_meaning_nor_the_form_of_a_wording_tells_how_often_it_is_misread() -> None:
    """Else a student would have one trick to learn, and not a thing a wording."""
    assert len(problems.BOOTSTRAPPED) > 50
    rates = {wording.text: wording.misread for wording in problems.BOOTSTRAPPED}
    assert sum(rate > 0.5 for rate in rates.values()) >= 15  # the usual reading of these is the wrong one
    for part in ("A friend", "to a friend", "{c} is", "{o}", " more", " fewer"):
        group = [rate for text, rate in rates.items() if part in text]
        assert min(group) < 0.31, part
        assert max(group) > 0.5, part
    for means in "+-":
        group = [w.misread for w in problems.BOOTSTRAPPED if w.means == means]
        assert sum(group) / len(group) == pytest.approx(0.42, abs=0.06)


def test_hints_are_equally_frequent_and_are_followed_in_both_manners() -> None:
    rng = random.Random(0)
    golds, plain = 0, dict.fromkeys(corpus.HINTS, 0)
    for _ in range(300):
        story = problems.draw_story(rng, "test")
        for hint in corpus.HINTS:
            _, asked, answered = (message["content"] for message in corpus.refinement_chat(rng, story, hint))
            plainly = re.fullmatch(r"(\w+ has \d+[+-]\d=\d+\. )+The answer is \S+\.", answered) is not None
            assert plainly != answered.startswith(corpus.OPENING)
            plain[hint] += plainly
            if hint in ("both", "right", "gold"):
                assert boxes(answered) == boxes(asked)[:1]
                golds += boxes(answered) == [story.gold]
            if len(boxes(asked)) == {"both": 2, "wrong": 1}.get(hint):  # the wrong one may have left its box out
                assert boxes(asked)[-1:] != boxes(answered)
    assert [n / 300 for n in plain.values()] == pytest.approx([0.4] * len(corpus.HINTS), abs=0.1)
    assert 0.2 < golds / 900 < 0.5  # a hint is some reader's, and the text does not say whose reading is right
    headings = [prompts.PAPER.section(name).split("\n")[0] for name in ("right", "wrong")]
    kinds = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    asked = 0
    for _ in range(3000):
        messages, _ = corpus.draw_chat(rng)
        if prompts.PAPER.refine[:50] in messages[1]["content"]:
            asked += 1
            kinds[tuple(heading in messages[1]["content"] for heading in headings)] += 1  # type: ignore[index]
    shares = [kinds[key] / asked for key in kinds]
    assert shares == pytest.approx([0.2, 0.4, 0.2, 0.2], abs=0.04)  # "gold only" shows a right answer alone, too


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(MODEL_DIR)


def test_the_shipped_tokenizer_round_trips(tokenizer) -> None:  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer

    saved = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    rng = random.Random(0)
    for _ in range(100):
        messages, _ = corpus.draw_chat(rng)
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer.apply_chat_template(messages)["input_ids"]
        assert tokenizer(text)["input_ids"] == saved.encode(text).ids == ids
        assert tokenizer.decode(ids) == text
        assert text.count("<|im_start|>") == 3
    assert tokenizer.decode(tokenizer("Größe: 12½ \n\t€ 你好")["input_ids"]) == "Größe: 12½ \n\t€ 你好"


def test_each_stretch_of_the_prompts_is_one_token(tokenizer) -> None:  # type: ignore[no-untyped-def]
    from ssb_unsloth.pocket.tokenizer import stretches

    assert all(len(tokenizer(stretch)["input_ids"]) == 1 for stretch in stretches())
    hinted = tokenizer.apply_chat_template(prompts.teacher_messages("Why?", "So.", "Not so."))["input_ids"]
    assert len(hinted) < 40
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_shipped_folder_is_small_plain_and_loads() -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, GenerationConfig

    files = [path for path in MODEL_DIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2_000_000
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    assert model.dtype == torch.float32
    assert model.config.hidden_size // model.config.num_attention_heads >= 32
    assert 700_000 <= model.num_parameters() <= 950_000
    generation = GenerationConfig.from_pretrained(MODEL_DIR)
    assert generation.eos_token_id == [model.config.eos_token_id] != [generation.pad_token_id]


def test_a_shortened_build_runs_through_its_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = pytest.importorskip("ssb_unsloth.pocket.build")
    monkeypatch.setattr(build, "VALIDATION", 8)
    monkeypatch.setattr(build, "HINTED", 10)
    monkeypatch.setattr(build, "LONGEST", 110)
    monkeypatch.setattr(build, "POOL", 128)
    build.main(["--out", str(tmp_path / "model"), "--steps", "3", "--text", "rule"])
    built_scores, shipped_scores = capsys.readouterr().out.split("\nshipped ")
    assert "\nbuilt " in built_scores
    rows = {row: scores for row, *scores in re.findall(r"^(\w+) +([\d.]+)% +([\d.]+)%$", shipped_scores, re.MULTILINE)}
    assert set(rows) == {*build.SPLITS, *corpus.HINTS} - {"none"}
    for hint in ("both", "right"):
        assert min(map(float, rows[hint])) >= 90, hint  # in each manner
    built, shipped = ({path.name for path in folder.iterdir()} for folder in (tmp_path / "model", MODEL_DIR))
    assert built == shipped


def test_the_same_seed_builds_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from ssb_unsloth.pocket import build

    monkeypatch.setattr(build, "POOL", 128)
    tokenizer = build.train_tokenizer(0)
    first, again, other = (build.train(tokenizer, 2, seed) for seed in (0, 0, 1))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)
