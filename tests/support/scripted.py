"""A sampler whose replies are a rule's, and curation by it."""

from __future__ import annotations

import json

from ssb_unsloth.backends.sampler import Completion
from ssb_unsloth.method.curate import Curator
from ssb_unsloth.recipe.schema import CurateConfig, SamplingConfig


class Scripted:
    """A sampler that answers by a rule, and remembers what it was asked."""

    def __init__(self, reply):
        self.reply, self.calls, self.decodings = reply, [], {}

    def render(self, messages):
        return [ord(c) for c in json.dumps(messages)]

    def sample(self, requests, decoding, adapter=None, title="sample", keep=None):
        prompts = [json.loads("".join(map(chr, r.prompt_ids))) for r in requests]
        self.calls.append((title, prompts, [r.seed for r in requests]))
        self.decodings[title] = decoding
        replies = [self.reply(p, r.seed) for p, r in zip(prompts, requests, strict=True)]
        return [r if isinstance(r, Completion) else Completion([5, 6, 2], r, "stop") for r in replies]


def make_curator(folder, sampler, **settings):
    config = CurateConfig(
        **{"pairs": 5, "wave": 10, "rollout": SamplingConfig(), "refine": SamplingConfig(), **settings}
    )
    return Curator(config, lambda: sampler, max_model_len=10_000, seed=1, folder=folder)
