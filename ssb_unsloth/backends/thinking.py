"""Models that think before they answer: how their thoughts are marked, and where in a reply they end.

A reply of such a model is its thoughts, a closing mark and the answer, as in `<think>...</think>...`; some templates
write the opening mark themselves, at the prompt's end. The text of a reply always holds both marks, so what stands in a
file says by itself what the answer is (`verifier.replies.answer_part`). Here the same is found in token ids.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..prompts import Messages
from ..verifier.replies import THOUGHTS_BEGIN, THOUGHTS_END, answer_start
from .control_tokens import ControlText, encode, special_tokens
from .rendered import applied, as_text, own_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASKED: Messages = [{"role": "user", "content": "1 + 1?"}]
THOUGHT, ANSWER = "First, one and one.", "The answer is 2."  # stand in a turn that is rendered to see what is between
CHANNELS = {"<|channel|>final<|message|>": "<|channel|>analysis<|message|>", "<channel|>": "<|channel>thought\n"}

NEVER_ENDED = (
    "a reply without the mark that ends its thoughts, where the model's chat template begins them in the prompt: it"
    " would be read as thoughts alone. Give replies with thoughts and mark, or set model.template or"
    " model.chat_template so that the prompt begins none."
)


@dataclass(frozen=True)
class Thinking:
    opens: str  # the mark with which thoughts begin
    closes: str  # and that with which they end
    begun: str  # what of the opening the prompt ends in, as "<think>\n"; empty where the reply opens them
    empty: str  # thoughts without a word, as the model's own template writes them where it can
    special: bool  # whether the marks are control tokens, which a text is otherwise without


def thinking(tokenizer: PreTrainedTokenizerBase) -> Thinking | None:
    """How the model thinks under its chat template; None where nothing says that it does."""
    template = getattr(tokenizer, "chat_template", None)  # prompts may be plain text, and a tokenizer without one
    return _thinking(tokenizer, str(template), len(tokenizer)) if template else None


@lru_cache(maxsize=8)
def _thinking(tokenizer: PreTrainedTokenizerBase, template: str, _: int) -> Thinking | None:
    added = {str(token): token.special for token in tokenizer.added_tokens_decoder.values()}
    found = THOUGHTS_END.search(template) or next(filter(None, map(THOUGHTS_END.fullmatch, added)), None)
    if found is None:
        return None
    closes = found[0]
    opens = CHANNELS.get(closes) or closes.replace("/", "", 1).replace("end", "begin", 1)
    try:
        prompt, empty = as_text(tokenizer, ASKED, prompt=True), _empty(tokenizer, opens, closes)
    except UserError:
        return None
    begun = prompt[prompt.rindex(opens) :] if prompt.rstrip().endswith(opens.strip()) else ""
    special = any(is_special and token in opens + closes for token, is_special in added.items())
    return Thinking(opens, closes, begun, empty, special)


def _empty(tokenizer: PreTrainedTokenizerBase, opens: str, closes: str) -> str:
    """What more the template asks a reply with where it is told not to think; else the marks alone."""
    asks, off = _asks(tokenizer), _asks(tokenizer, enable_thinking=False)
    behind = off[len(asks) :] if off.startswith(asks) else ""
    if opens.strip() in behind and closes in behind:
        return behind[: behind.rindex(closes) + len(closes)]
    if closes.endswith("<|message|>"):  # a channel of its own: there is nothing to open
        return closes
    return opens + ("" if opens.endswith("\n") else "\n\n") + closes


def _asks(tokenizer: PreTrainedTokenizerBase, **variables: Any) -> str:
    """What the template writes behind a conversation to ask for a reply."""
    prompt, said = (
        str(applied(tokenizer, ASKED, add_generation_prompt=asks, tokenize=False, **variables))
        for asks in (True, False)
    )
    return prompt.removeprefix(said)


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of a reply's ids, without special tokens but for the marks of thoughts."""
    how = thinking(tokenizer)
    if how is None:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))
    return how.begun + str(tokenizer.decode(list(ids), skip_special_tokens=not how.special))


def without_thoughts(tokenizer: PreTrainedTokenizerBase, reply_ids: Sequence[int]) -> tuple[list[int], str] | None:
    """The ids of a reply's answer, its end included, and the text that shares the closing mark's last token with it.

    None where it has no thoughts. No ids where it has nothing but thoughts.
    """
    if thinking(tokenizer) is None:
        return None
    text = decoded(tokenizer, reply_ids)
    if not (start := answer_start(text)):
        return None
    if start == len(text):
        return [], ""
    marks = _ends(text[:start])

    def closed(length: int) -> bool:
        return _ends(decoded(tokenizer, reply_ids[:length])) >= marks

    length = bisect_left(range(len(reply_ids) + 1), True, key=closed)
    seen = decoded(tokenizer, reply_ids[:length])
    *_, last = THOUGHTS_END.finditer(seen)
    return list(reply_ids[length:]), seen[last.end() :]


def _ends(text: str) -> int:
    return len(THOUGHTS_END.findall(text))


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A given reply's ids behind a prompt of this model, without an end: its marks of thoughts are tokens, and all that
    spells a control token otherwise is text.

    Raises:
        ControlText: this tokenizer reads such text as a control token all the same.
    """
    how = thinking(tokenizer)
    if how is None:
        return encode(tokenizer, text)
    begin = THOUGHTS_BEGIN.match(text.lstrip())
    if how.begun and begin:  # the prompt has it
        text = text.lstrip()[begin.end() :].removeprefix("\n" * how.begun.endswith("\n"))
    start = answer_start(text)
    if not how.special or not start:
        return encode(tokenizer, text)
    *_, last = THOUGHTS_END.finditer(text[:start])
    thoughts, answer = text[: last.end()], text[last.end() :]
    marks = control_marks(tokenizer)
    if spelt := [token for token in special_tokens(tokenizer) if token in thoughts and token not in marks]:
        raise ControlText(f"the text's thoughts hold the control token {spelt[0]!r}")
    return [*tokenizer.encode(thoughts, add_special_tokens=False), *encode(tokenizer, answer)]


def control_marks(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The control tokens that belong into a reply of this model: those of its thoughts."""
    how = thinking(tokenizer)
    if how is None:
        return set()
    between = set(within_reply(tokenizer))
    return {t for t, number in special_tokens(tokenizer).items() if t in how.opens + how.closes or number in between}


def begun_by(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int]) -> bool:
    """Whether the prompt itself begins the reply's thoughts."""
    how = thinking(tokenizer)
    return how is not None and str(tokenizer.decode(list(prompt_ids[-16:]))).rstrip().endswith(how.opens.strip())


def check_ended(text: str, where: str) -> None:
    """A given reply to a prompt that begins its thoughts says where they end. `where` it stands.

    Raises:
        UserError: it does not.
    """
    if not THOUGHTS_END.search(text):
        raise UserError(f"{where}: {NEVER_ENDED}")


def empty_thoughts(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], behind: str = "") -> list[int]:
    """The ids that, behind this prompt, are thoughts without a word; and what stands `behind` them."""
    how = thinking(tokenizer)
    assert how is not None, "only a reply with thoughts has any to replace"
    text = how.empty
    if begun_by(tokenizer, prompt_ids):
        text = ("\n" if str(tokenizer.decode(list(prompt_ids[-1:]))).isspace() else "\n\n") + how.closes
    return list(tokenizer.encode(text + behind, add_special_tokens=False))


def within_reply(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The template's own tokens between a reply's thoughts and its answer."""
    how = thinking(tokenizer)
    if how is None:
        return []
    apart = {"role": "assistant", "content": ANSWER, "thinking": THOUGHT, "reasoning_content": THOUGHT}
    together = {"role": "assistant", "content": f"{how.opens}\n{THOUGHT}\n{how.closes}\n\n{ANSWER}"}
    for turn in (apart, together):
        try:
            text = as_text(tokenizer, [*ASKED, turn], prompt=False)
        except UserError:
            continue
        thoughts, answer = text.find(THOUGHT), text.rfind(ANSWER)
        if 0 <= thoughts < answer:
            return own_tokens(tokenizer, text[thoughts:answer])
    return []
