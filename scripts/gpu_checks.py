"""What only a GPU can tell, in two commands of at most ten minutes on any CUDA machine: no network, no trained weights.

    python -m scripts.gpu_checks unsloth-train memory-caps
    python -m scripts.gpu_checks kd-kernel kd-parts teacher-pass numerics
    python -m scripts.gpu_checks all --device cpu --tiny              # the same code in seconds, without a GPU

    unsloth-train   Qwen2.5-3B's geometry, LoRA rank 32, batch 4: time and peak memory of a step with each format of the
                    targets, of a step as the paper's code makes it (stored float32 logits), and of the same with logits
                    made in the step; whether they agree on the loss and on the gradients
    memory-caps     which of those steps fit into 40, 24 and 16 GB, CUDA's own share of the card counted
    kd-kernel       the loss alone at 512 to 8,192 rows: time, memory, distance from float64, operations a second
    kd-parts        where the loss's time goes: products, kernel, chunk sizes
    teacher-pass    pairs a second of the teacher-forced pass, bytes a token on disk
    numerics        Unsloth's and plain transformers' distributions against float32's, same weights: KL of each token,
                    beside the KL that an error of 1 % makes

Each check prints a line of JSON or more, also where it failed, and the lines are kept in benchmarks/results/gpu/, a
file for each command. Without Unsloth, or with --backend transformers, plain transformers and PEFT carry the model, and
the line says so; --backend unsloth is an error where Unsloth does not load a model. 15 GB of disk.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "unsloth", "unsloth_zoo", "triton", "liger_kernel")
CAPS_GB = (40, 24, 16)
DISK_GB = 15  # weights, and the paper's logits of a batch
LOUDER = 4.0  # what the final norm of random weights is multiplied by: their logits then spread as a trained model's do
SECONDS = 480  # of a command after which no other check is begun, so that it ends within ten minutes
REAL: dict[str, Any] = {
    "geometry": "3B",
    "hidden": 2048,
    "vocab": 151_936,
    "square": 8192,
    "kd_rows": (512, 2048, 8192),
    "prompt": 200,
    "teacher_prompt": 400,
    "reply": (400, 600),
    "pairs": 32,
    "repeats": 5,
}
TINY: dict[str, Any] = {
    "geometry": "tiny",
    "hidden": 16,
    "vocab": 300,
    "square": 64,
    "kd_rows": (12,),
    "prompt": 6,
    "teacher_prompt": 12,
    "reply": (4, 9),
    "pairs": 3,
    "repeats": 1,
}


class Session:
    """What the checks of one command share: sizes, folder, and the model, made when the first asks for it."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder, self.device, self.begun = args, folder, args.device, time.perf_counter()
        self.sizes = TINY if args.tiny else REAL
        self.dtype = "float32" if args.device == "cpu" else "bfloat16"
        self.backend = "transformers"
        self.why = "asked for"
        if args.backend != "transformers":
            self._try_unsloth(args.backend == "unsloth")

    def _try_unsloth(self, required: bool) -> None:
        """Before anything that imports transformers: Unsloth has to come first."""
        try:
            from ssb_unsloth.backends import unsloth

            unsloth.prepare()
            self.backend, self.why = "unsloth", ""
        except Exception as error:  # there are many ways in which it says no
            if required:
                raise
            self.why = f"Unsloth does not import here: {str(error).splitlines()[0]}"

    def options(self, main: Callable[..., argparse.ArgumentParser], **changed: Any) -> argparse.Namespace:
        """The arguments of another benchmark, at this session's sizes."""
        sizes = {key: value for key, value in self.sizes.items() if key not in ("kd_rows", "hidden", "square")}
        given = vars(main().parse_args([])) | sizes | {"device": self.device, "dtype": self.dtype, "vocab": None}
        return argparse.Namespace(**given | {"folder": self.folder} | changed)

    @cached_property
    def base(self) -> Path:
        """A model of random weights as a folder, with the pocket's tokenizer."""
        from benchmarks.models import random_model
        from ssb_unsloth.backends.transformers import load_tokenizer
        from ssb_unsloth.recipe.schema import ModelConfig

        path = self.folder / "base"
        model: Any = random_model(self.sizes["geometry"], None, self.device, self.dtype)
        model.model.norm.weight.data.mul_(LOUDER)  # near-uniform distributions would hide any error
        model.save_pretrained(path)
        load_tokenizer(ModelConfig(name="pocket")).save_pretrained(path)
        return path

    @cached_property
    def student(self) -> Any:
        """The model with its adapter, by the backend."""
        from benchmarks.models import lora, wake

        model: Any = self._unsloth_student() if self.backend == "unsloth" else None
        if model is None:
            from peft import get_peft_model

            model = get_peft_model(self.plain(), lora())
            if self.device == "cuda":
                model.enable_input_require_grads()
                model.gradient_checkpointing_enable({"use_reentrant": False})
        wake(model)
        return model

    def _unsloth_student(self) -> Any:
        from ssb_unsloth.backends import unsloth
        from ssb_unsloth.errors import UserError
        from ssb_unsloth.recipe.schema import LoraConfig, ModelConfig

        config = ModelConfig(name=str(self.base), dtype=self.dtype)  # type: ignore[arg-type]
        try:
            return unsloth.load(config, 2048, LoraConfig(), 0, gradient_checkpointing=self.device == "cuda")
        except UserError as error:  # without bitsandbytes, for one
            if self.args.backend == "unsloth":
                raise
            self.backend, self.why = "transformers", f"{error}"
            return None

    def plain(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        loaded = AutoModelForCausalLM.from_pretrained(self.base, dtype=getattr(torch, self.dtype))
        return loaded.to(self.device).eval()


def plain_hidden(session: Session, dtype: str, seen: Any) -> Any:
    """Last hidden states [B, S, H], float32, by plain transformers in a process of its own: in this one Unsloth has
    changed the model's classes, and would be compared with itself."""
    from safetensors.torch import load_file, save_file

    asked, answer = session.folder / "asked.safetensors", session.folder / f"{dtype}.safetensors"
    save_file({"ids": seen.input_ids, "mask": seen.attention_mask.long()}, asked)
    words = ["-m", "scripts.plain_hidden", session.base, dtype, session.device, asked, answer]
    subprocess.run([sys.executable, *map(str, words)], check=True, cwd=Path(__file__).parent.parent)
    return load_file(answer)["hidden"].to(session.device)


def unsloth_train(session: Session) -> dict[str, Any]:
    from benchmarks import train_step

    contestants = ["ours:hidden", "ours:logits", "ours:top_k", "ours:online", "raw", "paper", "dense"]
    args = session.options(train_step.arguments, contestants=contestants, no_memory=session.device == "cpu")
    rows = train_step.measure(session.student, train_step.complete(args))
    fitting = {row["contestant"] if row["option"] is None else f"{row['contestant']}:{row['option']}" for row in rows}
    lost = [name for name in contestants if name != "raw" and name not in fitting]
    return {"rows": rows, "out_of_memory": lost}


def memory_caps(session: Session) -> dict[str, Any]:
    """For each cap the contestants that make a step under it.

    The cap is of all that this process takes of the card: weights, adapter, and what CUDA and its libraries hold beside
    torch's allocator, which alone can be limited.
    """
    import torch

    from benchmarks import train_step
    from benchmarks.models import random_examples

    if session.device == "cpu":
        return {"left_out": "memory is capped by CUDA's allocator"}
    args = train_step.complete(session.options(train_step.arguments))
    vocabulary = session.student.get_input_embeddings().weight.shape[0]
    examples = random_examples(args.batch, args.prompt, args.teacher_prompt, args.reply, vocabulary)
    step = train_step.Step(session.student, examples, args, Path(tempfile.mkdtemp(dir=session.folder)))
    names = ("ours:hidden", "ours:online", "ours:top_k", "paper", "dense")
    losses = step.those_that_fit(list(names))
    free, total = torch.cuda.mem_get_info()
    beside = total - free - torch.cuda.memory_reserved()  # nothing else may be at work on the card
    fits: dict[str, dict[str, bool]] = {}
    for cap in CAPS_GB:
        if cap * 1e9 >= total:
            continue
        for name, loss in losses.items():
            step.optimizer.zero_grad()
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction((cap * 1e9 - beside) / total)
            try:
                step.run(loss)
                fitted = True
            except torch.OutOfMemoryError:
                fitted = False
            finally:
                torch.cuda.set_per_process_memory_fraction(1.0)
            fits.setdefault(f"{cap} GB", {})[name] = fitted
            print(f"{cap} GB, {name}: {'fits' if fitted else 'does not fit'}", file=sys.stderr, flush=True)
    return {"fits": fits, "card_gb": total / 1e9, "beside_allocator_gb": beside / 1e9}


def kd_kernel(session: Session) -> Iterator[dict[str, Any]]:
    """A line for each number of rows, as soon as it is there, and one of the distances from float64."""
    import torch

    from benchmarks import common, kd_loss

    sizes = session.sizes
    changed = {key: sizes[key] for key in ("hidden", "vocab", "square")} | {"no_memory": session.device == "cpu"}
    args = session.options(lambda: common.parser(None), **changed)
    names = ["ours", "dense", "paper"]
    if session.device == "cuda":
        names += ["ours:torch", "trl", "liger", *(["unsloth"] if session.backend == "unsloth" else [])]
    rows = []
    for n in sizes["kd_rows"]:
        rows = kd_loss.compare(args, names, n, 2 * sizes["repeats"])
        for row in rows:
            operations = 6 * row["rows"] * row["hidden"] * row["vocabulary"]
            row["tflops_of_6NHV"] = operations / row["seconds"]["median"] / 1e12
        yield {"rows": rows}

    work = kd_loss.Work(args, sizes["kd_rows"][0])
    exact = work.exact()
    distances = {}
    for name in dict.fromkeys(":".join(filter(None, (row["contestant"], row["option"]))) for row in rows):
        if name != "raw":
            loss = work.step(work.contestant(name))
            assert work.student.grad is not None
            gradient = work.student.grad.double()
            apart = ((gradient - exact[1]).norm() / exact[1].norm()).item()
            distances[name] = {"loss": abs(loss / exact[0] - 1), "gradient": apart}
    if session.device == "cuda":
        torch.cuda.empty_cache()
    yield {"distance_from_float64": distances, "at_rows": sizes["kd_rows"][0]}


def kd_parts(session: Session) -> dict[str, Any]:
    import torch

    from benchmarks import kd_parts

    sizes = session.sizes
    rows, repeats = sizes["kd_rows"][-1], 2 * sizes["repeats"]
    chunks = tuple(min(n, rows) for n in kd_parts.CHUNKS)
    work = (session.device, getattr(torch, session.dtype), sizes["hidden"], sizes["vocab"], rows, repeats)
    return {"parts": list(kd_parts.measure(*work, tuple(dict.fromkeys(chunks))))}


def teacher_pass(session: Session) -> dict[str, Any]:
    from benchmarks import teacher_pass as benchmark

    reply = [200, 440] if session.device == "cuda" else session.sizes["reply"]  # the paper's run: 318 in the mean
    sizes = {
        "reply": reply,
        "steps_pairs": 0,
        "skip_paper": True,  # 6 GB a repeat, for what is known to be slower
        "repeats": min(2, session.sizes["repeats"]),
        "no_memory": session.device == "cpu",
    }
    return {"rows": benchmark.measure(session.student, session.options(benchmark.arguments, **sizes))}


def numerics(session: Session) -> dict[str, Any]:
    """The reply's rows at temperature 1: how far the model as it is trained, and plain transformers in the same dtype,
    are from float32; and at T_KD the loss from stored states against that of the states that are made on line.

    `one_percent` is the KL that an error of 1 % in the hidden states makes here: what this check can see.
    """
    import torch

    from benchmarks import train_step
    from benchmarks.models import PAD, random_examples
    from ssb_unsloth.method.collator import make_view
    from ssb_unsloth.method.distributions import Head
    from ssb_unsloth.method.losses import kd_loss
    from ssb_unsloth.method.modeling import as_teacher, output_head, reply_states

    student, head = session.student, output_head(session.student)
    sizes = session.sizes
    examples = random_examples(4, sizes["prompt"], sizes["teacher_prompt"], sizes["reply"], len(head.weight))
    seen = make_view([e.teacher_ids for e in examples], [e.reply_ids for e in examples], PAD)
    with as_teacher(student):
        ours_NH = reply_states(student, seen).float()
    exact_NH = seen.reply_rows(plain_hidden(session, "float32", seen))
    plain_NH = seen.reply_rows(plain_hidden(session, session.dtype, seen))
    torch.manual_seed(2)
    noise_NH = torch.randn_like(exact_NH)
    noise_NH *= 0.01 * exact_NH.norm(dim=1, keepdim=True) / noise_NH.norm(dim=1, keepdim=True)
    found = {session.backend: ours_NH, "plain": plain_NH, "one_percent": exact_NH + noise_NH}
    wide = Head(head.weight.float(), None, head.scale, head.softcap)
    weights_N = torch.full((len(exact_NH),), 1 / len(exact_NH), device=exact_NH.device)
    apart = {}
    for name, states_NH in found.items():
        kl_N = kd_loss(states_NH, exact_NH, wide, weights_N, temperature=1.0).kl
        hidden = ((states_NH - exact_NH).norm() / exact_NH.norm()).item()
        apart[name] = {"kl_mean": kl_N.mean().item(), "kl_max": kl_N.max().item(), "hidden": hidden}

    args = train_step.complete(session.options(train_step.arguments))
    folder = Path(tempfile.mkdtemp(dir=session.folder))
    step = train_step.Step(student, examples, args, folder)
    same = train_step.agree(step, {name: step.contestant(name) for name in ("ours:hidden", "ours:online")})
    return {"apart_from_float32": apart, "stored_against_online": same}


CHECKS: dict[str, Callable[[Session], dict[str, Any] | Iterator[dict[str, Any]]]] = {
    "unsloth-train": unsloth_train,
    "memory-caps": memory_caps,
    "kd-kernel": kd_kernel,
    "kd-parts": kd_parts,
    "teacher-pass": teacher_pass,
    "numerics": numerics,
}


def run(name: str, session: Session, argv: list[str]) -> Iterator[dict[str, Any]]:
    """One check's lines, each as soon as it is there. An error is a result too: the others go on."""
    start = time.perf_counter()
    try:
        late = start - session.begun > SECONDS
        figures = {"left_out": "no time left in this command"} if late else CHECKS[name](session)
        for found in [figures] if isinstance(figures, dict) else figures:
            yield _line(name, session, argv, start, found)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        yield _line(name, session, argv, start, {"error": f"{type(error).__name__}: {error}"})


def _line(name: str, session: Session, argv: list[str], start: float, figures: dict[str, Any]) -> dict[str, Any]:
    from benchmarks import common

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "check": name,
        "device": common.device_name(session.device),
        "backend": session.backend + (f" ({session.why})" if session.why else ""),
        "dtype": session.dtype,
        "versions": versions,
        "python": sys.version.split()[0],
        "command": " ".join(["python -m scripts.gpu_checks", *argv]),
        "commit": common.commit(),
        "date": datetime.date.today().isoformat(),
        "seconds": time.perf_counter() - start,
        "figures": figures,
    }


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="+", choices=[*CHECKS, "all"], metavar="CHECK")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--backend", choices=["auto", "unsloth", "transformers"], default="auto")
    parser.add_argument("--tiny", action="store_true", help="toy sizes")
    parser.add_argument("--out", type=Path, help="default: a new file in benchmarks/results/gpu/")
    parser.add_argument("--folder", type=Path, help="for weights and targets, 15 GB (default: the temporary folder)")
    args = parser.parse_args(argv)
    if args.device == "cpu" and args.backend == "auto":
        args.backend = "transformers"  # its kernels need a GPU
    names = list(CHECKS) if "all" in args.checks else args.checks
    if not args.tiny and shutil.disk_usage(args.folder or tempfile.gettempdir()).free < DISK_GB * 1e9:
        parser.error(f"{args.folder or tempfile.gettempdir()} has less than {DISK_GB} GB free; name another --folder.")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        session = Session(args, Path(folder))  # imports Unsloth, before anything else imports transformers
        from benchmarks import common

        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        out = args.out or common.RESULTS / "gpu" / f"checks-{stamp}.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        failed = 0
        for name in names:
            for line in run(name, session, argv):
                failed += "error" in line["figures"]
                print(json.dumps(line), flush=True)
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
    print(f"Kept in {out}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
