"""The objective, twice: densely in a few lines, and in chunks of rows that never hold all rows by all words.

The convention, stated here and nowhere else. For row n, one reply token of one example:

    s_n, t_n   student's and teacher's logits at temperature 1, after the head's own transforms    [V]
    p_n, q_n   softmax(a t_n / T), softmax(s_n / T): teacher and student at the KD temperature T; a, `sharpen`, is 1
               in the paper, and above 1 an experiment of ours: a teacher more certain than the model is
    D_n        the divergence, in nats; KL(x || y) is sum_v x_v (log x_v - log y_v)
               forward   KL(p_n || q_n), teacher first: the paper's, and the default
               reverse   KL(q_n || p_n)
               jsd       b KL(p_n || m_n) + (1 - b) KL(q_n || m_n) with m_n = b p_n + (1 - b) q_n and b, `beta`, the
                         teacher's share of the mixture: the generalized JSD of GKD (arXiv 2306.13649, Eq. 1) and TRL
    c_n        min(1, clip / D_n), a constant to the gradient; 1 without a clip
    CE_n       -log softmax(s_n)[label_n]: at temperature 1
    loss       sum_n w_n (kd_weight T² c_n D_n + ce_weight CE_n)

As b goes to 0 the JSD goes to 0 as b times the forward KL, and as b goes to 1 as 1 - b times the reverse one. TRL takes
0 and 1 for those KLs themselves; here they have names, and b lies between.

T² is part of the loss, so it reaches the gradient: d loss / d s_n = w_n (kd_weight T c_n g_n + ce_weight
(softmax(s_n) - onehot(label_n))), where g_n, which is T d D_n / d s_n, is

    forward   q_n - p_n
    reverse   q_n (log q_n - log p_n - D_n)
    jsd       (1 - b) q_n (log q_n - log m_n - KL(q_n || m_n))

The clip makes a row smaller as a whole: it counts as `clip`, and its gradient keeps its direction. Cutting the entries
of the sum over v one by one, as OPSD does (arXiv 2601.18734), can turn it round. Of a teacher's top k the outcomes are
its k words and the tail, and a word of the tail has its share q_v / q_tail of the tail's g. Where the teacher excludes
what the student can say, as one-hot teachers do, the reverse KL is infinite, and refused.

The weights w_n carry the denominator (`row_weights`): w_n = 1 / (examples x reply tokens of the row's example) makes
the loss the paper's Eq. 6, and 1 / reply tokens the mean of its released code. The teacher is a constant: no gradient
reaches it, also not through a head that trains.

Shapes: N rows (the reply tokens of a batch, end to end), H hidden, V vocabulary, B examples, k words kept of a teacher.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .distributions import LOWEST, Divergence, Head, KDLoss, Teacher, TeacherLogits, TeacherTopK, Terms

CHUNK_ROWS = 256  # rows whose logits exist at a time: fewer slow the matrix products down, more take memory
_WIDE_PRODUCTS = ("cuda",)  # devices that multiply narrow matrices into a float32 one


def row_weights(
    lengths: Tensor,
    total: int | Tensor | None = None,
    denominator: Literal["example", "token"] = "example",
    counted: Tensor | None = None,
    examples: Tensor | None = None,
) -> Tensor:
    """The weights [N] that make `kd_loss` a mean, for B examples end to end of `lengths` [B] rows; N = lengths.sum().

    "example": the paper's Eq. 6, the mean over examples of the mean over each one's rows; `total` counts examples.
    "token": the mean over all rows, as in the paper's released code; `total` counts rows.
    By default `total` is that of `lengths`. Under gradient accumulation pass the total of the whole optimizer step: the
    losses of its micro-batches then add up to that of the undivided batch, however it is cut.

    counted: [N] bool; the other rows weigh nothing, and are not among those that a mean is over. An example without
        any adds nothing, and is counted as an example.
    examples: [B] what each example weighs, times all its rows'.
    """
    if denominator not in ("example", "token"):
        raise ValueError(f'denominator: expected "example" or "token", found {denominator!r}.')
    of_N = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    rows_N = torch.ones_like(of_N, dtype=torch.float32) if counted is None else counted.float()
    if denominator == "example":
        counts = lengths.float() if counted is None else rows_N.new_zeros(len(lengths)).index_add_(0, of_N, rows_N)
        weights = rows_N * (1 / (counts.clamp_min(1) * (len(lengths) if total is None else total)))[of_N]
    else:
        weights = rows_N / (rows_N.sum() if total is None else total)
    return weights if examples is None else weights * examples.float()[of_N]


def head_logits(hidden: Tensor, head: Head) -> Tensor:
    """Final logits [..., V] of hidden states [..., H] as the loss has them: in float32, of factors in the head's dtype.

    Without gradient, and all at once: for what is stored or looked at, not for training.
    """
    rows_NH = hidden.detach().flatten(0, -2).to(head.weight.dtype)
    dtype = torch.promote_types(head.weight.dtype, torch.float32)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        logits_NV = rows_NH.new_empty((len(rows_NH), len(head.weight)), dtype=dtype)
        _transform_(_multiply(rows_NH, head.weight.T, out=logits_NV), head)
    return logits_NV.unflatten(0, hidden.shape[:-1])


def kd_loss_dense(
    student: Tensor,
    teacher: Teacher,
    head: Head,
    weights: Tensor,
    *,
    temperature: float,
    labels: Tensor | None = None,
    kd_weight: float = 1.0,
    ce_weight: float = 0.0,
    sharpen: float = 1.0,
    divergence: Divergence = "forward",
    beta: float = 0.5,
    clip: float | None = None,
    stats: bool = False,
) -> KDLoss:
    """`kd_loss` by plain autograd over [N, V] logits: to read, to test against, and to differentiate twice."""
    _check(student, teacher, head, weights, temperature, labels, ce_weight, sharpen)
    _check_divergence(teacher, weights, len(head.weight), divergence, beta, clip)
    s = _dense_logits(student, head)
    log_q = outcomes = F.log_softmax(s / temperature, dim=-1)
    with torch.no_grad():
        if isinstance(teacher, TeacherTopK):
            log_p, best = teacher.log_p(s.dtype), teacher.best()
        else:
            t = teacher.logits if isinstance(teacher, TeacherLogits) else _dense_logits(teacher, head)
            log_p = F.log_softmax(t.to(s.dtype) * (sharpen / temperature), dim=-1).clamp_min(LOWEST)
            best = log_p.argmax(-1)
    if isinstance(teacher, TeacherTopK):
        outcomes = teacher.log_q(log_q)
    if divergence == "forward":
        kl = _kl(log_p, outcomes)
    elif divergence == "reverse":
        kl = _kl(outcomes, log_p)
    else:
        log_m = torch.logaddexp(log_p + math.log(beta), outcomes + math.log1p(-beta))
        kl = beta * _kl(log_p, log_m) + (1 - beta) * _kl(outcomes, log_m)
    kept = 1.0 if clip is None else (clip / kl.detach()).clamp_max(1)
    ce = F.cross_entropy(s, labels.clamp_min(0), reduction="none") if labels is not None and ce_weight else 0.0
    loss = (weights.to(s.dtype) * (kd_weight * temperature**2 * kept * kl + ce_weight * ce)).sum()
    if not stats:
        return KDLoss(loss, kl.detach())
    log_q = log_q.detach()
    entropies = [-(log_x.exp() * log_x).sum(-1) for log_x in (log_p, log_q)]
    return KDLoss(loss, kl.detach(), (best == log_q.argmax(-1)).to(s.dtype), *entropies)


def kd_loss(
    student: Tensor,
    teacher: Teacher,
    head: Head,
    weights: Tensor,
    *,
    temperature: float,
    labels: Tensor | None = None,
    kd_weight: float = 1.0,
    ce_weight: float = 0.0,
    sharpen: float = 1.0,
    divergence: Divergence = "forward",
    beta: float = 0.5,
    clip: float | None = None,
    chunk_rows: int | None = None,
    stats: bool = False,
    kernel: Literal["auto", "torch", "triton"] = "auto",
) -> KDLoss:
    """The distillation loss (paper, Eq. 6; convention: head of this file) and, in the same walk, its gradient.

    Chunks of rows are projected, their logits turned in place into the gradient with respect to them, and that is
    projected back: 6 N H V operations and two [chunk, V] float32 buffers, whatever N is. `backward` only multiplies by
    the incoming gradient. A gradient that nobody asks for costs nothing; the head's is computed if it requires one.

    Args:
        student: [N, H] hidden states of the student's reply rows, after the final norm.
        teacher: [N, H] the same of the teacher, for the same head; or its logits, or its likeliest words.
        head: applied in its weight's dtype (float32, bf16, fp16) to both; sums and softmaxes are float32, also under
            autocast.
        weights: [N], see `row_weights`. A row of weight 0 adds exactly nothing, whatever it holds.
        temperature: the KD temperature T, above 0.
        sharpen: what the teacher's logits are multiplied by, above 0.
        divergence: "forward", "reverse" or "jsd".
        beta: the teacher's share of the JSD's mixture, between 0 and 1; read by "jsd" alone.
        clip: the most nats that a row's divergence counts, above 0; None: all.
        labels: [N] the reply tokens; needed if `ce_weight` is not 0. A negative one counts as word 0: give its row
            weight 0.
        chunk_rows: the most rows whose logits exist at a time (default CHUNK_ROWS); results do not depend on it.
        stats: return agreement and entropies as well.
        kernel: "triton" does the work between the products in one kernel (hidden or logits teachers); "auto" takes it
            on a GPU where Triton is installed. On an H100 that took 0.56 of plain torch's time (docs/gpu.md).

    Raises:
        ValueError: shapes, temperature, labels or divergence do not fit together; a row that counts has a teacher
            against whom the reverse KL is infinite.
        RuntimeError: in backward, if a second derivative is asked for.
    """
    _check(student, teacher, head, weights, temperature, labels, ce_weight, sharpen, chunk_rows)
    _check_divergence(teacher, weights, len(head.weight), divergence, beta, clip)
    inputs = (student, head.weight, head.bias)
    wanted = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in inputs]
    parts = (temperature, temperature / sharpen, kd_weight, ce_weight)
    terms = Terms(*parts, isinstance(teacher, Tensor), any(wanted), divergence, beta, clip or math.inf)
    with torch.no_grad(), torch.autocast(student.device.type, enabled=False):
        chunk = chunk_rows or CHUNK_ROWS
        if kernel == "auto":
            kernel = "triton" if student.is_cuda and find_spec("triton") else "torch"
        rows, gradients = _walk(student, teacher, head, weights, labels, terms, wanted, chunk, stats, kernel)
        counts = rows["kl"] if clip is None else rows["kl"].clamp_max(clip)
        per_row = kd_weight * temperature**2 * counts + ce_weight * rows.pop("ce")
        loss = (weights.to(per_row.dtype) * per_row).masked_fill(weights == 0, 0).sum()
    if any(wanted):
        loss = _WithGradients.apply(loss, *inputs, *gradients)
    return KDLoss(loss, **rows)


class _WithGradients(torch.autograd.Function):
    """Ties a loss to its inputs by gradients that are already known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *tensors: Tensor | None) -> Tensor:
        inputs, gradients = tensors[:3], tensors[3:]
        ctx.dtypes = [None if x is None else x.dtype for x in inputs]
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "kd_loss has no second derivative: call backward without create_graph=True, or use kd_loss_dense."
            )
        pairs = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        scaled = [None if gradient is None else (gradient * incoming).to(dtype) for gradient, dtype in pairs]
        return None, *scaled, None, None, None


def _walk(
    student: Tensor,
    teacher: Teacher,
    head: Head,
    weights: Tensor,
    labels: Tensor | None,
    terms: Terms,
    wanted: list[bool],
    chunk_rows: int,
    stats: bool,
    kernel: str,
) -> tuple[dict[str, Tensor], list[Tensor | None]]:
    """Per-row results [N], and those gradients of student, head weight and head bias that are wanted."""
    weight, n_rows = head.weight.detach(), len(student)
    vocabulary, dtype = len(weight), torch.promote_types(weight.dtype, torch.float32)
    names = ["kl", "ce", *(["agreement", "teacher_entropy", "student_entropy"] if stats else [])]
    result = {name: student.new_zeros(n_rows, dtype=dtype) for name in names}
    shapes = (student.shape, weight.shape, weight.shape[:1])
    gradients = [student.new_zeros(x, dtype=dtype) if want else None for x, want in zip(shapes, wanted, strict=True)]
    d_student_NH, d_weight_VH, d_bias_V = gradients
    ignored = weights[:, None] == 0

    chunks = list(_slices(n_rows, chunk_rows))
    most = max((rows.stop - rows.start for rows in chunks), default=0)
    on_cpu = student.device.type == "cpu"  # there a few rows for each thread, to stay in its cache
    block = min(most, max(1, (2**19 if on_cpu else 2**25) // vocabulary) * (torch.get_num_threads() if on_cpu else 1))
    between: Callable[..., None]
    narrow_NV, lift = None, _lift(dtype, weight.dtype)
    if kernel == "triton" and not isinstance(teacher, TeacherTopK):
        from .kernels import kd_rows as between

        block = most
        # The product with the head will have it so narrow: where nothing else needs more, it is never wider.
        alone = d_student_NH is not None and d_weight_VH is None and d_bias_V is None
        if alone and weight.dtype != dtype and weight.device.type in _WIDE_PRODUCTS:
            narrow_NV = student.new_empty((most, vocabulary), dtype=weight.dtype)
    else:
        between = partial(_rows, work=student.new_empty((2, block, vocabulary), dtype=dtype))

    buffer_NV = student.new_empty((most + (most if terms.raw_teacher else block), vocabulary), dtype=dtype)
    for rows in chunks:
        hidden_NH = student[rows].to(weight.dtype)
        both_NH = torch.cat([hidden_NH, teacher[rows].to(weight.dtype)]) if isinstance(teacher, Tensor) else hidden_NH
        logits_NV = _multiply(both_NH, weight.T, out=buffer_NV[: len(both_NH)])
        s_NV, t_NV = logits_NV[: len(hidden_NH)], logits_NV[len(hidden_NH) :]
        for part in _slices(len(hidden_NH), block):
            at = slice(rows.start + part.start, rows.start + part.stop)
            t: Tensor | TeacherTopK
            if isinstance(teacher, TeacherTopK):
                t = teacher[at]
            elif isinstance(teacher, TeacherLogits):
                t = buffer_NV[most:][: part.stop - part.start].copy_(teacher.logits[at]).clamp_min_(LOWEST)
            else:
                t = t_NV[part]
            words = labels[at].clamp_min(0) if labels is not None and terms.ce_weight else None
            into = {} if narrow_NV is None else {"into": narrow_NV[part], "lift": lift}
            between(s_NV[part], t, head, words, terms, {name: values[at] for name, values in result.items()}, **into)
        row_scale = weights[rows].to(dtype)[:, None] * (head.scale * terms.bound)
        if terms.divergence == "reverse":
            row_scale *= terms.steepness(result["kl"][rows])[:, None]
        if d_student_NH is not None:
            gradient_NV = s_NV if narrow_NV is None else narrow_NV[: len(s_NV)]
            _multiply(gradient_NV, weight, d_student_NH[rows], lift).mul_(row_scale).masked_fill_(ignored[rows], 0)
        if d_weight_VH is not None or d_bias_V is not None:
            s_NV.mul_(row_scale).masked_fill_(ignored[rows], 0)
        if d_weight_VH is not None:
            torch.addmm(d_weight_VH, s_NV.T, hidden_NH.to(dtype).masked_fill(ignored[rows], 0), out=d_weight_VH)
        if d_bias_V is not None:
            d_bias_V.add_(s_NV.sum(0))
    return result, gradients


def _rows(
    s: Tensor,
    t: Tensor | TeacherTopK,
    head: Head,
    words: Tensor | None,
    terms: Terms,
    out: dict[str, Tensor],
    work: Tensor,
) -> None:
    """The work between the products, for a block of n rows.

    s: [n, V] the student's h Wᵀ; overwritten by the gradient with respect to it, but for w_n, head.scale, and the
        bound and steepness of the terms.
    t: [n, V] the teacher's, or its final logits, overwritten; or its likeliest words.
    words: [n] labels, for the cross-entropy.
    out: [n] each: what it names is filled.
    work: [2, n or more, V] scratch, because memory fresh from the system costs a CPU as much as the arithmetic.
    """
    _transform_(s, head)
    if terms.raw_teacher and isinstance(t, Tensor):
        _transform_(t, head)
    slope = 1 - (s / head.softcap).square_() if head.softcap and terms.gradient else None
    if words is not None:
        log_q1 = F.log_softmax(s, dim=-1)
        out["ce"].copy_(log_q1.gather(-1, words[:, None])[:, 0].neg_())
        d_ce = log_q1.exp_() if terms.gradient else None
    log_q = outcomes = torch.log_softmax(s.div_(terms.temperature), dim=-1, out=work[0, : len(s)])
    q = of_outcomes = torch.exp(log_q, out=s)
    if isinstance(t, TeacherTopK):
        log_p, outcomes = t.log_p(s.dtype), t.log_q(log_q)
        p, of_outcomes = log_p.exp(), outcomes.exp()
        tail = outcomes[:, -1:].clone()
    else:
        log_p = torch.log_softmax(t.div_(terms.teacher_temperature), dim=-1, out=work[1, : len(s)])
        p = torch.exp(log_p, out=t)
    if "agreement" in out:
        best = t.best() if isinstance(t, TeacherTopK) else log_p.argmax(-1)
        out["agreement"].copy_(best == log_q.argmax(-1))
        out["teacher_entropy"].copy_(-torch.linalg.vecdot(p, log_p))
        out["student_entropy"].copy_(-torch.linalg.vecdot(q, log_q))
    kl = out["kl"].copy_(_divergence(log_p, outcomes, p, of_outcomes, terms))
    if not terms.gradient:
        return
    if isinstance(t, TeacherTopK):
        torch.exp(log_q.sub_(tail), out=s).mul_(of_outcomes[:, -1:]).scatter_(-1, t.indices, of_outcomes[:, :-1])
    s.mul_(terms.kd_weight * terms.temperature / terms.bound)
    if terms.clip < math.inf:
        s.mul_(terms.kept(kl)[:, None])
    if words is not None and d_ce is not None:
        d_ce[torch.arange(len(words), device=words.device), words] -= 1
        s.add_(d_ce, alpha=terms.ce_weight / terms.bound)
    if terms.divergence == "reverse":
        s.div_(terms.steepness(kl)[:, None])
    if slope is not None:
        s.mul_(slope)


def _divergence(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor, terms: Terms) -> Tensor:
    """D_n [n] of distributions [n, outcomes]. Overwrites q with g_n where gradients are wanted, and both logarithms."""
    gap = log_p.sub_(log_q)
    if terms.divergence == "forward":
        kl = torch.linalg.vecdot(p, gap)
        if terms.gradient:
            q.sub_(p)
        return kl.clamp_min_(0)
    if terms.divergence == "reverse":  # in both cases: log of what q is held against, less log q
        apart, share = gap, 1.0
        kl = own = -torch.linalg.vecdot(q, apart)
    else:
        # log m - log q is log(1 - b) + softplus(x), and log m - log p is log b + softplus(x) - x
        beta, share = terms.beta, 1 - terms.beta
        x = gap.add_(math.log(beta) - math.log1p(-beta))
        apart = torch.logaddexp(x, x.new_zeros(()), out=log_q)
        from_p = torch.sub(apart, x, out=x).add_(math.log(beta))
        own = -torch.linalg.vecdot(q, apart.add_(math.log1p(-beta)))
        kl = share * own - beta * torch.linalg.vecdot(p, from_p)
    if terms.gradient:
        q.mul_(apart.add_(own[:, None]).mul_(-share))
    return kl.clamp_min(0)


def _lift(wide: torch.dtype, narrow: torch.dtype) -> float:
    """What gradients are multiplied by on their way from one dtype to the other, since in fp16 they would underflow."""
    return 2.0**14 if wide == torch.float32 and narrow == torch.float16 else 1.0


def _multiply(a: Tensor, b: Tensor, out: Tensor, lifted: float = 1.0) -> Tensor:
    """out = a b / lifted, summed and kept in out's dtype also where b, the head, has a narrower one."""
    if b.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    if b.device.type in _WIDE_PRODUCTS:
        if a.dtype != b.dtype:
            lifted = _lift(a.dtype, b.dtype)
            a = torch.mul(a, lifted, out=torch.empty_like(a, dtype=b.dtype))
        torch.mm(a, b, out_dtype=out.dtype, out=out)
        return out if lifted == 1 else out.div_(lifted)
    a = a.to(out.dtype)
    for part in _slices(b.shape[1], max(1, 2**25 // b.shape[0])):  # a CPU's narrow products have narrow results
        torch.mm(a, b[:, part].to(out.dtype), out=out[:, part])
    return out


def _slices(total: int, most: int) -> Iterator[slice]:
    """As few slices of range(total) as have at most `most` each, all of one size or one less."""
    count = -(-total // most)
    for i in range(count):
        yield slice(i * total // count, (i + 1) * total // count)


def _transform_(logits: Tensor, head: Head) -> None:
    """From h Wᵀ to final logits, in place."""
    if head.bias is not None:
        logits.add_(head.bias)
    if head.scale != 1:
        logits.mul_(head.scale)
    if head.softcap:
        logits.div_(head.softcap).tanh_().mul_(head.softcap)


def _kl(log_x: Tensor, log_y: Tensor) -> Tensor:
    return (log_x.exp() * (log_x - log_y)).sum(-1)


def _dense_logits(hidden: Tensor, head: Head) -> Tensor:
    dtype = torch.promote_types(head.weight.dtype, torch.float32)
    logits = F.linear(hidden.to(head.weight.dtype).to(dtype), head.weight.to(dtype))
    logits = (logits if head.bias is None else logits + head.bias) * head.scale
    return head.softcap * torch.tanh(logits / head.softcap) if head.softcap else logits


def _check(
    student: Tensor,
    teacher: Teacher,
    head: Head,
    weights: Tensor,
    temperature: float,
    labels: Tensor | None,
    ce_weight: float,
    sharpen: float,
    chunk_rows: int | None = None,
) -> None:
    """Raise ValueError if shapes, temperature and labels do not fit together."""
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, found {temperature}.")
    if not 0 < sharpen < math.inf:
        raise ValueError(f"sharpen: expected a number above 0, found {sharpen}.")
    if ce_weight and labels is None:
        raise ValueError("ce_weight is not 0, so `labels` are needed: the reply token of each row.")
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows: expected a positive number or None for the default, found {chunk_rows}.")
    if isinstance(teacher, TeacherTopK) and teacher.temperature not in (None, temperature / sharpen):
        raise ValueError(
            f"The teacher's top-k was stored at temperature {teacher.temperature:g} and the loss has"
            f" {temperature / sharpen:g}: the tail's mass is known at the former only, so store the targets again."
        )
    n, (v, h) = len(student), head.weight.shape
    expected = {"student": (student, (n, h)), "weights": (weights, (n,))}
    if isinstance(teacher, TeacherTopK):
        k = teacher.values.shape[-1]
        expected["teacher.values"], expected["teacher.indices"] = (teacher.values, (n, k)), (teacher.indices, (n, k))
        expected["teacher.log_tail"] = (teacher.log_tail, (n,))
    elif isinstance(teacher, TeacherLogits):
        expected["teacher.logits"] = (teacher.logits, (n, v))
    else:
        expected["teacher"] = (teacher, (n, h))
    if labels is not None:
        expected["labels"] = (labels, (n,))
    if head.bias is not None:
        expected["head.bias"] = (head.bias, (v,))
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(
                f"{name}: expected shape {list(shape)}, found {list(tensor.shape)}. "
                f"(N = {n} rows of student; V, H = {v}, {h} from head.weight.)"
            )


def _check_divergence(
    teacher: Teacher, weights: Tensor, vocabulary: int, divergence: str, beta: float, clip: float | None
) -> None:
    """Raise ValueError for a divergence that there is not, or that is infinite."""
    if divergence not in get_args(Divergence):
        raise ValueError(f'divergence: expected "forward", "reverse" or "jsd", found {divergence!r}.')
    if divergence == "jsd" and not 0 < beta < 1:
        raise ValueError(f"beta: expected a number between 0 and 1, found {beta}.")
    if clip is not None and not 0 < clip < math.inf:
        raise ValueError(f"clip: expected a number above 0, or None, found {clip}.")
    if divergence != "reverse" or isinstance(teacher, Tensor) or not len(weights):
        return
    if isinstance(teacher, TeacherLogits):
        least = teacher.logits.amin(-1)
    else:
        least = teacher.values.amin(-1)
        if teacher.values.shape[-1] < vocabulary:  # else there is no tail, and nothing of the student's in it
            least = torch.minimum(least, teacher.log_tail)
    if (torch.isneginf(least) & (weights != 0)).any():
        raise ValueError(
            "divergence: reverse is infinite against a teacher that gives some words no probability, as a one-hot one;"
            ' take "forward" or "jsd".'
        )
