"""Tests of Triton kernels on a machine without a GPU."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Callable

import pytest


def interpreted(test: Callable[[], None]) -> Callable[[], None]:
    """Run the test in a process of its own under Triton's interpreter, which has to be chosen before the import."""

    @functools.wraps(test)
    def wrapper() -> None:
        pytest.importorskip("triton")
        if os.environ.get("TRITON_INTERPRET") == "1":
            return test()
        one = f"{inspect.getfile(test)}::{test.__name__}"
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", one]
        run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
        if " skipped" in run.stdout:
            pytest.skip(run.stdout[-500:])

    return wrapper
