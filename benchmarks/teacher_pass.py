"""The teacher-forced pass over hinted context + reply: pairs a second, in batches sorted by length and otherwise.

python -m benchmarks.teacher_pass                                          # 0.1 B parameters, random weights
python -m benchmarks.teacher_pass --device cuda --dtype bfloat16 --geometry 3B --pairs 64

ours            ssb_unsloth.method.teach: batches of similar length, hidden states of the reply, written to disk
ours:single     the same, each pair in a batch of its own
paper           the released code's way: each pair on its own, logits of the whole sequence, those of the reply kept
                as float32 in an .npz
paper:steps     the paper's text (§3.1.4): the logits of one position after another (with a cache, kindly). Measured
                on --steps-pairs pairs and scaled to all by their reply tokens ("extrapolated" in the row)
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssb_unsloth.method.collator import Example
from ssb_unsloth.method.modeling import as_teacher
from ssb_unsloth.method.targets import TargetWriter
from ssb_unsloth.method.teach import teach
from ssb_unsloth.recipe.schema import TeachConfig

from . import common
from .models import GEOMETRIES, PAD, random_examples, random_model

TEMPERATURE = 2.0


class Pass:
    def __init__(self, model: nn.Module, examples: Sequence[Example], folder: Path, batch_tokens: int) -> None:
        self.model, self.examples, self.folder, self.batch_tokens = model, examples, folder, batch_tokens
        self.device = next(model.parameters()).device

    def contestant(self, name: str) -> Callable[[], int]:
        """A function that makes all pairs' targets anew and returns their bytes on disk."""
        steps: dict[str, Callable[[Path], None]] = {
            "ours": lambda folder: self._ours(folder, self.batch_tokens),
            "ours:single": lambda folder: self._ours(folder, 1),
            "paper": self._paper,
        }

        def run() -> int:
            folder = self.folder / name.replace(":", "-")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            steps[name](folder)
            return sum(path.stat().st_size for path in folder.iterdir())

        return run

    def _ours(self, folder: Path, batch_tokens: int) -> None:
        writer = TargetWriter(folder)
        teach(self.model, self.examples, TeachConfig(batch_tokens=batch_tokens), TEMPERATURE, PAD, writer)
        writer.close({"targets": "hidden", "temperature": TEMPERATURE})

    @torch.no_grad()
    def _paper(self, folder: Path) -> None:
        for example in self.examples:
            ids = torch.tensor([example.teacher_ids + example.reply_ids], device=self.device)
            with as_teacher(self.model):
                logits = self.model(input_ids=ids).logits[0, len(example.teacher_ids) - 1 : -1]
            np.savez(folder / f"{example.id}.npz", logits=logits.float().cpu().numpy())

    @torch.no_grad()
    def one_position_after_another(self, examples: Sequence[Example]) -> None:
        for example in examples:
            ids = torch.tensor([example.teacher_ids + example.reply_ids], device=self.device)
            start, end = len(example.teacher_ids), ids.shape[1]
            out = self.model(input_ids=ids[:, :start], use_cache=True, logits_to_keep=1)
            rows = [out.logits[0, -1].float().cpu()]
            for position in range(start, end - 1):
                cache = out.past_key_values
                out = self.model(input_ids=ids[:, position : position + 1], past_key_values=cache, use_cache=True)
                rows.append(out.logits[0, -1].float().cpu())
            assert len(rows) == len(example.reply_ids)


def measure(model: nn.Module, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a contestant, for a model that is there already."""
    vocabulary, hidden = model.get_input_embeddings().weight.shape  # type: ignore[operator,union-attr]
    examples = random_examples(args.pairs, args.prompt, args.teacher_prompt, args.reply, vocabulary)
    tokens = sum(len(e.reply_ids) for e in examples)
    few = sorted(examples, key=lambda e: len(e.reply_ids))[len(examples) // 2 :][: args.steps_pairs]
    few_tokens = sum(len(e.reply_ids) for e in few)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        work = Pass(model, examples, Path(folder), args.batch_tokens)
        names = ["ours", "ours:single", *([] if args.skip_paper else ["paper"])]
        contestants: dict[str, Callable[[], Any]] = {name: work.contestant(name) for name in names}
        on_disk = {name: step() for name, step in contestants.items()}  # once to warm up
        if few:
            contestants["paper:steps"] = lambda: work.one_position_after_another(few)
        times = common.in_turn(contestants, args.repeats, args.device)
        peaks = {}
        if args.device == "cuda" and not args.no_memory:
            peaks = {name: common.peak_of(step, args.device) for name, step in contestants.items()}
    results = []
    for name, found in times.items():
        scale = tokens / few_tokens if name == "paper:steps" else 1.0
        found = found.scaled(scale)
        more: dict[str, Any] = {"pairs": len(examples), "pairs_per_second": len(examples) / min(found.wall)}
        more |= {"batch_tokens": args.batch_tokens, "extrapolated": scale != 1.0}
        if name in on_disk:
            more["bytes_per_token"] = on_disk[name] / tokens
        size = {"rows": tokens, "hidden": hidden, "vocabulary": vocabulary, "peak_bytes": peaks.get(name)}
        results.append(common.row("teacher-pass", name, found, args, **size, **more))
    common.show(results)
    return results


def arguments() -> argparse.ArgumentParser:
    parser = common.parser(__doc__, repeats=2)
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="0.1B")
    parser.add_argument("--vocab", type=int, help="default: the geometry's own")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the student's prompt, which is not used here")
    parser.add_argument("--teacher-prompt", type=int, default=200)
    parser.add_argument("--reply", type=int, nargs=2, default=[32, 288], metavar=("LOW", "HIGH"))
    parser.add_argument("--steps-pairs", type=int, default=1, help="pairs that go one position after another")
    parser.add_argument("--skip-paper", action="store_true", help="it writes 600 kB a token at a 3B model's vocabulary")
    parser.add_argument("--batch-tokens", type=int, default=TeachConfig().batch_tokens)
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = arguments().parse_args(argv)
    torch.set_num_threads(args.threads)
    model = random_model(args.geometry, args.vocab, args.device, args.dtype)
    common.save(measure(model, args), "teacher-pass", args)


if __name__ == "__main__":
    main()
