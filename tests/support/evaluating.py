"""`ssb evaluate MODEL` as a test calls it."""

from __future__ import annotations

from ssb_unsloth.cli import main

ENGINE = ["sampler.engine=transformers", "model.dtype=float32"]


def evaluate(*words):
    return main(["evaluate", *map(str, words)])
