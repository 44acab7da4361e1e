"""SSBTrainer against dense autograd written here, and against itself under other ways of cutting a batch."""

import copy
import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from training import make_examples, make_trainer, store

from ssb_unsloth import SSBConfig, SSBTrainer
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.collator import Example
from ssb_unsloth.method.targets import Targets


def dense_loss(
    model,
    examples,
    temperature,
    denominator="example",
    kd_weight=1.0,
    ce_weight=0.0,
    sharpen=1.0,
    divergence="forward",
    beta=None,
    clip=None,
):
    """Eq. 6 in float64 probabilities, or another divergence in its place, example by example, with nothing of the
    package's loss or collator.
    """
    per_example, rows = [], 0
    for e in examples:
        student = model(input_ids=torch.tensor([e.student_ids + e.reply_ids])).logits[0]
        with torch.no_grad(), model.disable_adapter():
            teacher = model(input_ids=torch.tensor([e.teacher_ids + e.reply_ids])).logits[0]
        total = 0.0
        for j, token in enumerate(e.reply_ids):
            p = torch.softmax(sharpen * teacher[len(e.teacher_ids) - 1 + j].double() / temperature, -1)
            logits = student[len(e.student_ids) - 1 + j].double()
            q = torch.softmax(logits / temperature, -1)
            m = {"forward": q, "reverse": p}.get(divergence)
            share = {"forward": 1, "reverse": 0}.get(divergence, beta)
            m = share * p + (1 - share) * q if m is None else m
            apart = share * (p * (p.log() - m.log())).sum() + (1 - share) * (q * (q.log() - m.log())).sum()
            if clip is not None and apart > clip:
                apart = apart * (clip / apart.detach())
            total = total + kd_weight * temperature**2 * apart
            total = total - ce_weight * torch.softmax(logits, -1)[token].log()
        per_example.append((total, len(e.reply_ids)))
        rows += len(e.reply_ids)
    if denominator == "token":
        return sum(t for t, _ in per_example) / rows
    return sum(t / n for t, n in per_example) / len(per_example)


def move_adapter(model):
    """Away from its start, where the student is the base and half of the gradients are zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3, generator=generator)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("denominator", ["example", "token"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(
    "mix",
    [
        {},
        {"kd_weight": 0.7, "ce_weight": 0.3},
        {"sharpen": 1.5},
        {"divergence": "reverse"},
        {"divergence": "jsd", "beta": 0.3},
        {"clip": 1e-3},
    ],
    ids=["paper", "mix", "sharpened", "reverse", "jsd", "clipped"],
)
def test_loss_and_gradient_are_eq_6(make_model, tokenizer, tmp_path, denominator, temperature, mix):
    examples = make_examples(4)
    trainer = make_trainer(
        make_model("gemma2"), tokenizer, tmp_path, examples, kd_temperature=temperature, denominator=denominator, **mix
    )
    model = trainer.model
    move_adapter(model)
    loss = trainer.compute_loss(model, trainer.data_collator(examples))
    loss.backward()
    ours = gradients(model)
    model.zero_grad()
    expected = dense_loss(model, examples, temperature, denominator, **mix)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6 * gradient.abs().max().item() + 1e-8)


def test_the_same_prompt_on_both_sides_gives_zero_and_a_shift_does_not(make_model, tokenizer, tmp_path):
    same = [Example(e.id, e.student_ids, e.student_ids, e.reply_ids) for e in make_examples(4)]
    trainer = make_trainer(make_model("qwen2"), tokenizer, tmp_path, same)
    batch = trainer.data_collator(same)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(0, abs=1e-6)
    batch["student"].rows_S.sub_(1)
    assert trainer.compute_loss(trainer.model, batch).item() > 0.1


def run_steps(trainer):
    """(loss, gradient) of each optimizer step."""
    seen = []
    original = trainer.create_optimizer

    def create(*args, **kwargs):
        optimizer = original(*args, **kwargs)
        optimizer.register_step_pre_hook(lambda *_: seen.append(gradients(trainer.model)))
        return optimizer

    trainer.create_optimizer = create
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return losses, seen


@pytest.mark.parametrize("denominator", ["example", "token"])
@pytest.mark.parametrize("examples", [24, 21, 17], ids=["even", "uneven", "one-left"])
def test_accumulation_changes_nothing(make_model, tokenizer, tmp_path, denominator, examples):
    """1x8, 2x4 and 8x1, also where the epoch's last micro-batches are uneven."""
    reference = None
    for micro in (8, 4, 1):
        trainer = make_trainer(
            make_model("qwen2"),
            tokenizer,
            tmp_path,
            make_examples(examples),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=8 // micro,
            denominator=denominator,
            max_grad_norm=0.0,
        )
        losses, grads = run_steps(trainer)
        if reference is None:
            reference = losses, grads
            continue
        assert losses == pytest.approx(reference[0], rel=1e-5)
        assert len(grads) == len(reference[1]) == 3
        for step, expected in zip(grads, reference[1], strict=True):
            for name, gradient in expected.items():
                # 1e-5 of the gradient's size; single entries near zero cancel in float32.
                assert (step[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, name


@pytest.mark.parametrize(
    ("dtype", "online"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)], ids=["float32", "bfloat16"]
)
def test_exact_targets_give_the_same_loss_and_gradient(make_model, tokenizer, tmp_path, dtype, online):
    """The tolerances that targets.py states: of the loss, and of the gradient's size."""
    examples, found = make_examples(), {}
    for kind, tolerance in (("hidden", 0.0), ("logits", 1e-5), ("online", online)):
        if kind != "online":
            store(make_model("gemma2").to(dtype), examples, tmp_path / kind, kind)
        targets = None if kind == "online" else Targets(tmp_path / kind)
        trainer = make_trainer(make_model("gemma2").to(dtype), tokenizer, tmp_path, examples, targets)
        move_adapter(trainer.model)
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(examples))
        loss.backward()
        gradient = torch.cat([g.flatten().float() for g in gradients(trainer.model).values()])
        found[kind] = loss.item(), gradient
        assert loss.item() == pytest.approx(found["hidden"][0], rel=tolerance)
        assert (gradient - found["hidden"][1]).norm() <= tolerance * gradient.norm()


@pytest.mark.parametrize("kind", ["hidden", "logits"])
def test_stored_targets_train_like_the_teacher_on_line(make_model, tokenizer, tmp_path, kind):
    examples = make_examples()
    store(make_model("qwen2"), examples, tmp_path, kind)
    stored, _ = run_steps(make_trainer(make_model("qwen2"), tokenizer, tmp_path, examples, Targets(tmp_path)))
    on_line, _ = run_steps(make_trainer(make_model("qwen2"), tokenizer, tmp_path, examples))
    assert stored == pytest.approx(on_line, rel=1e-5)


def test_a_4_bit_base_teaches_itself(make_model, tokenizer, tmp_path, monkeypatch):
    """bitsandbytes leaves the head as it is: the dense oracle holds, and stored targets are in the head's dtype."""
    transformers = pytest.importorskip("transformers")
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    # Or, on a CPU with instructions for bfloat16, it repacks the weights at the first inference: rounded, and not
    # at all where a layer is narrower than a block.
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: False)
    make_model("qwen2").save_pretrained(tmp_path / "base")

    def load():
        four = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
        return transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "base", quantization_config=four, dtype=torch.float32, device_map="cpu"
        )

    examples = make_examples(4)
    store(load(), examples, tmp_path / "targets")
    stored = Targets(tmp_path / "targets")
    assert stored([examples[0].id]).dtype == torch.float32
    for targets in (stored, None):
        trainer = make_trainer(load(), tokenizer, tmp_path, examples, targets)
        model = trainer.model
        assert type(model.get_base_model().model.layers[0].mlp.down_proj.base_layer).__name__ == "Linear4bit"
        move_adapter(model)
        loss = trainer.compute_loss(model, trainer.data_collator(examples))
        loss.backward()
        ours = gradients(model)
        model.zero_grad()
        expected = dense_loss(model, examples, 2.0)
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        for name, gradient in gradients(model).items():
            assert (ours[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-9, name
    lm = model.get_base_model()
    lm.lm_head = lm.model.layers[0].mlp.down_proj.base_layer
    with pytest.raises(UserError, match=r"head is a Linear4bit.*keep it unquantized"):
        trainer.compute_loss(model, trainer.data_collator(examples))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_trl_sdft_takes_the_same_step(make_model, tokenizer, tmp_path, temperature):
    """TRL 1.15's SDFTTrainer with the base as teacher, all logits and alpha 0 has this loss, but for T²."""
    sdft = pytest.importorskip("trl.experimental.sdft")
    examples = make_examples(4)
    model = (ours := make_trainer(make_model("qwen2"), tokenizer, tmp_path, examples, kd_temperature=temperature)).model
    move_adapter(model)
    loss = ours.compute_loss(model, ours.data_collator(examples))
    loss.backward()
    found = gradients(model)
    model.zero_grad()

    args = sdft.SDFTConfig(
        output_dir=str(tmp_path / "sdft"),
        teacher_model_kind="base",
        distillation_mode="full_logits",
        distillation_alpha=0.0,
        distillation_is_clip=None,
        num_loss_tokens_to_skip=0,
        temperature=temperature,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
    )
    rows = datasets.Dataset.from_list([{"prompt": "a", "privileged_context": "b"}] * 4)
    theirs = sdft.SDFTTrainer(model, args=args, train_dataset=rows, processing_class=copy.deepcopy(tokenizer))
    theirs.current_gradient_accumulation_steps = 1

    def pad(sequences, left):
        width = max(map(len, sequences))
        ids, mask = torch.zeros(2, len(sequences), width, dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            there = slice(width - len(sequence), None) if left else slice(len(sequence))
            ids[row, there], mask[row, there] = torch.tensor(sequence), 1
        return ids, mask

    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    completion = pad([e.reply_ids for e in examples], left=False)
    teacher = pad([e.teacher_ids for e in examples], left=True)
    batch = dict(zip(names, (*pad([e.student_ids for e in examples], left=True), *completion), strict=True))
    batch["teacher_input_ids"], batch["teacher_attention_mask"] = (
        torch.cat(parts, dim=1) for parts in zip(teacher, completion, strict=True)
    )
    expected = temperature**2 * theirs.compute_loss(theirs.model, batch)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, gradient in gradients(model).items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_training_brings_student_to_teacher_and_logs_it(make_model, tokenizer, tmp_path):
    trainer = make_trainer(make_model("qwen2"), tokenizer, tmp_path, make_examples(8), max_steps=40)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert {"loss", "grad_norm", "learning_rate", "kl", "agreement"} <= set(rows[0])
    assert 0 < rows[0]["teacher_entropy"] < math.log(528)
    assert 0 < rows[0]["student_entropy"] < math.log(528)
    assert rows[-1]["agreement"] >= rows[0]["agreement"]
    assert rows[0]["learning_rate"] == pytest.approx(1e-2)
    slope = [a["learning_rate"] - b["learning_rate"] for a, b in itertools.pairwise(rows)]
    assert max(slope) == pytest.approx(min(slope))  # linear, to zero


def test_evaluation_reports_the_same_loss(make_model, tokenizer, tmp_path):
    examples = make_examples(8)
    trainer = make_trainer(make_model("qwen2"), tokenizer, tmp_path, examples)
    expected = dense_loss(trainer.model, examples, 2.0).item()
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == pytest.approx(expected, rel=1e-4)


def test_several_gpus_in_one_process_are_refused(make_model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(SSBConfig, "n_gpu", 2)
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES"):
        make_trainer(make_model("qwen2"), tokenizer, tmp_path, make_examples())


def test_logits_that_are_not_the_heads_own_end_the_first_step(make_model, tokenizer, tmp_path):
    """As of an architecture that multiplies them and that SSB does not know."""
    model = make_model("qwen2")
    forward = model.forward

    def multiplied(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = out.logits * 0.25
        return out

    model.forward = multiplied
    trainer = make_trainer(model, tokenizer, tmp_path, make_examples(2), max_steps=1)
    with pytest.raises(UserError, match="not the model's own"):
        trainer.evaluate(make_examples(2))
    with pytest.raises(UserError, match="not the model's own"):
        trainer.train()
    model.forward = forward
    trainer.train()


def test_what_the_trainer_cannot_use_is_said(make_model, tokenizer, tmp_path):
    with pytest.raises(UserError, match="teacher_prompt"):
        make_trainer(make_model("qwen2"), tokenizer, tmp_path, [{"prompt": [], "reply": "x"}])
    with pytest.raises(UserError, match="processing_class"):
        make_trainer(make_model("qwen2"), None, tmp_path, make_examples())
    args = SSBConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(UserError, match="peft_config"):
        SSBTrainer(make_model("qwen2"), args, make_examples(), processing_class=tokenizer)
    for wrong in (
        *({"kd_temperature": 0}, {"sharpen": 0}, {"ce_weight": -1}, {"kd_weight": 0}, {"beta": 0}, {"beta": 1}),
        *({"clip": 0}, {"divergence": "kl"}),
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SSBConfig(output_dir=str(tmp_path), **wrong)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_next_step_s_targets_are_read_while_a_step_computes(make_model, tokenizer, tmp_path, accumulation):
    examples = make_examples(24)
    store(make_model("qwen2"), examples, tmp_path)
    stored, read = Targets(tmp_path), []

    def targets(ids):
        read.append(ids)
        return stored(ids)

    trainer = make_trainer(
        make_model("qwen2"),
        tokenizer,
        tmp_path,
        examples,
        targets,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulation,
    )
    compute, steps = trainer.training_step, itertools.count(1)

    def training_step(*args, **kwargs):
        """Does not begin before the next one's targets are there."""
        wanted, deadline = min(next(steps) + accumulation, 6), time.monotonic() + 20
        while len(read) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(read) >= wanted
        return compute(*args, **kwargs)

    trainer.training_step = training_step
    losses, _ = run_steps(trainer)
    without = make_trainer(make_model("qwen2"), tokenizer, tmp_path, examples, stored)
    assert len(losses) == 3
    if accumulation == 2:  # the same batches in the same order
        assert losses == pytest.approx(run_steps(without)[0], rel=1e-5)


def test_a_pair_without_targets_ends_training_with_a_sentence(make_model, tokenizer, tmp_path):
    examples = make_examples(24)
    store(make_model("qwen2"), examples[:20], tmp_path)
    with pytest.raises(UserError, match="hold no pair"):
        make_trainer(make_model("qwen2"), tokenizer, tmp_path, examples, Targets(tmp_path)).train()


@pytest.mark.slow
def test_two_processes_train_like_one(make_model, tokenizer, tmp_path):
    """Two processes, two micro-batches of two each, through torchrun and gloo: the steps of one batch of eight."""
    losses, _ = run_steps(trainer := make_trainer(make_model("qwen2"), tokenizer, tmp_path, make_examples(24)))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    here = Path(__file__).parents[1] / "support"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    command = [sys.executable, *launch, str(here / "one_of_several.py"), str(tmp_path), "2", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    logged = {"loss": losses, "kl": [row["kl"] for row in trainer.state.log_history if "loss" in row]}
    for process in (0, 1):
        rows = json.loads((tmp_path / f"log-{process}.json").read_text())
        for name, expected in logged.items():
            assert [row[name] for row in rows] == pytest.approx(expected, rel=1e-5)
        adapter = load_file(tmp_path / f"adapter-{process}.safetensors")
        for name, p in trainer.model.named_parameters():
            if p.requires_grad:
                assert (adapter[name] - p).norm() <= 1e-5 * p.norm(), name


def test_autocast_rounds_the_backbone_and_leaves_the_loss(make_model, tokenizer, tmp_path):
    """bf16 in the layers moves the loss by a rounding; the loss itself is float32, as are the adapter's gradients."""
    examples = make_examples(8)
    plain, cast = (
        make_trainer(make_model("qwen2"), tokenizer, tmp_path, examples, bf16=bf16) for bf16 in (False, True)
    )
    losses = []
    for trainer in (plain, cast):
        move_adapter(trainer.model)
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(examples))
        loss.backward()
        losses.append(loss)
        assert loss.dtype == torch.float32
        assert {g.dtype for g in gradients(trainer.model).values()} == {torch.float32}
    assert losses[0].item() != losses[1].item()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.03)
    one, other = (torch.cat([g.flatten() for g in gradients(t.model).values()]) for t in (plain, cast))
    assert (one - other).norm() < 0.1 * one.norm()


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(make_model, tokenizer, tmp_path, reentrant):
    kwargs = {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    plain, checkpointed = (
        run_steps(make_trainer(make_model("qwen2"), tokenizer, tmp_path, make_examples(), **settings))
        for settings in ({}, {"gradient_checkpointing": True, **kwargs})
    )
    assert checkpointed[0] == pytest.approx(plain[0], rel=1e-6)
    for step, expected in zip(checkpointed[1], plain[1], strict=True):
        for name, gradient in expected.items():
            torch.testing.assert_close(step[name], gradient, rtol=1e-5, atol=1e-8)


def test_batches_are_not_pinned(make_model, tokenizer, tmp_path):
    """A teacher's rows may be on the GPU already, and cannot be pinned there: seen on an H100 (tests/gpu)."""
    trainer = make_trainer(make_model("qwen2"), tokenizer, tmp_path, make_examples(), dataloader_pin_memory=True)
    assert not trainer.get_train_dataloader().pin_memory
