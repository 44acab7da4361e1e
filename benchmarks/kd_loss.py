"""The loss and its gradient against the other ways to compute them: time, peak memory, share of the machine's speed.

    python -m benchmarks.kd_loss                                     # every contestant, 256 rows of Qwen2.5-3B's head
    python -m benchmarks.kd_loss --rows 64 512 2048 --contestants ours dense --repeats 1 --out sweep.json
    python -m benchmarks.kd_loss --device cuda --dtype bfloat16 --rows 512 2048 8192

All contestants start from the same hidden states, frozen head, temperature and weights, and have to agree on the loss
and on the gradient of the student's hidden states before anything is timed. They are timed in turn, round after round,
in one process. Peak memory is what a fresh process (CPU: resident set) or the allocator (CUDA) needs above the inputs.

    ours        kd_loss; ours-triton (CUDA): with the Triton kernel between the products
    dense       autograd over [N, V] logits, as short as PyTorch allows
    paper       the way of the paper's code: [B, S, V] float32 logits, the teacher's ready-made (so one projection less)
    trl-dense   TRL's generalized JSD (beta 0) over logits
    trl         TRL's chunked divergence over hidden states (CUDA only: it is a Triton kernel)
    liger       Liger's fused linear JSD (beta 0), at the best of some chunk sizes
    raw         the speed of a large square matrix product, as the time it would need for 6 N H V operations
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssb_unsloth.losses import Head, kd_loss

TEMPERATURE = 2.0
LIGER_CHUNKS = (64, 256, 1024)
SQUARE = 4096
Contestant = Callable[[], Tensor]


class Work:
    """The inputs: N rows, hidden size H, vocabulary V."""

    def __init__(self, args: argparse.Namespace, rows: int) -> None:
        torch.manual_seed(0)
        kind = {"device": args.device, "dtype": getattr(torch, args.dtype)}
        self.weight = torch.empty(args.vocab, args.hidden, **kind).normal_(std=args.hidden**-0.5)
        self.student = torch.empty(rows, args.hidden, **kind).normal_().requires_grad_()
        self.teacher = (self.student.detach() + 0.3 * torch.empty(rows, args.hidden, **kind).normal_()).detach()
        self.row_weights = torch.full((rows,), 1 / rows, device=args.device)

    def contestant(self, name: str) -> Contestant:
        """A function that returns T² times the mean KL of the rows, ready for backward."""
        student, teacher, weight, rows = self.student, self.teacher, self.weight, len(self.student)
        if name in ("ours", "ours-triton"):
            kernel = "triton" if name == "ours-triton" else "torch"
            options: dict[str, Any] = {"temperature": TEMPERATURE, "kernel": kernel}
            return lambda: kd_loss(student, teacher, Head(weight), self.row_weights, **options).loss
        if name == "dense":

            def dense() -> Tensor:
                with torch.no_grad():
                    log_p = F.log_softmax((teacher @ weight.T).float() / TEMPERATURE, dim=-1)
                log_q = F.log_softmax((student @ weight.T).float() / TEMPERATURE, dim=-1)
                kl = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
                return TEMPERATURE**2 * (self.row_weights * kl).sum()

            return dense
        if name == "paper":
            with torch.no_grad():
                stored = (teacher @ weight.T).float()[None]  # [B, S, V], loaded from disk there
            mask = torch.ones(stored.shape[:2], dtype=torch.bool, device=stored.device)

            def paper() -> Tensor:
                logits = (student[None] @ weight.T).float()
                log_q = F.log_softmax(logits / TEMPERATURE, dim=-1)[mask]
                p = F.softmax(stored / TEMPERATURE, dim=-1)[mask]
                return TEMPERATURE**2 * F.kl_div(log_q, p, reduction="batchmean")

            return paper
        if name == "trl-dense":
            os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
            from trl.experimental.gkd import GKDTrainer

            def trl_dense() -> Tensor:
                with torch.no_grad():
                    t = (teacher @ weight.T).float()
                s = (student @ weight.T).float()
                divergence = GKDTrainer.generalized_jsd_loss
                options = {"beta": 0, "temperature": TEMPERATURE, "num_items_in_batch": rows}
                return TEMPERATURE**2 * divergence(s[None], t[None], **options)

            return trl_dense
        if name == "trl":
            from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

            arguments = (student, weight, None, teacher, weight, None, 0.0, TEMPERATURE)
            return lambda: TEMPERATURE**2 * ChunkedDivergenceFunction.apply(*arguments)[0].mean()
        if name.startswith("liger"):
            from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

            chunk = int(name.partition(":")[2])
            options = {"beta": 0.0, "temperature": TEMPERATURE, "compiled": False, "chunk_size": chunk}
            loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, **options)
            labels = torch.zeros(rows, dtype=torch.long, device=student.device)
            return lambda: TEMPERATURE**2 * loss(student, weight, teacher, weight, labels)
        raise SystemExit(f"--contestants: no {name!r}; see --help.")

    def step(self, contestant: Contestant) -> tuple[float, float]:
        """One loss and backward: seconds and the loss; the gradient stays in `student.grad`."""
        self.student.grad = None
        synchronize(self.student.device)
        start = time.perf_counter()
        loss = contestant()
        loss.backward()
        synchronize(self.student.device)
        return time.perf_counter() - start, loss.item()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def square_product(args: argparse.Namespace) -> Callable[[], float]:
    """A function that measures the seconds of one multiplication and addition in a large square product."""
    kind = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    a, out = torch.randn(SQUARE, SQUARE, **kind), torch.empty(SQUARE, SQUARE, **kind)

    def run() -> float:
        synchronize(a.device)
        start = time.perf_counter()
        torch.mm(a, a, out=out)
        synchronize(a.device)
        return (time.perf_counter() - start) / SQUARE**3

    return run


def peak_bytes(args: argparse.Namespace, name: str, rows: int) -> int | None:
    """Peak memory of one step above its inputs, from a process of its own; None where it cannot be told."""
    if args.no_memory or (args.device == "cpu" and not Path("/proc/self/clear_refs").exists()):
        return None
    options = [f"--{key}={getattr(args, key)}" for key in ("device", "dtype", "hidden", "vocab", "threads")]
    command = [sys.executable, "-m", "benchmarks.kd_loss", f"--measure-peak={name}", f"--rows={rows}", *options]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"Measuring the memory of {name} failed:\n{run.stderr}")
    return int(run.stdout.split()[-1])


def measure_peak(args: argparse.Namespace) -> None:
    small = Work(argparse.Namespace(**vars(args) | {"vocab": 64}), 8)
    small.step(small.contestant(args.measure_peak))  # imports, threads, the libraries' own buffers
    work = Work(args, args.rows[0])
    on_gpu = args.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident size so far
    before = torch.cuda.memory_allocated() if on_gpu else resident("VmRSS")
    work.step(work.contestant(args.measure_peak))
    print((torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM")) - before)


def resident(key: str) -> int:
    """Bytes of memory of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def enter(work: Work, names: list[str]) -> dict[str, Contestant]:
    """The contestants at their best option, once all have been seen to agree with the first."""
    entered: dict[str, Contestant] = {}
    expected: tuple[float, Tensor] | None = None
    for name in names:
        options = (
            [f"liger:{chunk}" for chunk in LIGER_CHUNKS if chunk <= len(work.student)] if name == "liger" else [name]
        )
        trials = []
        for option in options:
            contestant = work.contestant(option)
            seconds, loss = work.step(contestant)
            gradient = work.student.grad
            assert gradient is not None
            expected = expected or (loss, gradient)
            apart = ((gradient - expected[1]).float().norm() / expected[1].float().norm()).item()
            tolerance = 1e-3 if gradient.dtype == torch.float32 else 5e-2
            if abs(loss / expected[0] - 1) > tolerance or apart > tolerance:
                raise SystemExit(f"{option}: loss {loss}, {names[0]}: {expected[0]}; gradients {apart:.1g} apart.")
            print(
                f"{len(work.student)} rows, {option}: {seconds:.2f} s, gradient {apart:.1g} from {names[0]}", flush=True
            )
            trials.append((seconds, option, contestant))
        _, option, contestant = min(trials, key=lambda trial: trial[0])
        entered[option] = contestant
    return entered


def compare(args: argparse.Namespace, rows: int) -> list[dict[str, Any]]:
    """Time the contestants in turn; one row of results for each."""
    work, square = Work(args, rows), square_product(args)
    contestants = enter(work, args.contestants)
    times: dict[str, list[float]] = {name: [] for name in [*contestants, "raw"]}
    for _ in range(args.repeats):
        times["raw"].append(square() * 3 * rows * args.hidden * args.vocab)
        for name, contestant in contestants.items():
            times[name].append(work.step(contestant)[0])
    del work, contestants  # the processes that measure memory need room

    results = []
    for name, values in times.items():
        row: dict[str, Any] = {
            "work": "kd-loss",
            "contestant": name.partition(":")[0],
            "option": name.partition(":")[2] or None,
        }
        row |= {"device": device_name(args.device), "dtype": args.dtype, "rows": rows, "hidden": args.hidden}
        row |= {"vocabulary": args.vocab, "threads": torch.get_num_threads()}
        row["seconds"] = {"min": min(values), "median": statistics.median(values), "max": max(values)}
        row["peak_bytes"] = None if name == "raw" else peak_bytes(args, name, rows)
        results.append(row | {"commit": commit(), "date": datetime.date.today().isoformat()})
    return results


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu ({names[0]})" if names else "cpu"


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    return run.stdout.strip() or "unknown"


def show(results: list[dict[str, Any]]) -> None:
    """Print one table for each number of rows: seconds, the time in units of ours, share of the raw speed, memory."""
    for rows in dict.fromkeys(row["rows"] for row in results):
        same = {row["contestant"]: row for row in results if row["rows"] == rows}
        print(f"\n{rows} rows      min   median      max    / ours  share of raw  peak MiB")
        for name, row in same.items():
            seconds = row["seconds"]
            times = "".join(f"{seconds[key]:9.3f}" for key in ("min", "median", "max"))
            ours = same.get("ours", row)["seconds"]["min"]
            share = same["raw"]["seconds"]["min"] / seconds["min"]
            memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:10.0f}"
            print(f"{name:9} {times} {seconds['min'] / ours:9.2f} {share:13.2f} {memory}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[256])
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument(
        "--contestants", nargs="+", metavar="NAME", help="the first is the one the others must agree with"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true", help="skip the peak memory")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<cpu or gpu>/kd-loss.json")
    parser.add_argument("--measure-peak", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure_peak:
        return measure_peak(args)
    on_gpu = args.device == "cuda"
    args.contestants = args.contestants or [
        "ours",
        "dense",
        "paper",
        *(["trl", "ours-triton"] if on_gpu else ["trl-dense"]),
        "liger",
    ]
    results = [row for rows in args.rows for row in compare(args, rows)]
    show(results)
    out = args.out or Path(__file__).parent / "results" / ("gpu" if on_gpu else "cpu") / "kd-loss.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("[\n" + ",\n".join(json.dumps(row) for row in results) + "\n]\n")
    print(f"\nWritten to {out}.")


if __name__ == "__main__":
    main()
