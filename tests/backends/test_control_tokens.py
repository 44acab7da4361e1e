"""Text from data is data: what spells a control token is tokenized as the text that it is, in every view."""

import json
from pathlib import Path

import pytest
from families import FAMILIES, TEMPLATES
from hypothesis import given, settings
from hypothesis import strategies as st

from ssb_unsloth.backends.chat_template import end_of_turn, render, spells_control_tokens
from ssb_unsloth.backends.control_tokens import ControlText, encode, markers, special_tokens
from ssb_unsloth.backends.sampler import Completion
from ssb_unsloth.data.pairs import load_pairs
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.curate import Curator
from ssb_unsloth.method.examples import render_examples, student_prompt_ids
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.prompts import student_messages, teacher_messages, texts
from ssb_unsloth.recipe.schema import CurateConfig, PromptsConfig, Recipe
from ssb_unsloth.records import Problem

KNOWN = ["<|im_end|>", "<|im_start|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "</s>"]
KNOWN += [
    "<|endoftext|>",
    "<|start_header_id|>",
    "<bos>",
    "<eos>",
    "<pad>",
    "<<SYS>>",
    "<|end|>",
    "<|im_<|im_end|>end|>",
]
LLAMA_2 = (
    "{{ bos_token }}[INST] {% if messages[0].role == 'system' %}<<SYS>>\n{{ messages[0].content }}\n<</SYS>>\n\n"
    "{% endif %}{{ messages[-1].content }} [/INST]"
)


def tokenizer_of(name: str):
    """A shipped family's template and control tokens on the pocket's words."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if name == "pocket":
        return AutoTokenizer.from_pretrained(MODEL_DIR)
    family = FAMILIES[name]
    named = {"eos_token": family.eos, "bos_token": family.bos, "pad_token": family.pad}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json")),
        **{key: token for key, token in named.items() if token},
    )
    made.add_special_tokens({"additional_special_tokens": [*family.special, family.end]})
    made.add_tokens(list(family.plain))
    made.chat_template = (TEMPLATES / f"{family.template}.jinja").read_text(encoding="utf-8")
    return made


SHIPPED = ("pocket", *FAMILIES)
TOKENIZERS = {name: tokenizer_of(name) for name in SHIPPED}


@pytest.fixture
def llama_2():
    """A tokenizer to which [INST] is ordinary text, with which its template marks turns all the same."""
    made = tokenizer_of("llama-3.2")
    made.chat_template = LLAMA_2
    return made


def control_ids(tokenizer, ids):
    special = set(special_tokens(tokenizer).values())
    return [number for number in ids if number in special]


def views(text):
    """What student and teacher are shown, with the text in each place that data can reach."""
    yield student_messages(text)
    for wording in ("paper", "released"):
        yield teacher_messages(text, "right", "wrong", texts(wording))
        yield teacher_messages("question", text, f"{text} again", texts(wording))


@pytest.mark.parametrize("name", SHIPPED)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_in_every_view_a_control_token_in_a_text_is_text(name, data):
    tokenizer = TOKENIZERS[name]
    spelt = st.sampled_from([*KNOWN, *special_tokens(tokenizer)])
    pieces = data.draw(st.lists(spelt | st.text(max_size=8), min_size=1, max_size=6))
    text = "a " + "".join(pieces) + " b"
    for hostile, harmless in zip(views(text), views("a harmless text"), strict=True):
        ids, usual = render(tokenizer, hostile), render(tokenizer, harmless)
        assert control_ids(tokenizer, ids) == control_ids(tokenizer, usual)
        assert text in tokenizer.decode(ids)
        joined = student_prompt_ids(PromptsConfig(student="joined"), hostile, tokenizer)
        usual = student_prompt_ids(PromptsConfig(student="joined"), harmless, tokenizer)
        assert control_ids(tokenizer, joined) == control_ids(tokenizer, usual)
    assert control_ids(tokenizer, encode(tokenizer, text)) == []
    assert tokenizer.decode(encode(tokenizer, text)) == text


@pytest.mark.parametrize("name", SHIPPED)
def test_what_stands_around_it_keeps_its_tokens(name):
    """With a control token the prompt differs from the one without it in its place alone."""
    tokenizer = TOKENIZERS[name]
    token = next(iter(special_tokens(tokenizer)))
    before, after = "What is 3 + 4 ", " when Tom has 12 apples?"
    plain = render(tokenizer, student_messages(f"{before}|||{after}"))
    hostile = render(tokenizer, student_messages(f"{before}{token}{after}"))
    as_usual = tokenizer.apply_chat_template(
        student_messages(f"{before}|||{after}"), add_generation_prompt=True, return_dict=False
    )
    assert plain == as_usual
    same = next(n for n, (a, b) in enumerate(zip(plain, hostile, strict=False)) if a != b)
    last = next(n for n, (a, b) in enumerate(zip(plain[::-1], hostile[::-1], strict=False)) if a != b)
    assert tokenizer.decode(hostile[same : len(hostile) - last]).strip() in (token, token[:-1], token[1:], token[1:-1])


@pytest.mark.parametrize("text", ["do [INST] this", "[/INST] 4 [INST]", "<<SYS>>", "a <</SYS>> b"])
def test_what_a_template_writes_as_plain_text_cannot_be_told_from_it(llama_2, text):
    with pytest.raises(ControlText, match="marks its turns"):
        render(llama_2, student_messages(text))
    assert spells_control_tokens(llama_2, text) or "SYS" in text
    assert render(llama_2, student_messages("the triangle [ABC], a [list] and <b>"))


def test_a_tokenizer_that_adds_a_blank_to_each_piece_is_not_trusted(llama_2):
    """SentencePiece's first blank belongs to a prompt's begin, and a piece's is not one."""
    from tokenizers import pre_tokenizers

    made = tokenizer_of("qwen2.5")
    assert render(made, student_messages("a <|im_end|> b"))
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first", split=False), made.backend_tokenizer.pre_tokenizer]
    )
    with pytest.raises(ControlText, match="cannot tell from its own"):
        render(made, student_messages("a <|im_end|> b"))


class Sampler:
    """Answers 1 and 2 by turns; renders as the given tokenizer."""

    def __init__(self, tokenizer):
        self.tokenizer, self.prompts = tokenizer, []

    def render(self, messages):
        return render(self.tokenizer, messages)

    def sample(self, requests, decoding, adapter=None, title="", keep=None):
        self.prompts += [request.prompt_ids for request in requests]
        replies = [Completion([5, n % 2], rf"\boxed{{{1 - n % 2}}}", "stop") for n in range(len(requests))]
        for n, reply in enumerate(replies):
            if keep is not None:
                keep(n, reply)
        return replies


@pytest.mark.parametrize("how", ["skip", "refuse"])
def test_curation_leaves_out_and_counts_or_refuses_what_cannot_be_told(llama_2, tmp_path, how):
    problems = [Problem("a", "What is 1?", "1"), Problem("b", "What is [INST]?", "1")]
    curator = Curator(CurateConfig(pairs=2), lambda: Sampler(llama_2), 4096, 0, tmp_path, control_text=how)
    if how == "refuse":
        with pytest.raises(UserError, match=r"Question b: .*\[INST\].*prompts\.control_text=skip"):
            curator.run(problems)
        return
    statistics = curator.run(problems)
    assert (statistics.questions, statistics.skipped, statistics.pairs) == (1, 1, 1)


def brought(folder: Path, **fields: object) -> str:
    """A file of two pairs, the second with these fields."""
    row = {"question": "What is 1?", "right": r"\boxed{1}", "wrong": r"\boxed{2}", "reply": r"\boxed{1}"}
    path = folder / "pairs.jsonl"
    path.write_text(f"{json.dumps({**row, 'question': 'Other?'})}\n{json.dumps({**row, **fields})}\n")
    return str(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_brought_reply_that_spells_control_tokens_is_text(name, tmp_path):
    tokenizer = TOKENIZERS[name]
    tokens = list(special_tokens(tokenizer))
    reply = f"so {' and '.join(tokens)} it is"
    _, pair = load_pairs(brought(tmp_path, reply=reply, question=reply, right=reply, wrong=reply), tokenizer)
    for how in ("sampled", "retokenized"):
        (example,) = render_examples(Recipe(prompts=PromptsConfig(reply=how)), [pair], tokenizer)
        ends = [end_of_turn(tokenizer)] if how == "sampled" else []
        assert control_ids(tokenizer, example.reply_ids) == ends
        assert reply in tokenizer.decode(example.reply_ids)
        assert reply in tokenizer.decode(example.student_ids)
        assert tokenizer.decode(example.teacher_ids).count(reply) == 3


@pytest.mark.parametrize("name", SHIPPED)
def test_a_brought_reply_that_closes_its_turn_itself_ends_once(name, tmp_path):
    tokenizer = TOKENIZERS[name]
    end = end_of_turn(tokenizer)
    for behind in ("", "\n", str(tokenizer.eos_token)):
        reply = f"so it is{tokenizer.convert_ids_to_tokens(end)}{behind}"
        _, pair = load_pairs(brought(tmp_path, reply=reply), tokenizer)
        assert pair.reply == "so it is"
        assert pair.reply_ids == [*tokenizer.encode("so it is", add_special_tokens=False), end]


@pytest.mark.parametrize("name", SHIPPED)
def test_brought_ids_with_a_control_token_within_are_left_out_or_refused(name, tmp_path):
    tokenizer = TOKENIZERS[name]
    end = end_of_turn(tokenizer)
    ids = [*tokenizer.encode("so", add_special_tokens=False), end, *tokenizer.encode("it"), end]
    source = brought(tmp_path, reply=None, reply_ids=ids)
    (pair,) = load_pairs(source, tokenizer)
    assert pair.question == "Other?"
    with pytest.raises(UserError, match=r"line 2: reply_ids holds the control token .* before its end"):
        load_pairs(source, tokenizer, "refuse")


@pytest.mark.parametrize("field", ["question", "right", "wrong"])
def test_a_brought_pair_that_cannot_be_told_from_its_template_is_left_out_or_refused(llama_2, tmp_path, field):
    llama_2.chat_template += (
        "{% if messages[-1].role == 'assistant' %}{{ messages[-1].content + eos_token }}{% endif %}"
    )
    source = brought(tmp_path, **{field: "a [INST] b"})
    assert [pair.question for pair in load_pairs(source, llama_2)] == ["Other?"]
    with pytest.raises(UserError, match=r"line 2: .*\[INST\]"):
        load_pairs(source, llama_2, "refuse")


def test_markers_are_what_templates_use():
    assert markers(" ".join(KNOWN[:-1])) == KNOWN[:-1]
    assert markers("a < b > c, [1, 2], \\[x\\], <b>bold</b>, |x|, <think>, array[i][j], {a}") == []
