"""The rows of a library user's data set as token ids.

A row is a pair: `prompt` and `teacher_prompt`, what the student and the hinted teacher see, and `reply` (text) or
`reply_ids` (the sampler's own token ids, which are taken first). Prompts are messages, rendered by the chat template,
or plain text, as TRL has it: tokenized as it stands, and its reply ends in eos. Guidance needs a third prompt,
`unhinted_prompt`: the teacher's without its hint. A row of a run's own `pairs.jsonl` has `question`, `right` and
`wrong` in place of prompts, which are then those of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from operator import index
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from ..backends.chat_template import end_of_turn, render, without_end
from ..backends.thinking import begun_by, check_ended, decoded, ids_of
from ..errors import UserError
from ..method.collator import Example
from ..prompts import student_messages, teacher_messages

PROMPTS = ("prompt", "teacher_prompt")
UNHINTED = "unhinted_prompt"
BOOLEANS = ("bool", "torch.bool")  # as a dtype


def examples_from(rows: Iterable[Any], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """A data set's rows as token ids; a reply given as text gets the end of turn, where it has not got it already.

    Raises:
        UserError: it is no data set, or has no rows; a row that is no pair is named by its number, from 0.
    """
    if isinstance(rows, Mapping) and rows:
        splits = ", ".join(map(str, rows))
        raise UserError(
            f"The data set is a mapping of {splits}; rows were expected: where these are splits, give one, as in"
            f" data[{next(iter(rows))!r}]."
        )
    if not hasattr(rows, "__iter__") and hasattr(rows, "__len__") and hasattr(rows, "__getitem__"):  # torch's Dataset
        rows = map(rows.__getitem__, range(len(cast(Any, rows))))
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise UserError(f"A data set was expected, rows of prompt, teacher_prompt and reply; this is {rows!r}.")
    found = [row if isinstance(row, Example) else _example(number, row, tokenizer) for number, row in enumerate(rows)]
    if not found:
        raise UserError("The data set has no rows.")
    return found


def read(rows: Iterable[Any], tokenizer: PreTrainedTokenizerBase, embedded: int, guided: bool = False) -> list[Example]:
    """The same for a model that has an embedding for so many ids. `guided`: the teacher is run with guidance.

    Raises:
        UserError: also where a row has an id that the model does not know, or no prompt that guidance needs.
    """
    examples = examples_from(rows, tokenizer)
    for number, example in enumerate(examples):
        if guided and example.taught and not example.unhinted_ids:
            raise UserError(
                f"Row {number} of the data set has no unhinted_prompt; guidance needs the teacher's prompt without its"
                " hint."
            )
        ids = (*example.student_ids, *example.teacher_ids, *example.reply_ids, *example.unhinted_ids)
        if not all(map(_is_id, ids)):
            raise UserError(f"Row {number} of the data set: holds something else than token ids.")
        if not 0 <= min(ids) <= max(ids) < embedded:
            odd = min(ids) if min(ids) < 0 else max(ids)
            raise UserError(
                f"Row {number} of the data set: token id {odd}, where the model has {embedded:,}; are tokenizer and"
                " model of the same family?"
            )
    return examples


def by_name(read_rows: Callable[[Iterable[Any]], list[Example]], rows: Any) -> Any:
    """An evaluation's data set, or several by their names; None where there is none."""
    if isinstance(rows, Mapping):
        return {str(name): read_rows(each) for name, each in rows.items()}
    return None if rows is None else read_rows(rows)


def _example(number: int, row: Any, tokenizer: PreTrainedTokenizerBase) -> Example:
    where = f"Row {number} of the data set"
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected columns by name (prompt, teacher_prompt, reply), found {row!r:.80}.")
    row = _with_prompts(row)
    missing = [column for column in PROMPTS if row.get(column) is None]
    if missing or (row.get("reply") is None and row.get("reply_ids") is None):
        raise UserError(
            f"{where} has the columns {', '.join(map(str, row))}; expected prompt, teacher_prompt, and reply or"
            " reply_ids, none of them empty; or as a run's pairs.jsonl has it, question, right and wrong for the"
            " prompts."
        )
    given = [*PROMPTS, *([UNHINTED] if row.get(UNHINTED) is not None else [])]
    plain = [isinstance(row[column], str) for column in given]
    if any(plain) and not all(plain):
        raise UserError(f"{where}: of {' and '.join(given)} one is text and another messages; give all alike.")
    asked, hinted, *rest = (_prompt_ids(row[column], f"{where}, {column}", tokenizer) for column in given)
    name = row.get("id")
    reply_ids = _reply_ids(row, where, tokenizer, plain[0])
    if begun_by(tokenizer, asked):
        check_ended(decoded(tokenizer, reply_ids), where)
    unhinted = rest[0] if rest else []
    return Example(str(number if name is None else name), asked, hinted, reply_ids, unhinted)


def _with_prompts(row: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A curated pair with the paper's prompts for its question and its contrast; any other row as it is."""
    parts = [row.get(name) for name in ("question", "right", "wrong")]
    if any(row.get(column) is not None for column in PROMPTS) or not all(isinstance(part, str) for part in parts):
        return row
    question, right, wrong = map(str, parts)
    return {
        **row,
        "prompt": student_messages(question),
        "teacher_prompt": teacher_messages(question, right, wrong),
        UNHINTED: teacher_messages(question, None, None),
    }


def _prompt_ids(prompt: Any, where: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if type(prompt).__module__ == "numpy" and hasattr(prompt, "tolist"):  # a data set's rows in numpy's format
        prompt = prompt.tolist()
    if isinstance(prompt, str) and prompt:
        _check_whole(prompt, where)
        return _text_ids(prompt, tokenizer)
    if not isinstance(prompt, Sequence) or isinstance(prompt, str) or not prompt:
        raise UserError(f"{where}: expected messages or text, found {prompt!r:.80}.")
    for message in prompt:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise UserError(f"{where}: expected messages of role and content, both text; found {message!r:.80}.")
        _check_whole(message["content"], where)
    if prompt[-1]["role"] == "assistant":
        raise UserError(f"{where}: ends in the assistant's message, and the reply stands apart; leave it out there.")
    return render(tokenizer, [dict(message) for message in prompt])


def _text_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """As the tokenizer has it, with its bos once, whether the text spells that or not, and no eos behind it."""
    bos = getattr(tokenizer, "bos_token", None)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=not (bos and text.startswith(bos)))
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        ids.pop()
    return ids


def _reply_ids(row: Mapping[str, Any], where: str, tokenizer: PreTrainedTokenizerBase, plain: bool) -> list[int]:
    given = row.get("reply_ids")
    if given is not None:
        unordered = isinstance(given, str | bytes | Mapping | Set)
        try:
            ids = [] if unordered or not all(map(_is_id, given)) else [index(token) for token in given]
        except TypeError:
            ids = []
        if not ids:
            raise UserError(f"{where}, reply_ids: expected token ids, at least one; found {given!r:.80}.")
        return ids
    text, eos = row["reply"], tokenizer.eos_token_id
    if not isinstance(text, str):
        raise UserError(f"{where}, reply: expected text, found {text!r:.80}.")
    _check_whole(text, f"{where}, reply")
    if eos is None:
        raise UserError("The tokenizer has no eos token, so nothing says where a reply ends: set tokenizer.eos_token.")
    end = int(eos) if plain else end_of_turn(tokenizer)
    text = without_end(tokenizer, text, {int(eos), end})
    if not text.strip():
        raise UserError(f"{where}, reply: it is empty; there is nothing in it to learn.")
    return [*ids_of(tokenizer, text), end]


def _is_id(token: Any) -> bool:
    """Whether it is a whole number, numpy's and torch's among them; true and false are none."""
    return hasattr(token, "__index__") and not (isinstance(token, bool) or str(getattr(token, "dtype", "")) in BOOLEANS)


def _check_whole(text: str, where: str) -> None:
    """Half of a character is in no tokenizer's alphabet."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise UserError(f"{where}: {half} is half a character; write whole ones.") from None
