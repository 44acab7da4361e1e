"""The work of `losses._rows` as one Triton kernel: two sweeps over each row's logits instead of a dozen.

The convention is that of losses.py. One program has one row: the first sweep keeps running maxima, sums and
expectations of both softmaxes, the second writes the gradient, over the student's logits or as narrow as the product
that takes it. The JSD takes one more
between them, since its mixture needs both sums. Imported only where it is used, since Triton is not everywhere.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from .distributions import Head, Terms

BLOCK = 4096  # words at a time
WARPS = 8


@triton.jit
def _final(logits, bias, scale, softcap, HAS_BIAS: tl.constexpr, HAS_CAP: tl.constexpr):
    if HAS_BIAS:
        logits += bias
    logits *= scale
    if HAS_CAP:
        logits = softcap * (2 * tl.sigmoid(2 * logits / softcap) - 1)
    return logits


@triton.jit
def _both(
    s_ptr,
    t_ptr,
    bias_ptr,
    words,
    real,
    scale,
    softcap,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    RAW_TEACHER: tl.constexpr,
):
    """Student's and teacher's final logits of a block of words."""
    bias = tl.load(bias_ptr + words, mask=real, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
    s = _final(tl.load(s_ptr + words, mask=real, other=0.0), bias, scale, softcap, HAS_BIAS, HAS_CAP)
    t = tl.load(t_ptr + words, mask=real, other=0.0)
    if RAW_TEACHER:
        t = _final(t, bias, scale, softcap, HAS_BIAS, HAS_CAP)
    return s, t


@triton.jit
def _from_mixture(log_p, log_q, beta):
    """log m - log q and log m - log p of the JSD's mixture m, as losses._divergence has them."""
    x = log_p - log_q + tl.log(beta) - tl.log(1 - beta)
    above = tl.maximum(x, 0.0) + tl.log(1 + tl.exp(-tl.abs(x)))
    return above + tl.log(1 - beta), above - x + tl.log(beta)


@triton.jit
def _kd_rows(
    s_ptr,
    t_ptr,
    g_ptr,
    stride_s,
    stride_t,
    stride_g,
    bias_ptr,
    words_ptr,
    kl_ptr,
    ce_ptr,
    agreement_ptr,
    t_entropy_ptr,
    s_entropy_ptr,
    vocabulary,
    scale,
    softcap,
    temperature,
    t_temperature,
    kd_share,
    ce_share,
    beta,
    clip,
    lift,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    RAW_TEACHER: tl.constexpr,
    HAS_CE: tl.constexpr,
    STATS: tl.constexpr,
    GRADIENT: tl.constexpr,
    REVERSE: tl.constexpr,
    JSD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    s_ptr += row * stride_s
    t_ptr += row * stride_t
    g_ptr += row * stride_g
    s_max = -float("inf")  # of the logits at the KD temperature; * temperature: of those at temperature 1
    t_max = -float("inf")
    s_sum = 0.0  # of exp(logit - maximum)
    t_sum = 0.0
    s1_sum = 0.0  # the student's at temperature 1
    t_gap = 0.0  # of exp(teacher's logit - maximum) (teacher's logit - student's)
    s_gap = 0.0  # of exp(student's logit - maximum) (student's logit - teacher's)
    s_mean = 0.0  # of exp(logit - maximum) logit
    t_mean = 0.0
    s_best = 0
    t_best = 0
    for first in range(0, vocabulary, BLOCK):
        words = first + tl.arange(0, BLOCK)
        real = words < vocabulary
        s, t = _both(s_ptr, t_ptr, bias_ptr, words, real, scale, softcap, HAS_BIAS, HAS_CAP, RAW_TEACHER)
        s /= temperature
        t /= t_temperature

        top = tl.max(tl.where(real, s, -float("inf")), axis=0)
        if STATS:
            best = first + tl.argmax(tl.where(real, s, -float("inf")), axis=0)
            s_best = tl.where(top > s_max, best, s_best)
        new_max = tl.maximum(s_max, top)
        shrink = tl.exp(s_max - new_max)
        e = tl.where(real, tl.exp(s - new_max), 0.0)
        s_sum = s_sum * shrink + tl.sum(e, axis=0)
        if REVERSE:
            s_gap = s_gap * shrink + tl.sum(e * (s - t), axis=0)
        if STATS:
            s_mean = s_mean * shrink + tl.sum(e * s, axis=0)
        if HAS_CE:
            e = tl.where(real, tl.exp((s - new_max) * temperature), 0.0)
            s1_sum = s1_sum * tl.exp((s_max - new_max) * temperature) + tl.sum(e, axis=0)
        s_max = new_max

        top = tl.max(tl.where(real, t, -float("inf")), axis=0)
        if STATS:
            best = first + tl.argmax(tl.where(real, t, -float("inf")), axis=0)
            t_best = tl.where(top > t_max, best, t_best)
        new_max = tl.maximum(t_max, top)
        shrink = tl.exp(t_max - new_max)
        e = tl.where(real, tl.exp(t - new_max), 0.0)
        t_sum = t_sum * shrink + tl.sum(e, axis=0)
        t_gap = t_gap * shrink + tl.sum(e * (t - s), axis=0)
        if STATS:
            t_mean = t_mean * shrink + tl.sum(e * t, axis=0)
        t_max = new_max

    s_lse = s_max + tl.log(s_sum)
    t_lse = t_max + tl.log(t_sum)
    own = 0.0  # KL of the student to the teacher, or to the mixture
    if JSD:
        other = 0.0  # KL of the teacher to the mixture
        for first in range(0, vocabulary, BLOCK):
            words = first + tl.arange(0, BLOCK)
            real = words < vocabulary
            s, t = _both(s_ptr, t_ptr, bias_ptr, words, real, scale, softcap, HAS_BIAS, HAS_CAP, RAW_TEACHER)
            log_q = s / temperature - s_lse
            log_p = t / t_temperature - t_lse
            from_q, from_p = _from_mixture(log_p, log_q, beta)
            own -= tl.sum(tl.where(real, tl.exp(log_q) * from_q, 0.0), axis=0)
            other -= tl.sum(tl.where(real, tl.exp(log_p) * from_p, 0.0), axis=0)
        kl = tl.maximum(beta * other + (1 - beta) * own, 0.0)
    elif REVERSE:
        own = s_gap / s_sum + t_lse - s_lse
        kl = tl.maximum(own, 0.0)
    else:
        kl = tl.maximum(t_gap / t_sum + s_lse - t_lse, 0.0)
    tl.store(kl_ptr + row, kl)
    if STATS:
        tl.store(agreement_ptr + row, tl.where(s_best == t_best, 1.0, 0.0))
        tl.store(t_entropy_ptr + row, t_lse - t_mean / t_sum)
        tl.store(s_entropy_ptr + row, s_lse - s_mean / s_sum)
    s1_lse = 0.0
    label = 0
    if HAS_CE:
        label = tl.load(words_ptr + row)
        s1_lse = s_max * temperature + tl.log(s1_sum)
        label_bias = tl.load(bias_ptr + label).to(tl.float32) if HAS_BIAS else 0.0
        at_label = _final(tl.load(s_ptr + label), label_bias, scale, softcap, HAS_BIAS, HAS_CAP)
        tl.store(ce_ptr + row, s1_lse - at_label)

    if GRADIENT:
        if kl > clip:
            kd_share *= clip / kl
        for first in range(0, vocabulary, BLOCK):
            words = first + tl.arange(0, BLOCK)
            real = words < vocabulary
            s, t = _both(s_ptr, t_ptr, bias_ptr, words, real, scale, softcap, HAS_BIAS, HAS_CAP, RAW_TEACHER)
            log_q = s / temperature - s_lse
            log_p = t / t_temperature - t_lse
            if JSD:
                from_q, _ = _from_mixture(log_p, log_q, beta)
                g = kd_share * (beta - 1) * tl.exp(log_q) * (from_q + own)
            elif REVERSE:
                g = kd_share * tl.exp(log_q) * (log_q - log_p - own)
            else:
                g = kd_share * (tl.exp(log_q) - tl.exp(log_p))
            if HAS_CE:
                g += ce_share * (tl.exp(s - s1_lse) - tl.where(words == label, 1.0, 0.0))
            if REVERSE:
                g /= 1 + kl  # Terms.steepness
            if HAS_CAP:
                g *= 1 - (s / softcap) * (s / softcap)
            tl.store(g_ptr + words, g * lift, mask=real)


def kd_rows(
    s: Tensor,
    t: Tensor,
    head: Head,
    words: Tensor | None,
    terms: Terms,
    out: dict[str, Tensor],
    into: Tensor | None = None,
    lift: float = 1.0,
) -> None:
    """`losses._rows` for float32 logits [n, V] on a GPU (or under TRITON_INTERPRET=1); same arguments and results, but
    that the gradient may go elsewhere: `lift` times it into `into`, [n, V] of any float dtype, and s stays as it is.
    """
    unused = out["kl"]
    g = s if into is None else into
    options: dict[str, Any] = {
        "HAS_BIAS": head.bias is not None,
        "HAS_CAP": bool(head.softcap),
        "RAW_TEACHER": terms.raw_teacher,
        "HAS_CE": words is not None,
        "STATS": "agreement" in out,
        "GRADIENT": terms.gradient,
        "REVERSE": terms.divergence == "reverse",
        "JSD": terms.divergence == "jsd",
    }
    _kd_rows[(len(s),)](
        s,
        t,
        g,
        s.stride(0),
        t.stride(0),
        g.stride(0),
        head.bias if head.bias is not None else unused,
        words if words is not None else unused,
        out["kl"],
        out["ce"],
        out.get("agreement", unused),
        out.get("teacher_entropy", unused),
        out.get("student_entropy", unused),
        s.shape[1],
        head.scale,
        head.softcap or 1.0,
        terms.temperature,
        terms.teacher_temperature,
        terms.kd_weight * terms.temperature / terms.bound,
        terms.ce_weight / terms.bound,
        terms.beta,
        terms.clip,
        lift,
        BLOCK=BLOCK,
        num_warps=WARPS,
        **options,
    )
