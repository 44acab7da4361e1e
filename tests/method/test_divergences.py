"""The family of divergences and the clip against float64 autograd of their definitions, and what holds of them."""

from __future__ import annotations

import functools
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import interpreted
from largest import Largest
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ssb_unsloth.method import losses
from ssb_unsloth.method.distributions import Head, KDLoss, TeacherLogits, TeacherTopK
from ssb_unsloth.method.losses import kd_loss, kd_loss_dense

N, H, V, K = 6, 4, 11, 3
close = functools.partial(torch.testing.assert_close, rtol=2e-5, atol=2e-6)
both = pytest.mark.parametrize("function", [kd_loss, kd_loss_dense], ids=["fused", "dense"])
KINDS: list[dict[str, Any]] = [
    {"divergence": "forward"},
    {"divergence": "reverse"},
    {"divergence": "jsd"},
    {"divergence": "jsd", "beta": 0.1},
    {"divergence": "jsd", "beta": 0.9},
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=["forward", "reverse", "jsd", "jsd-0.1", "jsd-0.9"])


@dataclass
class Case:
    """Hidden states and a head that trains, one row of weight 0, and a teacher in one of its forms."""

    student: Tensor
    teacher: Tensor
    head: Head
    weights: Tensor
    labels: Tensor

    def inputs(self) -> list[Tensor]:
        return [x for x in (self.student, self.head.weight, self.head.bias) if x is not None]

    def stored(self, form: str, temperature: float) -> Any:
        """The teacher in that form, its logits by products in float64."""
        if form == "hidden":
            return self.teacher
        logits = final(self.teacher.double(), *(x.detach().double() for x in self.inputs()[1:]), head=self.head)
        return TeacherLogits(logits) if form == "logits" else TeacherTopK.from_logits(logits, K, temperature)

    def arguments(self) -> dict[str, Any]:
        return {"student": self.student, "head": self.head, "weights": self.weights, "labels": self.labels}


def case(n: int = N, h: int = H, v: int = V, seed: int = 0, dtype: torch.dtype = torch.float32, **of_head: Any) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    weights = torch.rand(n, generator=generator)
    weights[n // 2] = 0 if n > 1 else 1
    bias = normal(v).requires_grad_() if of_head.pop("bias", True) else None
    head = Head(normal(v, h).requires_grad_(), bias, **of_head)
    labels = torch.randint(v, (n,), generator=generator)
    return Case(normal(n, h).requires_grad_(), normal(n, h), head, weights, labels)


# ---- the oracle: definitions in float64 probabilities, differentiated by autograd


def final(hidden: Tensor, weight: Tensor, bias: Tensor | None = None, *, head: Head) -> Tensor:
    logits = hidden @ weight.T
    logits = (logits if bias is None else logits + bias) * head.scale
    return head.softcap * (logits / head.softcap).tanh() if head.softcap else logits


def kl(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x > 0, x * (x / y).log(), 0.0).sum(-1)


def apart(p: Tensor, q: Tensor, divergence: str, beta: float = 0.5) -> Tensor:
    if divergence == "forward":
        return kl(p, q)
    if divergence == "reverse":
        return kl(q, p)
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def oracle(
    made: Case, temperature: float, kept: bool, sharpen: float = 1.0, clip: float = math.inf, **more: Any
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Loss, divergences and gradients. `kept`: over the teacher's K likeliest words and all others as one."""
    kd_weight, ce_weight = more.pop("kd_weight", 1.0), more.pop("ce_weight", 0.0)
    inputs = [x.detach().double().requires_grad_() for x in made.inputs()]
    logits = final(*inputs, head=made.head)
    fixed = final(made.teacher.double(), *(x.detach() for x in inputs[1:]), head=made.head)
    q, p = (logits / temperature).softmax(-1), (sharpen * fixed / temperature).softmax(-1)
    if kept:
        words = p.topk(K).indices
        p, q = (torch.cat([x.gather(-1, words), x.scatter(-1, words, 0).sum(-1, keepdim=True)], -1) for x in (p, q))
    distance = apart(p, q, **more)
    factor = torch.where(distance > clip, clip / distance, 1.0).detach()
    ce = -logits.softmax(-1)[torch.arange(len(logits)), made.labels].log()
    loss = (made.weights.double() * (kd_weight * temperature**2 * factor * distance + ce_weight * ce)).sum()
    return loss.detach(), distance.detach(), torch.autograd.grad(loss, inputs)


def check(function: Callable[..., KDLoss], made: Case, form: str, near: Any = close, **options: Any) -> None:
    sharpen = options.get("sharpen", 1.0)
    expected = oracle(made, kept=form == "top_k", **{k: x for k, x in options.items() if k != "chunk_rows"})
    teacher = made.stored(form, options["temperature"] / sharpen)
    found = function(teacher=teacher, **made.arguments(), **options)
    near(found.loss.double(), expected[0])
    near(found.kl.double(), expected[1])
    gradients = torch.autograd.grad(found.loss, made.inputs())
    for gradient, true in zip(gradients, expected[2], strict=True):
        near(gradient.double(), true)
    assert not gradients[0][made.weights == 0].any()


HEADS = {"plain": {"bias": False}, "bias": {}, "scale": {"scale": 0.3}, "softcap": {"scale": 1.5, "softcap": 2.0}}


@both
@kinds
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("form", ["hidden", "logits", "top_k"])
def test_oracle(function: Callable[..., KDLoss], kind: dict[str, Any], head: str, form: str) -> None:
    for temperature in (1.0, 2.0):
        check(function, case(**HEADS[head]), form, temperature=temperature, **kind)


@both
@kinds
@pytest.mark.parametrize("form", ["hidden", "logits", "top_k"])
def test_oracle_with_cross_entropy_a_sharpened_teacher_and_a_clip(
    function: Callable[..., KDLoss], kind: dict[str, Any], form: str
) -> None:
    mix = {"temperature": 2.0, "kd_weight": 0.7, "ce_weight": 0.3, **kind}
    check(function, case(**HEADS["softcap"]), form, **mix)
    check(function, case(**HEADS["softcap"]), form, **mix, sharpen=1.5)
    for clip in (0.02, 0.1, 0.4):
        check(function, case(**HEADS["bias"]), form, **mix, clip=clip)


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["hidden", "logits"])
def test_narrow_inputs_are_summed_in_float32(kind: dict[str, Any], dtype: torch.dtype, form: str) -> None:
    made = case(n=8, h=64, v=300, dtype=dtype, scale=0.3)
    near = functools.partial(torch.testing.assert_close, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    check(kd_loss, made, form, near, temperature=2.0, chunk_rows=3, **kind)


@kinds
@pytest.mark.parametrize("size", [0.002, 1.0])
def test_half_precision_products_neither_swallow_nor_overflow(
    kind: dict[str, Any], size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where narrow factors give a float32 product: near the optimum, and at divergences of hundreds."""
    made = case(n=8, h=16, v=20_000, dtype=torch.float16, bias=False, scale=0.1 if size < 1 else 20.0)
    teacher = (made.student + size * made.teacher).detach()
    arguments = {**made.arguments(), "teacher": teacher, "temperature": 1.0, **kind}
    expected = kd_loss(**arguments)
    assert size < 1 or kind["divergence"] == "jsd" or expected.kl.max() > 100
    multiply = torch.mm

    def mm(x: Tensor, y: Tensor, *, out: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
        return multiply(x.to(out.dtype), y.to(out.dtype), out=out)

    monkeypatch.setattr(losses, "_WIDE_PRODUCTS", ("cpu",))
    monkeypatch.setattr(torch, "mm", mm)
    true, found = (torch.autograd.grad(x.loss, made.student)[0].double() for x in (expected, kd_loss(**arguments)))
    assert (found - true).norm() < 0.01 * true.norm()


# ---- properties


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 9),
    v=st.integers(1, 40),
    seed=st.integers(0, 99),
    kind=st.sampled_from(KINDS),
    clip=st.sampled_from([None, 0.01, 1.0]),
    form=st.sampled_from(["hidden", "logits", "top_k"]),
    size=st.sampled_from([1e-3, 1.0, 30.0]),
    chunk=st.integers(1, 12),
)
def test_any_shape_and_chunk(
    n: int, v: int, seed: int, kind: dict[str, Any], clip: float | None, form: str, size: float, chunk: int
) -> None:
    made = case(n, 3, max(v, K), seed)
    made.student = (size * made.student.detach()).requires_grad_()
    arguments = made.arguments() | {"teacher": made.stored(form, 2.0), "temperature": 2.0, "clip": clip, **kind}
    dense, fused = kd_loss_dense(**arguments), kd_loss(**arguments, chunk_rows=chunk)
    assert (fused.kl >= 0).all()
    if kind["divergence"] == "jsd":
        beta = kind.get("beta", 0.5)
        assert (fused.kl <= -beta * math.log(beta) - (1 - beta) * math.log(1 - beta) + 1e-5).all()
    near = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5 if size <= 1 else 1e-3)
    near(fused.loss, dense.loss)
    near(fused.kl, dense.kl)
    one, other = (torch.autograd.grad(x.loss, made.inputs()) for x in (fused, dense))
    for a, b in zip(one, other, strict=True):
        near(a, b)
    assert not one[0][made.weights == 0].any()


@both
@kinds
def test_rows_of_weight_zero_add_exactly_nothing(function: Callable[..., KDLoss], kind: dict[str, Any]) -> None:
    made = case()
    arguments = made.arguments() | {"temperature": 2.0, "teacher": made.stored("logits", 2.0), "clip": 0.3, **kind}
    before = function(**arguments)
    expected = torch.autograd.grad(before.loss, made.student)[0]
    arguments["teacher"].logits[made.weights == 0] = torch.tensor([-math.inf] * (V - 1) + [0.0], dtype=torch.float64)
    after = function(**arguments)
    assert torch.equal(after.loss, before.loss)
    assert torch.equal(torch.autograd.grad(after.loss, made.student)[0], expected)


@both
def test_the_family_is_one(function: Callable[..., KDLoss]) -> None:
    """Student and teacher exchanged: the KLs become each other, and the JSD's beta 1 - beta. Equal ones: all 0."""
    made = case()
    one, other = made.student.detach(), made.teacher

    def rows(student: Tensor, teacher: Tensor, **kind: Any) -> Tensor:
        arguments = made.arguments() | {"student": student, "teacher": teacher, "temperature": 2.0}
        return function(**arguments, **kind).kl.detach()

    close(rows(one, other, divergence="reverse"), rows(other, one, divergence="forward"))
    close(rows(one, other, divergence="jsd", beta=0.2), rows(other, one, divergence="jsd", beta=0.8))
    for kind in KINDS:
        assert (rows(one, other, **kind) > 1e-3).all()
        close(rows(one, one, **kind), torch.zeros(N))


@both
def test_the_ends_of_the_jsd(function: Callable[..., KDLoss]) -> None:
    """Toward beta 0 it is beta times the forward KL, toward 1 it is 1 - beta times the reverse one; gradients too."""
    made = case()
    double = made.student.detach().double().requires_grad_()
    head = Head(made.head.weight.detach().double())
    arguments = made.arguments() | {"student": double, "teacher": made.teacher.double(), "head": head}

    def found(**kind: Any) -> tuple[Tensor, Tensor]:
        result = function(**arguments, temperature=2.0, **kind)
        return result.kl.detach(), torch.autograd.grad(result.loss, double)[0]

    for beta, end in ((1e-6, "forward"), (1 - 1e-6, "reverse")):
        small = min(beta, 1 - beta)
        for near_end, at_end in zip(found(divergence="jsd", beta=beta), found(divergence=end), strict=True):
            torch.testing.assert_close(near_end / small, at_end, rtol=1e-4, atol=1e-6)


def test_top_k_of_all_words_is_the_whole() -> None:
    made = case()
    for kind in KINDS:
        arguments = made.arguments() | {"temperature": 2.0, **kind}
        whole = kd_loss(teacher=made.teacher, **arguments)
        logits = made.stored("logits", 2.0).logits
        full = kd_loss(teacher=TeacherTopK.from_logits(logits, V, 2.0), **arguments)
        close(full.kl, whole.kl)
        close(torch.autograd.grad(full.loss, made.student), torch.autograd.grad(whole.loss, made.student))
        fewer = [kd_loss(teacher=TeacherTopK.from_logits(logits, k, 2.0), **arguments).kl for k in range(1, V + 1)]
        for less, more in itertools.pairwise(fewer):  # outcomes that are told apart only add
            assert (less <= more + 1e-6).all()


@both
def test_a_one_hot_teacher(function: Callable[..., KDLoss]) -> None:
    """The JSD stays finite, by hand; the reverse KL does not, and is refused."""
    made = case(bias=False)
    words, beta = torch.tensor([0, 3, 10, 3, 7, 1]), 0.3
    arguments = made.arguments() | {"temperature": 2.0, "teacher": TeacherTopK.one_hot(words)}
    result = function(**arguments, divergence="jsd", beta=beta)
    q = (made.student.detach() @ made.head.weight.detach().T / 2).softmax(-1)[torch.arange(N), words]
    m = beta + (1 - beta) * q  # of all else m is (1 - beta) times the student's
    close(result.kl, -beta * m.log() + (1 - beta) * (q * (q / m).log() - (1 - q) * math.log(1 - beta)))
    assert all(x.isfinite().all() for x in torch.autograd.grad(result.loss, made.inputs()))
    with pytest.raises(ValueError, match="reverse is infinite against a teacher"):
        function(**arguments, divergence="reverse")


@both
def test_a_teacher_that_forbids_a_word(function: Callable[..., KDLoss]) -> None:
    made = case()
    logits = made.stored("logits", 2.0).logits
    logits[1, 4] = -math.inf
    for kind in KINDS:
        for teacher in (TeacherLogits(logits), TeacherTopK.from_logits(logits, V, 2.0)):
            arguments = made.arguments() | {"temperature": 2.0, "teacher": teacher, **kind}
            if kind["divergence"] == "reverse":
                with pytest.raises(ValueError, match="infinite"):
                    function(**arguments)
                continue
            result = function(**arguments)
            assert result.kl.isfinite().all()
            assert torch.autograd.grad(result.loss, made.student)[0].isfinite().all()


@both
@kinds
def test_models_that_are_certain_of_different_words(function: Callable[..., KDLoss], kind: dict[str, Any]) -> None:
    student = torch.tensor([[1e4, 0.0, -1e4]]).requires_grad_()
    arguments = {"head": Head(torch.eye(3)), "weights": torch.ones(1), "temperature": 2.0}
    result = function(student, torch.tensor([[0.0, 1e4, 0.0]]), **arguments, **kind)
    beta = kind.get("beta", 0.5)
    exact = {"jsd": -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)}.get(kind["divergence"], 5e3)
    close(result.kl, torch.tensor([exact]))
    assert torch.autograd.grad(result.loss, student)[0].isfinite().all()


# ---- the clip


@both
@kinds
def test_a_clip_scales_a_row_as_a_whole(function: Callable[..., KDLoss], kind: dict[str, Any]) -> None:
    made = case()
    made.weights = torch.ones(N)
    arguments = made.arguments() | {"teacher": made.teacher, "temperature": 2.0, **kind}
    plain = function(**arguments)
    clip = plain.kl.median().item()
    clipped = function(**arguments, clip=clip)
    assert torch.equal(clipped.kl, plain.kl)
    close(clipped.loss.detach(), 4 * plain.kl.clamp_max(clip).sum())
    before, after = (torch.autograd.grad(x.loss, made.student)[0] for x in (plain, clipped))
    close(after, before * (clip / plain.kl).clamp_max(1)[:, None])
    assert torch.equal(after[plain.kl <= clip], before[plain.kl <= clip])


def cut_in_entries(p: Tensor, q: Tensor, clip: float) -> Tensor:
    """The forward KL with each word's term cut, as OPSD does."""
    return (p * (p / q).log()).clamp_max(clip).sum(-1)


def test_a_clip_of_entries_can_turn_the_gradient_round_and_ours_does_not() -> None:
    """p = (0.9, 0.1), q = (0.5, 0.5): the first word's term of 0.53 nats is cut to a constant, and what is left only
    raises the second, so a step that lowers the cut sum raises the divergence. With ours it lowers it."""
    p = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    (whole,) = torch.autograd.grad(kl(p, logits.softmax(-1)).sum(), logits)
    (entries,) = torch.autograd.grad(cut_in_entries(p, logits.softmax(-1), 0.1).sum(), logits)
    arguments = {"head": Head(torch.eye(2, dtype=torch.float64)), "weights": torch.ones(1), "temperature": 1.0}
    (ours,) = torch.autograd.grad(kd_loss(logits, p.log(), **arguments, clip=0.1).loss, logits)
    assert (entries * whole).sum() < 0 < (ours * whole).sum()
    there, after_entries, after_ours = (
        kl(p, (logits.detach() - 0.1 * step).softmax(-1)).item() for step in (torch.zeros(1, 2), entries, ours)
    )
    assert after_ours < there < after_entries


@settings(max_examples=50, deadline=None)
@given(v=st.integers(2, 12), seed=st.integers(0, 999), clip=st.floats(1e-3, 2.0), kind=st.sampled_from(KINDS))
def test_no_clip_changes_a_gradients_direction(v: int, seed: int, clip: float, kind: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(1, v, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    arguments = {"head": Head(torch.eye(v, dtype=torch.float64)), "weights": torch.ones(1), "temperature": 1.0, **kind}
    whole, ours = (
        torch.autograd.grad(kd_loss(student, teacher, **arguments, clip=c).loss, student)[0] for c in (None, clip)
    )
    torch.testing.assert_close((ours * whole).sum(), ours.norm() * whole.norm())
    assert ours.norm() > 0


# ---- what it costs


@kinds
@pytest.mark.parametrize("form", ["hidden", "logits", "top_k"])
def test_no_tensor_of_all_rows_by_all_words(kind: dict[str, Any], form: str) -> None:
    made = case(n=64, h=8, v=500, bias=False)
    made.head = replace(made.head, weight=made.head.weight.detach())
    teacher = made.stored(form, 2.0)
    with Largest() as seen:
        arguments = {"temperature": 2.0, "chunk_rows": 4, "stats": True, "ce_weight": 0.1, "clip": 0.5}
        kd_loss(teacher=teacher, **made.arguments(), **arguments, **kind).loss.backward()
    assert seen.elements <= 2 * 4 * 500


@kinds
def test_operations(kind: dict[str, Any]) -> None:
    made = case(n=12, h=8, v=100, bias=False)
    made.head = replace(made.head, weight=made.head.weight.detach())
    with FlopCounterMode(display=False) as counter:
        kd_loss(
            teacher=made.teacher, **made.arguments(), temperature=2.0, chunk_rows=5, clip=0.5, **kind
        ).loss.backward()
    counts = counter.get_flop_counts()["Global"]
    assert sum(count for op, count in counts.items() if "bmm" not in str(op)) == 6 * 12 * 8 * 100


# ---- bad input


@both
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"divergence": "backward"}, 'divergence: expected "forward", "reverse" or "jsd", found \'backward\''),
        ({"divergence": "jsd", "beta": 0.0}, "beta: expected a number between 0 and 1, found 0"),
        ({"divergence": "jsd", "beta": 1.0}, "beta: expected a number between 0 and 1, found 1"),
        ({"clip": 0.0}, "clip: expected a number above 0, or None, found 0"),
        ({"clip": math.nan}, "clip: expected a number above 0, or None, found nan"),
    ],
)
def test_mistakes_are_named(function: Callable[..., KDLoss], change: dict[str, Any], message: str) -> None:
    made = case()
    with pytest.raises(ValueError, match=message):
        function(teacher=made.teacher, **made.arguments(), temperature=2.0, **change)


# ---- our own kernel, and other people's losses


@interpreted
def test_triton_kernel_of_the_family() -> None:
    from ssb_unsloth.method import kernels

    kernels.BLOCK = 4  # several blocks even for these few words
    function = functools.partial(kd_loss, kernel="triton")
    for kind in (KINDS[1], KINDS[3]):
        mix = {"temperature": 2.0, "kd_weight": 0.7, "ce_weight": 0.3, "clip": 0.1, **kind}
        check(function, case(**HEADS["softcap"]), "hidden", **mix)
        check(function, case(**HEADS["plain"]), "logits", temperature=1.0, sharpen=1.5, **kind)
        test_models_that_are_certain_of_different_words(function, kind)
        test_rows_of_weight_zero_add_exactly_nothing(function, kind)
    check(function, case(), "hidden", temperature=2.0, clip=0.1, **KINDS[0])


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_liger_fused_linear_jsd(beta: float) -> None:
    """Liger 0.8.5 has the same family by beta alone, 1 being the reverse KL; meant over rows, without T²."""
    chunked = pytest.importorskip("liger_kernel.chunked_loss")
    made, temperature = case(), 2.0
    made.weights = torch.full((N,), 1 / N)
    settings = {"beta": beta, "temperature": temperature, "compiled": False, "chunk_size": 2}
    theirs = chunked.LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, **settings)
    weight, bias = made.head.weight, made.head.bias
    loss = temperature**2 * theirs(
        made.student, weight, made.teacher, weight.detach(), made.labels, bias, bias.detach()
    )
    kind = {"divergence": "reverse"} if beta == 1 else {"divergence": "jsd", "beta": beta}
    ours = kd_loss(teacher=made.teacher, **made.arguments(), temperature=temperature, **kind)
    close(ours.loss, loss)
    found, expected = (torch.autograd.grad(x, (made.student, weight)) for x in (ours.loss, loss))
    close(found, expected)


@pytest.mark.slow
@interpreted
def test_trl_chunked_divergence() -> None:
    """TRL 1.15 has the same family by beta alone, and no T²."""
    module = pytest.importorskip("trl.kernels.chunked_divergence")
    made = case(**HEADS["softcap"])
    head = made.head
    for beta, kind in [(0.3, {"divergence": "jsd", "beta": 0.3}), (1.0, {"divergence": "reverse"})]:
        args = (made.student, head.weight, head.bias, made.teacher, head.weight.detach(), head.bias.detach())
        caps = (head.scale, head.softcap, head.scale, head.softcap)
        rows, _ = module.ChunkedDivergenceFunction.apply(*args, beta, 2.0, *caps)
        ours = kd_loss(teacher=made.teacher, **made.arguments(), temperature=2.0, **kind)
        close(ours.kl, rows.detach())
        theirs = torch.autograd.grad((4 * made.weights * rows).sum(), made.student)
        close(torch.autograd.grad(ours.loss, made.student), theirs)


# Unsloth changes what is imported after it, so it has a process of its own.
UNSLOTH = """
import torch
import unsloth
from unsloth_zoo.rl_replacements import distillation_chunked_jsd
from ssb_unsloth.method.distributions import Head
from ssb_unsloth.method.losses import kd_loss
torch.manual_seed(0)
n, h, v = 70, 24, 301
weight, teacher = torch.randn(v, h), torch.randn(n, h)
for beta, kind in ((0.0, {}), (1.0, {"divergence": "reverse"}), (0.3, {"divergence": "jsd", "beta": 0.3})):
    student = torch.randn(n, h, requires_grad=True)
    mask, options = torch.ones(1, n), {"beta": beta, "temperature": 2.0, "chunk_size": 32}
    theirs = 4 * distillation_chunked_jsd(student[None], teacher[None], weight, weight, mask, **options)[0]
    ours = kd_loss(student, teacher, Head(weight), torch.full((n,), 1 / n), temperature=2.0, **kind).loss
    torch.testing.assert_close(ours, theirs.reshape(()), rtol=1e-4, atol=1e-6)
    found, expected = (torch.autograd.grad(loss, student)[0] for loss in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)
    print("agrees", beta)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Unsloth is installed on Linux alone")
def test_unsloths_chunked_jsd(tmp_path):
    """Its family is TRL's, by beta alone, and without T²."""
    env = {**os.environ, "UNSLOTH_ALLOW_CPU": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", UNSLOTH], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.count("agrees") == 3, done.stderr[-2000:]
