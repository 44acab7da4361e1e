"""What `ssb doctor` finds about the replicas of a recipe (`sampler.engine: ray`): Ray, its cluster, their room."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from ..backends import engine_of
from ..backends.cluster import Cluster, look_at, versions
from ..errors import UserError
from ..io import limits
from ..machine import hardware
from ..machine.assumptions import GIB
from ..machine.auto import choose
from ..machine.findings import Finding
from ..machine.planned import Plan
from ..machine.replicas import cards_of
from ..machine.versions import installed
from ..recipe.schema import Recipe

SECONDS = 60.0  # that the cluster has to answer in


def replicas(recipe: Recipe, plan: Plan, kind: str, machine_only: bool) -> Iterator[Finding]:
    """`machine_only`: without Ray, and so of this machine alone."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    address = "" if address == "local" else address
    if not machine_only:
        if find_spec("ray") is None:
            yield Finding("ray", "not installed", "`pip install 'ssb_unsloth[ray]'`, or set sampler.engine", (kind,))
            return
        yield Finding("ray", f"{installed('ray')}; RAY_ADDRESS is {address or 'not set: this machine alone'}")
    if not address:
        yield _room(recipe, plan, kind, Cluster("", limits.cores(), len(hardware.find_cards().cards)))
    elif not machine_only:
        try:
            cluster, machines = look_at(address, SECONDS)
        except UserError as error:
            fix = "start it (`ray start --head`), or `unset RAY_ADDRESS` to do without"
            yield Finding("cluster", str(error), fix, (kind,))
            return
        many = f"{len(machines)} machine{'s' * (len(machines) != 1)}"
        yield Finding("cluster", f"{many}, {cluster.cpus} cores, {cluster.gpus} GPUs")
        yield from _versions(machines, kind)
        yield _room(recipe, plan, kind, cluster)


def _versions(machines: Mapping[str, Mapping[str, str]], kind: str) -> Iterator[Finding]:
    """The packages that have to be the same on all machines, so that replies are."""
    here, fix = versions(), "install the same packages on all machines of the cluster"
    for name, there in machines.items():
        if not there:
            yield Finding("versions", f"{name} does not tell its packages", "look at it: `ray status`")
        for package in sorted(there.keys() | here.keys()) if there else ():
            if there.get(package) != here.get(package):
                said = (
                    f"{name} has {package} {there.get(package, '(none)')}, this machine {here.get(package, '(none)')}"
                )
                yield Finding("versions", said, fix, (kind,))


def _room(recipe: Recipe, plan: Plan, kind: str, cluster: Cluster) -> Finding:
    """Cards, or on one machine without any cores and memory, for as many as there are to be."""
    from ..backends.replicas import refuse_replicas

    chosen = choose(recipe, hardware.here())
    engine = engine_of(chosen.sampler)
    try:
        count = refuse_replicas(chosen.model, chosen.sampler, engine, cluster)
    except UserError as error:
        return Finding("replicas", str(error), "set the key that is named there", (kind,))
    cards = cards_of(chosen.sampler, engine)
    many = f"{count} of {engine}"
    if cluster.gpus:
        return Finding("replicas", f"{many}, {cards} GPU{'s' * (cards > 1)} each, of {cluster.gpus} on {cluster}")
    said = f"{many}, of which {cluster} has cores for {cluster.cpus}"
    free = None if cluster.address else limits.free_memory()
    if free is None or plan.card is not None:
        return Finding("replicas", said)
    each = max(s.bytes for s in plan.stages if s.name.partition(" ")[0] in ("curate", "teach", "evaluate"))
    said += f"; {count * each / GIB:.1f} GiB of memory, {free / GIB:.1f} free"
    if count * each <= free:
        return Finding("replicas", said)
    most = int(free // each)
    return Finding("replicas", said, f"set sampler.replicas={most}" if most else "take a larger machine", (kind,))
