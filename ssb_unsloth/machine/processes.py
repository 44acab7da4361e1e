"""Whether this machine can train by as many processes as the recipe says."""

from __future__ import annotations

from ..errors import UserError
from ..recipe.schema import Recipe
from .hardware import find_cards, torch_build


def refuse_processes(recipe: Recipe) -> None:
    """Where torch computes on GPUs, each process takes one, and they talk through NCCL. On a CPU they talk through
    Gloo, which every torch has.

    Raises:
        UserError: there are fewer GPUs than processes, or torch was built without NCCL.
    """
    count, build = recipe.train.processes, torch_build()
    if count == 1 or build is None or build[1] is None or not (cards := find_cards().cards):
        return
    parted = any(" MIG " in card.name for card in cards)  # a program sees one part, however many there are
    seen = 1 if parted else len(cards)
    if count > seen:
        found = f"{seen} GPU{'s' * (seen > 1)} ({cards[0].name}{', in parts' * parted})"
        raise UserError(
            f"train.processes: {count} take a GPU each, and a program sees {found} here; set train.processes={seen}."
        )
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_nccl_available()):
        raise UserError(
            f"train.processes: {count} GPUs talk to each other through NCCL, and this torch ({build[0]}) was built"
            " without it; install torch from PyTorch's own wheels for CUDA, or set train.processes=1."
        )
