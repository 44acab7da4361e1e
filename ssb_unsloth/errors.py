"""The one exception a user's mistake turns into: a sentence, exit code 2, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """Bad input from a file, a recipe, a command or a model.

    The message names the file, line or key, says what was expected and what to do. `cli.main` prints it and exits
    with code 2; a library user sees an ordinary exception.
    """
