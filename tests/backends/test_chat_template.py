"""What follows from a chat template: where a turn ends, which tokens end a reply, the day, and padding.

The templates are those of TRL, as their models' makers published them, and a few short ones of the kinds that fail.
"""

import datetime
import re
from pathlib import Path

import pytest
import transformers.utils.chat_template_utils as utils
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from ssb_unsloth.backends.chat_template import (
    as_text,
    completion,
    end_of_turn,
    pad_id,
    render,
    reply_text,
    set_date,
    set_variables,
    stop_ids,
)
from ssb_unsloth.errors import UserError
from ssb_unsloth.pocket import MODEL_DIR

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
MARKS = r"<\|[^|>\s]+\|?>|<[a-z]+\|>|<｜[^｜]+｜>|</?[a-z_]+>|<[A-Z_|]+>"
ENDS = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "cohere2": "<|END_RESPONSE|>",
    "deepseek_r1_distill": "<｜end▁of▁sentence｜>",
    "gemma": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "gemma4": "<turn|>",
    "glm4moe": "<|user|>",
    "gptoss": "<|return|>",
    "lfm2": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "nemotron_3_nano": "<|im_end|>",
    "phi3": "<|end|>",
    "phi3_5": "<|end|>",
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "qwen3_5_think": "<|im_end|>",
}
ASKED = [{"role": "user", "content": "How many?"}]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer_of(template, special=True):
    backend = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos!>", bos_token="<bos!>")
    tokenizer.add_tokens(sorted(set(re.findall(MARKS, template))), special_tokens=special)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("special", [True, False])
def test_the_end_of_turn_is_what_follows_a_reply_in_the_makers_template(name, special):
    tokenizer = tokenizer_of((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"), special)
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == ENDS[name]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}", r"only '\\nuser: 1 \+ 1\?\\n'"),
        ("{{ messages[0]['content'] }}</s>", "it leaves the reply itself out"),
        ("{% for m in messages %}{{ m['content'] + 1 }}<|end|>{% endfor %}", "refuses messages of the roles"),
        ("{{ raise_exception('no') }}", "refuses messages of the roles user, assistant: no"),
    ],
)
def test_a_template_that_ends_no_turn_is_refused_in_a_sentence(template, says):
    with pytest.raises(UserError, match=says):
        end_of_turn(tokenizer_of(template))


def test_one_function_says_what_ends_a_reply():
    tokenizer = tokenizer_of(CHATML)
    eos, end = tokenizer.eos_token_id, end_of_turn(tokenizer)
    assert eos != end
    assert stop_ids(tokenizer) == stop_ids(tokenizer, GenerationConfig()) == sorted((eos, end))
    assert stop_ids(tokenizer, GenerationConfig(eos_token_id=7)) == sorted((7, eos, end))
    assert stop_ids(tokenizer, GenerationConfig(eos_token_id=[9, 7, eos])) == sorted((7, 9, eos, end))


def test_ids_behind_the_first_end_are_cut_off_and_the_end_is_no_text():
    tokenizer = tokenizer_of(CHATML, special=False)  # skip_special_tokens would leave <|im_end|> in the text
    end = end_of_turn(tokenizer)
    ids = tokenizer.encode("It is 12.", add_special_tokens=False)
    made = completion(tokenizer, [*ids, end, *ids, end], [end])
    assert (made.token_ids, made.text, made.finish_reason) == ([*ids, end], "It is 12.", "stop")
    cut = completion(tokenizer, ids, [end])
    assert (cut.token_ids, cut.text, cut.finish_reason) == (ids, "It is 12.", "length")
    assert reply_text(tokenizer, [], [end]) == ""


def test_the_end_of_turn_pads_where_the_embedding_has_no_pad():
    tokenizer = tokenizer_of(CHATML)
    end = end_of_turn(tokenizer)
    assert tokenizer.pad_token_id is None
    assert pad_id(tokenizer, 1000) == end
    tokenizer.add_special_tokens({"pad_token": "<pad!>"})
    assert pad_id(tokenizer, 1000) == tokenizer.pad_token_id != end
    assert pad_id(tokenizer, tokenizer.pad_token_id + 1) == tokenizer.pad_token_id
    assert pad_id(tokenizer, tokenizer.pad_token_id) == end


class Later(datetime.datetime):
    """A day that is not today."""

    day_of_the_test = datetime.datetime(2031, 12, 9, 3, 4)

    @classmethod
    def now(cls, tz=None):
        return cls.day_of_the_test


@pytest.mark.parametrize("name", ["gptoss", "llama3_2", "muse_glimmer"])
def test_a_template_that_asks_for_today_renders_the_same_prompt_on_any_day(name, monkeypatch):
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    moving, fixed = (tokenizer_of(t) for t in (template, set_date(template, "2026-01-01")))
    before = [as_text(t, ASKED, prompt=True) for t in (moving, fixed)]
    monkeypatch.setattr(utils, "datetime", Later)
    after = [as_text(t, ASKED, prompt=True) for t in (moving, fixed)]
    assert before[0] != after[0]
    assert before[1] == after[1]
    assert any(day in after[1] for day in ("2026-01-01", "01 Jan 2026"))
    assert after[1] == after[0].replace("2031-12-09", "2026-01-01").replace("09 Dec 2031", "01 Jan 2026")


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%B %-d, %Y", "%A %H:%M:%S", "%d/%m/%y, %j", "a %% %b", "%I%p %x %U"])
def test_the_date_is_written_as_strftime_would(form):
    template = (
        "\n{{ bos_token }}{% set now = strftime_now('" + form + "') %}[{{ now }}] {{ strftime_now(format='%Y') }}"
    )
    shown = as_text(tokenizer_of(set_date(template, "2026-03-07")), ASKED, prompt=True)
    asked = as_text(tokenizer_of(template), ASKED, prompt=True)
    noon = datetime.datetime(2026, 3, 7, 12)
    assert shown == re.sub(r"\[.*\] \d+", f"[{noon.strftime(form)}] 2026", asked)


def test_a_template_without_a_date_and_a_variable_that_is_set_stay_as_they_are():
    assert set_date(CHATML, "2026-01-01") == CHATML
    dated = set_date(set_variables("{{ day or strftime_now('%Y') }}", {"day": "today"}), "2026-01-01")
    assert as_text(tokenizer_of(dated), ASKED, prompt=True) == "today"


def test_a_sentencepiece_reply_is_made_from_its_ids_without_the_blank_of_its_first_word():
    """Llama 2's and Mistral's way: a word carries the blank before it, and decoding leaves the first one out."""
    words = ["<unk>", "</s>", "▁It", "▁is", "▁12", "."]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"
    made = completion(tokenizer, [2, 3, 4, 5, 1], stop_ids(tokenizer))
    assert made.text == "It is 12."
    assert render(tokenizer, [{"role": "user", "content": "It is"}]) == [2, 3, 1]
