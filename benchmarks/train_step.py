"""One optimizer step of the LoRA student: batch, forward, loss, backward, clipping, AdamW.

    python -m benchmarks.train_step                                   # 0.1 B parameters, random weights
    python -m benchmarks.train_step --device cuda --dtype bfloat16 --geometry 3B

All contestants share model, adapter, batch and optimizer; those of the distillation loss have to agree on it and on the
adapter's gradient before anything is timed.

    ours:FORMAT   SSBTrainer's loss from stored targets: hidden, logits, top_k; or online, the teacher run in the step
    paper         the released code's way: stored float32 logits padded to [B, S, V], softmaxes of the whole of them
    dense         the same with the teacher's logits made in the step, adapter off
    raw           what nothing can do without: backbone, chunked cross-entropy on the same rows, and one head product
                  (the teacher's); at the better of two chunk sizes

With --scaling also our peak memory for a quarter of the vocabulary and for replies twice as long: were there a tensor
of S x V, the longer batch would cost more where the vocabulary is larger.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssb_unsloth import SSBConfig, SSBTrainer
from ssb_unsloth.method.collator import Example, PairCollator
from ssb_unsloth.method.modeling import as_teacher, hidden_states, output_head, reply_states
from ssb_unsloth.method.targets import Targets, TargetWriter
from ssb_unsloth.method.teach import teach
from ssb_unsloth.recipe.schema import TeachConfig

from . import common
from .kd_loss import paper_loss
from .models import GEOMETRIES, PAD, lora, random_examples, random_model, wake

TEMPERATURE = 2.0
TOP_K = 64
RAW_CHUNKS = (256, 512)


class Step:
    """A model with its adapter, a batch, and an optimizer; and the ways to make a step of them.

    Every contestant takes the mean over all reply tokens, as the paper's code does, so that their losses are the same.
    """

    def __init__(self, model: nn.Module, examples: list[Example], args: argparse.Namespace, folder: Path) -> None:
        self.model, self.examples, self.folder, self.device = model, examples, folder, args.device
        self.tokens = sum(len(e.reply_ids) for e in examples)
        self.trainers: dict[str, SSBTrainer] = {}
        self.settings = SSBConfig(
            output_dir=str(folder / "checkpoints"),
            kd_temperature=TEMPERATURE,
            denominator="token",
            report_to="none",
            use_cpu=args.device == "cpu",
            bf16=args.dtype == "bfloat16" and args.device == "cuda",
            disable_tqdm=True,
        )
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-6)

    def trainer(self, targets: str) -> SSBTrainer:
        from ssb_unsloth.backends.transformers import load_tokenizer
        from ssb_unsloth.recipe.schema import ModelConfig

        stored = None
        if targets != "online":
            folder = self._folder(targets)
            writer = TargetWriter(folder)
            config = TeachConfig(targets=targets, top_k=TOP_K)  # type: ignore[arg-type]
            teach(self.model, self.examples, config, TEMPERATURE, PAD, writer)
            writer.close({"targets": targets, "temperature": TEMPERATURE})
            stored = Targets(folder)
        tokenizer = load_tokenizer(ModelConfig(name="pocket"))  # only for its pad token
        return SSBTrainer(self.model, self.settings, self.examples, processing_class=tokenizer, targets=stored)

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def contestant(self, name: str) -> Callable[[], Tensor]:
        """A function from nothing to the loss, the batch's making included."""
        kind, _, option = name.partition(":")
        if kind == "ours":
            trainer = self.trainer(option)
            collate = trainer.data_collator
            return lambda: trainer.compute_loss(self.model, collate(self.examples), num_items_in_batch=self.tokens)
        self.trainers.setdefault("bare", self.trainer("online"))
        bare = PairCollator(PAD, None)
        inside = self.trainers["bare"].compute_loss_context_manager
        function = {"raw": self._raw, "paper": self._paper, "dense": self._dense}[kind]
        if kind == "paper":
            self._store_dense()

        def loss() -> Tensor:
            with inside():
                return function(bare(self.examples), option)

        return loss

    def those_that_fit(self, names: list[str]) -> dict[str, Callable[[], Tensor]]:
        """Each contestant's loss, once it has made a step: which warms kernels and the optimizer's state. One that runs
        out of the GPU's memory is left out, and the others go on."""
        fitting = {}
        for name in names:
            try:
                loss = self.contestant(name)
                self.run(loss)
                fitting[name] = loss
            except torch.OutOfMemoryError:
                print(f"{name}: out of memory, left out", flush=True)
                self.optimizer.zero_grad()
                torch.cuda.empty_cache()
        return fitting

    def run(self, loss: Callable[[], Tensor], update: bool = True) -> float:
        self.model.train()
        self.optimizer.zero_grad()
        value = loss()
        value.backward()
        if update:
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
        return value.item()

    def gradient(self) -> Tensor:
        return torch.cat([p.grad.float().flatten() for p in self.trained if p.grad is not None])

    def _raw(self, batch: dict[str, Any], chunk: str) -> Tensor:
        head = output_head(self.model)
        rows_NH = reply_states(self.model, batch["student"]).to(head.weight.dtype)
        with torch.autocast(self.device, enabled=False):
            return ChunkedCrossEntropy.apply(rows_NH, head.weight, batch["labels"].to(self.device), int(chunk))

    def _logits(self, view: Any) -> Tensor:
        logits = self.model(
            input_ids=view.input_ids.to(self.device), attention_mask=view.attention_mask.to(self.device)
        )
        return logits.logits.float()

    def _dense(self, batch: dict[str, Any], _: str) -> Tensor:
        with as_teacher(self.model):
            rows_NV = batch["teacher"].hinted.reply_rows(self._logits(batch["teacher"].hinted))
        return self._paper_loss(batch, rows_NV.split(batch["lengths"].tolist()))

    def _paper(self, batch: dict[str, Any], _: str) -> Tensor:
        files = [self.folder / "paper" / f"{e.id}.npz" for e in self.examples]
        return self._paper_loss(batch, [torch.from_numpy(np.load(file)["logits"]) for file in files])

    def _paper_loss(self, batch: dict[str, Any], teacher: Any) -> Tensor:
        logits_BSV = self._logits(batch["student"])
        stored_BSV = torch.zeros_like(logits_BSV)
        mask_BS = torch.zeros(logits_BSV.shape[:2], dtype=torch.bool, device=self.device)
        for b, (example, rows_RV) in enumerate(zip(self.examples, teacher, strict=True)):
            at = slice(len(example.student_ids) - 1, len(example.student_ids) - 1 + len(rows_RV))
            stored_BSV[b, at] = rows_RV.to(self.device)
            mask_BS[b, at] = True
        return paper_loss(logits_BSV, stored_BSV, mask_BS, TEMPERATURE)

    def _store_dense(self) -> None:
        folder = self._folder("paper")
        for example in self.examples:
            view = PairCollator(PAD, None)([example])["teacher"].hinted
            with as_teacher(self.model):
                rows_RV = view.reply_rows(self._logits(view))
            np.savez(folder / f"{example.id}.npz", logits=rows_RV.cpu().numpy())


class ChunkedCrossEntropy(torch.autograd.Function):
    """The mean cross-entropy of rows [N, H] and its gradient in one walk over chunks of them, and for each chunk one
    more product with the head [V, H], whose result is not used. Written as carefully as our own loss: buffers are
    made once, and softmaxes go a few rows at a time on a CPU."""

    @staticmethod
    def forward(ctx: Any, rows_NH: Tensor, weight_VH: Tensor, labels_N: Tensor, chunk: int) -> Tensor:
        n, v = len(rows_NH), len(weight_VH)
        rows_NH = rows_NH.detach()
        chunk = -(-n // -(-n // chunk))  # equal chunks
        wide: dict[str, Any] = {"out_dtype": torch.float32} if rows_NH.dtype != torch.float32 else {}
        logits = torch.empty(2, chunk, v, device=rows_NH.device)
        block = min(chunk, 4 * torch.get_num_threads() if rows_NH.device.type == "cpu" else max(1, 2**25 // v))
        work = torch.empty(block, v, device=rows_NH.device)
        gradient = torch.empty(rows_NH.shape, device=rows_NH.device)
        loss = torch.zeros((), device=rows_NH.device)
        for start in range(0, n, chunk):
            rows = slice(start, min(start + chunk, n))
            s = logits[0, : rows.stop - rows.start]
            torch.mm(rows_NH[rows], weight_VH.T, out=logits[1, : len(s)], **wide)
            torch.mm(rows_NH[rows], weight_VH.T, out=s, **wide)
            for part in s.split(block):
                log_q = torch.log_softmax(part, -1, out=work[: len(part)])
                torch.exp(log_q, out=part)
                labels = labels_N[start : start + len(part)]
                at = torch.arange(len(part), device=part.device)
                loss -= log_q[at, labels].sum()
                part[at, labels] -= 1
                start += len(part)
            if wide:
                torch.mm(s.to(weight_VH.dtype), weight_VH, out=gradient[rows], **wide)
            else:
                torch.mm(s, weight_VH, out=gradient[rows])
        ctx.save_for_backward(gradient.div_(n).to(rows_NH.dtype))
        return loss / n

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return ctx.saved_tensors[0] * incoming, None, None, None


def agree(step: Step, contestants: dict[str, Callable[[], Tensor]]) -> dict[str, dict[str, float]]:
    """Each one's loss, and how far its gradient is from that of the first, relative."""
    first: Tensor | None = None
    found = {}
    for name, loss in contestants.items():
        value = step.run(loss, update=False)
        gradient = step.gradient()
        first = gradient if first is None else first
        found[name] = {"loss": value, "gradient_apart": ((gradient - first).norm() / first.norm()).item()}
        print(f"{name}: loss {value:.6f}, gradient {found[name]['gradient_apart']:.1g} from the first", flush=True)
    return found


def check_agreement(found: dict[str, dict[str, float]], tolerance: float) -> None:
    """Of those with the teacher's full distribution. top_k is approximate, and raw is another loss."""
    exact = {name: value for name, value in found.items() if not name.startswith(("raw", "ours:top_k"))}
    expected = next(iter(exact.values()))["loss"]
    for name, value in exact.items():
        if abs(value["loss"] / expected - 1) > tolerance or value["gradient_apart"] > 10 * tolerance:
            raise SystemExit(f"{name} is not the same loss as {next(iter(exact))}: {value}, {expected}.")


def measure(model: nn.Module, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a contestant, for a model with its adapter that is there already."""
    head = output_head(model)
    vocabulary, hidden = head.weight.shape
    examples = random_examples(args.batch, args.prompt, args.teacher_prompt, args.reply, vocabulary)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        step = Step(model, examples, args, Path(folder))
        losses = step.those_that_fit(_options(args.contestants))
        same = agree(step, losses)
        if args.dtype == "float32":  # in half precision the figures stand in the rows, for the reader to judge
            check_agreement(same, 1e-3)
        steps: dict[str, Callable[[], Any]] = {name: lambda x=loss: step.run(x) for name, loss in losses.items()}
        times = common.in_turn(steps, args.repeats, args.device)
        better = min((n for n in times if n.startswith("raw")), key=lambda n: min(times[n].wall), default=None)
        times = {name: found for name, found in times.items() if not name.startswith("raw") or name == better}
        peaks: dict[str, int | None] = {}
        totals: dict[str, int] = {}
        if args.device == "cuda" and not args.no_memory:
            for name in times:
                peaks[name] = common.peak_of(steps[name], args.device)
                totals[name] = torch.cuda.max_memory_allocated()
    if args.device == "cpu" and not args.no_memory:
        measured = {name: fresh_peak(args, name) for name in times}
        peaks = {name: peak and peak.bytes for name, peak in measured.items()}
    size = {"rows": step.tokens, "hidden": hidden, "vocabulary": vocabulary}
    more: dict[str, Any] = {"geometry": args.geometry, "batch": args.batch}
    results = []
    for name, found in times.items():
        shape = {"prompt": args.prompt, "reply": list(args.reply)}
        memory = {"peak_bytes": peaks.get(name), "total_bytes": totals.get(name)}
        results.append(common.row("train-step", name, found, args, **size, **memory, **more, **shape, **same[name]))
    common.show(results)
    return results


def scaling(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Our peak memory at a quarter of the vocabulary and at replies of twice the length."""
    results = []
    full = args.vocab or GEOMETRIES[args.geometry].vocabulary
    for vocabulary in (full, full // 4):
        for factor in (1, 2):
            reply = [factor * n for n in args.reply]
            options = argparse.Namespace(**vars(args) | {"vocab": vocabulary, "reply": reply})
            peak = fresh_peak(options, "ours:hidden")
            if peak is None:
                continue
            times = common.Times([peak.wall], [peak.cpu])
            rows = sum(len(e.reply_ids) for e in random_examples(args.batch, 1, 1, reply, 100))
            size = {"rows": rows, "hidden": GEOMETRIES[args.geometry].hidden, "vocabulary": vocabulary}
            more = {"geometry": args.geometry, "batch": args.batch, "prompt": args.prompt, "reply": reply}
            results.append(
                common.row("train-step-memory", "ours:hidden", times, args, **size, peak_bytes=peak.bytes, **more)
            )
    common.show(results)
    return results


OPTIONS = ("dtype", "threads", "geometry", "vocab", "batch", "prompt", "teacher_prompt", "reply", "checkpointing")


def fresh_peak(args: argparse.Namespace, name: str) -> common.Peak | None:
    options = {key.replace("_", "-"): getattr(args, key) for key in OPTIONS if getattr(args, key) is not None}
    return common.peak_in_fresh_process("benchmarks.train_step", options, name)


def measure_peak(args: argparse.Namespace) -> None:
    model = make_model(args)
    vocabulary = output_head(model).weight.shape[0]
    examples = random_examples(args.batch, args.prompt, args.teacher_prompt, args.reply, vocabulary)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        step = Step(model, examples, args, Path(folder))
        loss = step.contestant(args.measure_peak)
        ids = torch.ones(1, 8, dtype=torch.int64)
        step.run(lambda: hidden_states(model, ids, ids).square().mean())  # gradients and AdamW's state are there then
        common.print_peak(lambda: step.run(loss))


def make_model(args: argparse.Namespace) -> nn.Module:
    from peft import get_peft_model

    model: nn.Module = get_peft_model(random_model(args.geometry, args.vocab, args.device, args.dtype), lora())
    wake(model)
    if args.checkpointing == "yes":
        model.enable_input_require_grads()  # type: ignore[operator]
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    return model


def _options(names: list[str]) -> list[str]:
    return [o for name in names for o in ([f"raw:{n}" for n in RAW_CHUNKS] if name == "raw" else [name])]


def arguments() -> argparse.ArgumentParser:
    parser = common.parser(__doc__)
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="0.1B")
    parser.add_argument("--vocab", type=int, help="default: the geometry's own")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--prompt", type=int, help="tokens (CPU: 48; CUDA: 200)")
    parser.add_argument("--teacher-prompt", type=int, help="tokens (twice the student's)")
    parser.add_argument(
        "--reply", type=int, nargs=2, metavar=("LOW", "HIGH"), help="tokens (CPU: 64 to 128; CUDA: 400 to 600)"
    )
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="the first is the one all must agree with")
    parser.add_argument("--scaling", action=argparse.BooleanOptionalAction, help="see above (CPU: yes)")
    parser.add_argument("--checkpointing", choices=["yes", "no"], help="gradient checkpointing (CPU: no; CUDA: yes)")
    parser.add_argument("--folder", type=Path, help="where to write targets (default: the system's temporary folder)")
    return parser


def complete(args: argparse.Namespace) -> argparse.Namespace:
    """Defaults that depend on the device."""
    on_gpu = args.device == "cuda"
    args.prompt = args.prompt or (200 if on_gpu else 48)
    args.teacher_prompt = args.teacher_prompt or 2 * args.prompt
    args.reply = args.reply or ([400, 600] if on_gpu else [64, 128])
    args.checkpointing = args.checkpointing or ("yes" if on_gpu else "no")
    ours = ["ours:hidden", *(["ours:logits", "ours:top_k", "ours:online"] if on_gpu else [])]
    args.contestants = args.contestants or [*ours, "raw", "paper", *(["dense"] if on_gpu else [])]
    args.scaling = not on_gpu if args.scaling is None else args.scaling
    return args


def main(argv: list[str] | None = None) -> None:
    args = complete(arguments().parse_args(argv))
    torch.set_num_threads(args.threads)
    if args.measure_peak:
        return measure_peak(args)
    results = measure(make_model(args), args)
    if args.scaling:
        results += scaling(args)
    common.save(results, "train-step", args)


if __name__ == "__main__":
    main()
