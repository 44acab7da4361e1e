"""The last hidden states of a model folder by plain transformers, in a process that Unsloth has not touched.

    python -m scripts.plain_hidden BASE DTYPE DEVICE ASKED.safetensors ANSWER.safetensors

ASKED has `ids` and `mask` [B, S]; ANSWER gets `hidden` [B, S, H], float32. Used by gpu_checks' numerics.
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


@torch.no_grad()
def main(base: str, dtype: str, device: str, asked: str, answer: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype)).to(device).eval()
    given = {name: value.to(device) for name, value in load_file(asked).items()}
    hidden_BSH = model.get_decoder()(input_ids=given["ids"], attention_mask=given["mask"], use_cache=False)[0]
    save_file({"hidden": hidden_BSH.float().cpu().contiguous()}, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
