"""A plan for many cards: with one it is the one card's, more never take longer, and what stops them is what must."""

import json
import math
import re
from itertools import permutations
from pathlib import Path

import pytest

from ssb_unsloth import cli
from ssb_unsloth.machine.assumptions import BANDWIDTH, CHECK, LINK, RAY, REDUCE, SPLIT, START
from ssb_unsloth.machine.cards import CARDS
from ssb_unsloth.machine.plan import make_plan
from ssb_unsloth.machine.scaled import describe_scale
from ssb_unsloth.machine.scaling import Cluster, make_scale
from ssb_unsloth.machine.spread import Task
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
    own = {"work": (100.0, 400.0), "alone": (0.0, 0.0), "checks": (0.0, 0.0), "starts": 1, "split": 1}
    own |= {
        "width": 10**6,
        "weights": 0.0,
        "stored": 0.0,
        "reduces": 0,
        "reduced": 0.0,
        "waits": "waits",
        "narrow": "narrow",
    }
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
        ({"checks": (500.0, 2000.0), "starts": 0}, "grades"),
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
    assert large.pays_up_to >= 4 * small.pays_up_to
    assert "grades" in large.why
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


# -- Replicas on a Ray cluster

RAY_RECIPE = ["variants=null", "sampler.engine=ray", "sampler.replica_engine=vllm"]


def planned(name, *overrides, card=CARDS["h100"]):
    stages = make_plan(load(PAPER, ["variants=null", "sampler.engine=vllm", *overrides]), card).stages
    return next(stage for stage in stages if stage.name == name)


def test_replicas_share_the_work_and_none_of_the_waiting():
    """By hand: 8 waves of 128 questions, each waiting for a rollout of 2,048 tokens and a refinement of 3,072, and all
    replies graded here."""
    one, four = planned("curate"), planned("curate", *RAY_RECIPE, "sampler.replicas=4")
    reading = 2 * 3_085_938_688 / (1e9 * 3350)
    for k, share in ((0, 1 / 3), (1, 1.0)):
        alone = 8 * (2048 + 3072) * share * reading / BANDWIDTH[k]
        graded = 1024 * (4 + 256 / 950 / 0.9) * CHECK[k]
        work = one.seconds[k] - START[k] - alone - graded
        assert four.seconds[k] == pytest.approx(START[k] + RAY[k] + alone + graded + work / 4, rel=1e-3)
    assert (four.cards, four.bytes) == (4, one.bytes)
    assert "4 replicas, memory is that of one card" in four.note


def test_the_teachers_pass_and_the_evaluation_are_shared_and_training_is_not():
    for name in ("teach", "evaluate"):
        one, eight = planned(name), planned(name, *RAY_RECIPE, "sampler.replicas=8")
        assert eight.seconds[1] - START[1] - RAY[1] < (one.seconds[1] - START[1]) / 2
        assert eight.cards == 8
    assert planned("train", *RAY_RECIPE, "sampler.replicas=8") == planned("train")
    assert planned("train", *RAY_RECIPE, "train.processes=4").cards == 4


@pytest.mark.parametrize("replicas", [1, 3, 8])
@pytest.mark.parametrize("split", [1, 2])
@pytest.mark.parametrize("more", [[], ["seeds=[1,2]", "rounds=2"]])
def test_the_plan_of_replicas_and_the_plan_of_as_many_cards_agree(replicas, split, more):
    said = [*RAY_RECIPE, f"sampler.replicas={replicas}", f"sampler.tensor_parallel={split}", *more]
    scale = scaled(replicas * split, *said)
    for name in ("curate", "teach", "evaluate"):
        stage, r = planned(name, *said), row(scale, name)
        seeds = 1 if name == "evaluate" else max(1, len(load(PAPER, said).seeds))
        assert [seeds * s for s in r.seconds] == pytest.approx(stage.seconds)
        assert r.memory == pytest.approx(stage.bytes)
        assert r.cards == stage.cards == replicas * (1 if name == "teach" else split)


def test_where_nobody_says_how_many_replicas_all_cards_have_one():
    scale = scaled(8, *RAY_RECIPE, "sampler.tensor_parallel=4", nodes=2)
    assert [(row(scale, name).cards, row(scale, name).split) for name in ("curate", "teach")] == [(16, 4), (16, 1)]
    alone = planned("curate", *RAY_RECIPE)
    assert alone.cards == 1
    assert "planned for one replica, of which there will be one for each card" in alone.note


def test_two_students_have_their_replicas_one_after_the_other_where_there_is_no_room_for_both():
    words = [*RAY_RECIPE, "sampler.replicas=4", "seeds=[1,2]"]
    narrow, wide = scaled(4, *words), scaled(8, *words)
    assert narrow.walls[0][1] == pytest.approx(2 * row(narrow, "curate").seconds[1])
    assert wide.walls[0][1] == pytest.approx(row(wide, "curate").seconds[1])


def test_a_replica_that_does_not_hold_the_model_is_said():
    scale = scaled(8, *RAY_RECIPE, *HUGE)
    assert "curate" in scale.too_large
    assert "curate          does not fit in a replica (sampler.tensor_parallel)" in describe_scale(scale)
    assert "curate" not in scaled(8, *RAY_RECIPE, *HUGE, "sampler.tensor_parallel=4").too_large


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--gpus 2 sampler.replicas=4",
            "sampler.replicas: 4 take 4 GPUs, and the planned cluster has 2; set sampler.replicas=2.",
        ),
        (
            "--gpus 3 --nodes 2 sampler.replicas=3 sampler.tensor_parallel=2",
            "sampler.replicas: 3 take 6 GPUs, and the planned cluster has 4; set sampler.replicas=2.",
        ),
        (
            "--gpus 1 --nodes 4 sampler.tensor_parallel=2",
            "sampler.tensor_parallel: 2 GPUs a replica, and a node has 1 (--gpus)",
        ),
    ],
)
def test_more_replicas_than_the_planned_cluster_has_cards_for_are_refused(words, said, capsys):
    assert cli.main(["plan", str(PAPER), "--gpu", "h100", *words.split(), *RAY_RECIPE]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_what_servers_sample_is_said_to_be_left_out(capsys):
    words = ["sampler.engine=servers", "sampler.servers=[http://a:8000/v1]", "variants=null"]
    assert cli.main(["plan", str(PAPER), "--gpu", "h100", "--gpus", "8", *words]) == 0
    page = capsys.readouterr().out
    assert "curate, evaluate: sampled by servers, whose memory and time are not planned." in " ".join(page.split())
    assert max(map(len, page.splitlines())) <= 80


def test_cards_that_share_a_model_have_the_assumed_share_of_their_speed():
    """Bound by its memory: half of the weights and caches on each card, read at SPLIT of its speed."""
    one, two = planned("evaluate"), planned("evaluate", "sampler.tensor_parallel=2")
    for k in (0, 1):
        assert two.seconds[k] - START[k] == pytest.approx((one.seconds[k] - START[k]) / (2 * SPLIT), rel=0.02)


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


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("card.price=1e308", "above 0 and at most 1,000,000,000."),
        ("card.price=0", "above 0"),
        ("card.tflops=1e-300", "at least 0.001 and at most 1,000,000."),
        ("card.bandwidth=1e300", "at least 0.001 and at most 1,000,000,000."),
    ],
)
def test_a_card_of_no_machine_is_refused(word, said, capsys):
    """Its hours or its money would be infinite, which is no JSON."""
    assert cli.main(["plan", str(PAPER), "--gpus", "8", "--gpu", "h100", word]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"{word.partition('=')[0]}: " in error
    assert said in error


@pytest.mark.parametrize("nodes", [1, 8192])
def test_at_the_bounds_of_its_keys_the_plan_is_json(nodes, capsys):
    most = ["card.price=1e9", "card.tflops=0.001", "card.bandwidth=0.001", "curate.questions=999999999"]
    words = ["plan", str(PAPER), "--json", "--gpus", "8", "--nodes", str(nodes), "--gpu", "h100", *most]
    assert cli.main([*words, "curate.pairs=999999999", "curate.rollouts=10000", "train.epochs=1000000"]) in (0, 2)

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(capsys.readouterr().out, parse_constant=refuse)
