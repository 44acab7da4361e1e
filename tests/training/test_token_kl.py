"""KL token by token: measured against a loop over plain logits, and its page opened in a real browser."""

import json
import math
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch

from ssb_unsloth.method.collator import Example
from ssb_unsloth.report.token_page import by_kind, page
from ssb_unsloth.training.token_kl import ALTERNATIVES, KINDS, kinds, measure, piece

NASTY = [  # what a model may write, and a careless page would run
    "</script><script>window.harmed = 1</script>",
    "<img src=x onerror='window.harmed = 1'>",
    "<!--<script>",
    "&lt;b&gt;bold&amp;",
    "\"'`${window.harmed = 1}\\",
    "\u2028\u2029\x00\x0b",
    "<svg/onload=window.harmed=1>",
    "javascript:window.harmed=1",
]


# -- What is measured -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapted(make_model):
    def make(family):
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
        model = peft.get_peft_model(make_model(family), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
        return model

    return make


def examples(tokenizer):
    texts = [("What is 3+4?", "Hint: it is 7. What is 3+4?", "3+4=7. The answer is \\boxed{7}."), ("A", "B A", "x")]
    return [
        Example(str(n), *(tokenizer.encode(t) for t in (bare, hinted)), [*tokenizer.encode(reply), 2])
        for n, (bare, hinted, reply) in enumerate(texts)
    ]


@torch.no_grad()
def probabilities(model, prompt, reply):
    """For each reply token the distribution that predicts it, as lists in float64: no code of the package."""
    logits = model(input_ids=torch.tensor([prompt + reply])).logits[0].double()
    return [logits[len(prompt) - 1 + r].softmax(-1).tolist() for r in range(len(reply))]


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "granite"])
def test_kl_and_alternatives_are_those_of_a_plain_forward_pass(adapted, tokenizer, family):
    model, given = adapted(family).train(), examples(tokenizer)
    rows = list(measure(model, tokenizer, given))
    assert model.training
    assert [row["pair"] for row in rows] == ["0", "1"]
    model.eval()
    for row, example in zip(rows, given, strict=True):
        with model.disable_adapter():
            teacher = probabilities(model, example.teacher_ids, example.reply_ids)
            base = probabilities(model, example.student_ids, example.reply_ids)
        student = probabilities(model, example.student_ids, example.reply_ids)
        for r, token in enumerate(example.reply_ids):
            for key, q in (("before", base[r]), ("after", student[r])):
                kl = sum(p * math.log(p / x) for p, x in zip(teacher[r], q, strict=True))
                assert row[key][r] == pytest.approx(kl, rel=1e-3, abs=2e-6)
            for name, p in (("teacher", teacher[r]), ("base", base[r]), ("student", student[r])):
                assert row["p"][name][r] == pytest.approx(p[token], rel=1e-3)
                best = sorted(range(len(p)), key=lambda v: -p[v])[:ALTERNATIVES]
                assert [v for v, _ in row["top"][name][r]] == best
                assert [x for _, x in row["top"][name][r]] == pytest.approx([p[v] for v in best], rel=1e-3)
    assert max(map(max, (row["before"] for row in rows))) > 0.01
    assert any(abs(b - a) > 0.01 for row in rows for b, a in zip(row["before"], row["after"], strict=True))


def test_without_a_hint_and_without_training_nothing_differs(make_model, tokenizer):
    model = peft.get_peft_model(make_model("qwen2"), peft.LoraConfig(r=4, target_modules=["q_proj"]))
    (given, *_) = examples(tokenizer)
    unhinted = Example("0", given.student_ids, given.student_ids, given.reply_ids)
    (row,) = measure(model, tokenizer, [unhinted])
    assert row["before"] == row["after"] == [0.0] * len(given.reply_ids)


def test_many_rows_are_taken_in_chunks_with_the_same_result(adapted, tokenizer, monkeypatch):
    model, given = adapted("qwen2"), examples(tokenizer)[:1]
    (whole,) = measure(model, tokenizer, given)
    monkeypatch.setattr("ssb_unsloth.training.token_kl.CHUNK_ROWS", 3)
    (cut,) = measure(model, tokenizer, given)
    assert cut["before"] == pytest.approx(whole["before"], rel=1e-3, abs=1e-6)
    assert cut["top"]["student"][-1][0][0] == whole["top"]["student"][-1][0][0]


def test_a_training_that_failed_leaves_gaps_and_no_broken_file(adapted, tokenizer):
    model = adapted("qwen2")
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_B" in n).fill_(float("nan"))
    rows = list(measure(model, tokenizer, examples(tokenizer)[:1]))
    assert rows[0]["after"] == [None] * len(rows[0]["ids"])
    assert None not in rows[0]["before"]
    json.loads(json.dumps(rows, allow_nan=False))
    assert by_kind(rows) == []


def test_pieces_put_together_are_the_reply(tokenizer):
    text = "Ben has 46 keys.\n 4+4=8, so \\boxed{8}"
    ids = tokenizer.encode(text)
    assert "".join(piece(tokenizer, token) for token in ids) == text
    assert piece(tokenizer, tokenizer.eos_token_id) == tokenizer.eos_token


# -- Kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["So", " ", "3", "+", "4", "=", "7", "."], "word format digit operator digit operator digit format"),
        (["\\", "boxed", "{", "12", "}", ".", ""], "format format format digit format format format"),
        (["1", ",", "234", ".", "5", ",", " and"], "digit digit digit digit digit format word"),
        (["\\", "frac", "{", "1", "}"], "operator operator format digit format"),
        (["\\", "times", "\\", "left", "("], "operator operator format format format"),
        (["\\fraction", "\\boxed{x}"], "format word"),
        (["**", "Step", "**", "\n", "- ", "one", "-", "digit"], "format word format format format word format word"),
        (["x", " =", " -", "5", "%"], "word operator operator digit operator"),
        (["Tom", "'s", " Äpfel", " 中", "…", "×"], "word word word word format operator"),
    ],
)
def test_each_piece_has_the_kind_of_what_it_says_there(pieces, expected):
    assert kinds(pieces) == expected.split()


def test_the_table_has_means_and_shares():
    row = {"kinds": ["digit", "word", "word"], "before": [1.0, 2.0, 5.0], "after": [0.5, 0.0, 1.0]}
    assert by_kind([row]) == [
        {"kind": "digit", "tokens": 1, "before": 1.0, "after": 0.5, "share": 0.125},
        {"kind": "word", "tokens": 2, "before": 3.5, "after": 0.5, "share": 0.875},
        {"kind": "all", "tokens": 3, "before": 8 / 3, "after": 0.5, "share": 1.0},
    ]


def test_the_report_needs_no_torch_for_the_page():
    code = "import sys, ssb_unsloth.report.token_page as t; t.page('a', [], {}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- The page, in a browser -------------------------------------------------------------------------------------------


def made_row(pair, pieces, before, after):
    """A row as `measure` gives them; at every token the teacher expects piece 0, base and student the next two."""
    count = len(before)
    ids = [n % len(pieces) for n in range(count)]
    top = {"teacher": [[0, 0.9], [1, 0.04]], "base": [[1, 0.6], [0, 0.3]], "student": [[2, 0.7], [0, 0.2]]}
    return {
        "pair": pair,
        "teacher_prompt": f"Shown to the teacher {NASTY[0]}",
        "ids": ids,
        "kinds": [KINDS[n % 4] for n in range(count)],
        "before": before,
        "after": after,
        "p": {name: [0.125] * count for name in top},
        "top": {name: [expected] * count for name, expected in top.items()},
        "pieces": {str(n): text for n, text in enumerate(pieces)},
    }


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of two small pairs, the second of them nasty; and one of a reply of 6,000 tokens."""
    folder = tmp_path_factory.mktemp("pages")
    plain = made_row("a", ["Nine", " and", " 4", "\n", "."], [0.0, 0.05, 12.0, None, 2.0], [0.0, 0.2, 0.002, 0.1, 2.0])
    nasty = made_row("b", NASTY, [0.5] * len(NASTY), [0.1] * len(NASTY))
    nasty["pieces"] = {str(n + 100): text for n, text in enumerate(NASTY)}
    nasty["ids"] = [token + 100 for token in nasty["ids"]]
    nasty["top"] = {name: [[[100, 0.9], [101, 0.1]]] * len(NASTY) for name in nasty["top"]}
    questions = {"a": "What is 9 and 4?", "b": f"{NASTY[1]} {NASTY[0]}"}
    (folder / "small.html").write_text(page(f"Run {NASTY[1]}", [plain, nasty], questions), encoding="utf-8")
    count = 6000
    long = made_row(
        "c",
        [" word", " 12", "+", "."],
        [10 ** (n % 9 / 2 - 3) for n in range(count)],
        [n % 7 / 70 for n in range(count)],
    )
    (folder / "long.html").write_text(page("Long", [plain | {"pair": "d"}, long], {}), encoding="utf-8")
    return folder


@pytest.fixture
def small(browser, pages):
    browser.open(pages / "small.html")
    yield browser
    assert browser.console == []
    assert [url for url in browser.requests if not url.endswith("small.html")] == []


def background(number):
    return f"getComputedStyle(spans[{number}]).backgroundColor"


def show(browser, mode):
    browser.click(f"document.querySelector('[value={mode}]').parentElement")
    browser.until(f"document.querySelector('#reply').className == '{mode}'")


def test_the_page_shows_the_reply_and_its_numbers(small):
    assert small.js("$('reply').textContent") == "Nine and 4↵\n."
    assert small.js("$('question').textContent") == "What is 9 and 4?"
    assert small.js("$('pair').options.length") == 2
    assert small.js("[...document.querySelectorAll('#kinds tbody tr')].map(r => r.cells[0].textContent).join()") == (
        "digit,operator,word,format,all"
    )
    assert (
        small.js("$('kinds').tBodies[0].rows[3].cells[1].textContent") == "2"
    )  # of format: the newline has no KL before
    assert "Token 3 of 5" in small.js("$('card').textContent")  # opens where the hint says most


def test_colours_are_of_the_mode_and_on_a_logarithmic_scale(small):
    none = small.js(background(0))
    before = [small.js(background(n)) for n in range(5)]
    assert before[0] == before[3] == none == "rgba(0, 0, 0, 0)"  # KL 0, and no KL at all
    assert len(set(before)) == 4
    show(small, "after")
    after = [small.js(background(n)) for n in range(5)]
    assert after[2] != before[2]
    assert after[4] == before[4]  # the same KL has the same colour in both
    show(small, "difference")
    assert small.js("spans.map(s => s.classList.contains('less'))") == [False, False, True, False, False]
    assert small.js(background(2)) not in (before[2], after[2], none)
    assert small.js(background(4)) == none
    assert "after minus before" in small.js("$('legend').textContent")


def test_pointing_at_a_token_shows_what_each_model_expected(small):
    small.point_at("spans[1]")
    small.until("$('card').textContent.startsWith('Token 2 of 5: ␣and')")
    rows = (
        "[...$('card').querySelectorAll('ol')].map(l => [...l.children].map(r => r.textContent).join('; ')).join(' | ')"
    )
    assert small.js(rows) == "Nine90.0 %; ␣and4.0 % | ␣and60.0 %; Nine30.0 % | ␣470.0 %; Nine20.0 %; ␣and12.5 %"
    assert "0.050 nats" in small.js("$('card').textContent")


def test_the_keyboard_is_enough(small):
    small.js("$('reply').focus()")
    small.press("home")
    small.until("here == 0")
    small.press("right")
    small.press("right")
    small.until("$('status').textContent.startsWith('Token 3, ␣4, word: before 12.0')")
    small.press("left")
    small.until("here == 1")
    small.press("end")
    small.press("right")
    small.until("here == 4")
    small.js("document.querySelector('[value=before]').focus()")
    small.press("right")
    small.until("$('reply').className == 'after'")


def test_nothing_that_a_model_wrote_becomes_markup(small):
    small.click("$('next')")
    small.until("pair.pair == 'b'")
    shown = small.js("$('reply').textContent")
    assert shown == "".join(NASTY)
    assert small.js("$('question').textContent") == f"{NASTY[1]} {NASTY[0]}"
    assert small.js("$('teacher_prompt').textContent").endswith(NASTY[0])
    assert small.js("$('title').textContent").endswith(NASTY[1])
    for n in range(len(NASTY)):
        small.js(f"showToken({n}, true)")
    assert small.js("document.querySelectorAll('img, svg, iframe, object, #reply b').length") == 0
    assert small.js("document.scripts.length") == 2
    assert small.js("window.harmed") is None


def test_a_narrow_window_needs_no_scrolling_sideways(small):
    small.resize(400, 800)
    small.until("innerWidth <= 400")
    assert small.js("document.documentElement.scrollWidth <= innerWidth")
    small.resize(1200, 900)
    small.until("innerWidth > 1000")


def test_on_a_phone_the_card_and_the_reply_are_seen_and_neither_covers_the_other(browser, pages):
    browser.resize(390, 844)
    browser.open(pages / "long.html")
    browser.until("innerWidth <= 400")
    browser.js("showPair(1); showToken(5000, true); spans[5000].scrollIntoView({ block: 'center' })")
    browser.js("document.querySelector('#reply').scrollIntoView({ block: 'start' })")
    browser.until("Math.abs(document.querySelector('#reply').getBoundingClientRect().top) < 5")
    boxes = "for (const name of ['#reply', '#card']) found.push(document.querySelector(name).getBoundingClientRect());"
    top = browser.js(f"(() => {{ const found = []; {boxes} return found.map((box) => [box.top, box.bottom]); }})()")
    reply, card = top
    assert reply[1] <= card[0]
    assert card[1] <= 844
    token = browser.js("spans[5000].getBoundingClientRect().top")
    assert reply[0] <= token <= reply[1]
    browser.resize(1200, 900)
    browser.until("innerWidth > 1000")


def dark(browser, on):
    """Put the page's dark colours on or off: the condition of its one rule for dark systems is made always true."""
    condition = "all" if on else "(prefers-color-scheme: dark)"
    rule = "[...document.styleSheets[0].cssRules].find(rule => rule.media && rule.cssText.includes('--paper'))"
    assert browser.js(f"{rule}.media.mediaText") in ("(prefers-color-scheme: dark)", "all")
    browser.js(f"{rule}.media.mediaText = '{condition}'")


def luminance(colour):
    parts = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in (c / 255 for c in colour[:3])]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


PIXEL = """(colour) => {
  const pen = document.createElement('canvas').getContext('2d');
  for (const layer of [getComputedStyle($('reply')).backgroundColor, colour]) {
    pen.fillStyle = layer;
    pen.fillRect(0, 0, 1, 1);
  }
  return [...pen.getImageData(0, 0, 1, 1).data];
}"""
# Linear RGB as it looks without one kind of cone: Machado, Oliveira and Fernandes 2009, severity 1.
SEEN_BY = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def oklab(colour, eye):
    """OKLab (Ottosson 2020) of an sRGB pixel as that eye sees it; a step of 0.02 can just be seen."""
    rgb = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in (c / 255 for c in colour[:3])]
    rgb = torch.tensor(SEEN_BY[eye]) @ torch.tensor(rgb)
    lms = torch.tensor([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]) @ rgb.clamp(0, 1)
    return torch.tensor([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]) @ lms ** (
        1 / 3
    )


def test_less_and_more_are_told_apart_by_every_kind_of_colour_vision(small):
    """From a hundredth of a nat on (d3), in light and dark; and what grew is underlined as well."""
    show(small, "difference")
    for is_dark in (False, True):
        dark(small, is_dark)
        for k in range(3, 10):
            pixels = []
            for sign in ("less", "more"):
                small.js(f"spans[0].className = 'd{k} {sign}'")
                pixels.append(small.js(f"({PIXEL})({background(0)})"))
                line = small.js("getComputedStyle(spans[0]).textDecorationLine")
                assert line == ("underline" if sign == "more" else "none")
            for eye in SEEN_BY:
                apart = (oklab(pixels[0], eye) - oklab(pixels[1], eye)).norm().item()
                assert apart > 0.04, (is_dark, k, eye, pixels)


def test_text_can_be_read_on_every_colour(small):
    """Contrast of at least 4.5 (WCAG AA) between each token's text and what is behind it, in light and dark."""
    poor = []
    for is_dark in (False, True):
        dark(small, is_dark)
        for mode in ("before", "difference"):
            show(small, mode)
            for sign in ("less", "more"):
                for k in range(10):
                    small.js(f"spans[0].className = 'b{k} d{k} {sign}'")
                    style = "getComputedStyle(spans[0])"
                    both = small.js(f"[{style}.color, {style}.backgroundColor].map({PIXEL})")
                    low, high = sorted(map(luminance, both))
                    if (high + 0.05) / (low + 0.05) < 4.5:
                        poor.append((is_dark, mode, sign, k, both))
    assert poor == []


def test_six_thousand_tokens_stay_fluid(browser, pages):
    """Milliseconds until the page is laid out again; the limits are several times what one busy CPU core took."""
    browser.open(pages / "long.html")
    took = browser.js("""(() => {
      const time = (act) => {
        const start = performance.now();
        act();
        document.body.getBoundingClientRect();  // lays the page out
        return performance.now() - start;
      };
      return [time(() => showPair(1)), time(() => showMode("difference")), time(() => showToken(3000)), spans.length];
    })()""")
    print("6,000 tokens: shown, recoloured, one pointed at, in ms:", [round(ms) for ms in took[:3]])
    assert took[3] == 6000
    assert took[0] < 3000
    assert took[1] < 1000
    assert took[2] < 300
    browser.js("drawStrip()")
    drawn = "(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x))($('strip'))"
    assert browser.js(drawn)
    assert browser.console == []


def test_a_page_without_pairs_and_one_with_gaps_open_too(browser, tmp_path):
    row = made_row("a", ["x", "y"], [None, None], [None, None])
    for name, rows in (("gaps", [row]), ("empty", [])):
        path = tmp_path / f"{name}.html"
        path.write_text(page(name, rows, {}), encoding="utf-8")
        browser.open(path)
        assert browser.console == []
    assert Path(path).stat().st_size < 30_000
