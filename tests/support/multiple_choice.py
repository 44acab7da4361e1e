"""A verifier as somebody would add it, of multiple choice: `(B) 12`, `b.` and `\\text{B}` all answer `B`."""

import re

from ssb_unsloth.verifier.boxed import Boxed
from ssb_unsloth.verifier.protocol import Verifier


class MultipleChoice(Boxed):
    def equal(self, answer: str, gold: str) -> bool:
        return _letter(answer) == _letter(gold)

    def is_gold(self, gold: str) -> bool:
        return bool(_letter(gold))


def _letter(answer: str) -> str:
    found = re.match(r"(?:\\text\{)?\W*([A-Ea-e])(?![A-Za-z0-9])", answer)
    return found[1].upper() if found else ""


VERIFIER: Verifier = MultipleChoice()
