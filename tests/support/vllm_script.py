"""What the samplers and Unsloth are tested with alike: a script in which the real vLLM samples."""

from __future__ import annotations

VLLM = """
import json, sys
from ssb_unsloth.backends.sampler import Adapter, Request
from ssb_unsloth.backends.vllm import VLLMSampler
from ssb_unsloth.recipe.schema import ModelConfig, SamplerConfig, SamplingConfig
from pathlib import Path

if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    model, config = ModelConfig(name="pocket", dtype="float32"), SamplerConfig(max_model_len=512)
    sampler = VLLMSampler(model, config, seed=0, adapters=True)
    requests = [Request(ids, seed) for ids, seed in asked["requests"]]
    greedy, warm = SamplingConfig(temperature=0, max_tokens=30), SamplingConfig(temperature=0.8, max_tokens=30)
    adapters = [Adapter(path.rsplit("/", 1)[1], Path(path)) for path in asked["adapters"]]
    ids = lambda replies: [reply.token_ids for reply in replies]
    answers = {
        "render": sampler.render(asked["messages"]),
        "base": ids(sampler.sample(requests, greedy)),
        "adapters": [ids(sampler.sample(requests, greedy, adapter)) for adapter in adapters],
        "base again": ids(sampler.sample(requests, greedy)),
        "forward": ids(sampler.sample(requests, warm)),
        "backward": ids(sampler.sample(requests[::-1], warm)[::-1]),
        "reasons": [reply.finish_reason for reply in sampler.sample(requests, greedy)],
    }
    sampler.close()  # and another engine may start in the same process
    if "wilful" in asked:
        second = VLLMSampler(ModelConfig(name=asked["wilful"], dtype="float32"), config, seed=0, adapters=False)
        answers["wilful"] = [[r.token_ids, r.text, r.finish_reason] for r in second.sample(requests, greedy)]
        second.close()
        # In 16 bits nothing is merged, which would round the weights: vLLM puts the adapters on, as it does on a GPU.
        third = VLLMSampler(ModelConfig(name="pocket", dtype="bfloat16"), config, seed=0, adapters=True)
        answers["put on"] = [ids(third.sample(requests, greedy, a)) for a in [None, *adapters, None]]
        third.close()
    Path(sys.argv[2]).write_text(json.dumps(answers))
"""
