"""Many requests under way at a time, and their replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...io.progress import bar
from ...io.waiting import as_they_come
from ..sampler import Completion, Keep, Request


def all_of(
    ask: Callable[[Request], Completion],
    requests: Sequence[Request],
    threads: int,
    title: str,
    keep: Keep | None,
    quiet: bool,
) -> list[Completion]:
    """The reply of `ask` to each request, in their order; many are asked at a time."""
    replies: dict[int, Completion] = {}
    with bar(title, "reply", len(requests), disable=quiet) as shown:
        for place, reply in as_they_come(ask, requests, threads):
            replies[place] = reply
            if keep is not None:
                keep(place, reply)
            shown.update()
    return [replies[place] for place in range(len(requests))]
