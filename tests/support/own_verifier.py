"""Verifiers as somebody has them beside a recipe: good ones, and one that raises, hangs, prints, ends its process."""

import os
import time
from dataclasses import dataclass

from ssb_unsloth.verifier.boxed import Boxed


@dataclass(eq=False)
class Suffix(Boxed):
    """Right where the answer ends as the gold answer does."""

    length: int = 1

    def equal(self, answer, gold):
        return answer[-self.length :] == gold[-self.length :]


class Loud(Boxed):
    def equal(self, answer, gold):
        print("LOUD", answer)
        os.system("echo from a child")
        if answer == "raise":
            raise SystemExit("on purpose")
        if answer == "hang":
            time.sleep(1000)
        if answer == "die":
            os._exit(0)
        return super().equal(answer, gold)

    def verdict_on(self, text, answer, gold):
        if answer == "nonsense":
            return 7
        return super().verdict_on(text, answer, gold)


class Least:
    """What a class needs at least, without the package's."""

    def grade(self, text, gold, finish_reason="stop", exact=False):
        from ssb_unsloth.verifier.protocol import Grade, Verdict

        answer = self.answer_in(text)
        if answer is None:
            return Grade(Verdict.NO_ANSWER, None)
        return Grade(Verdict.RIGHT if answer == gold else Verdict.WRONG, answer)

    def answer_in(self, text):
        return text.split()[-1] if text.split() else None

    def answer_classes(self, answers, exact=False):
        return [sorted(set(answers)).index(answer) for answer in answers]
