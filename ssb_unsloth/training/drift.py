"""How far training moved the model where it was not meant to: KL(base ‖ student) on unrelated text, nats a token.

Measured at the end of training, while the model is in memory; the base is the same weights with the adapter off. It is
a measure of what may have been forgotten that needs no question, no sampling and no grader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..backends.control_tokens import encode
from ..errors import UserError
from ..io.files import local
from ..pocket import is_pocket
from ..records import read_rows

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

POCKET_TEXTS = 200  # drills with their worked solutions
MOST_TOKENS = 512  # of a text; what follows is not read
BATCH = 16

Text = tuple[list[int], list[int]]  # token ids: what comes first, and what is predicted


def unrelated(source: str, tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    """The texts of a JSONL file with the column "text", or the pocket's drills, a skill that its pairs do not train.

    Raises:
        UserError: there is no such file, a line has no text, or no text has two tokens.
    """
    if is_pocket(source):
        return _drills(tokenizer)
    texts = []
    for number, row in read_rows(local(source, "train.drift_texts")):
        if not isinstance(row.get("text"), str):
            raise UserError(f'{source}, line {number}: expected {{"text": "..."}}.')
        ids = encode(tokenizer, row["text"])[:MOST_TOKENS]
        if len(ids) > 1:
            texts.append((ids[:1], ids[1:]))
    if not texts:
        raise UserError(f"{source}: no text of at least two tokens, so there is nothing to measure drift on.")
    return texts


def _drills(tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    import random

    from ..backends.chat_template import render
    from ..pocket.corpus import drill_solution
    from ..pocket.problems import draw_drill
    from ..prompts import student_messages

    rng = random.Random(0)
    drills = [draw_drill(rng, held_out=True) for _ in range(POCKET_TEXTS)]
    return [
        (
            render(tokenizer, student_messages(drill.question)),  # as the pocket has seen them
            tokenizer.encode(drill_solution(drill), add_special_tokens=False),
        )
        for drill in drills
    ]


def drift(model: nn.Module, texts: Sequence[Text], base: nn.Module | None = None) -> float:
    """Mean KL(base ‖ student) at temperature 1 over all predicted tokens, in nats. `model`: the trained one; `base`
    None: it is that with its adapter off.
    """
    import torch

    from ..method.collator import make_view
    from ..method.losses import kd_loss
    from ..method.modeling import as_teacher, output_head, reply_states

    head, was_training, before = output_head(model), model.training, model if base is None else base
    device, total, tokens = head.weight.device, 0.0, 0
    model.eval()
    for start in range(0, len(texts), BATCH):
        prompts, rest = zip(*texts[start : start + BATCH], strict=True)
        seen = make_view(prompts, rest, pad=0)
        with as_teacher(before):
            base_NH = reply_states(before, seen)
        with torch.no_grad():
            student_NH = reply_states(model, seen)
            kl_N = kd_loss(student_NH, base_NH, head, torch.ones(len(base_NH), device=device), temperature=1.0).kl
        total, tokens = total + kl_N.sum().item(), tokens + len(kl_N)
    model.train(was_training)
    return total / tokens
