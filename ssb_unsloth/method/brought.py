"""Rollouts that were made elsewhere (`curate.rollouts_file`), read as if they had been sampled here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..backends.sampler import Completion
from ..backends.thinking import check_ended
from ..errors import UserError
from ..io.spool import Spool
from ..records import read_rows, stable_id
from ..verifier.replies import THOUGHTS_BEGIN


class Brought:
    """The rollouts of each question: one object a question, `text` in each rollout; a question may stand there again.

    The whole file is looked at once, and its rollouts laid down in `folder`: in memory is where each question's are.
    `begun`: the opening of the thoughts in which a prompt ends, which a rollout of it then begins with here, too.

    Raises:
        UserError: a line is not of that form.
    """

    def __init__(self, path: Path, folder: Path, begun: str = "") -> None:
        self._rows = Spool(folder)
        self._last: dict[str, int] = {}  # question -> its last row, which knows the one before
        for number, row in read_rows(path):
            replies = _replies(row, f"{path}, line {number}", begun)
            asked = stable_id(row["question"])
            self._last[asked] = self._rows.add([self._last.get(asked), replies])

    def of(self, problem_id: str) -> list[Completion]:
        """A question's rollouts in their order; none where the file has none."""
        found: list[list[tuple[str, str]]] = []
        number = self._last.get(problem_id)
        while number is not None:
            number, replies = self._rows[number]
            found.append(replies)
        return [Completion([], text, finish) for replies in reversed(found) for text, finish in replies]


def _replies(row: dict[str, Any], where: str, begun: str) -> list[tuple[str, str]]:
    """(text, finish reason) of each rollout in a row."""
    rollouts = row.get("rollouts")
    if not isinstance(row.get("question"), str) or not isinstance(rollouts, list) or not rollouts:
        raise UserError(
            f'{where}: expected {{"question": ..., "rollouts": [{{"text": ...}}, ...]}} with at least one rollout.'
        )
    found = []
    for rollout in rollouts:
        if not isinstance(rollout, dict) or not isinstance(rollout.get("text"), str):
            raise UserError(f'{where}: a rollout without "text".')
        finish = rollout.get("finish_reason", "stop")
        if finish not in ("stop", "length"):
            raise UserError(f'{where}: finish_reason {finish!r}; expected "stop" or "length".')
        text = rollout["text"]
        if begun and finish == "stop":
            check_ended(text, where)
        if begun and not THOUGHTS_BEGIN.match(text.lstrip()):
            text = begun + text
        found.append((text, finish))
    return found
