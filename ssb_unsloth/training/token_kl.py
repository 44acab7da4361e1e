"""The picture of single tokens: how far base and student are from the hinted teacher at each token of a reply.

`measure` runs at the end of training, while the model is in memory: KL(teacher ‖ base) is what the hint would change
at a token, KL(teacher ‖ student) what of that is left after training. Teacher and base are the same weights, the
adapter off; the teacher sees the hinted context, base and student see the bare question. All distributions are at
temperature 1, KL in nats. `report.token_page` makes an HTML file of it, for which this file can be imported without
torch.

Shapes: R reply tokens of a pair, H hidden, V vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ..method.collator import Example

FILE = "tokens.jsonl"  # in the train stage's folder: a line a pair
KINDS = ("digit", "operator", "word", "format")
ALTERNATIVES = 5  # likeliest tokens kept of each distribution
CHUNK_ROWS = 64  # rows whose three distributions over the vocabulary exist at a time


def measure(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    base: nn.Module | None = None,
    guidance: float | None = None,
) -> Iterator[dict[str, Any]]:
    """A row for each pair: its tokens, their kinds, KL before and after, and what each of the three models expected.

    `model` is the trained one; `base` None: the base is that with its adapter off; `guidance`: as it was taught. A row
    holds, R entries each: `ids`, `kinds`, KL(teacher ‖ base) `before` and KL(teacher ‖ student) `after`, in nats; under
    `p` the probability of the reply's token and under `top` the likeliest [id, probability], for teacher, base and
    student; `pieces` is the text of every id that occurs.
    """
    import torch

    from ..method.collator import contexts, make_view
    from ..method.guidance import states, teacher_rows
    from ..method.modeling import as_teacher, output_head, reply_states

    head, was_training, before = output_head(model), model.training, model if base is None else base
    special, known = set(tokenizer.all_special_ids), dict[int, str]()
    for example in examples:
        bare = make_view([example.student_ids], [example.reply_ids], pad=0)
        with as_teacher(before):
            seen = states(before, contexts([example], pad=0, guided=guidance is not None))
            rows = {"teacher": teacher_rows(seen, guidance, head), "base": reply_states(before, bare)}
        model.eval()
        with torch.no_grad():
            row = _compare({**rows, "student": reply_states(model, bare)}, head, example.reply_ids)
        model.train(was_training)
        expected = {token for tops in row["top"].values() for top in tops for token, _ in top}
        occurring = sorted(expected | set(example.reply_ids))
        known |= {token: piece(tokenizer, token) for token in occurring if token not in known}
        texts = ["" if token in special else known[token] for token in example.reply_ids]
        yield {
            "pair": example.id,
            "teacher_prompt": tokenizer.decode(example.teacher_ids),
            "ids": list(example.reply_ids),
            "kinds": kinds(texts),
            **row,
            "pieces": {str(token): known[token] for token in occurring},
        }


def _compare(rows_of: Mapping[str, Any], head: Any, reply_ids: list[int]) -> dict[str, Any]:
    """KL and likeliest tokens from the states [R, H] of teacher, base and student, some rows at a time. A teacher of
    which there are logits alone has those."""
    import torch

    from ..method.distributions import TeacherLogits
    from ..method.losses import head_logits

    row: dict[str, Any] = {"before": [], "after": [], "p": {n: [] for n in rows_of}, "top": {n: [] for n in rows_of}}
    for start in range(0, len(reply_ids), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        logits = {
            name: known[rows].logits if isinstance(known, TeacherLogits) else head_logits(known[rows], head)
            for name, known in rows_of.items()
        }
        log_p = {name: logits_RV.float().log_softmax(-1) for name, logits_RV in logits.items()}
        teacher_RV = log_p["teacher"]
        for key, name in (("before", "base"), ("after", "student")):
            kl_R = (teacher_RV.exp() * (teacher_RV - log_p[name])).sum(-1).clamp_min(0)  # rounding may go below 0
            row[key] += map(_short, kl_R.tolist())
        chosen = torch.tensor(reply_ids[rows], device=teacher_RV.device)[:, None]
        for name, log_p_RV in log_p.items():
            row["p"][name] += map(_short, log_p_RV.gather(-1, chosen)[:, 0].exp().tolist())
            top = log_p_RV.topk(min(ALTERNATIVES, log_p_RV.shape[-1]), dim=-1)
            for ids, values in zip(top.indices.tolist(), top.values.exp().tolist(), strict=True):
                row["top"][name].append([[token, _short(p)] for token, p in zip(ids, values, strict=True)])
    return row


def _short(value: float) -> float | None:
    """Four digits are enough to look at. None where a training that failed left no number; JSON has no NaN."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def piece(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token's own text, the space before it included (some tokenizers drop it from the first token of a text)."""
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
    before, both = (
        str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)) for ids in (anchor, [*anchor, token])
    )
    return both.removeprefix(before)


# What a piece of mathematical text is, by the first that matches; all else is format: punctuation, brackets, spaces.
_PARTS = re.compile(
    r"""
      (?P<format>\\boxed | \*\* | ^[ \t]*[-*#]+[ ] | (?<=[^\W\d_])-(?=[^\W\d_]))  # box, bold, bullets, hyphens
    | (?P<operator>\\(?:times|cdot|div|[dt]?frac|sqrt|pm|leq?|geq?|neq?|approx)(?![a-zA-Z]) | [-+*/=×÷·−^<>≤≥≠≈%√])
    | (?P<command>\\[a-zA-Z]+)
    | (?P<digit>\d+(?:[.,]\d+)*)
    | (?P<word>[^\W\d_]+(?:['’][^\W\d_]+)*)
    """,
    re.VERBOSE | re.MULTILINE,
)


def kinds(pieces: Sequence[str]) -> list[str]:
    """The kind of each piece of a reply: digit, operator, word or format, judged in its context.

    Format is what carries the answer rather than makes it: the box, punctuation, brackets, LaTeX commands, white space,
    and special tokens, which are to be given as "". A piece that holds several kinds is the first of KINDS among them.
    """
    text = "".join(pieces)
    of_character = ["format"] * len(text)
    for match in _PARTS.finditer(text):
        kind = match.lastgroup if match.lastgroup in KINDS else "format"
        of_character[match.start() : match.end()] = [kind or "format"] * len(match[0])
    found, start = [], 0
    for part in pieces:
        inside = set(of_character[start : start + len(part)])
        found.append(next((kind for kind in KINDS if kind in inside), "format"))
        start += len(part)
    return found
