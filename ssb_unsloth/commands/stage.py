"""`ssb curate`, `ssb teach` and so on: one stage of a recipe."""

from __future__ import annotations

import argparse

from ..pipeline.process import Call, perform


def main(arguments: argparse.Namespace) -> int:
    student = getattr(arguments, "student", None)  # the stages over all students take none
    return perform(
        Call(arguments.command, arguments.recipe, arguments.overrides, arguments.runs, student, arguments.force)
    )
