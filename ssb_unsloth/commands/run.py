"""`ssb run`, `ssb sweep`: a recipe from its questions to its report."""

from __future__ import annotations

import argparse

from ..errors import UserError
from ..io.terminal import tell
from ..pipeline.process import loaded
from ..pipeline.sweep import Sweep
from ..recipe.loading import save
from ..report.write import closing_lines
from ..run.rundir import RunDir


def main(arguments: argparse.Namespace) -> int:
    recipe = loaded(arguments.recipe, arguments.overrides)
    if arguments.workers < 1:
        raise UserError(f"--workers: {arguments.workers} is below 1.")
    if arguments.command == "sweep" and not recipe.variants and len(recipe.seeds) < 2:
        raise UserError(f"{arguments.recipe}: names no variants and no seeds, so there is one student: use `ssb run`.")
    if not recipe.evaluate.benchmarks:
        raise UserError("evaluate.benchmarks: empty, so there is nothing to evaluate on; name one in the recipe.")
    workers, cluster = arguments.workers, None
    if arguments.command == "sweep" and arguments.ray:
        from ..backends.cluster import connect

        cluster = connect()
        workers = max(workers, 2, cluster.gpus or cluster.cpus)  # Ray lets those wait for which there is no room
    made = Sweep(recipe, arguments.recipe, arguments.overrides, arguments.runs, workers, arguments.force, cluster)
    code = made()
    if code == 0:
        root = arguments.runs / recipe.name
        save(recipe, root / "recipe.yaml")  # also where nothing had to be done, after a command that asked for less
        tell(closing_lines(RunDir(root)))
    return code
