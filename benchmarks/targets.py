"""The store of the teacher's targets: bytes a reply token on disk, speed of writing and of reading.

    python -m benchmarks.targets

Random rows at Qwen2.5-3B's sizes; pairs of 200 to 440 reply tokens, 320 on average as in the paper's run. What is
written is read back in shuffled batches of 4 from the page cache: the figures are about the format, not about a disk.

    ours:hidden, ours:logits, ours:top_k      TargetWriter and Targets
    paper                                     the released code's: one compressed-less .npz of float32 logits a pair
    raw                                       bytes of the same number (hidden), written to and read from one plain file
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssb_unsloth.method.distributions import Head
from ssb_unsloth.method.targets import Targets, TargetWriter, make_target

from . import common

FORMATS = {"hidden": 1.0, "logits": 0.02, "top_k": 0.5}  # share of --pairs that is written: logits take 150 times more
TOP_K = 64
TEMPERATURE = 2.0


def lengths_of(count: int, low: int = 200, high: int = 440) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(low, high + 1, (count,), generator=generator).tolist()


class Store:
    """One contestant's way to write pairs and to read them again."""

    def __init__(self, name: str, args: argparse.Namespace, folder: Path) -> None:
        self.name, self.folder = name, folder / name.replace(":", "-")
        kind, _, option = name.partition(":")
        share = FORMATS[option] if option else FORMATS["logits"] if kind == "paper" else 1.0
        self.lengths = lengths_of(max(1, round(args.pairs * share)))
        torch.manual_seed(0)
        head = Head(torch.randn(args.vocab, args.hidden, dtype=torch.bfloat16) * args.hidden**-0.5)
        few = torch.randn(8, args.hidden, dtype=torch.bfloat16)
        stored = option or ("logits" if kind == "paper" else "hidden")
        made = make_target(stored, few, head, TOP_K, TEMPERATURE)[0]
        times = -(-max(self.lengths) // len(few))
        self.rows: dict[str, Tensor] = {key: rows.repeat(times, *[1] * (rows.ndim - 1)) for key, rows in made.items()}
        self.ids = [f"pair{i}" for i in range(len(self.lengths))]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def write(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self.name == "raw":
            with (self.folder / "plain").open("wb") as file:
                for n in self.lengths:
                    file.write(self.rows["hidden"][:n].view(torch.uint8).numpy().tobytes())
        elif self.name == "paper":
            for pair, n in zip(self.ids, self.lengths, strict=True):
                np.savez(self.folder / f"{pair}.npz", logits=self.rows["logits"][:n].float().numpy())
        else:
            writer = TargetWriter(self.folder)
            for pair, n in zip(self.ids, self.lengths, strict=True):
                writer.add(pair, {key: rows[:n] for key, rows in self.rows.items()})
            writer.close({"targets": self.name.partition(":")[2], "temperature": TEMPERATURE})

    def read(self) -> int:
        """Every value once, so that none stays unread behind a mapped file. Returns bytes."""
        if self.name == "raw":
            return len((self.folder / "plain").read_bytes())
        order = np.random.default_rng(0).permutation(len(self.ids))
        targets = None if self.name == "paper" else Targets(self.folder)
        total = 0
        for start in range(0, len(order), 4):
            ids = [self.ids[i] for i in order[start : start + 4]]
            if targets is None:
                found: Any = [np.load(self.folder / f"{pair}.npz")["logits"] for pair in ids]
                total += sum(array.nbytes for array in found)
                continue
            teacher = targets(ids)
            for tensor in [teacher] if isinstance(teacher, Tensor) else vars(teacher).values():
                if isinstance(tensor, Tensor):
                    tensor.contiguous().view(torch.uint8).view(-1)[::4096].sum()  # a touch for each page
                    total += tensor.nbytes
        return total

    def bytes_on_disk(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, dtype="bfloat16")
    parser.add_argument("--pairs", type=int, default=256, help="of the format hidden; a share of them for the others")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    args = parser.parse_args(argv)
    args.device = "cpu"  # nothing here runs elsewhere
    torch.set_num_threads(args.threads)
    results = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        stores = [Store(n, args, Path(folder)) for n in ("ours:hidden", "raw", "ours:logits", "ours:top_k", "paper")]
        for work in ("write", "read"):
            steps: dict[str, Callable[[], Any]] = {store.name: getattr(store, work) for store in stores}
            times = common.in_turn(steps, args.repeats, args.device)
            for store in stores:
                size = {"rows": store.tokens, "hidden": args.hidden, "vocabulary": args.vocab}
                on_disk = store.bytes_on_disk()
                speeds = {"bytes_per_token": on_disk / store.tokens, "bytes_on_disk": on_disk}
                results.append(common.row(f"targets-{work}", store.name, times[store.name], args, **size, **speeds))
    common.show(results)
    common.save(results, "targets", args)


if __name__ == "__main__":
    main()
