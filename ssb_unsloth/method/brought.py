"""Rollouts that were made elsewhere (`curate.rollouts_file`), read as if they had been sampled here.

Two forms, told apart row by row:

    {"question", "rollouts": [{"text"}, ...]}         a question in a row
    {"problem_id", "text", "token_ids", "seed", ...}  a rollout in a row: our own `rollouts.jsonl`

Of our own, token ids are taken where they spell the text with this model's tokenizer, as they do for the model that
sampled them: what is learnt of such a rollout is what was sampled, to the token. Verdicts are given anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.chat_template import end_of_turn, reply_text
from ..backends.sampler import Completion
from ..backends.thinking import check_ended
from ..errors import UserError
from ..io.progress import say
from ..io.spool import Spool
from ..records import read_rows, stable_id
from ..verifier.replies import THOUGHTS_BEGIN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = tuple[list[int], str, str, int | None]  # token ids, or none; text; finish reason; the seed it was sampled by


class Brought:
    """The rollouts of each question, which may stand in several rows.

    The whole file is looked at once, and its rollouts laid down in `folder`: in memory is where each question's are.
    `begun`: the opening of the thoughts in which a prompt ends, which a rollout of it then begins with here, too.
    `tokenizer` None: all are read as text.

    Raises:
        UserError: a line is of neither form.
    """

    def __init__(
        self, path: Path, folder: Path, begun: str = "", tokenizer: PreTrainedTokenizerBase | None = None
    ) -> None:
        self._rows = Spool(folder)
        self._last: dict[str, int] = {}  # question -> its last row, which knows the one before
        self._begun, self._tokenizer, self._respelt = begun, tokenizer, 0
        for number, row in read_rows(path):
            asked, replies = self._read(row, f"{path}, line {number}")
            self._last[asked] = self._rows.add([self._last.get(asked), replies])
        if self._respelt:
            say(
                f"{path}: the token ids of {self._respelt:,} rollouts do not spell their text with this model's"
                " tokenizer, as of another model's; the text is tokenized in their place."
            )

    def of(self, problem_id: str) -> list[tuple[Completion, int | None]]:
        """A question's rollouts in their order, each with its seed where that is known; none where there is none."""
        found: list[list[Row]] = []
        number = self._last.get(problem_id)
        while number is not None:
            number, replies = self._rows[number]
            found.append(replies)
        return [(Completion(ids, text, end), seed) for replies in reversed(found) for ids, text, end, seed in replies]

    def _read(self, row: dict[str, Any], where: str) -> tuple[str, list[Row]]:
        """The id of the question that a row is about, and the rollouts in it."""
        if "rollouts" not in row and isinstance(row.get("problem_id"), str):
            return row["problem_id"], [self._own(row, where)]
        rollouts = row.get("rollouts")
        if not isinstance(row.get("question"), str) or not isinstance(rollouts, list) or not rollouts:
            raise UserError(
                f'{where}: expected {{"question": ..., "rollouts": [{{"text": ...}}, ...]}} with at least one rollout,'
                ' or rows of our own rollouts.jsonl ("problem_id", "text").'
            )
        return stable_id(row["question"]), [([], *self._reply(rollout, where), None) for rollout in rollouts]

    def _own(self, row: dict[str, Any], where: str) -> Row:
        text, finish = self._reply(row, where)
        ids, seed = row.get("token_ids"), row.get("seed")
        if ids is not None and not (isinstance(ids, list) and all(type(one) is int for one in ids)):
            raise UserError(f"{where}: token_ids is not a list of token ids, nor null.")
        if seed is not None and type(seed) is not int:
            raise UserError(f"{where}: seed is neither a whole number nor null.")
        if ids and self._tokenizer is not None:
            if _spells(self._tokenizer, ids, text):
                return ids, text, finish, seed
            self._respelt += 1
        return [], text, finish, seed

    def _reply(self, rollout: Any, where: str) -> tuple[str, str]:
        """(text, finish reason)."""
        if not isinstance(rollout, dict) or not isinstance(rollout.get("text"), str):
            raise UserError(f'{where}: a rollout without "text".')
        finish = rollout.get("finish_reason", "stop")
        if finish not in ("stop", "length"):
            raise UserError(f'{where}: finish_reason {finish!r}; expected "stop" or "length".')
        text = rollout["text"]
        if self._begun and finish == "stop":
            check_ended(text, where)
        if self._begun and not THOUGHTS_BEGIN.match(text.lstrip()):
            text = self._begun + text
        return text, finish


def _spells(tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str) -> bool:
    if not all(0 <= number < len(tokenizer) for number in ids):
        return False
    return reply_text(tokenizer, ids, (tokenizer.eos_token_id, end_of_turn(tokenizer))) == text
