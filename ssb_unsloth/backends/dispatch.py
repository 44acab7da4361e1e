"""Who is asked next: the least busy of several servers; what a server that fails was asked goes to the others.

A server that does not answer is left alone for a moment, twice as long each time, and is looked at before it is used
again. It is given up for no longer than that: one that was started anew takes its part as soon as it is seen. Only
where none of them has answered ATTEMPTS times in a row is there nobody left to ask.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ..errors import UserError
from ..io.progress import say
from ..io.waiting import as_they_come

ATTEMPTS = 4
LONGEST = 30.0  # seconds for which a server is left alone at most
KEPT = "What has arrived is kept, and the same command goes on from there."


class Unavailable(Exception):
    """No answer came that may not come a moment later, or from another site."""

    def __init__(self, where: str, reason: str, late: bool = False) -> None:
        """`late`: it was waited for as long as anybody may."""
        super().__init__(where, reason)
        self.where, self.reason, self.late = where, reason, late


class Refused(UserError):
    """A site says no, in its own words, and will say so again. `status`: HTTP's."""

    def __init__(self, where: str, status: int, said: str) -> None:
        super().__init__(f"{where} refused: {said}")
        self.where, self.status, self.said = where, status, said


class Site(Protocol):
    @property
    def root(self) -> str:
        """What it is called in messages."""
        ...

    def look(self) -> None:
        """Whether it can be asked. Raises Unavailable where it does not answer, UserError where it is none for this
        model."""
        ...


Here = TypeVar("Here", bound=Site)
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _State(Generic[Here]):
    """A site. What is said of it is read and changed under the dispatcher's lock."""

    site: Here
    busy: int = 0  # questions under way
    works: bool = False
    looking: bool = False
    due: float = 0.0  # when it is to be looked at, where it does not work
    failures: int = 0  # in a row
    term: int = 0  # counts its returns: what was asked before the last one says nothing of the server as it is now
    last: Unavailable | None = None
    told: bool = False  # that it does not answer


class Dispatcher(Generic[Here]):
    """`pause`: seconds for which a site that fails is left alone the first time. `abreast`: questions under way at one
    site. `kind`: what a site is, in messages."""

    def __init__(self, sites: Sequence[Here], pause: float, abreast: int, kind: str = "server") -> None:
        self._states = [_State(site) for site in sites]
        self._pause, self._abreast, self._kind = pause, abreast, kind
        self._changed = threading.Condition()
        self._wrong: Exception | None = None  # what a site that came back is; whoever asks next is told

    def start(self) -> None:
        """Look at all sites, once each, and again at those that do not answer.

        Raises:
            UserError: one is none for this model, or none answers.
        """
        for _ in as_they_come(self._first_look, self._states, len(self._states)):
            pass
        if not any(state.works for state in self._states):
            raise self._nobody()
        for state in self._states:
            if not state.works:
                self._tell(state)

    def everywhere(self, do: Callable[[Here], None]) -> None:
        """`do` at each site that works; one that fails at it is left alone."""
        for state in [state for state in self._states if state.works]:
            try:
                do(state.site)
            except Unavailable as error:
                self._fail(state, state.term, error)

    def ask(self, question: Callable[[Here], Answer]) -> Answer:
        """What `question` comes to at the least busy site, or at another one where that fails.

        Raises:
            UserError: what `question` raises; or nobody answers it.
        """
        left = ATTEMPTS * len(self._states)  # so that a question that fells sites does not fell them for ever
        tried: list[_State[Here]] = []
        while True:
            state, term = self._take(tried)
            tried.append(state)
            answered = False
            try:
                answer = question(state.site)
                answered = True
                return answer
            except Unavailable as error:
                left -= ATTEMPTS if error.late else 1
                self._fail(state, term, error)
                if left <= 0:
                    raise UserError(f"{self._final(error)} {KEPT}") from None
            finally:
                with self._changed:
                    state.busy -= 1
                    state.failures = 0 if answered else state.failures
                    self._changed.notify_all()

    def _take(self, tried: Sequence[_State[Here]]) -> tuple[_State[Here], int]:
        """The least busy site, and one that has not failed at the same question before one that has."""
        with self._changed:
            while True:
                if self._wrong is not None:
                    raise self._wrong
                now = time.monotonic()
                self._look_where_due(now)
                working = [state for state in self._states if state.works]
                free = [state for state in working if state.busy < self._abreast]
                if free:
                    chosen = min(free, key=lambda state: (state in tried, state.busy))
                    chosen.busy += 1
                    return chosen, chosen.term
                if not working and all(s.failures >= ATTEMPTS and not s.looking for s in self._states):
                    raise self._nobody()
                later = [state.due for state in self._states if not state.works and state.due > now]
                self._changed.wait(min(later) - now if later else None)

    def _fail(self, state: _State[Here], term: int, error: Unavailable) -> None:
        with self._changed:
            if state.term != term or not state.works:  # what was under way when it failed is no further failure
                return
            state.works = False
            self._leave_alone(state, error)
            if not any(other.works for other in self._states):  # any of them may have come back since
                for other in self._states:
                    other.due = min(other.due, state.due)
            self._changed.notify_all()

    def _leave_alone(self, state: _State[Here], error: Unavailable) -> None:
        state.last = error
        state.failures = max(state.failures + 1, ATTEMPTS if error.late else 0)
        pause = LONGEST if error.late else min(self._pause * 2 ** (state.failures - 1), LONGEST)
        state.due = time.monotonic() + pause
        if state.failures >= ATTEMPTS:
            self._tell(state)

    def _look_where_due(self, now: float) -> None:
        """In threads of their own: a site that is gone may let those wait who look."""
        for state in self._states:
            if not state.works and not state.looking and state.due <= now:
                if state.failures >= ATTEMPTS and all(s.failures >= ATTEMPTS and not s.works for s in self._states):
                    continue  # nobody is left, which is said
                state.looking = True
                threading.Thread(target=self._look, args=(state,), daemon=True).start()

    def _look(self, state: _State[Here]) -> None:
        failed: Exception | None = None
        try:
            state.site.look()
        except Exception as error:
            failed = error
        with self._changed:
            state.looking = False
            if failed is None:
                state.works, state.term = True, state.term + 1
                if state.told:
                    say(f"{state.site.root} answers again.")
                    state.told = False
            elif isinstance(failed, Unavailable):
                self._leave_alone(state, failed)
            elif isinstance(failed, Refused):  # as what stands before a server says while that is not up
                self._leave_alone(state, Unavailable(state.site.root, failed.said))
            else:
                self._wrong = failed
            self._changed.notify_all()

    def _first_look(self, state: _State[Here]) -> None:
        while state.failures < ATTEMPTS:
            try:
                state.site.look()
            except Unavailable as error:
                state.last, state.failures = error, ATTEMPTS if error.late else state.failures + 1
                if state.failures < ATTEMPTS:
                    time.sleep(self._pause * 2 ** (state.failures - 1))
            else:
                state.works, state.failures, state.term = True, 0, 1
                return
        state.due = time.monotonic() + LONGEST

    def _tell(self, state: _State[Here]) -> None:
        if len(self._states) > 1 and not state.told:
            assert state.last is not None
            say(f"{state.site.root} does not answer ({state.last.reason}); the others are asked in its place.")
            state.told = True

    def _nobody(self) -> UserError:
        errors = [state.last for state in self._states if state.last is not None]
        if len(self._states) == 1:
            return UserError(f"{self._final(errors[0])}{f' {KEPT}' if self._states[0].term else ''}")
        reasons = "; ".join(
            f"{state.site.root}: {error.reason}" for state, error in zip(self._states, errors, strict=True)
        )
        return UserError(f"None of the {len(self._states)} {self._kind}s answers ({reasons}). {KEPT}")

    def _final(self, error: Unavailable) -> str:
        """What to say where there is nobody else to ask."""
        if error.late:
            return f"{error.where} {error.reason}. Is the {self._kind} up?"
        return f"{error.where} does not answer after {ATTEMPTS} attempts ({error.reason}). Is the {self._kind} up?"
