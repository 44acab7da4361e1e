"""One chat template for every path: without a turn for the system, one of several, a file, thoughts, ends of turn.

The templates are their makers', as TRL carries them, and short ones of the same behaviour.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import trl
from families import DATA, whole_chain, write
from families import Family as Own
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from ssb_unsloth.backends.chat_template import check_prompt, completion, end_of_turn, render, stop_ids
from ssb_unsloth.backends.rendered import as_text
from ssb_unsloth.backends.sampler import Completion
from ssb_unsloth.backends.template_choice import choices
from ssb_unsloth.backends.thinking import ids_of, thinking, without_thoughts
from ssb_unsloth.backends.transformers import load_tokenizer
from ssb_unsloth.data.pairs import load_pairs
from ssb_unsloth.errors import UserError
from ssb_unsloth.evaluation.evaluate import graded
from ssb_unsloth.method.curate import Curator
from ssb_unsloth.method.examples import render_examples
from ssb_unsloth.method.targets import Targets
from ssb_unsloth.pipeline import preflight
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.prompts import PAPER, default_messages, in_question, student_messages, teacher_messages, texts
from ssb_unsloth.recipe.schema import CurateConfig, ModelConfig, PromptsConfig, Recipe
from ssb_unsloth.records import Generation, Pair, Problem, read_jsonl, stable_id
from ssb_unsloth.run import keys
from ssb_unsloth.run.rundir import RunDir
from ssb_unsloth.training.rows import examples_from
from ssb_unsloth.verifier.replies import answer_part

OURS, THEIRS = Path(__file__).parents[1] / "fixtures" / "templates", Path(trl.__file__).parent / "chat_templates"
RECIPES = Path(__file__).parents[2] / "recipes"
QUESTION, ANSWER = "Mia has 9 shells. Tom gives 3 to Mia. How many?", "9+3=12. The answer is \\boxed{12}."
THOUGHTS = "Is it \\boxed{6}? No: 9 and 3."


@dataclass(frozen=True)
class Family:
    path: Path
    end: str
    special: tuple[str, ...] = ()
    plain: tuple[str, ...] = ("<think>", "</think>")
    eos: str = ""
    system: str = "role"
    thoughts: str = ""  # in front of an answer, as the model samples them


CHATML = ("<|im_start|>", "<|im_end|>")
SAYS = f"<think>\n{THOUGHTS}\n</think>\n\n"
FAMILIES = {
    "gemma-2": Family(THEIRS / "gemma.jinja", "<end_of_turn>", ("<start_of_turn>",), (), "<eos>", "question"),
    "mistral-0.2": Family(OURS / "mistral_v0_2.jinja", "</s>", (), (), "", "question"),
    "silent": Family(OURS / "silent.jinja", "</s>", ("<|user|>", "<|assistant|>"), (), "", "question"),
    "parts": Family(OURS / "parts.jinja", "<|im_end|>", CHATML, ()),
    "qwen3": Family(OURS / "qwen3.jinja", "<|im_end|>", CHATML, thoughts=SAYS),
    "smollm3": Family(OURS / "smollm3.jinja", "<|im_end|>", CHATML, thoughts=SAYS),
    "glm-4": Family(OURS / "glm4.jinja", "<|user|>", ("[gMASK]", "<sop>", "<|system|>", "<|assistant|>"), (), "<|e|>"),
    "r1-distill": Family(
        THEIRS / "deepseek_r1_distill.jinja",
        "<｜end▁of▁sentence｜>",
        ("<｜User｜>", "<｜Assistant｜>"),
        thoughts=SAYS.removeprefix("<think>\n"),
    ),
    "gpt-oss": Family(
        THEIRS / "gptoss.jinja",
        "<|return|>",
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>"),
        (),
        thoughts=f"<|channel|>analysis<|message|>{THOUGHTS}<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
}
THINKING = [name for name, family in FAMILIES.items() if family.thoughts]
every_family = pytest.mark.parametrize("name", FAMILIES)
every_thinker = pytest.mark.parametrize("name", THINKING)


def written(folder, template, eos="</s>", special=(), plain=()):
    """A model folder as far as its tokenizer: the pocket's words, and these tokens."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, bos_token="<s>")
    tokenizer.add_special_tokens({"additional_special_tokens": [token for token in special if token]})
    tokenizer.add_tokens(list(plain))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        name: written(
            tmp_path_factory.mktemp(name.replace(".", "-")),
            family.path.read_text(encoding="utf-8"),
            family.eos or family.end,
            (*family.special, family.end if family.eos else ""),
            family.plain,
        )
        for name, family in FAMILIES.items()
    }


@pytest.fixture(scope="module")
def tokenizers(folders):
    return {name: load_tokenizer(ModelConfig(name=folder)) for name, folder in folders.items()}


def views():
    return student_messages(QUESTION), teacher_messages(QUESTION, ANSWER, "\\boxed{6}")


@every_family
def test_every_message_stands_in_the_prompt_once_and_the_same_by_every_path(tokenizers, name, tmp_path):
    tokenizer, family = tokenizers[name], FAMILIES[name]
    assert choices(tokenizer) == ({"model.system": "question"} if family.system == "question" else {})
    tokenizer.save_pretrained(str(tmp_path))  # as an export does
    saved = AutoTokenizer.from_pretrained(str(tmp_path))
    for messages in (*views(), default_messages(QUESTION)):
        check_prompt(as_text(tokenizer, messages, prompt=True), messages, "it")
        ids = render(tokenizer, messages)
        assert ids == render(saved, messages)
        asked = {"add_generation_prompt": True, "return_dict": False}
        assert ids == tokenizer.apply_chat_template(messages, **asked)  # TRL's way
        if family.system == "question":
            assert ids == tokenizer.apply_chat_template(in_question(messages), **asked)


@every_family
def test_a_reply_and_its_end_follow_the_prompt_and_nothing_else_ends_it(tokenizers, name):
    tokenizer, family = tokenizers[name], FAMILIES[name]
    end = end_of_turn(tokenizer)
    assert tokenizer.convert_ids_to_tokens(end) == family.end
    listed = tokenizer.convert_tokens_to_ids(["<|end|>"]) if name == "gpt-oss" else []
    stops = stop_ids(tokenizer, GenerationConfig(eos_token_id=[*listed, end]))
    assert {tokenizer.convert_ids_to_tokens(stop) for stop in stops} == {family.end, family.eos or family.end}
    ids = [*ids_of(tokenizer, family.thoughts + ANSWER), end]
    made = completion(tokenizer, ids, stops)
    assert (made.token_ids, made.finish_reason) == (ids, "stop")
    assert answer_part(made.text) == ANSWER
    assert made.text.endswith(family.thoughts + ANSWER)
    whole = as_text(tokenizer, [*default_messages(QUESTION), {"role": "assistant", "content": ANSWER}], prompt=False)
    assert whole.partition(ANSWER)[2].startswith(family.end) or name == "glm-4"


@pytest.mark.slow
def test_every_template_that_trl_carries_says_all_and_ends_its_replies(tmp_path):
    for path in sorted(THEIRS.glob("*.jinja")):
        template, folder = path.read_text(encoding="utf-8"), tmp_path / path.stem
        folder.mkdir()
        tokens = sorted(set(re.findall(r"<\|[^|>\s]+\|?>|<[a-z]+\|>|<｜[^｜]+｜>|</?[a-z_]+>|<[A-Z_|]+>", template)))
        tokenizer = load_tokenizer(ModelConfig(name=written(folder, template, "<eos!>", tokens)))
        for messages in (*views(), default_messages(QUESTION)):
            check_prompt(as_text(tokenizer, messages, prompt=True), messages, path.stem)
        assert stop_ids(tokenizer)
        how = thinking(tokenizer)
        if how is not None:
            assert how.empty.endswith(how.closes)
            ids = [*tokenizer.encode(f"{how.opens}\nhm\n{how.closes}\n\n{ANSWER}", add_special_tokens=False)]
            assert example(tokenizer, ids).reply_ids == ids[-len(example(tokenizer, ids).reply_ids) :]


@pytest.mark.parametrize("system", ["auto", "role"])
def test_where_the_system_has_a_turn_not_a_byte_is_changed(folders, tokenizers, system):
    template = FAMILIES["qwen3"].path.read_text(encoding="utf-8")
    assert load_tokenizer(ModelConfig(name=folders["qwen3"], system=system)).chat_template == template


def test_nothing_stands_before_a_prompt_but_what_the_template_writes(tokenizers):
    for name, begin in {"mistral-0.2": "<s>[INST] **Role", "parts": "<s><|im_start|>system\n**Role"}.items():
        assert as_text(tokenizers[name], views()[0], prompt=True).startswith(begin)


def test_the_recipe_can_say_where_the_system_prompt_stands(folders):
    system, user = student_messages(QUESTION)
    asked = load_tokenizer(ModelConfig(name=folders["qwen3"], system="question"))
    assert f"user\n{system['content']}\n\n{user['content']}<|im_end|>" in as_text(asked, [system, user], prompt=True)
    refused = load_tokenizer(ModelConfig(name=folders["gemma-2"], system="role"))
    with pytest.raises(UserError, match=r"System role not supported\. Set model\.system=question"):
        render(refused, [system, user])


# -- Which template


NAMED = {"default": OURS / "qwen2_5.jinja", "rag": OURS / "silent.jinja", "tool_use": OURS / "parts.jinja"}


@pytest.fixture
def several(tmp_path):
    def write(*names):
        texts = {name: NAMED[name].read_text(encoding="utf-8") for name in names}
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        return written(folder, texts, "<|im_end|>", ("<|im_start|>", "</s>"))

    return write


def test_one_of_several_is_taken_by_its_name_and_variables_are_set_in_it(several):
    folder = several("default", "rag", "tool_use")
    plain = load_tokenizer(ModelConfig(name=folder, template={"enable_thinking": False}))
    assert isinstance(plain.chat_template, str)
    assert render(plain, views()[0])
    assert as_text(plain, views()[0], prompt=True).startswith("<|im_start|>system\n**Role")
    rag = load_tokenizer(ModelConfig(name=folder, chat_template="rag"))
    assert choices(rag) == {"model.system": "question"}
    with pytest.raises(UserError, match=r"chat_template: rags: no such file.*default, rag, tool_use, chatml, plain"):
        load_tokenizer(ModelConfig(name=folder, chat_template="rags"))


def test_several_without_a_default_are_refused_with_their_names(several):
    with pytest.raises(UserError, match=r"several chat templates .* set model\.chat_template to one of rag, tool_use"):
        load_tokenizer(ModelConfig(name=several("rag", "tool_use")))


def test_a_base_model_takes_a_file_or_a_shipped_template(tmp_path):
    folder = written(tmp_path, None, "</s>", CHATML)
    with pytest.raises(UserError, match=r"has no chat template: set model\.chat_template to a file, or to chatml or"):
        load_tokenizer(ModelConfig(name=folder))
    plain = load_tokenizer(ModelConfig(name=folder, chat_template="plain"))
    text = as_text(plain, student_messages(QUESTION), prompt=True)
    assert text.startswith("**Role")  # this tokenizer itself begins no text with its bos
    assert text.endswith(f"Question:\n{QUESTION}\n\nAnswer:\n")
    assert plain.convert_ids_to_tokens(end_of_turn(plain)) == "</s>"
    chatml = load_tokenizer(ModelConfig(name=folder, chat_template="chatml"))
    assert chatml.convert_ids_to_tokens(end_of_turn(chatml)) == "<|im_end|>"
    given = load_tokenizer(ModelConfig(name=folder, chat_template=str(OURS / "qwen2_5.jinja")))
    assert render(chatml, views()[0]) == render(given, views()[0])


def test_a_turn_that_nothing_ends_is_ended_by_the_token_that_the_recipe_names(tmp_path):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    folder = written(tmp_path, template, "</s>", ("<|stop|>",))
    with pytest.raises(UserError, match=r"no end-of-turn token .* Name its token by model\.end_of_turn"):
        load_tokenizer(ModelConfig(name=folder))
    with pytest.raises(UserError, match=r"model\.end_of_turn: '<\|halt\|>' is not one token .*</s>.*<\|stop\|>"):
        load_tokenizer(ModelConfig(name=folder, end_of_turn="<|halt|>"))
    tokenizer = load_tokenizer(ModelConfig(name=folder, end_of_turn="<|stop|>"))
    assert tokenizer.convert_ids_to_tokens(stop_ids(tokenizer)) == ["</s>", "<|stop|>"]
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == "<|stop|>"
    saved = tmp_path / "saved"
    tokenizer.save_pretrained(str(saved))
    assert end_of_turn(AutoTokenizer.from_pretrained(str(saved))) == end_of_turn(tokenizer)


def test_a_token_that_ends_the_thoughts_too_cannot_end_the_reply(tmp_path):
    family = FAMILIES["gpt-oss"]
    template = family.path.read_text(encoding="utf-8").replace("<|return|>", "<|end|>")
    folder = written(tmp_path, template, "<|return|>", family.special)
    with pytest.raises(UserError, match=r"'<\|end\|>' behind a reply's thoughts and behind its answer.*end_of_turn"):
        load_tokenizer(ModelConfig(name=folder))
    named = load_tokenizer(ModelConfig(name=folder, end_of_turn="<|return|>"))
    listed = GenerationConfig(eos_token_id=named.convert_tokens_to_ids("<|end|>"))
    assert named.convert_ids_to_tokens(stop_ids(named, listed)) == ["<|return|>"]


# -- Thoughts


def example(tokenizer, ids, **prompts):
    pair = Pair("p", "q", QUESTION, "12", ANSWER, "\\boxed{6}", ANSWER, ids, "", "", "")
    (made,) = render_examples(Recipe(prompts=PromptsConfig(**prompts)), [pair], tokenizer)
    return made


@every_thinker
def test_the_answer_is_learnt_by_its_own_ids_behind_the_same_empty_thoughts(tokenizers, name):
    tokenizer, family = tokenizers[name], FAMILIES[name]
    ids = [*ids_of(tokenizer, family.thoughts + ANSWER), end_of_turn(tokenizer)]
    asked, hinted = (render(tokenizer, messages) for messages in views())
    learnt = example(tokenizer, ids, thinking="learn")
    assert (learnt.student_ids, learnt.teacher_ids, learnt.reply_ids) == (asked, hinted, ids)
    dropped = example(tokenizer, ids)
    assert dropped.reply_ids == ids[-len(dropped.reply_ids) :]
    text = tokenizer.decode(dropped.reply_ids, skip_special_tokens=False)
    assert text.strip() == ANSWER + family.end
    student, teacher = dropped.student_ids[len(asked) :], dropped.teacher_ids[len(hinted) :]
    assert student == teacher != []
    assert (dropped.student_ids[: len(asked)], dropped.teacher_ids[: len(hinted)]) == (asked, hinted)
    opened = as_text(tokenizer, views()[0], prompt=True)
    how = thinking(tokenizer)
    seen = opened[opened.rindex(how.begun) :] * bool(how.begun) + tokenizer.decode(student)
    expected = how.closes if name == "gpt-oss" else "<think>\n\n</think>"
    assert seen == expected
    again = example(tokenizer, ids, reply="retokenized")
    assert tokenizer.decode(again.reply_ids) == ANSWER
    assert tokenizer.decode(again.student_ids).endswith(f"{expected.split('>')[-2]}>\n\n")


@every_family
def test_a_reply_without_thoughts_is_learnt_as_it_is(tokenizers, name):
    tokenizer = tokenizers[name]
    if (how := thinking(tokenizer)) and how.begun:
        return
    ids = [*ids_of(tokenizer, ANSWER), end_of_turn(tokenizer)]
    made = example(tokenizer, ids)
    asked, hinted = (render(tokenizer, messages) for messages in views())
    assert (made.student_ids, made.teacher_ids, made.reply_ids) == (asked, hinted, ids)


def test_the_templates_own_way_not_to_think_is_what_empty_thoughts_are(folders, tokenizers):
    """Qwen3's and SmolLM3's prompt with thinking off is the one under which the answer is learnt."""
    for name in ("qwen3", "smollm3"):
        off = load_tokenizer(ModelConfig(name=folders[name], template={"enable_thinking": False}))
        assert render(off, default_messages(QUESTION)) != render(tokenizers[name], default_messages(QUESTION))
        ids = [*ids_of(off, ANSWER), end_of_turn(off)]
        made = example(off, ids)
        assert made.student_ids == render(off, views()[0])
        assert made.reply_ids == ids


TEXTS = st.text(st.sampled_from("ab 12\n<>/é☃{}\\."), max_size=30)


@every_thinker
@settings(max_examples=15, deadline=None, derandomize=True)
@given(thoughts=TEXTS, answer=TEXTS)
def test_whatever_is_thought_and_answered_the_ids_are_parted_at_the_closing_mark(tokenizers, name, thoughts, answer):
    tokenizer, family = tokenizers[name], FAMILIES[name]
    before, closing = family.thoughts.split(THOUGHTS)
    closing = closing.rstrip("\n")
    end = end_of_turn(tokenizer)
    ids = [*ids_of(tokenizer, before + thoughts + closing), *tokenizer.encode(answer, add_special_tokens=False), end]
    answer_ids, shared = without_thoughts(tokenizer, ids)
    if not answer.strip():
        assert answer_ids == []
        return
    assert ids[len(ids) - len(answer_ids) :] == answer_ids
    assert shared + tokenizer.decode(answer_ids[:-1]) == answer
    made = completion(tokenizer, ids, [end])
    assert answer_part(made.text) == answer.lstrip()


class Thinker:
    """Thinks of 6 and answers 12 and 7 by turns; the last reply of each prompt is cut off in its thoughts."""

    def __init__(self, tokenizer, thoughts):
        self.tokenizer, self.thoughts, self.asked, self.cut = tokenizer, thoughts, [], 0

    def render(self, messages):
        self.asked.append(messages)
        return render(self.tokenizer, messages)

    def sample(self, requests, decoding, adapter=None, title="", keep=None, quiet=False):
        end = end_of_turn(self.tokenizer)
        replies = []
        for place, _ in enumerate(requests):
            text = self.thoughts + f"So \\boxed{{{(12, 7)[place % 2]}}}."
            ids = [*ids_of(self.tokenizer, text), end]
            if place % 4 == 3:
                ids = ids_of(self.tokenizer, text)[:-12]
                ids = ids[: len(self.tokenizer.encode(self.thoughts, add_special_tokens=False)) // 2]
            replies.append(completion(self.tokenizer, ids, [end]))
        return replies


@every_thinker
def test_what_is_thought_is_neither_graded_nor_shown_nor_learnt(tokenizers, name, tmp_path):
    tokenizer, family = tokenizers[name], FAMILIES[name]
    sampler = Thinker(tokenizer, family.thoughts)
    curator = Curator(CurateConfig(pairs=1), lambda: sampler, 4096, 0, tmp_path)
    statistics = curator.run([Problem("q", QUESTION, "12"), Problem("r", QUESTION + " Say.", "6")])
    assert (statistics.mixed, statistics.pairs, statistics.truncated) == (1, 1, 2)
    (pair,) = read_jsonl(tmp_path / "pairs.jsonl", Pair)
    assert (pair.right, pair.wrong, pair.reply) == ("So \\boxed{12}.", "So \\boxed{7}.", "So \\boxed{12}.")
    assert THOUGHTS in tokenizer.decode(pair.reply_ids)
    hinted = sampler.asked[-1][-1]["content"]
    assert "So \\boxed{7}." in hinted
    assert "No: 9 and 3" not in hinted
    own = load_pairs(str(tmp_path / "pairs.jsonl"), tokenizer)  # read back as somebody's own
    assert (own[0].reply, own[0].reply_ids) == (pair.reply, pair.reply_ids)


def verdict(text, finish="stop"):
    row = Generation("m", 0, "b", "p", 0, "tutor", 0, 1, 0, 1, 9, 0, text, 3, finish, "", None, "12")
    return graded(row).verdict


def test_a_reply_that_only_thinks_has_no_answer_and_one_cut_off_there_is_cut_off():
    assert verdict("<think>\n\\boxed{12}") == verdict("<think>\\boxed{12}</think>\n") == "no_answer"
    assert verdict("<think>\n\\boxed{12}", "length") == "truncated"
    assert verdict("<think>\\boxed{6}</think> \\boxed{12}") == verdict("a </think> \\boxed{12}") == "right"


# -- Replies that were made elsewhere, to a prompt that begins the thoughts


def test_a_brought_reply_says_where_its_thoughts_end(tokenizers, tmp_path):
    tokenizer = tokenizers["r1-distill"]
    path = tmp_path / "pairs.jsonl"
    row = {"question": QUESTION, "right": ANSWER, "wrong": "\\boxed{6}"}
    for reply in (f"hm</think>\n\n{ANSWER}", f"<think>\nhm</think>\n\n{ANSWER}"):
        path.write_text(json.dumps({**row, "reply": reply}) + "\n")
        (pair,) = load_pairs(str(path), tokenizer)
        assert pair.reply == ANSWER
        assert tokenizer.decode(pair.reply_ids[:-1]) == f"hm</think>\n\n{ANSWER}"
    path.write_text(json.dumps({**row, "reply": f"hm</think>{ANSWER}"}) + "\n" + json.dumps({**row, "reply": ANSWER}))
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 2: a reply without the mark that ends its thoughts"):
        load_pairs(str(path), tokenizer)
    row = {"prompt": student_messages(QUESTION), "teacher_prompt": views()[1], "reply": ANSWER}
    with pytest.raises(UserError, match=r"Row 0 of the data set: a reply without the mark"):
        examples_from([row], tokenizer)
    (kept,) = examples_from([{**row, "reply": f"hm</think>{ANSWER}"}], tokenizer)
    assert tokenizer.decode(kept.reply_ids[:-1]) == f"hm</think>{ANSWER}"


def test_brought_rollouts_too(tokenizers, tmp_path):
    how = thinking(tokenizers["r1-distill"])
    path = tmp_path / "rollouts.jsonl"
    problem = Problem(stable_id(QUESTION), QUESTION, "12")
    config = CurateConfig(rollouts_file=str(path))

    def run(*texts, finish="stop"):
        rollouts = [{"text": text, "finish_reason": finish} for text in texts]
        path.write_text(json.dumps({"question": QUESTION, "rollouts": rollouts}) + "\n")
        curator = Curator(config, lambda: pytest.fail("nothing to sample"), 4096, 0, tmp_path, begun=how.begun)
        return curator.run([problem])

    with pytest.raises(UserError, match=r"rollouts\.jsonl, line 1: a reply without the mark"):
        run(f"hm</think>{ANSWER}", ANSWER)
    with pytest.raises(UserError, match=r"100\.0% cut off, of 2"):  # by the length limit: nothing is to be refused
        run(ANSWER, f"<think>{ANSWER}", finish="length")


def test_a_completion_is_what_it_was_where_nobody_thinks(tokenizers):
    tokenizer = tokenizers["gemma-2"]
    end = end_of_turn(tokenizer)
    ids = [*tokenizer.encode(ANSWER, add_special_tokens=False), end]
    assert completion(tokenizer, ids, [end]) == Completion(ids, ANSWER, "stop")
    assert not re.search("think", str(thinking(tokenizer)))


CHAINS = {
    "mistral_v0_2": Own("", "mistral_v0_2", "mistral", "<s>", "</s>", "</s>", ()),
    "deepseek_r1_distill": Own(
        "",
        "deepseek_r1_distill",
        "qwen2",
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        ("<｜User｜>", "<｜Assistant｜>"),
        ("<think>", "</think>"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAINS)
def test_a_family_without_a_turn_for_the_system_and_one_that_thinks_go_from_pairs_to_report(name, tmp_path):
    folder = write(CHAINS[name], tmp_path / "model", THEIRS if name.startswith("deepseek") else OURS)
    questions = [json.loads(line)["question"] for line in (DATA / "train_rows.jsonl").read_text().splitlines()]
    thoughts = "hm</think>\n\n" if name.startswith("deepseek") else ""
    pairs = [
        {"question": question, "right": ANSWER, "wrong": "\\boxed{1}", "reply": f"{thoughts}{n} cups. \\boxed{{{n}}}"}
        for n, question in enumerate(questions[:4])
    ]
    whole_chain(RECIPES / "qwen2.5-0.5b-t4.yaml", folder, pairs, tmp_path, ["evaluate.default_prompt=true"])
    run = RunDir(tmp_path / "run")
    said = (run.manifest("evaluate") or {})["summary"].get("template", "")
    report = (run.stage("report") / "report.md").read_text(encoding="utf-8")
    assert ("in front of the question" in said) == ("in front of the question" in report) == (not thoughts)
    targets, tokenizer = Targets(run.stage("teach")), load_tokenizer(ModelConfig(name=str(folder)))
    for pair in read_jsonl(run.stage("curate") / "pairs.jsonl", Pair):
        ids = [
            *tokenizer.encode("\n\n" * bool(thoughts) + pair.reply, add_special_tokens=False),
            tokenizer.eos_token_id,
        ]
        assert len(targets([pair.id])) == len(ids)
        assert pair.reply_ids[-len(ids) :] == ids


def test_the_preflight_finds_a_template_that_cannot_work_and_says_what_was_chosen(folders, tokenizers):
    assert preflight.check_template(tokenizers["qwen3"], [PAPER]) == ""
    said = preflight.check_template(tokenizers["gemma-2"], [PAPER, texts("released")])
    assert said.startswith("The system prompt stands in front of the question")
    refused = load_tokenizer(ModelConfig(name=folders["silent"], system="role"))
    with pytest.raises(UserError, match=r"system's message not at all.*Set model\.system=question"):
        preflight.check_template(refused, [PAPER])


def test_new_keys_at_their_defaults_determine_nothing_and_a_template_file_counts_by_its_text(tmp_path):
    known = {"name", "revision", "dtype", "trust_remote_code", "template", "date", "quantization", "files"}
    assert known == set(keys.of_model(ModelConfig(name="pocket"))) - {"backend"}
    assert set(keys.of_prompts(PromptsConfig())) == {"wording", "student", "control_text", "reply"}
    assert keys.of_prompts(PromptsConfig(thinking="learn"))["thinking"] == "learn"
    files = [tmp_path / name for name in ("a.jinja", "b.jinja")]
    for file in files:
        file.write_text("{{ messages }}")
    one, other = (keys.of_model(ModelConfig(name="pocket", chat_template=str(file))) for file in files)
    assert one == other != keys.of_model(ModelConfig(name="pocket"))
    files[1].write_text("{{ messages }} ")
    assert one != keys.of_model(ModelConfig(name="pocket", chat_template=str(files[1])))
