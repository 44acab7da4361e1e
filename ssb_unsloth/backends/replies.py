"""Many requests under way at a time, and their replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..io.progress import bar
from ..io.waiting import as_they_come
from .sampler import Completion, Keep, Request


def all_of(
    ask: Callable[[Request], Completion],
    requests: Sequence[Request],
    threads: int,
    title: str,
    keep: Keep | None,
    quiet: bool,
) -> list[Completion]:
    """The reply of `ask` to each request, in their order; many are asked at a time."""
    single = [[place] for place in range(len(requests))]
    return in_batches(lambda batch: [ask(batch[0])], requests, single, threads, title, keep, quiet)


def in_batches(
    ask: Callable[[Sequence[Request]], Sequence[Completion]],
    requests: Sequence[Request],
    batches: Sequence[Sequence[int]],
    threads: int,
    title: str,
    keep: Keep | None,
    quiet: bool,
) -> list[Completion]:
    """The same, of an `ask` that takes several requests. `batches`: the places of those that go together."""
    replies: dict[int, Completion] = {}

    def answers(places: Sequence[int]) -> Sequence[Completion]:
        return ask([requests[place] for place in places])

    with bar(title, "reply", len(requests), disable=quiet) as shown:
        for number, several in as_they_come(answers, batches, threads):
            for place, reply in zip(batches[number], several, strict=True):
                replies[place] = reply
                if keep is not None:
                    keep(place, reply)
            shown.update(len(several))
    return [replies[place] for place in range(len(requests))]
