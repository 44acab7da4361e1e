"""The command `ssb`. Imports nothing heavy: `ssb --help` answers at once."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from . import __version__
from .commands.words import parser
from .errors import UserError
from .io.credentials import refuse_credentials
from .io.files import control_character
from .io.terminal import tell
from .machine.environment import prepare
from .pipeline import stopping
from .pipeline.stopping import exit_code
from .pipeline.table import STAGES
from .recipe.shipped import is_recipe

WITHOUT_MODEL = ("recipes", "plan", "doctor", "grade", "verify")  # commands that load none
AT_LAST = 4.8  # seconds after a signal; a run gives its stages less


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; that of this process unless words are given. Exit code 0, or 2 for a user's mistake, or as shells
    have it when stopped: 130 by Ctrl-C, 143 by SIGTERM, 141 where nobody reads the output any more (`| head`).
    """
    if argv is None:
        stopping.arm(AT_LAST)
    prepare()
    words = sys.argv[1:] if argv is None else list(argv)
    return exit_code(lambda: _command(_parsed(words)))


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    _check_words(words)
    arguments, rest = parser().parse_known_args(words)
    # argparse takes positional words in one row only; overrides may stand before and after options.
    if rest and (not hasattr(arguments, "overrides") or any(word.startswith("-") for word in rest)):
        arguments.error(f"unknown: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return arguments


def _command(arguments: argparse.Namespace) -> int:
    if arguments.version:
        from .machine.versions import commit

        found = commit()
        tell(f"ssb_unsloth {__version__}" + (f" (commit {found})" if found else ""))
        return 0
    if arguments.command is None:
        parser().print_help()
        return 0
    module = arguments.command
    if module == "evaluate" and (arguments.benchmark or not is_recipe(arguments.recipe)):
        module = "evaluate_model"
    elif module in STAGES:
        module = "stage"
    elif module == "sweep":
        module = "run"
    if module not in WITHOUT_MODEL:
        from .machine.versions import refuse_both_sets

        refuse_both_sets()
    try:
        code: int = importlib.import_module(f"{__package__}.commands.{module}").main(arguments)
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    return code


def _not_installed(error: ModuleNotFoundError) -> Exception:
    """A sentence where it is a package that this one asks for; the error itself where it is anything else."""
    from .machine.versions import installed, remedy

    missing = (error.name or "").partition(".")[0]
    package = {"yaml": "pyyaml"}.get(missing, missing)
    if package not in ("omegaconf", "pyyaml", "tqdm", "numpy", "torch", "transformers") or installed(package):
        return error
    return UserError(
        f"the package {package} is not installed here, which this command needs: {remedy()}"
        " `ssb doctor --machine` says what else is missing, and needs none."
    )


def _check_words(words: Sequence[str]) -> None:
    """Before anything is made of them: a word may become a file's name, or stand in a message."""
    for number, word in enumerate(words, start=1):
        refuse_credentials(word, f"word {number} of the command")
        if (found := control_character(word, "\n\t")) is not None:
            raise UserError(f"{word!r} holds the control character {found!r}; leave it out.")
