"""What bad input is answered with: a sentence or nothing."""

from collections.abc import Callable

from ssb_unsloth.errors import UserError


def complaint(function: Callable[..., object], *arguments: object) -> str | None:
    """The UserError's message, or None where the call succeeds. Anything else that is raised is a fault."""
    try:
        function(*arguments)
    except UserError as error:
        return str(error)
    return None
