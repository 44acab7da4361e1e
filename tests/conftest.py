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

# Collected where a GPU is promised (`make test-gpu`): there its absence is an error, and nowhere a skip.
collect_ignore = [] if os.environ.get("SSB_REQUIRE_GPU") == "1" else ["gpu"]
POCKET_RECIPE = "recipes/pocket.yaml"


@pytest.fixture(scope="session")
def tokenizer():
    from ssb_unsloth.backends.transformers import load_tokenizer
    from ssb_unsloth.config import ModelConfig

    return load_tokenizer(ModelConfig(name="pocket"))


@pytest.fixture(scope="session")
def make_model():
    """make_model(family): a tiny random causal language model in float32, the same for the same family."""
    return tiny_model


def tiny_model(family):
    import torch
    import transformers

    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 528,  # as many as the pocket's tokenizer has, which gives the tests their ids
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    extra = {
        "qwen2": {},
        "llama": {"tie_word_embeddings": False},
        "gemma2": {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 16, "sliding_window": 64},
        "cohere": {"logit_scale": 0.25},
        "granite": {"logits_scaling": 4.0},
    }

    config = transformers.AutoConfig.for_model(family, **{**shape, **extra[family]})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():  # wider than the usual start, so that distributions are far from uniform
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """nvidia_smi(answer, code): a program of that name on PATH that says so, whatever it is asked."""

    from ssb_unsloth import hardware

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
