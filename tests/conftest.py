"""What several test files need: tiny random models of several families, and the pocket's tokenizer."""

from __future__ import annotations

import os
import signal

# A job in the background ignores Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # with tiny models threads wait for each other longer than they work

import pytest
from tiny import tiny_model

# Collected where a GPU is promised (`make test-gpu`): there its absence is an error, and nowhere a skip.
collect_ignore = [] if os.environ.get("SSB_REQUIRE_GPU") == "1" else ["gpu"]


@pytest.fixture(scope="session")
def tokenizer():
    from ssb_unsloth.backends.transformers import load_tokenizer
    from ssb_unsloth.recipe.schema import ModelConfig

    return load_tokenizer(ModelConfig(name="pocket"))


@pytest.fixture(scope="session")
def make_model():
    """make_model(family): a tiny random causal language model in float32, the same for the same family."""
    return tiny_model


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """nvidia_smi(answer, code): a program of that name on PATH that says so, whatever it is asked."""

    from ssb_unsloth.machine import hardware

    def install(answer: str, code: int = 0, seconds: float = 0, old: bool = False):
        program = tmp_path / "nvidia-smi"
        refuse = "case $1 in *compute_cap*) echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2;; esac"
        lines = ["#!/bin/sh", refuse if old else "", f"sleep {seconds}", f"cat <<'END'\n{answer}\nEND", f"exit {code}"]
        program.write_text("\n".join(lines) + "\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        hardware.here.cache_clear()

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield install
    hardware.here.cache_clear()


def pytest_sessionfinish(session):
    """Where CI promises the whole locked set, a skipped test is a failure: skips hide rot."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped"):  # a process of several has no reporter
        reporter.write_line("CI: a test was skipped, and none may be here.", red=True)
        session.exitstatus = 1


@pytest.fixture(scope="module")
def browser():
    """A window of a real browser, which the tests of a file share; `resize` gives it another size."""
    try:
        from browser import Browser
    except ImportError as error:  # no wheels for this machine, or its system lacks a library of Chromium's
        pytest.skip(f"There is no browser here: {error}")
    window = Browser()
    yield window
    window.close()
