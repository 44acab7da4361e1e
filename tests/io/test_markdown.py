"""Names and texts in Markdown: rendered by a real parser they are what they were, and nothing else."""

import random
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from tiny import POCKET_RECIPE

from ssb_unsloth.io.markdown import Markdown, code, escaped, fenced, opening, pipes
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import BenchmarkConfig
from ssb_unsloth.records import Generation, Pair, Problem, Rollout, generations_file, write_jsonl
from ssb_unsloth.report.sections import evaluation_section
from ssb_unsloth.report.worked_examples import worked_examples
from ssb_unsloth.run.rundir import RunDir

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
NASTY = [
    "a|b",
    "*bold* and __bold__ and _it_",
    "[here](http://evil.example) ![x](y)",
    "<script>alert(1)</script> <b>",
    "`code` ``more``",
    "&lt; &#60; &amp",
    "[x]: http://evil.example",
    "[a][b] [^1] [[a](b)](c)",
    "~~gone~~ $x^2$",
    "back\\slash \\| \\",
    "two\nlines\n\n# heading\n- item\n> quote",
    "# heading",
    "- item",
    "+ item",
    "1. one",
    "12) twelve",
    "> quote",
    "===",
    "---",
    "    indented",
    "https://evil.example www.evil.example @somebody",
    "``` fence",
    "|---|",
    "Qwen/Qwen2.5-3B_Instruct: plain, 12.5 to 37.5 %, +3.1, < 0.001",
]


def texts(inline):
    """Its text, and the kinds of its tokens that are none."""
    kinds = {token.type for token in inline.children} - {"text", "text_special"}
    return "".join(token.content for token in inline.children), kinds


def one_line(text):
    return " ".join(text.split())


def random_texts(seed, count):
    chance = random.Random(seed)
    pieces = [*"*_`[]()<>|~$&\\#-+=!:.@ \n1aB", "http://", "</td>", "&gt;", "**", "``", "](", "<!--"]
    return ["x" + "".join(chance.choices(pieces, k=chance.randrange(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("text", NASTY + random_texts(1, 150))
def test_a_text_is_text_in_a_heading_a_line_a_list_and_a_cell(text):
    heading = PARSER.parse(f"### {opening(text)}, gold")
    assert [token.type for token in heading] == ["heading_open", "inline", "heading_close"]
    assert texts(heading[1]) == (f"{one_line(text)}, gold", set())
    line = PARSER.parse(f"{opening(text)}: 1")
    assert [token.type for token in line] == ["paragraph_open", "inline", "paragraph_close"]
    assert texts(line[1]) == (f"{one_line(text)}: 1", set())
    item = PARSER.parse(f"- {opening(text)}: 1")
    assert [token.type for token in item if token.type.endswith("_open")] == [
        "bullet_list_open",
        "list_item_open",
        "paragraph_open",
    ]
    assert texts(next(token for token in item if token.type == "inline")) == (f"{one_line(text)}: 1", set())
    table = PARSER.parse(pipes([["name", "n"], [text, "1"], ["after", Markdown("**no**")]]))
    cells = [token for token in table if token.type == "inline"]
    assert len(cells) == 6
    assert texts(cells[2]) == (one_line(text), set())
    assert "strong_open" in texts(cells[5])[1]


@pytest.mark.parametrize("text", NASTY + random_texts(2, 150))
def test_a_text_is_code_in_a_span_and_in_a_block(text):
    (inline,) = [token for token in PARSER.parse(f"Base: {code(text)}, revision") if token.type == "inline"]
    assert [token.type for token in inline.children] == ["text", "code_inline", "text"]
    assert inline.children[1].content.strip() == one_line(text)
    block, after = PARSER.parse(fenced(text) + "\n\nafter")[:2]
    assert (block.type, block.content, after.type) == ("fence", text + "\n", "paragraph_open")


def test_links_that_make_themselves_are_broken():
    assert escaped("https://a www.b @c") == "https\\://a www\\.b \\@c"


def test_what_needs_no_escape_stays_readable():
    for text in (
        "Qwen/Qwen2.5-3B-Instruct",
        "no_answer",
        "12.5 to 37.5",
        "+3.1 n.s.",
        "< 0.001",
        "T=0.8",
        "pass@1"[:4],
    ):
        assert escaped(text) == text


def test_control_characters_and_marks_of_direction_are_written_out():
    assert "\x1b" not in escaped("\x1b[2J")
    assert "\u202e" not in code("\u202eabc")


def test_ids_from_data_are_text_in_the_worked_examples(tmp_path):
    run, id_ = RunDir(tmp_path), "p|*1* <b>\n# x"
    problem = Problem(id_, "q", "2")
    rollout = Rollout("r*1*", id_, "t", [1], "stop", 1, "wrong", "3")
    for folder in ("curate", "evaluate"):
        run.stage(folder).mkdir()
    write_jsonl(run.stage("curate") / "rollouts.jsonl", [rollout])
    pair = Pair("x", id_, "q", "2", "right", "wrong", "reply", [1], "r*2*", "r*1*", "<i>3")
    write_jsonl(run.stage("curate") / "pairs.jsonl", [pair])
    write_jsonl(run.stage("evaluate") / "problems-test.jsonl", [problem])
    (run.stage("evaluate") / "scores.json").write_text(
        '{"scores": [{"benchmark": "test", "seed": 1, "temperature": 0.0, "model": "base"},'
        ' {"benchmark": "test", "seed": 1, "temperature": 0.0, "model": "ssb"}]}'
    )
    for model, verdict in (("base", "wrong"), ("ssb", "right")):
        row = Generation(
            model, 1, "test", id_, 0, "tutor", 0.0, 1.0, 0, 1.0, 9, 1, "text", 3, "stop", verdict, "2", "2"
        )
        for benchmark in ("test", "pairs.examples"):
            write_jsonl(run.stage("evaluate") / generations_file(model, 1, benchmark, 0.0), [row])
    page = PARSER.parse(worked_examples(run, "ssb", 1))
    headings = [page[n + 1] for n, token in enumerate(page) if token.type == "heading_open" and token.tag == "h3"]
    assert len(headings) == 2
    for heading in headings:
        assert one_line(id_) in texts(heading)[0]
        assert texts(heading)[1] == {"code_inline"}
    inline = [token for token in page if token.type == "inline"]
    assert not any(kind in texts(token)[1] for token in inline for kind in ("em_open", "html_inline", "strong_open"))


def test_a_benchmarks_name_is_text_in_the_report():
    config = load(Path(POCKET_RECIPE)).evaluate.benchmarks["test"]
    row = {"model": "a_*b*", "seed": 1, "benchmark": "x|<b>", "temperature": 0.0, "metric": "pass@1", "value": 0.5}
    row |= {"low": 0.1, "high": 0.9, "interval": "wilson", "n_questions": 4, "no_answer": 0.0, "truncated": 0.0}
    row |= {"tokens_right": 1.0, "tokens_wrong": None, "prompt": "tutor", "sd": None, "n_seeds": 1}
    scores = [{**row, "scoring": scoring} for scoring in ("equivalent", "string", "format_free")]
    page = PARSER.parse(evaluation_section(scores, [], {"x|<b>": vars(BenchmarkConfig(**vars(config)))}, 1))
    cells = [texts(token)[0] for token in page if token.type == "inline"]
    assert "x|<b>" in cells
    assert "a_*b*" in cells
    assert any(cell.startswith("x|<b>: 4 questions") or cell.startswith("x|<b>: ") for cell in cells)
