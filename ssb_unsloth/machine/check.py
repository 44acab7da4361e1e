"""What a stage must not begin with."""

from __future__ import annotations

from ..errors import UserError
from ..recipe.schema import Recipe
from . import hardware, versions
from .findings import cpu_build, refuse_formats, refuse_lengths
from .geometry import geometry, needs_gpu


def check_before_stage(recipe: Recipe) -> None:
    """What a stage must not begin with; quick.

    Raises:
        UserError: versions that are known not to work together, formats that the card cannot train in, texts
            longer than the model takes, or a CPU build
            of torch with a GPU and a model that needs one.
    """
    versions.refuse_clashes()
    refuse_formats(recipe, hardware.here())
    refuse_lengths(recipe)
    build = hardware.torch_build()
    if build is None or build[1] is not None or not (cards := hardware.find_cards().cards):
        return
    try:
        large = needs_gpu(geometry(recipe.model)[0])
    except UserError:
        large = True
    if large:
        raise UserError(
            f"{cpu_build(build[0], cards[0].name)} {recipe.model.name} needs the GPU: `{versions.install_gpu_set()}`,"
            " or hide the GPU by CUDA_VISIBLE_DEVICES= to do without it."
        )
