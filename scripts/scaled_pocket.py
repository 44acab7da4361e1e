"""The pocket at 20 million parameters, trained from nothing on one GPU, for a run of the whole method at that size.

    python -m scripts.scaled_pocket --out DIR --seconds 100
    ssb run recipes/pocket.yaml model.name=DIR model.dtype=bfloat16 sampler.engine=transformers

The same text and tokenizer as the shipped model's (`ssb_unsloth.pocket.build`), 25 times its parameters, and as many
steps as the time allows: the cosine ends with it. Prints one line of JSON. Unlike that
build it is not reproducible to the bit.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks import common
from ssb_unsloth.pocket import build
from ssb_unsloth.pocket.muon import Muon
from ssb_unsloth.pocket.problems import generate
from ssb_unsloth.pocket.tokenizer import POCKET, train_tokenizer

SHAPE = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 1408}
BATCH_TOKENS = 32_768
LEARNING_RATE, WARM_UP = 2e-3, 0.05  # the warm-up is a share of the time


class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """build.batches, drawn by every worker from a seed of its own."""

    def __init__(self, tokenizer: Any, seed: int) -> None:
        self.tokenizer, self.seed = tokenizer, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        seed = 1000 * self.seed + (worker.id if worker else 0)
        yield from build.batches(self.tokenizer, seed, POCKET, BATCH_TOKENS)


def train(tokenizer: Any, seconds: float, seed: int, device: str, workers: int) -> tuple[Qwen2ForCausalLM, int]:
    """The model, and how many tokens it has read."""
    torch.manual_seed(seed)
    small = build.configuration(tokenizer, POCKET.vocabulary).to_dict()
    shape = {**SHAPE, "num_key_value_heads": SHAPE["num_attention_heads"], "layer_types": None}
    with torch.device(device):
        model = Qwen2ForCausalLM(Qwen2Config(**{**small, **shape}))
        matrices = [weight for name, weight in model.named_parameters() if weight.ndim > 1 and "embed" not in name]
        others = [weight for name, weight in model.named_parameters() if weight.ndim == 1 or "embed" in name]
        muon = Muon(matrices)
    adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)
    stream = iter(DataLoader(Batches(tokenizer, seed), batch_size=None, num_workers=workers, prefetch_factor=4))
    ids_BS, labels_BS = next(stream)  # the workers have begun
    began, tokens, step = time.monotonic(), 0, 0
    while (done := (time.monotonic() - began) / seconds) < 1:
        lr = LEARNING_RATE * min((done + 0.001) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * done))
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits = model(input_ids=ids_BS[:, :-1].to(device), use_cache=False).logits
        targets = labels_BS[:, 1:].to(device).flatten()
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets, ignore_index=build.IGNORE)
        loss.backward()
        tokens += ids_BS.numel()
        torch.nn.utils.clip_grad_norm_([*matrices, *others], 1.0)
        muon.step(lr)
        adam.param_groups[0]["lr"] = lr
        adam.step()
        model.zero_grad()
        step += 1
        if step % 100 == 0:
            print(f"{step:,} steps, {tokens:,} tokens, {done:.0%}, loss {loss.item():.3f}", flush=True)
        ids_BS, labels_BS = next(stream)
    return model.eval(), tokens


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model into")
    parser.add_argument("--rows", type=Path, help="file to append the line of JSON to")
    parser.add_argument("--seconds", type=float, default=100, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 4))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--problems", type=int, default=100, help="validation problems to answer greedily")
    args = parser.parse_args(argv)
    tokenizer = train_tokenizer(args.seed)
    model, tokens = train(tokenizer, args.seconds, args.seed, args.device, args.workers)
    parameters = sum(weight.numel() for weight in model.parameters())
    build.save(model.cpu(), tokenizer, args.out)
    right = build.accuracy(args.out, generate("validation", args.problems, seed=0), 0.0) if args.problems else None
    line = {
        "check": "scaled-pocket",
        "device": common.device_name(args.device),
        "parameters": parameters,
        "tokens": tokens,
        "seconds": args.seconds,
        "validation_greedy": right,
        "commit": common.commit(),
    }
    print(json.dumps(line), flush=True)
    if args.rows:
        with args.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
