"""What is kept of the teacher: for each pair the rows of its reply tokens, in sharded safetensors.

    hidden   the backbone's last hidden states in the dtype that the head receives; head(hidden) is the teacher's full
             distribution, exactly, because the head is frozen: H x 2 bytes a token in half precision
    logits   the paper's choice (§3.1.4), in float32 as in its code, and exact: V x 4 bytes a token
    top_k    the k likeliest words and one tail bucket, at the teacher's temperature; approximate, k x 6 bytes a token
    one_hot  an ablation: all mass on the teacher's likeliest word (k = 1 without a tail), 4 bytes a token. Not SFT: the
             word at each position is the hinted teacher's first choice, which may differ from the reply's own token

The teacher's temperature is T_KD, or T_KD / sharpen (losses.py). `online` stores nothing: the teacher is run in the
training step. The three exact formats give the same loss and gradient: hidden and logits to 1e-5 of their size (the
loss makes the same logits of the former), online to 1e-4 in float32 and 2e-2 in bf16, since there the teacher's rows
come from batches padded otherwise, and sums in another order round otherwise. test_trainer.py holds them to that.

Shapes: R reply tokens of a pair, N reply tokens of a batch, H hidden, V vocabulary, k words kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from .distributions import Head, Teacher, TeacherLogits, TeacherTopK
from .losses import head_logits

INDEX = "index.json"
SHARD_BYTES = 1 << 29


def bytes_per_token(targets: str, hidden: int, vocabulary: int, top_k: int, itemsize: int) -> int:
    """What a reply token takes on disk, headers aside. `itemsize`: bytes of a number in the head's dtype."""
    return {
        "hidden": hidden * itemsize,
        "logits": vocabulary * max(itemsize, 4),
        "top_k": top_k * (itemsize + 4) + 4,
        "one_hot": 4,
        "online": 0,
    }[targets]


def make_target(
    targets: str, rows: Tensor | TeacherLogits, head: Head, top_k: int, temperature: float
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The named tensors that are stored for one pair; and where not all of the teacher is kept, the mass [R] that is.

    `rows`: the teacher's hidden states [R, H], or its final logits where none stand for it. `temperature` is the
    teacher's; hidden and logits do not depend on it.
    """
    if targets == "hidden":
        assert isinstance(rows, Tensor), "`teach` refuses hidden targets where a soft-cap leaves none"
        return {"hidden": rows}, None
    logits_RV = rows.logits if isinstance(rows, TeacherLogits) else head_logits(rows, head)
    if targets == "logits":
        return {"logits": logits_RV}, None
    kept = TeacherTopK.from_logits(logits_RV, top_k if targets == "top_k" else 1, temperature)
    indices, mass_R = kept.indices.to(torch.int32), 1 - kept.log_tail.exp()
    if targets == "one_hot":
        return {"words": indices[:, 0]}, mass_R
    return {"values": kept.values.to(head.weight.dtype), "indices": indices, "log_tail": kept.log_tail}, mass_R


class TargetWriter:
    """Collects pairs' tensors, and writes a shard whenever enough have come together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, Tensor] = {}
        self._held_bytes = 0
        self._shards: dict[str, str] = {}  # pair to the file that holds it
        self._starts: dict[str, int] = {}
        self._number = 0

    def add(self, pair_id: str, tensors: Mapping[str, Tensor], start: int | None = None) -> None:
        """`start`: the reply token from which the reply counts, where not all of it does."""
        if start is not None:
            self._starts[pair_id] = start
        for name, tensor in tensors.items():
            # A copy of its own: a slice would be stored with the whole batch behind it.
            self._held[f"{pair_id}.{name}"] = tensor.detach().to("cpu", copy=True).contiguous()
            self._held_bytes += tensor.numel() * tensor.element_size()
        self._shards[pair_id] = self._file
        if self._held_bytes >= SHARD_BYTES:
            self._flush()

    def close(self, header: Mapping[str, Any]) -> None:
        """Write the last shard and the index. `header` says what the targets belong to."""
        if self._held:
            self._flush()
        index = {**header, **({"starts": self._starts} if self._starts else {}), "shards": self._shards}
        (self._folder / INDEX).write_text(json.dumps(index) + "\n", encoding="utf-8")

    @property
    def _file(self) -> str:
        return f"targets-{self._number:05}.safetensors"

    def _flush(self) -> None:
        save_file(self._held, self._folder / self._file)
        self._held, self._held_bytes, self._number = {}, 0, self._number + 1


class Targets:
    """Stored targets, read from mapped files when a batch asks for them."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError for a folder without targets, or with a shard missing or damaged."""
        try:
            self.header: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            raise UserError(f"{folder}: holds no teacher targets; make them with `ssb teach`.") from None
        self._shard_of: dict[str, str] = self.header.pop("shards")
        self.starts: dict[str, int] = self.header.pop("starts", {})  # from which token on a pair's reply counts
        try:
            self._shards = {name: safe_open(folder / name, framework="pt") for name in set(self._shard_of.values())}
        except (SafetensorError, FileNotFoundError) as error:
            raise UserError(f"{folder}: targets are missing or damaged ({error}); run `ssb teach --force`.") from None

    def __call__(self, pair_ids: Sequence[str]) -> Teacher:
        """The rows of these pairs, end to end, as the loss takes them."""
        kind = self.header["targets"]
        if kind == "hidden":
            return self._rows(pair_ids, "hidden")
        if kind == "logits":
            return TeacherLogits(self._rows(pair_ids, "logits"))
        if kind == "one_hot":
            return TeacherTopK.one_hot(self._rows(pair_ids, "words").long())
        values, indices, log_tail = (self._rows(pair_ids, name) for name in ("values", "indices", "log_tail"))
        return TeacherTopK(values.float(), indices.long(), log_tail, self.header["temperature"])

    def _rows(self, pair_ids: Sequence[str], name: str) -> Tensor:
        for pair_id in pair_ids:
            if pair_id not in self._shard_of:
                raise UserError(f"The targets hold no pair {pair_id}; make them again with `ssb teach --force`.")
        # They lie in the mapped file; the batch is their only copy, where a GPU can fetch it from while it computes.
        rows = [self._shards[self._shard_of[i]].get_tensor(f"{i}.{name}") for i in pair_ids]
        shape = (sum(map(len, rows)), *rows[0].shape[1:])
        return torch.cat(rows, out=torch.empty(shape, dtype=rows[0].dtype, pin_memory=torch.cuda.is_available()))
