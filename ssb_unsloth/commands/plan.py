"""`ssb plan`: what a recipe will ask of a card."""

from __future__ import annotations

import argparse
import json

from ..errors import UserError
from ..io.terminal import complain, tell
from ..machine.hardware import here
from ..machine.plan import card_for, describe, make_plan
from ..machine.scaled import cluster_for, describe_scale
from ..machine.scaling import make_scale
from ..recipe.loading import load
from ..recipe.shipped import find


def main(arguments: argparse.Namespace) -> int:
    """Returns 2 where a stage does not fit, or cannot run there for another reason; the plan is shown all the same."""
    recipe = load(find(arguments.recipe), arguments.overrides)
    if arguments.gpus is not None or arguments.nodes is not None:
        if arguments.measure:
            raise UserError("--measure: measures the one card that is here; leave --gpus and --nodes out.")
        scale = make_scale(recipe, cluster_for(arguments.gpu, arguments.gpus, arguments.nodes))
        tell(json.dumps(scale.as_dict(), indent=1) if arguments.json else describe_scale(scale))
        return 0 if scale.fits and not scale.plan.refused else 2
    card, why = card_for(recipe, arguments.gpu)
    if arguments.measure:
        from ..machine.speed import measured

        if arguments.gpu is not None:
            raise UserError("--measure: measures the card that is here; leave --gpu out.")
        card, why = measured(here()), ""
    plan = make_plan(recipe, card)
    if why:
        complain(f"ssb: {why}")
    tell(json.dumps(plan.as_dict(), indent=1) if arguments.json else describe(plan))
    return 2 if plan.fits is False or plan.refused else 0
