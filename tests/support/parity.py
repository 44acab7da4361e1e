"""A verifier that finds what a random model writes right now and then: replies of so many characters."""

from dataclasses import dataclass

from ssb_unsloth.verifier.protocol import Grade, Verdict


@dataclass(frozen=True)
class Parity:
    """Right where the number of characters is a multiple of that."""

    of: int = 2

    def grade(self, text, gold, finish_reason="stop", exact=False):
        return Grade(Verdict.WRONG if len(text) % self.of else Verdict.RIGHT, text)


VERIFIER = Parity()
