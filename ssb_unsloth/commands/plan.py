"""`ssb plan`: what a recipe will ask of a card."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import UserError
from ..io.terminal import complain, tell
from ..machine.hardware import here
from ..machine.plan import card_for, describe, make_plan
from ..recipe.loading import load


def main(arguments: argparse.Namespace) -> int:
    recipe = load(Path(arguments.recipe), arguments.overrides)
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
    return 0
