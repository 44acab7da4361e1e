"""TRL's log-probabilities without a GPU.

SFTTrainer and GRPOTrainer (1.15) compute them in Triton kernels, which on a CPU fail with "0 active drivers". This is
the same function in plain torch, put in the kernels' place; a test compares both, the kernels being interpreted.

Shapes: N tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

Fields = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class PlainLogProbs:
    """Takes the place of TRL's ChunkedLogProbFunction, of which TRL calls nothing but `apply`."""

    @staticmethod
    def apply(
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        temperature: float,
        chunk_size: int,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        outputs: tuple[str, ...] = (),
    ) -> Fields:
        """Log-probability of each target [N]; then, where `outputs` names it and None elsewhere: entropy [N], log of
        the sum of squared probabilities [N], mean logit [N], and whether the target is the likeliest word [N].

        The logits [N, V] are held whole, in float32 or wider, where the kernels go through them in tiles of
        `chunk_size`.
        """
        logits_NV = torch.nn.functional.linear(hidden_NH, weight_VH, bias_V)
        logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)) * logit_scale
        if softcap is not None:
            logits_NV = softcap * torch.tanh(logits_NV / softcap)
        logits_NV = logits_NV / temperature
        log_probs_NV = logits_NV.log_softmax(-1)
        fields = {
            "entropy": lambda: -(log_probs_NV.exp() * log_probs_NV).sum(-1),
            "log_sum_sq_probs": lambda: (2 * log_probs_NV.detach()).logsumexp(-1),
            "mean_logits": lambda: logits_NV.detach().mean(-1),
            "is_top1": lambda: logits_NV.argmax(-1) == targets_N,
        }
        entropy, log_sum_sq, mean_logits, top1 = (make() if name in outputs else None for name, make in fields.items())
        return log_probs_NV.gather(-1, targets_N[:, None])[:, 0], entropy, log_sum_sq, mean_logits, top1


def make_trl_ready() -> None:
    """To be called before one of TRL's trainers is made: without a GPU it takes the function above."""
    from trl.trainer import utils

    if not torch.cuda.is_available():
        vars(utils)["_ChunkedLogProbFunction"] = PlainLogProbs
