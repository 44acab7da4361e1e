"""A stage's key and what determines it, for a recipe and a run folder."""

from ssb_unsloth.pipeline.students import scope_of
from ssb_unsloth.pipeline.table import stage


def key_of(name, recipe, run):
    return stage(name).key(scope_of(name, recipe, run))


def determined_by(name, recipe, run):
    return stage(name).determined_by(scope_of(name, recipe, run))
