"""FSDP2: of every weight, trained or frozen, each process holds a part.

Each decoder layer's weights are gathered while it computes, and let go after it. What lies outside the layers
(embedding, final norm, the output head) is one group more, gathered for the forward pass of the whole model: the loss
multiplies by the head's whole matrix, so it is computed within that pass. The head is sharded at rest and whole there.
Hidden targets are not sharded: a process reads those of its own examples.

accelerate's own FSDP2 knows GPUs alone, where nothing of it could be tested without several; this is torch's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..method.modeling import backbone
from . import group

T = TypeVar("T")


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def shard(model: nn.Module) -> None:
    """Leave of each weight this process's part, on its device, where a model on the CPU goes layer after layer."""
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (dist.get_world_size(),))
    for part in backbone(model).children():
        for layer in part if isinstance(part, nn.ModuleList) else ():
            fully_shard(layer, mesh=mesh)
    whole_model = fully_shard(model, mesh=mesh)
    within(model, model, lambda: torch.zeros(()))  # torch learns which module is the whole, before a layer runs alone
    whole_model.reshard()  # else an optimizer would be given the gathered weights of what lies outside the layers


def within(wrapped: nn.Module, model: nn.Module, function: Callable[[], T]) -> T:
    """`function()` as the forward pass of `model` inside its wrapper, whose hooks then run around it: DDP's, or
    FSDP2's, where the model is its own. What it returns has to be tensors, whose gradients they follow.
    """
    original = model.forward

    def forward() -> T:
        model.forward = original
        return function()

    model.forward = forward
    try:
        return cast(T, wrapped())
    finally:
        model.forward = original


@contextlib.contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """While it lasts the model can be asked in any way, by all processes at once and for the same; for no gradient."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def ask(model: nn.Module, question: Callable[[], T]) -> T:
    """What is to be known of the model, for all processes: by the first alone where it has the whole of it, else by all
    at once.
    """
    if not is_sharded(model):
        return group.by_first(question)
    with whole(model):
        found = question()
    return group.by_first(lambda: found)


def weights_of(model: nn.Module, trained_alone: bool) -> dict[str, Tensor]:
    """The whole weights on the CPU of the first process, which all have to ask for; what the others get is empty."""
    found, named = {}, dict(model.named_parameters())  # tied weights once
    for name, weight in model.state_dict(keep_vars=True).items():
        if weight.requires_grad if trained_alone else name in named or not isinstance(weight, nn.Parameter):
            weight = gathered(weight.detach())
            if group.is_first():
                found[name] = weight
    return found


def gathered(tree: Any) -> Any:
    """The same with whole tensors on the CPU in place of sharded ones."""
    if isinstance(tree, DTensor):
        return tree.full_tensor().cpu()
    if isinstance(tree, dict):
        return {key: gathered(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [gathered(value) for value in tree]
    return tree


def load_optimizer(optimizer: Any, path: Path) -> None:
    """Give it the state in a file that `gathered` made, of which each process takes its part."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    weights = [weight for params in optimizer.param_groups for weight in params["params"]]

    def part(value: Any, weight: Any) -> Any:
        if isinstance(weight, DTensor) and isinstance(value, Tensor) and value.shape == weight.shape:
            return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
        return value

    state["state"] = {
        place: {key: part(value, weights[place]) for key, value in kept.items()}
        for place, kept in state["state"].items()
    }
    if "copies" in state:  # MasterAdamW's
        state["copies"] = [part(value, weight) for value, weight in zip(state["copies"], weights, strict=True)]
    optimizer.load_state_dict(state)


def own_part(weight: Tensor) -> Tensor:
    """What of a weight this process holds: all of it, or a part."""
    return weight.to_local() if isinstance(weight, DTensor) else weight
