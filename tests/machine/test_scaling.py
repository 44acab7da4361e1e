"""A plan for many cards: with one it is the one card's, more never take longer, and what stops them is what must."""

import json
import math
import re
from itertools import permutations
from pathlib import Path

import pytest

from ssb_unsloth import cli
from ssb_unsloth.machine.assumptions import LINK, REDUCE, SPLIT, START
from ssb_unsloth.machine.cards import CARDS
from ssb_unsloth.machine.plan import make_plan
from ssb_unsloth.machine.scaled import describe_scale
from ssb_unsloth.machine.scaling import Cluster, Task, make_scale
from ssb_unsloth.recipe.loading import load

RECIPES = Path(__file__).parents[2] / "recipes"
PAPER = RECIPES / "qwen2.5-3b-gsm8k.yaml"
LARGE = ["model.name=Qwen/Qwen2.5-32B-Instruct", "variants=null"]
HUGE = ["model.name=meta-llama/Llama-3.1-70B-Instruct", "variants=null"]


def scaled(gpus, *overrides, nodes=1, card="h100", recipe=PAPER):
    return make_scale(load(recipe, overrides), Cluster(CARDS[card], gpus, nodes))


def row(scale, name):
    return next(row for row in scale.rows if row.name == name)


@pytest.mark.parametrize("recipe", ["qwen2.5-3b-gsm8k", "small-gsm8k", "qwen3-1.7b"])
@pytest.mark.parametrize("card", ["h100", "a100-40gb", "l4"])
def test_one_card_is_the_plan_of_one_card(recipe, card):
    path = RECIPES / f"{recipe}.yaml"
    plan = make_plan(load(path, ["train.grpo.micro_batch_size=1"]), CARDS[card])
    scale = scaled(1, "train.grpo.micro_batch_size=1", card=card, recipe=path)
    planned = {stage.name: stage for stage in plan.stages if stage.memory and stage.fits}
    assert {r.name for r in scale.rows} == set(planned)
    for r in scale.rows:
        assert r.seconds == pytest.approx(planned[r.name].seconds)
        assert r.memory == pytest.approx(planned[r.name].bytes)
        assert (r.cards, r.split) == (1, 1)
    if scale.fits:
        assert scale.seconds == pytest.approx(plan.seconds)


@pytest.mark.parametrize(
    "overrides", [[], LARGE, HUGE, ["seeds=[1,2,3]", "variants=null"], [*LARGE, "train.batch_size=64", "rounds=2"]]
)
def test_more_cards_never_take_longer_and_are_never_faster_than_they_are_many(overrides):
    few, more, many = (scaled(8, *overrides, nodes=nodes) for nodes in (1, 4, 32))
    assert sum(many.seconds) <= sum(more.seconds) * (1 + 1e-9) <= sum(few.seconds) * (1 + 2e-9)
    assert sum(few.seconds) <= 32 * sum(many.seconds)
    for r in many.rows:
        assert r.count * r.cards <= 256 or r.count > 1
        assert r.seconds[0] <= r.seconds[1]


def task(**change):
    own = {"work": (100.0, 400.0), "alone": (0.0, 0.0), "starts": 1, "split": 1, "width": 10**6, "weights": 0.0}
    own |= {"stored": 0.0, "reduces": 0, "reduced": 0.0, "waits": "waits", "narrow": "narrow"}
    return Task(**own | change)


def test_an_all_reduce_takes_what_a_ring_sends():
    """Each card sends a chunk to the next, until all have all sums, and again until all have all results."""
    for cards in (2, 3, 8):
        chunk, sent = 8e9 / cards, 0.0
        for _ in range(2 * (cards - 1)):
            sent += chunk
        found = task(reduces=5, reduced=8e9, width=cards).parts(cards, 8, 0)["all-reduces"]
        assert found == pytest.approx(5 * (sent / LINK[0] + REDUCE[0]))
    assert task(reduces=5, reduced=8e9).parts(1, 8, 0)["all-reduces"] == 0
    same, beyond = (task(reduces=5, reduced=8e9).parts(16, gpus, 0)["all-reduces"] for gpus in (16, 8))
    assert beyond > same


def test_a_step_ends_with_the_card_that_has_most_examples():
    batch = task(width=4)
    work = [batch.parts(cards, 8, 0)["work"] for cards in (1, 2, 3, 4, 8)]
    assert work == [100, 50, 50, 25, 25]
    assert batch.cards(8, 8) == 4
    assert batch.cards(3, 8) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 4, "work": (1e6, 1e6)}, "narrow"),
        ({"alone": (500.0, 2000.0), "starts": 0}, "waits"),
        ({}, "starting up"),
        ({"stored": 1e14, "work": (1e5, 1e5)}, "storage"),
        ({"work": (1e4, 1e4), "reduces": 10**6, "reduced": 1e9}, "gradients"),
    ],
)
def test_what_stops_the_cards_is_named(change, said):
    cards, why = task(**change).pays(8)
    assert said in why
    one = sum(task(**change).seconds(1, 8))
    assert one / sum(task(**change).seconds(cards, 8)) >= 0.75 * cards
    assert cards == 4 or one / sum(task(**change).seconds(2 * cards, 8)) < 1.5 * cards


def test_work_without_end_pays_on_as_many_as_can_be_planned():
    assert task(work=(1e12, 1e12), width=10**9).pays(8)[0] == 65_536


def test_a_batch_is_shared_by_no_more_cards_than_it_has_examples():
    many = ["train.probe_steps=0", "curate.pairs=100000", "problems.source=my/questions", "variants=null"]
    paper = row(scaled(64, *many), "train")
    assert paper.cards == 4
    assert "train.batch_size" in paper.why
    assert row(scaled(64, *many, "teach.targets=one_hot", "train.batch_size=64"), "train").cards == 64
    stored = row(scaled(64, *many, "train.batch_size=64"), "train")
    assert "storage" in stored.why


def test_larger_waves_keep_more_cards_busy():
    many = ["problems.source=my/questions", "curate.questions=100000", "curate.pairs=100000", "variants=null"]
    small, large = (row(scaled(64, *many, f"curate.wave={wave}"), "curate") for wave in (128, 16384))
    assert large.pays_up_to > 4 * small.pays_up_to
    assert large.seconds[1] < small.seconds[1]
    assert "782 waves" in small.why


def test_a_model_that_one_card_does_not_hold_is_split_and_what_fits_on_none_is_said():
    assert "train" in scaled(1, *LARGE).too_large
    scale = scaled(8, *HUGE)
    assert scale.fits
    for r in scale.rows:
        assert r.split >= 2
        assert r.memory <= CARDS["h100"].memory_mib * 2**20
        assert r.cards % r.split == 0
    weights = 2 * 70_553_706_496
    assert row(scale, "train").memory * row(scale, "train").split > weights
    little = scaled(2, *HUGE, card="t4")
    assert not little.fits
    assert little.as_dict()["scale"]["seconds"] is None
    assert "does not fit on any number" in describe_scale(little)


def test_a_split_model_has_the_share_of_its_cards_speed_that_is_assumed():
    one, eight = scaled(1, "variants=null"), scaled(8, *LARGE)
    split = row(eight, "train").split
    same = make_plan(load(PAPER, LARGE), CARDS["h100"])
    alone = next(s for s in same.stages if s.name == "train").seconds[1] - START[1]
    probes = (2 + 192 // 32) * 2048 * 0.05
    replicas = row(eight, "train").cards // split
    assert row(eight, "train").seconds[1] == pytest.approx(
        START[1] + probes + (alone - probes) / (split * SPLIT) / replicas, rel=0.01
    )
    assert row(one, "train").split == 1


def test_students_and_seeds_are_laid_out_so_that_the_last_ends_first():
    """Against all orders of the tasks on the groups, one task after another."""
    from ssb_unsloth.machine.scaling import last_end

    times = [7.0, 5.0, 4.0, 3.0, 3.0]

    def in_order(order, groups):
        free = [0.0] * groups
        for time in order:
            free[free.index(min(free))] += time
        return max(free)

    for groups in (1, 2, 3, 5, 8):
        best = min(in_order(order, groups) for order in permutations(times))
        assert best <= last_end(times, groups) <= 4 / 3 * best
    seeds = [scaled(n, "seeds=[1,2,3,4]", "variants=null") for n in (1, 4)]
    one = row(scaled(1, "variants=null"), "train")
    assert seeds[0].walls[2][1] == pytest.approx(4 * one.seconds[1])
    assert seeds[1].walls[2][1] == pytest.approx(one.seconds[1])
    assert (row(seeds[1], "train").count, row(seeds[1], "train").cards) == (4, 1)


def test_money_is_cards_times_hours_times_the_price():
    scale = scaled(8, "card.price=2.5", nodes=2)
    assert scale.money == pytest.approx([16 * s / 3600 * 2.5 for s in scale.seconds])
    assert f"{scale.money[1]:,.2f}" in describe_scale(scale)
    assert "card.price=2.50" in describe_scale(scaled(8))


@pytest.mark.parametrize("overrides", [[], LARGE, [*HUGE, "seeds=[1,2,3,4,5,6,7,8]"]])
def test_the_page_has_80_columns_and_json_the_same_numbers(overrides, capsys):
    words = ["plan", str(PAPER), "--gpu", "h100", "--gpus", "8", "--nodes", "128", *overrides]
    assert cli.main(words) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    assert page.count("more than") == page.count("do not pay") == len(set(re.findall(r"(\S.*): more than", page)))
    assert "1,024 x NVIDIA H100 80GB HBM3, 128 nodes of 8" in page
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["scale"]["gpus"], found["scale"]["nodes"]) == (8, 128)
    for r in found["scale"]["rows"]:
        assert f"{r['pays_up_to']:,}" in page
        assert math.isfinite(sum(r["seconds"]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--gpus 0 --gpu h100", "--gpus 0: expected a number from 1 to 65,536."),
        ("--gpus -3 --gpu h100", "--gpus -3: expected a number"),
        ("--gpus 70000 --gpu h100", "--gpus 70000: expected a number"),
        ("--gpus 8 --nodes 0 --gpu h100", "--nodes 0: expected a number"),
        ("--gpus 60000 --nodes 2 --gpu h100", "120,000 cards; at most 65,536."),
        ("--gpus 8", "which cards is not said; add --gpu h100"),
        ("--gpus 8 --gpu none", "which cards is not said"),
        ("--gpus 8 --measure", "--measure: measures the one card that is here"),
        ("--nodes 2 --gpu h100", "--nodes: how many cards a node has is not said"),
        ("--gpus 8 --gpu gtx", "unknown card"),
    ],
)
def test_what_is_no_cluster_is_one_sentence(words, said, capsys):
    assert cli.main(["plan", str(PAPER), *words.split()]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
