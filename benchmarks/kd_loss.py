"""The loss and its gradient against the other ways to compute them: time, peak memory, share of the machine's speed.

    python -m benchmarks.kd_loss         # every contestant at 256 rows of Qwen2.5-3B's head; ours from 64 to 4,096 rows
    python -m benchmarks.kd_loss --rows 300 --hidden 1024 --vocab 32000 --sweep
    python -m benchmarks.kd_loss --device cuda --dtype bfloat16
    python -m benchmarks.kd_loss --divergences forward reverse jsd    # these side by side, in place of the above

All contestants start from the same hidden states, frozen head, temperature and weights, and have to agree on the loss
and on the gradient of the student's hidden states before anything is timed. Peak memory is above the inputs.
`NAME/DIVERGENCE` is a contestant of that divergence. Others name the family by beta: 0 is the forward KL, 1 the reverse
one, and between lies the JSD, here at 1/2.

    ours        kd_loss; ours:torch (CUDA): without the Triton kernel between the products
    dense       autograd over [N, V] logits, as short as PyTorch allows
    paper       the way of the paper's code: [B, S, V] float32 logits, the teacher's ready-made (so one projection less)
    trl:dense   TRL's generalized JSD over logits
    trl         TRL's chunked divergence over hidden states (CUDA only: it is a Triton kernel)
    liger       Liger's fused linear JSD, at the best of some chunk sizes
    unsloth     Unsloth's chunked JSD, likewise (where it can be imported: without a GPU under UNSLOTH_ALLOW_CPU=1)
    raw         the speed of a large square matrix product, as the time it would need for 6 N H V operations
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ssb_unsloth.method.distributions import Divergence, Head
from ssb_unsloth.method.losses import kd_loss

from . import common

TEMPERATURE = 2.0
CHUNKS = {"liger": (64, 256, 1024), "unsloth": (256, 1024)}  # rows at a time; Unsloth's compiles once for each
BETAS: dict[Divergence, float] = {"forward": 0.0, "reverse": 1.0, "jsd": 0.5}  # as the others name the family
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
        """A function that returns T² times the mean divergence of the rows, ready for backward."""
        student, teacher, weight = self.student, self.teacher, self.weight
        name, divergence = split(name)
        kind, _, option = name.partition(":")
        if kind == "ours":
            options: dict[str, Any] = {"temperature": TEMPERATURE, "divergence": divergence, "kernel": option or "auto"}
            return lambda: kd_loss(student, teacher, Head(weight), self.row_weights, **options).loss
        if kind == "dense":

            def dense() -> Tensor:
                with torch.no_grad():
                    log_p = F.log_softmax((teacher @ weight.T).float() / TEMPERATURE, dim=-1)
                log_q = F.log_softmax((student @ weight.T).float() / TEMPERATURE, dim=-1)
                return TEMPERATURE**2 * (self.row_weights * _dense(log_p, log_q, divergence)).sum()

            return dense
        if kind == "paper":
            with torch.no_grad():
                stored = (teacher @ weight.T).float()[None]  # [B, S, V], loaded from disk there
            mask = torch.ones(stored.shape[:2], dtype=torch.bool, device=stored.device)
            return lambda: paper_loss((student[None] @ weight.T).float(), stored, mask, TEMPERATURE)
        return _others(name, student, teacher, weight, BETAS[divergence])

    def exact(self) -> tuple[float, Tensor]:
        """Loss and gradient by float64 throughout, from the same (rounded) inputs."""
        student, teacher, weight = (x.detach().double() for x in (self.student, self.teacher, self.weight))
        p = torch.softmax(teacher @ weight.T / TEMPERATURE, dim=-1)
        log_q = torch.log_softmax(student @ weight.T / TEMPERATURE, dim=-1)
        loss = TEMPERATURE**2 * (p * (p.log() - log_q)).sum(-1).mean()
        gradient = TEMPERATURE / len(student) * (log_q.exp() - p) @ weight
        return loss.item(), gradient

    def step(self, contestant: Contestant) -> float:
        """One loss and backward; the gradient stays in `student.grad`."""
        self.student.grad = None
        loss = contestant()
        loss.backward()
        return loss.item()


def paper_loss(logits_BSV: Tensor, stored_BSV: Tensor, mask_BS: Tensor, temperature: float) -> Tensor:
    """The loss as the paper's code has it: softmaxes of whole [B, S, V] tensors, then the rows of the reply."""
    log_q = F.log_softmax(logits_BSV / temperature, dim=-1)[mask_BS]
    p = F.softmax(stored_BSV / temperature, dim=-1)[mask_BS]
    return temperature**2 * F.kl_div(log_q, p, reduction="batchmean")


def split(name: str) -> tuple[str, Divergence]:
    """A contestant's name without its divergence, and that."""
    name, _, divergence = name.partition("/")
    if divergence and divergence not in BETAS:
        raise SystemExit(f"--contestants: no divergence {divergence!r}; expected one of {', '.join(BETAS)}.")
    return name, cast(Divergence, divergence or "forward")


def _dense(log_p: Tensor, log_q: Tensor, divergence: Divergence) -> Tensor:
    def kl(log_x: Tensor, log_y: Tensor) -> Tensor:
        return F.kl_div(log_y, log_x, reduction="none", log_target=True).sum(-1)

    if divergence == "forward":
        return kl(log_p, log_q)
    if divergence == "reverse":
        return kl(log_q, log_p)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (kl(log_p, log_m) + kl(log_q, log_m)) / 2


def _others(name: str, student: Tensor, teacher: Tensor, weight: Tensor, beta: float) -> Contestant:
    rows = len(student)
    kind, _, option = name.partition(":")
    if name == "trl:dense":
        os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
        from trl.experimental.gkd import GKDTrainer

        def trl_dense() -> Tensor:
            with torch.no_grad():
                t = (teacher @ weight.T).float()
            s = (student @ weight.T).float()
            options = {"beta": beta, "temperature": TEMPERATURE, "num_items_in_batch": rows}
            return TEMPERATURE**2 * GKDTrainer.generalized_jsd_loss(s[None], t[None], **options)

        return trl_dense
    if kind == "trl":
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

        arguments = (student, weight, None, teacher, weight, None, beta, TEMPERATURE)
        return lambda: TEMPERATURE**2 * ChunkedDivergenceFunction.apply(*arguments)[0].mean()
    if kind == "liger":
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        settings = {"beta": beta, "temperature": TEMPERATURE, "compiled": False, "chunk_size": int(option)}
        loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, **settings)
        labels = torch.zeros(rows, dtype=torch.long, device=student.device)
        return lambda: TEMPERATURE**2 * loss(student, weight, teacher, weight, labels)
    if kind == "unsloth":
        import unsloth  # noqa: F401 # before its other half, as it asks
        from unsloth_zoo.rl_replacements import distillation_chunked_jsd

        mask = torch.ones(1, rows, device=student.device)
        settings = {"beta": beta, "temperature": TEMPERATURE, "chunk_size": int(option)}
        arguments = (student[None], teacher[None], weight, weight, mask)
        return lambda: TEMPERATURE**2 * distillation_chunked_jsd(*arguments, **settings)[0]
    raise SystemExit(f"--contestants: no {name!r}; see --help.")


def square_product(args: argparse.Namespace) -> Callable[[], Tensor]:
    """A large square product: 2 args.square³ operations."""
    kind = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    n = args.square
    a, out = torch.randn(n, n, **kind), torch.empty(n, n, **kind)
    return lambda: torch.mm(a, a, out=out)


def enter(work: Work, names: list[str], device: str) -> dict[str, tuple[Contestant, common.Times]]:
    """The contestants at their best option, once all have been seen to agree with the first of their divergence; and
    what that took.
    """
    entered: dict[str, tuple[Contestant, common.Times]] = {}
    firsts: dict[str, tuple[float, Tensor]] = {}
    for name in names:
        kind, slash, divergence = name.partition("/")
        options = [name]
        if kind in CHUNKS:
            fitting = [chunk for chunk in CHUNKS[kind] if chunk <= max(64, len(work.student))] or CHUNKS[kind][:1]
            options = [f"{kind}:{chunk}{slash}{divergence}" for chunk in fitting]
        trials = []
        for option in options:
            try:
                contestant = work.contestant(option)
                if device == "cuda":
                    work.step(contestant)  # compiling is not counted
                seconds, cpu, loss = common.timed(lambda c=contestant: work.step(c), device)
            except (ImportError, NotImplementedError, torch.OutOfMemoryError) as error:
                print(f"{len(work.student)} rows, {option}: left out ({str(error).splitlines()[0]})", flush=True)
                work.student.grad = None
                continue
            gradient = work.student.grad
            assert gradient is not None
            expected = firsts.setdefault(divergence, (loss, gradient))
            apart = ((gradient - expected[1]).float().norm() / expected[1].float().norm()).item()
            tolerance = 1e-3 if gradient.dtype == torch.float32 else 5e-2
            if abs(loss / expected[0] - 1) > tolerance or apart > tolerance:
                message = f"{option}: loss {loss}, the first: {expected[0]}; gradients {apart:.1g} apart."
                if gradient.dtype == torch.float32:
                    raise SystemExit(message)
                print(f"{message} Left out.", flush=True)  # on a GPU whose time is short the others go on
                continue
            print(f"{len(work.student)} rows, {option}: {seconds:.3f} s, {apart:.1g} from the first", flush=True)
            trials.append((seconds, cpu, option, contestant))
        if not trials:
            continue
        seconds, cpu, option, contestant = min(trials, key=lambda trial: trial[0])
        entered[option] = contestant, common.Times([seconds], [cpu])
    return entered


def compare(
    args: argparse.Namespace, names: list[str], rows: int, repeats: int, work: str = "kd-loss"
) -> list[dict[str, Any]]:
    """Time the contestants in turn; one row of results for each."""
    times, peaks = _measure(args, names, rows, repeats)
    if args.device == "cpu" and not args.no_memory:
        options = {key: getattr(args, key) for key in ("dtype", "hidden", "vocab", "threads")} | {"rows": rows}
        for name in times:
            peak = None if name == "raw" else common.peak_in_fresh_process("benchmarks.kd_loss", options, name)
            peaks[name] = peak and peak.bytes
    size = {"rows": rows, "hidden": args.hidden, "vocabulary": args.vocab}
    results = []
    for name, found in times.items():
        kind, _, divergence = name.partition("/")
        more = {"divergence": divergence} if divergence else {}
        results.append(common.row(work, kind, found, args, **size, peak_bytes=peaks.get(name), **more))
    common.show(results)
    return results


def _measure(
    args: argparse.Namespace, names: list[str], rows: int, repeats: int
) -> tuple[dict[str, common.Times], dict[str, int | None]]:
    work = Work(args, rows)
    raw = square_product(args)
    others = common.Others()
    first = common.timed(raw, args.device)[:2]
    contestants = enter(work, names, args.device)
    steps: dict[str, Callable[[], Any]] = {"raw": raw}
    steps |= {name: lambda c=contestant: work.step(c) for name, (contestant, _) in contestants.items()}
    if repeats:
        times = common.in_turn(steps, repeats, args.device)
    else:  # the round in which they were seen to agree is the one that counts
        times = {"raw": common.Times([first[0]], [first[1]])} | {
            name: found for name, (_, found) in contestants.items()
        }
        load = others.cores()
        for found in times.values():
            found.load = load
    times["raw"] = times["raw"].scaled(3 * rows * args.hidden * args.vocab / args.square**3)
    peaks: dict[str, int | None] = {}
    if args.device == "cuda" and not args.no_memory:
        peaks |= {name: common.peak_of(steps[name], args.device) for name in contestants}
    return times, peaks


def measure_peak(args: argparse.Namespace) -> None:
    small = Work(argparse.Namespace(**vars(args) | {"vocab": 64}), 8)
    small.step(small.contestant(args.measure_peak))  # imports, threads, the libraries' own buffers
    work = Work(args, args.rows[0])
    contestant = work.contestant(args.measure_peak)
    common.print_peak(lambda: work.step(contestant))


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=None, help="for all contestants (256; CUDA: several)")
    parser.add_argument("--sweep", type=int, nargs="*", help="CPU: rows for ours and dense (64 to 4,096), one round")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--square", type=int, default=4096, help="of raw's product")
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="the first is the one all must agree with")
    parser.add_argument("--divergences", nargs="+", choices=BETAS, help="each contestant for each of these, no sweep")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.measure_peak:
        return measure_peak(args)
    on_gpu = args.device == "cuda"
    rows = args.rows or ([512, 2048, 8192] if on_gpu else [256])
    sweep = ([] if on_gpu else [64, 2048, 4096]) if args.sweep is None else args.sweep
    theirs = ["trl", "ours:torch"] if on_gpu else ["trl:dense"]
    last = ["liger", "unsloth"]  # which changes what is imported after it
    if args.divergences:
        kinds = args.contestants or ["ours", "dense", *theirs, *last]
        names = [f"{kind}/{divergence}" for divergence in args.divergences for kind in kinds]
        family = [row for n in rows for row in compare(args, names, n, args.repeats, "kd-divergence")]
        common.save(family, "kd-divergence", args)
        return
    names = args.contestants or ["ours", "dense", "paper", *theirs, *last]
    results = [row for n in rows for row in compare(args, names, n, args.repeats)]
    for n in sweep:  # the dense way needs 10 GB for 4,096 rows
        results += compare(args, ["ours", "dense"] if n <= 2048 else ["ours"], n, 0)
    common.save(results, "kd-loss", args)


if __name__ == "__main__":
    main()
