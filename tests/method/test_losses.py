"""The loss against oracles that share no code with it, its properties, and the company it has to work in."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import interpreted
from largest import Largest
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from ssb_unsloth.method import losses
from ssb_unsloth.method.distributions import Head, KDLoss, TeacherLogits, TeacherTopK
from ssb_unsloth.method.losses import kd_loss, kd_loss_dense, row_weights

N, H, V, K = 6, 4, 11, 3
close = functools.partial(torch.testing.assert_close, rtol=2e-5, atol=2e-6)
both = pytest.mark.parametrize("function", [kd_loss, kd_loss_dense], ids=["fused", "dense"])


def problem(n: int = N, h: int = H, v: int = V, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Random arguments of the loss: student and teacher that disagree, a head with a bias, one row of weight 0."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    weights = torch.rand(n, generator=generator)
    weights[n // 2] = 0 if n > 1 else 1
    return {
        "student": normal(n, h).requires_grad_(),
        "teacher": normal(n, h),
        "head": Head(normal(v, h), normal(v)),
        "weights": weights,
        "temperature": 2.0,
        "labels": torch.randint(v, (n,), generator=generator),
    }


def gradients(result: KDLoss, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(result.loss, inputs)


def as_lists(head: Head) -> tuple[Any, ...]:
    return (
        head.weight.double().tolist(),
        None if head.bias is None else head.bias.double().tolist(),
        head.scale,
        head.softcap,
    )


# ---- against the oracle


def check_against_oracle(function: Callable[..., KDLoss], teacher_kind: str, head: Head, **options: Any) -> None:
    arguments = problem()
    student, weights, labels = arguments["student"], arguments["weights"], arguments["labels"]
    temperature = options["temperature"]
    kd_weight, ce_weight = options.setdefault("kd_weight", 1.0), options.setdefault("ce_weight", 0.0)
    sharpen = options.get("sharpen", 1.0)
    teacher_logits = oracles.head_logits(arguments["teacher"].double().tolist(), *as_lists(head))
    k = K if teacher_kind == "top_k" else None
    exact = torch.tensor(teacher_logits, dtype=torch.float64)
    teacher = {
        "hidden": arguments["teacher"],
        "logits": TeacherLogits(exact),
        "top_k": TeacherTopK.from_logits(exact, K, temperature / sharpen),
    }[teacher_kind]
    teacher_logits = [[sharpen * x for x in row] for row in teacher_logits]

    def value(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> float:
        moved = replace(head, weight=weight, bias=bias)
        logits = oracles.head_logits(hidden.double().tolist(), *as_lists(moved))
        rest = (weights.tolist(), temperature, labels.tolist(), kd_weight, ce_weight, k)
        return oracles.loss(logits, teacher_logits, *rest)

    head = replace(head, weight=head.weight.clone().requires_grad_())
    result = function(student, teacher, head, weights, labels=labels, stats=True, **options)
    logits = oracles.head_logits(student.tolist(), *as_lists(head))
    close(result.loss.item(), value(student, head.weight, head.bias))
    close(result.kl.tolist(), oracles.kl_rows(logits, teacher_logits, temperature, k))

    p = [oracles.probabilities(row, temperature) for row in teacher_logits]
    q = [oracles.probabilities(row, temperature) for row in logits]
    agreement = [float(a.index(max(a)) == b.index(max(b))) for a, b in zip(p, q, strict=True)]
    assert result.agreement.tolist() == agreement
    close(result.student_entropy.tolist(), [oracles.entropy(row) for row in q])
    if k is None:
        close(result.teacher_entropy.tolist(), [oracles.entropy(row) for row in p])

    d_student, d_weight = gradients(result, student, head.weight)
    close(d_student.double(), oracles.slopes(lambda x: value(x, head.weight, head.bias), student))
    close(d_weight.double(), oracles.slopes(lambda x: value(student, x, head.bias), head.weight))
    assert not d_student[N // 2].any()


HEADS = {
    "plain": Head(problem()["head"].weight),
    "bias": problem()["head"],
    "scale": replace(problem()["head"], scale=0.3),
    "softcap": replace(problem()["head"], scale=1.5, softcap=2.0),
}


@both
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("teacher", ["hidden", "logits", "top_k"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_oracle(function: Callable[..., KDLoss], teacher: str, head: Head, temperature: float) -> None:
    check_against_oracle(function, teacher, head, temperature=temperature)


@both
@pytest.mark.parametrize("teacher", ["hidden", "top_k"])
@pytest.mark.parametrize("head", ["plain", "softcap"])
def test_oracle_with_cross_entropy(function: Callable[..., KDLoss], teacher: str, head: str) -> None:
    check_against_oracle(function, teacher, HEADS[head], temperature=2.0, kd_weight=0.7, ce_weight=0.3)
    check_against_oracle(function, teacher, HEADS[head], temperature=2.0, kd_weight=0.0, ce_weight=1.0)


@both
@pytest.mark.parametrize("teacher", ["hidden", "logits", "top_k"])
def test_oracle_with_a_sharpened_teacher(function: Callable[..., KDLoss], teacher: str) -> None:
    check_against_oracle(function, teacher, HEADS["softcap"], temperature=2.0, sharpen=1.5, ce_weight=0.3)


@both
def test_a_one_hot_teacher(function: Callable[..., KDLoss]) -> None:
    """The KL is -log q of its word at the KD temperature, and the gradient T (q - onehot)."""
    a = problem()
    a |= {"head": Head(torch.eye(V), None), "student": torch.randn(N, V).requires_grad_(), "weights": torch.ones(N)}
    words = torch.tensor([0, 3, 10, 3, 7, 1])
    result = function(**a | {"teacher": TeacherTopK.one_hot(words), "temperature": 3.0}, stats=True)
    q = torch.softmax(a["student"].detach() / 3.0, -1)
    close(result.kl, -q[torch.arange(N), words].log())
    close(result.loss.detach(), 9 * result.kl.sum())
    close(gradients(result, a["student"])[0], 3 * (q - torch.nn.functional.one_hot(words, V)))
    close(result.teacher_entropy, torch.zeros(N))
    assert result.agreement.tolist() == (q.argmax(-1) == words).float().tolist()


@both
def test_a_bias_that_trains(function: Callable[..., KDLoss]) -> None:
    a = problem()
    bias = a["head"].bias.requires_grad_()
    (found,) = gradients(function(**a), bias)
    teacher = oracles.head_logits(a["teacher"].tolist(), *as_lists(a["head"]))

    def value(x: Tensor) -> float:
        logits = oracles.head_logits(a["student"].tolist(), *as_lists(replace(a["head"], bias=x)))
        return oracles.loss(logits, teacher, a["weights"].tolist(), 2.0, a["labels"].tolist(), 1.0, 0.0)

    close(found.double(), oracles.slopes(value, bias))


@both
def test_two_words_by_hand(function: Callable[..., KDLoss]) -> None:
    """p = (1/2, 1/2), q = (9/10, 1/10): KL(p || q) is 0.5108, KL(q || p) would be 0.3681; T = 2 makes it fourfold."""
    head = Head(torch.eye(2))
    student = 2 * torch.tensor([[0.9, 0.1]]).log()
    result = function(student.requires_grad_(), torch.zeros(1, 2), head, torch.ones(1), temperature=2.0)
    close(result.kl, torch.tensor([0.5108256]))
    close(result.loss, torch.tensor(4 * 0.5108256))
    close(gradients(result, student)[0], torch.tensor([[2 * 0.4, -2 * 0.4]]))


# ---- properties


@both
def test_equal_models_have_no_loss_and_a_shift_by_one_row_has(function: Callable[..., KDLoss]) -> None:
    a = problem()
    same = function(**a | {"teacher": a["student"].detach().clone()})
    close(same.loss.item(), 0.0)
    close(same.kl, torch.zeros(N))
    close(gradients(same, a["student"])[0], torch.zeros(N, H))
    assert (function(**a | {"teacher": a["student"].detach().roll(1, 0)}).kl > 0.01).all()


def test_never_negative() -> None:
    a = problem(n=200, v=40)
    noise = torch.randn(a["student"].shape, generator=torch.Generator().manual_seed(1))
    for size in (0, 1e-6, 1e-4, 1):
        assert (kd_loss(**a | {"teacher": a["student"].detach() + size * noise}).kl >= 0).all()


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 9),
    v=st.integers(1, 40),
    seed=st.integers(0, 99),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    size=st.sampled_from([1e-3, 1.0, 300.0]),
    chunk=st.integers(1, 12),
    data=st.data(),
)
def test_any_shape_chunk_and_order(
    n: int, v: int, seed: int, temperature: float, size: float, chunk: int, data: st.DataObject
) -> None:
    a = problem(n, 3, v, seed) | {"temperature": temperature}
    a |= {"student": (size * a["student"].detach()).requires_grad_(), "ce_weight": 0.5}
    dense, fused = kd_loss_dense(**a), kd_loss(**a, chunk_rows=chunk)
    assert (fused.kl >= 0).all()
    assert fused.loss.isfinite()
    near = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5 if size <= 1 else 0.03)
    near(fused.loss, dense.loss)
    near(fused.kl, dense.kl)
    near(gradients(fused, a["student"]), gradients(dense, a["student"]))

    order = torch.tensor(data.draw(st.permutations(range(n))))
    moved = {name: a[name][order] for name in ("teacher", "weights", "labels")}
    moved["student"] = a["student"].detach()[order].requires_grad_()
    other = kd_loss(**a | moved, chunk_rows=n + 5)
    near(other.loss, fused.loss)
    near(other.kl, fused.kl[order])
    near(gradients(other, moved["student"])[0], gradients(kd_loss(**a), a["student"])[0][order])


@pytest.mark.parametrize("kind", ["hidden", "logits", "top_k"])
@pytest.mark.parametrize("v", [50, 300_000])  # of the larger, a chunk is worked on in blocks of a row for each thread
def test_chunks_and_blocks_keep_their_rows(kind: str, v: int) -> None:
    a = problem(n=7, h=2, v=v) | {"ce_weight": 0.5, "stats": True}
    logits = torch.randn(7, v, generator=torch.Generator().manual_seed(1))
    if kind != "hidden":
        a["teacher"] = TeacherLogits(logits) if kind == "logits" else TeacherTopK.from_logits(logits, 5, 2.0)
    whole, cut = kd_loss_dense(**a), kd_loss(**a, chunk_rows=3)
    near = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    for field in dataclasses.fields(KDLoss):
        near(getattr(cut, field.name), getattr(whole, field.name))
    near(gradients(cut, a["student"]), gradients(whole, a["student"]))


def test_rows_of_weight_zero_add_exactly_nothing_whatever_they_hold() -> None:
    a = problem()
    weight = a["head"].weight.requires_grad_()
    before = gradients(kd_loss(**a), a["student"], weight)
    keep = a["weights"] != 0
    with torch.no_grad():
        a["student"][~keep] = math.nan
        a["teacher"][~keep] = math.inf
        a["labels"][~keep] = -100
    result = kd_loss(**a, ce_weight=0.5, chunk_rows=2)
    assert result.loss.isfinite()
    after = gradients(kd_loss(**a), a["student"], weight)
    assert not after[0][~keep].any()
    close(after, before)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_batch_without_a_row_that_counts(n: int) -> None:
    a = problem(n or 1)
    a |= {name: a[name][:n] for name in ("teacher", "labels")} | {"weights": torch.zeros(n)}
    a["student"] = a["student"].detach()[:n].requires_grad_()
    result = kd_loss(**a, stats=True)
    assert result.loss.item() == 0
    assert result.kl.shape == (n,)
    (gradient,) = gradients(result, a["student"])
    assert gradient.shape == (n, H)
    assert not gradient.any()


@both
def test_extreme_logits(function: Callable[..., KDLoss]) -> None:
    """Certain of different words: the KL at T is the difference of the logits over T; -inf forbids a word."""
    student = torch.tensor([[1e4, 0.0, -1e4]]).requires_grad_()
    result = function(student, torch.tensor([[0.0, 1e4, 0.0]]), Head(torch.eye(3)), torch.ones(1), temperature=2.0)
    close(result.kl, torch.tensor([5e3]))
    close(gradients(result, student)[0], torch.tensor([[2.0, -2.0, 0.0]]))

    forbidding = TeacherLogits(torch.tensor([[0.0, 0.0, -math.inf]]))
    result = function(student, forbidding, Head(torch.eye(3)), torch.ones(1), temperature=2.0, stats=True)
    close(result.kl, torch.tensor([0.5 * 5e3 - math.log(2)]))
    close(result.teacher_entropy, torch.tensor([math.log(2)]))
    assert gradients(result, student)[0].isfinite().all()


# ---- the weights and what is stored of a teacher


def test_row_weights_are_the_paper_s_equation() -> None:
    lengths = torch.tensor([3, 1, 2])
    third = 1 / 3
    close(row_weights(lengths), torch.tensor([third / 3] * 3 + [third] + [third / 2] * 2))
    close(row_weights(lengths, denominator="token"), torch.full((6,), 1 / 6))

    a = problem(6) | {"weights": row_weights(lengths)}
    kl = kd_loss(**a).kl.tolist()
    by_hand = 2.0**2 * (sum(kl[:3]) / 3 + kl[3] / 1 + sum(kl[4:]) / 2) / 3
    close(kd_loss(**a).loss.item(), by_hand)

    with pytest.raises(ValueError, match="denominator"):
        row_weights(lengths, denominator="batch")  # type: ignore[arg-type]


@pytest.mark.parametrize(("denominator", "total"), [("example", 3), ("token", 6)])
def test_micro_batches_add_up(denominator: Any, total: int) -> None:
    lengths = torch.tensor([3, 1, 2])
    whole = row_weights(lengths, total, denominator)
    for cut in (1, 2):
        parts = [row_weights(part, total, denominator) for part in (lengths[:cut], lengths[cut:])]
        close(torch.cat(parts), whole)
    close(row_weights(lengths, None, denominator), whole)


def test_top_k_bounds_the_exact_loss_and_reaches_it() -> None:
    a = problem()
    logits = losses._dense_logits(a["teacher"], a["head"])
    exact = kd_loss(**a)
    kl = [kd_loss(**a | {"teacher": TeacherTopK.from_logits(logits, k, 2.0)}).kl for k in range(1, V + 1)]
    for fewer, more in itertools.pairwise([*kl, exact.kl]):
        assert (fewer <= more + 1e-6).all()
    close(kl[-1], exact.kl)
    full = kd_loss(**a | {"teacher": TeacherTopK.from_logits(logits, V, 2.0)})
    close(gradients(full, a["student"]), gradients(exact, a["student"]))

    with pytest.raises(ValueError, match="stored at temperature 1"):
        kd_loss(**a | {"teacher": TeacherTopK.from_logits(logits, 3, 1.0)})
    with pytest.raises(ValueError, match=r"stored at temperature 2 and the loss has 1:"):
        kd_loss(**a | {"teacher": TeacherTopK.from_logits(logits, 3, 2.0), "sharpen": 2.0})
    kept = TeacherTopK.from_logits(logits, 3, 2.0)
    narrow = replace(kept, values=kept.values.bfloat16(), log_tail=kept.log_tail.bfloat16())
    torch.testing.assert_close(kd_loss(**a | {"teacher": narrow}).kl, kl[2], rtol=0.05, atol=0.01)


# ---- what it costs


@pytest.mark.parametrize("teacher", ["hidden", "logits", "top_k"])
def test_no_tensor_of_all_rows_by_all_words(teacher: str) -> None:
    a = problem(n=64, h=8, v=500)
    logits = torch.randn(64, 500)
    a["teacher"] = {
        "hidden": a["teacher"],
        "logits": TeacherLogits(logits),
        "top_k": TeacherTopK.from_logits(logits, 5, 2.0),
    }[teacher]
    with Largest() as made:
        kd_loss(**a, chunk_rows=4, stats=True, ce_weight=0.1).loss.backward()
    assert made.elements <= 2 * 4 * 500  # nor one of the frozen head's size
    with Largest() as made:
        kd_loss_dense(**a).loss.backward()
    assert made.elements >= 64 * 500


def test_operations() -> None:
    """Two projections and one product for the gradient; no gradient of the head or under no_grad unless asked for."""
    a = problem(n=12, h=8, v=100)
    unit = 2 * 12 * 8 * 100

    def products() -> int:
        with FlopCounterMode(display=False) as counter:
            result = kd_loss(**a, chunk_rows=5)
            if result.loss.requires_grad:
                result.loss.backward()
        counts = counter.get_flop_counts()["Global"]
        return sum(count for op, count in counts.items() if "bmm" not in str(op))

    assert products() == 3 * unit
    with torch.no_grad():
        assert products() == 2 * unit
    a["head"].weight.requires_grad_()
    assert products() == 4 * unit


# ---- the company it has to work in


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_are_summed_in_float32(dtype: torch.dtype) -> None:
    a = problem(n=8, h=64, v=300, dtype=dtype)
    a["head"] = replace(a["head"], softcap=20.0)
    wide = {name: a[name].detach().double() for name in ("student", "teacher", "weights")}
    wide["student"].requires_grad_()
    bias = a["head"].bias.double()
    exact = kd_loss_dense(**a | wide | {"head": Head(a["head"].weight.double(), bias, softcap=20.0)})
    result = kd_loss(**a, chunk_rows=3)
    assert result.loss.dtype == result.kl.dtype == torch.float32
    assert a["student"].dtype == dtype
    torch.testing.assert_close(result.kl.double(), exact.kl, rtol=1e-4, atol=1e-5)
    (gradient,) = gradients(result, a["student"])
    assert gradient.dtype == dtype
    (true,) = gradients(exact, wide["student"])
    torch.testing.assert_close(gradient.double(), true, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_products_of_a_gpu(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """There narrow factors give a float32 product; near the optimum half precision must not swallow the gradient."""
    a = problem(n=8, h=16, v=20_000, dtype=dtype)
    a["head"] = replace(a["head"], bias=None, scale=0.1)
    a["teacher"] = (a["student"] + 0.002 * a["teacher"]).detach()
    expected = kd_loss(**a)
    multiply = torch.mm

    def mm(x: Tensor, y: Tensor, *, out: Tensor, out_dtype: torch.dtype) -> Tensor:
        assert x.dtype == y.dtype == dtype
        return multiply(x.to(out_dtype), y.to(out_dtype), out=out)

    monkeypatch.setattr(losses, "_WIDE_PRODUCTS", ("cpu",))
    monkeypatch.setattr(torch, "mm", mm)
    found = kd_loss(**a)
    close(found.kl, expected.kl)
    expected_gradient, found_gradient = (gradients(x, a["student"])[0].double() for x in (expected, found))
    assert (found_gradient - expected_gradient).norm() < 0.01 * expected_gradient.norm()


def test_autocast_changes_nothing() -> None:
    a = problem(n=8, h=64, v=300)
    plain = kd_loss(**a)
    with torch.autocast("cpu", torch.bfloat16):
        cast = kd_loss(**a)
        from_layer = kd_loss(**a | {"student": torch.nn.functional.linear(a["student"], torch.eye(64))})
    assert torch.equal(cast.loss, plain.loss)
    assert torch.equal(*gradients(cast, a["student"]), *gradients(plain, a["student"]))
    assert from_layer.loss.dtype == torch.float32
    torch.testing.assert_close(from_layer.loss, plain.loss, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant: bool) -> None:
    a = problem()
    layer = torch.nn.Linear(H, H)

    def step(hidden: Tensor) -> Tensor:
        return kd_loss(**a | {"student": layer(hidden)}, chunk_rows=4).loss

    step(a["student"]).backward()
    expected = layer.weight.grad.clone()
    layer.zero_grad()
    checkpoint(step, a["student"], use_reentrant=reentrant).backward()
    close(layer.weight.grad, expected)


def test_a_grad_scaler_rescues_small_gradients() -> None:
    """Weights of a long batch: the gradients are below half precision's smallest number until they are scaled."""
    a = problem(dtype=torch.float16) | {"weights": torch.full((N,), 1e-8)}
    exact = kd_loss_dense(**a | {"student": a["student"].detach().double().requires_grad_()})
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    result = kd_loss(**a)
    scaler.scale(result.loss).backward()
    close(exact.loss.item(), result.loss.item())
    student = a["student"].detach().float().requires_grad_()
    (expected,) = gradients(kd_loss(**a | {"student": student}), student)
    torch.testing.assert_close(a["student"].grad.float() / scaler.get_scale(), expected, rtol=2e-3, atol=0)


def test_accelerate() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # a Trainer of an earlier test may have set another precision
    a = problem()
    expected = gradients(kd_loss(**a), a["student"])[0]
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    layer = accelerator.prepare(torch.nn.Linear(H, H, bias=False))
    with torch.no_grad():
        layer.weight.copy_(torch.eye(H))
    result = kd_loss(**a | {"student": layer(a["student"])})
    accelerator.backward(result.loss)
    torch.testing.assert_close(a["student"].grad, expected / 2, rtol=0.05, atol=0.02)


def test_backward_scales_and_can_be_repeated() -> None:
    a = problem()
    result = kd_loss(**a)
    (once,) = torch.autograd.grad(result.loss, a["student"], retain_graph=True)
    (again,) = torch.autograd.grad(-3 * result.loss, a["student"])
    close(again, -3 * once)


def test_a_second_derivative_is_refused() -> None:
    a = problem()
    with pytest.raises(RuntimeError, match=r"no second derivative.*kd_loss_dense"):
        torch.autograd.grad(kd_loss(**a).loss, a["student"], create_graph=True)
    (first,) = torch.autograd.grad(kd_loss_dense(**a).loss, a["student"], create_graph=True)
    assert torch.autograd.grad(first.square().sum(), a["student"])[0].any()


def test_without_gradients() -> None:
    a = problem()
    with torch.no_grad():
        result = kd_loss(**a)
    assert not result.loss.requires_grad
    close(result.loss, kd_loss(**a).loss.detach())
    assert not kd_loss(**a | {"student": a["student"].detach()}).loss.requires_grad
    assert result.agreement is result.teacher_entropy is result.student_entropy is None


@both
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature: expected a number above 0"),
        ({"sharpen": 0.0}, "sharpen: expected a number above 0"),
        ({"labels": None, "ce_weight": 1.0}, "`labels` are needed"),
        ({"weights": torch.ones(N + 1)}, r"weights: expected shape \[6\], found \[7\]"),
        ({"teacher": torch.ones(N - 1, H)}, r"teacher: expected shape \[6, 4\], found \[5, 4\]"),
        ({"teacher": TeacherLogits(torch.ones(N, V + 1))}, r"teacher.logits: expected shape \[6, 11\]"),
        ({"head": Head(torch.ones(V, H + 1))}, r"student: expected shape \[6, 5\]"),
        ({"labels": torch.ones(N, 1)}, "labels: expected shape"),
    ],
)
def test_mistakes_are_named(function: Callable[..., KDLoss], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(**problem() | change)


def test_a_chunk_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk_rows"):
        kd_loss(**problem(), chunk_rows=0)


# ---- other people's losses, and our own kernel


@interpreted
def test_triton_kernel() -> None:
    from ssb_unsloth.method import kernels

    kernels.BLOCK = 4  # several blocks even for these few words
    function = functools.partial(kd_loss, kernel="triton")
    for teacher, head in itertools.product(["hidden", "logits"], ["plain", "softcap"]):
        check_against_oracle(function, teacher, HEADS[head], temperature=2.0)
    check_against_oracle(function, "hidden", HEADS["bias"], temperature=1.0)
    check_against_oracle(function, "hidden", HEADS["softcap"], temperature=2.0, kd_weight=0.7, ce_weight=0.3)
    check_against_oracle(function, "hidden", HEADS["softcap"], temperature=2.0, sharpen=1.5)
    check_against_oracle(function, "logits", HEADS["plain"], temperature=2.0, sharpen=0.5)
    check_against_oracle(function, "top_k", HEADS["plain"], temperature=2.0)
    test_extreme_logits(function)
    test_equal_models_have_no_loss_and_a_shift_by_one_row_has(function)
    with torch.no_grad():
        close(function(**problem()).kl, kd_loss(**problem()).kl)


@interpreted
def test_the_kernel_writes_its_gradient_as_narrow_as_the_product_takes_it() -> None:
    """On a GPU, with a frozen narrow head; near the optimum, where fp16 alone would swallow it."""
    multiply = torch.mm
    for dtype, divergence in itertools.product([torch.bfloat16, torch.float16], ["forward", "reverse", "jsd"]):
        a = problem(n=8, h=16, v=20_000, dtype=dtype)
        a["head"] = replace(a["head"], bias=None, scale=0.1)
        a["teacher"] = (a["student"] + 0.002 * a["teacher"]).detach()
        expected = kd_loss(**a, divergence=divergence)
        narrow = []

        def mm(x: Tensor, y: Tensor, *, out: Tensor, out_dtype: torch.dtype, seen: list[Tensor] = narrow) -> Tensor:
            assert x.dtype == y.dtype
            seen.append(x)
            return multiply(x.to(out_dtype), y.to(out_dtype), out=out)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses, "_WIDE_PRODUCTS", ("cpu",))
            patch.setattr(torch, "mm", mm)
            found = kd_loss(**a, divergence=divergence, kernel="triton", chunk_rows=3)
        of_words = [x for x in narrow if x.shape[1] == 20_000]
        assert len(of_words) == 3
        assert len({x.data_ptr() for x in of_words}) == 1  # one buffer for all chunks
        assert {x.dtype for x in narrow} == {dtype}
        close(found.kl, expected.kl)
        true, gradient = (gradients(x, a["student"])[0].double() for x in (expected, found))
        assert (gradient - true).norm() < 0.01 * true.norm()


@pytest.mark.parametrize("flags", [False, True])
def test_triton_kernel_compiles_for_gpus(flags: bool) -> None:
    """The interpreter accepts programs that the compiler does not; compiling needs no GPU."""
    triton = pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton was imported as an interpreter")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ssb_unsloth.method import kernels

    signature, constants = {}, {}
    for name in kernels._kd_rows.arg_names:
        if name.isupper():
            signature[name] = "constexpr"
            on = (flags and name not in ("REVERSE", "JSD")) or name == "GRADIENT"
            constants[name] = kernels.BLOCK if name == "BLOCK" else on
        elif name.endswith("_ptr"):
            signature[name] = "*i64" if name == "words_ptr" else "*fp32"
        else:
            signature[name] = "i32" if name.startswith("stride") or name == "vocabulary" else "fp32"
    source = ASTSource(fn=kernels._kd_rows, signature=signature, constexprs=constants)
    options = {"num_warps": kernels.WARPS}
    for capability in (75, 80, 90):
        assert triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]


@pytest.mark.slow
@interpreted
def test_trl_chunked_divergence() -> None:
    """TRL 1.15 has the same forward KL of hidden states, with soft-cap, scale and temperature, but without T²."""
    module = pytest.importorskip("trl.kernels.chunked_divergence")
    for temperature, head in [(1.0, HEADS["plain"]), (2.0, HEADS["softcap"])]:
        a = problem() | {"head": head, "temperature": temperature}
        weight, bias = head.weight, head.bias
        args = (a["student"], weight, bias, a["teacher"], weight, bias, 0.0, temperature)
        caps = (head.scale, head.softcap, head.scale, head.softcap)
        kl, entropy = module.ChunkedDivergenceFunction.apply(*args, *caps)
        ours = kd_loss(**a, stats=True)
        close(ours.kl, kl.detach())
        close(ours.student_entropy, entropy)
        close(ours.loss.detach(), (temperature**2 * a["weights"] * kl).sum().detach())
        theirs = torch.autograd.grad((temperature**2 * a["weights"] * kl).sum(), a["student"])
        close(gradients(ours, a["student"]), theirs)


def test_liger_fused_linear_jsd() -> None:
    """Liger 0.8.5 with beta 0 is the forward KL, meant over rows; its temperature divides, and there is no T²."""
    chunked = pytest.importorskip("liger_kernel.chunked_loss")
    a = problem() | {"weights": torch.full((N,), 1 / N)}
    for temperature in (1.0, 2.0):
        theirs = chunked.LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, temperature=temperature, compiled=False, chunk_size=2
        )
        weight, bias = a["head"].weight.clone().requires_grad_(), a["head"].bias
        loss = theirs(a["student"], weight, a["teacher"], weight.detach(), a["labels"], bias, bias)
        head = Head(weight, bias)
        ours = kd_loss(**a | {"head": head, "temperature": temperature})
        close(ours.loss, temperature**2 * loss)
        found = gradients(ours, a["student"], weight)
        close(found, torch.autograd.grad(temperature**2 * loss, (a["student"], weight)))
