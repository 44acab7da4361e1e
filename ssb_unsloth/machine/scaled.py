"""The text of `ssb plan --gpus N`, and the cluster that its options mean. Standard library and OmegaConf only."""

from __future__ import annotations

from ..errors import UserError
from ..io.terminal import folded
from .assumptions import GIB
from .cards import card_named
from .plan import span
from .scaling import Cluster, Row, Scale
from .spread import PAYS

INDENT = 4 * " "


def cluster_for(gpu: str | None, gpus: int | None, nodes: int | None) -> Cluster:
    """What `--gpu CARD --gpus N --nodes M` name.

    Raises:
        UserError: no card is named, or not how many; an unknown card, or a number of them out of range.
    """
    if gpus is None:
        raise UserError("--nodes: how many cards a node has is not said; add --gpus 8.")
    if gpu is None or gpu == "none":
        raise UserError(f"--gpus {gpus}: which cards is not said; add --gpu h100, or another name.")
    return Cluster(card_named(gpu), gpus, 1 if nodes is None else nodes)


def describe_scale(scale: Scale) -> str:
    """The plan on a cluster as a page of text, 80 columns wide."""
    plan, cluster = scale.plan, scale.cluster
    nodes = f"{cluster.nodes:,} nodes of {cluster.gpus:,}" if cluster.nodes > 1 else "one node"
    lines = [
        f"Plan for {plan.recipe} on {cluster.cards:,} x {cluster.card.name}, {nodes}",
        f"  {plan.model}: {plan.parameters:,} parameters, {plan.dtype}",
        "",
        f"  {'stage':<14}{'cards':>12}{'of each':>10}{'time':>17}{'card hours':>14}{'pays up to':>11}",
    ]
    if plan.before is not None:
        lines.append(f"  {'before':<36}{span(plan.before):>17}")
    lines += map(_line, scale.rows)
    lines += [f"  {name:<14}  {_too_large(name, scale)}" for name in scale.too_large]
    if scale.fits:
        lines.append(f"  {'in all':<36}{span(scale.seconds):>17}")
    lines.append("")
    for row in scale.rows:
        why = f"{row.why[:1].upper()}{row.why[1:]}."
        lines.append(f"  {row.name}: more than {row.pays_up_to:,} do not pay.")
        lines.append(folded(why, INDENT, INDENT))
    lines += ["", *(folded(f"It cannot run there. {reason}.", "  ", INDENT) for reason in plan.refused)]
    lines += _not_planned(scale)
    lines += _cost(scale)
    lines += [
        f"  Cards pay while they have {PAYS:.0%} of the speed that so many times one would have.",
        "  `2 x 4`: 2 replicas of a model that is split over 4 cards; `3 of`: seeds.",
        "  Only reckoned: no time on several cards was measured (docs/scale.md).",
    ]
    return "\n".join(lines)


def _too_large(name: str, scale: Scale) -> str:
    if scale.spread and not name.startswith("train"):
        return "does not fit in a replica (sampler.tensor_parallel)"
    return "does not fit on any number of a node's cards"


def _not_planned(scale: Scale) -> list[str]:
    """What servers do, of which nothing is known."""
    stages = [stage.name for stage in scale.plan.stages if stage.cards == 0]
    said = f"{', '.join(stages)}: sampled by servers, whose memory and time are not planned."
    return [folded(said, "  ", INDENT)] if stages else []


def _line(row: Row) -> str:
    cards = f"{row.cards // row.split} x {row.split}" if row.split > 1 else f"{row.cards:,}"
    cards = f"{row.count} of {cards}" if row.count > 1 else cards
    hours = "{:.{places}f} to {:.{places}f}".format(*row.card_hours, places=0 if row.card_hours[0] >= 10 else 1)
    memory = f"{row.memory / GIB:.1f} GiB"
    return f"  {row.name:<14}{cards:>12}{memory:>10}{span(row.seconds):>17}{hours:>14}{row.pays_up_to:>11,}"


def _cost(scale: Scale) -> list[str]:
    if not scale.fits:
        return ["  Not every stage fits: take more cards in a node, or cards with more memory."]
    if scale.money is None:
        return ["  To see the cost in money, give a card's price per hour, as in card.price=2.50."]
    low, high = scale.money
    price = f"{scale.plan.price:g}"
    return [f"  Cost: all cards for all of that time, at {price} a card and hour: {low:,.2f} to {high:,.2f}."]
