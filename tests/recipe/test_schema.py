"""Every number of a recipe has a range beside it, and is held to it."""

import copy
import math
import typing

import pytest
from recipe_texts import FIELDS, POCKET

from ssb_unsloth.errors import UserError
from ssb_unsloth.recipe.checks import out_of_range
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.ranges import range_of


def kinds(type_) -> set:
    """What a value of the type can be: an optional's and a list's own kinds."""
    inner = typing.get_args(type_) if typing.get_origin(type_) is not typing.Literal else ()
    return set().union(*map(kinds, inner)) if inner else {type_}


NUMBERS = {path: (type_, field) for path, type_, field in FIELDS if kinds(type_) & {int, float}}


def test_the_numbers_are_found_wherever_they_stand():
    assert {"seeds", "threads", "sampler.gpu_memory_utilization", "train.lora.r", "card.price"} <= set(NUMBERS)
    assert {"evaluate.benchmarks.test.k", "evaluate.benchmarks.test.limit", "train.grpo.beta"} <= set(NUMBERS)
    assert not {"name", "model.template", "train.report_to", "train.gradient_checkpointing"} & set(NUMBERS)


def test_every_number_has_a_range_that_ends_below():
    without = [path for path, (_, field) in NUMBERS.items() if range_of(field) is None]
    assert without == []
    for path, (_, field) in NUMBERS.items():
        known = range_of(field)
        assert (known.above is None) != (known.at_least is None), path
        assert known.below is None or known.at_most is None, path


def test_nothing_but_a_number_has_a_range():
    assert [path for path, _, field in FIELDS if range_of(field) is not None and path not in NUMBERS] == []


def edges(path: str) -> list[tuple[str, float, float]]:
    """Of each end of a key's range: which it is, the last number within it and the first one outside."""
    type_, field = NUMBERS[path]
    known, whole = range_of(field), int in kinds(type_)

    def step(number: float, towards: float) -> float:
        return number + int(math.copysign(1, towards)) if whole else math.nextafter(number, towards)

    ends = []
    if known.above is not None:
        ends.append(("lower", step(known.above, math.inf), known.above))
    if known.at_least is not None:
        ends.append(("lower", known.at_least, step(known.at_least, -math.inf)))
    if known.below is not None:
        ends.append(("upper", step(known.below, -math.inf), known.below))
    if known.at_most is not None:
        ends.append(("upper", known.at_most, step(known.at_most, math.inf)))
    return [(end, *(number if whole else float(number) for number in pair)) for end, *pair in ends]


def written(path: str, number: float) -> str:
    return f"{path}=[{number!r}]" if typing.get_origin(NUMBERS[path][0]) is list else f"{path}={number!r}"


@pytest.mark.parametrize(("end", "count"), [("lower", len(NUMBERS)), ("upper", 27)])
def test_the_first_number_outside_is_refused_of_every_key_at_once(end, count):
    outside = {path: out for path in NUMBERS for which, _, out in edges(path) if which == end}
    assert len(outside) == count
    with pytest.raises(UserError) as error:
        load(POCKET, [written(path, number) for path, number in outside.items()])
    lines = [line.strip() for line in str(error.value).splitlines()]
    for path, number in outside.items():
        assert [line for line in lines if line.startswith(f"{path}: {number} is not ")], path


@pytest.mark.parametrize("path", NUMBERS)
def test_the_last_number_inside_is_in_the_range(path):
    for _, inside, outside in edges(path):
        assert list(out_of_range(with_value(path, inside))) == []
        (line,) = out_of_range(with_value(path, outside))
        assert line.startswith(f"{path}: {outside} is not ")


def with_value(path: str, number: float):
    recipe = section = copy.deepcopy(LOADED)
    *sections, key = path.split(".")
    for name in sections:
        section = section[name] if isinstance(section, dict) else getattr(section, name)
    setattr(section, key, [number] if typing.get_origin(NUMBERS[path][0]) is list else number)
    return recipe


LOADED = load(POCKET, ["teach.replies=wrong", "train.refresh={}", "train.guard={}"])  # the sections that may be null


def test_null_is_in_every_range_and_a_word_in_the_place_of_one_number_alone():
    assert load(POCKET, ["card.price=null", "sampler.gpu_memory_utilization=auto"]).card.price is None
    with pytest.raises(UserError, match="some is not auto, nor a number above 0 and at most 1"):
        load(POCKET, ["sampler.gpu_memory_utilization=some"])
