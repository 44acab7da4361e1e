"""docs/scale.md holds what its script reckons and simulates; and the simulated cluster does what a cluster must."""

import math
import sys
from pathlib import Path

import pytest

from benchmarks import cluster
from ssb_unsloth.io.markdown import pipes
from ssb_unsloth.machine.assumptions import BANDWIDTH, CHECK, PEAK, START
from ssb_unsloth.machine.cards import CARDS
from ssb_unsloth.recipe.loading import load

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import scale  # noqa: E402

COSTS = cluster.Costs(reading=1e-3, cache=1e-6, token=1e-5, prompt=1e-5)


@pytest.mark.parametrize("name", scale.TABLES)
def test_the_documents_tables_are_those_that_the_script_writes(name):
    document = scale.DOCUMENT.read_text(encoding="utf-8")
    assert scale.rewrite(document, name, pipes(scale.TABLES[name]())) == document


def test_without_failures_the_simulation_lies_within_the_plan():
    for name in ("waves of 128", "waves of 1,024", "many questions"):
        for _, planned, found, failures, _, _ in scale.TABLES[name]()[1:]:
            low, high = map(float, planned.split(" to "))
            assert low <= float(found) <= high
            assert failures == "0"


def test_one_reply_takes_its_start_its_prompt_and_its_steps():
    simulation = cluster.Simulation(COSTS, 1, math.inf, 0)
    (sampler,) = simulation.samplers
    start = sampler.now
    assert START[0] <= start <= START[1]
    assert BANDWIDTH[1] <= sampler.bandwidth <= BANDWIDTH[0]
    assert PEAK[1] <= sampler.peak <= PEAK[0]
    simulation.phase([(100, 50)])
    steps = 50 * max(1.001e-3 / sampler.bandwidth, 1e-5 / sampler.peak)
    graded = simulation.outcome.seconds - (start + 100 * 1e-5 / sampler.peak + steps)
    assert CHECK[0] <= graded <= CHECK[1]
    assert (simulation.outcome.tokens, simulation.outcome.idle) == (50, pytest.approx(graded))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cards", [1, 3, 16])
def test_whatever_fails_every_reply_ends_once(cards, seed):
    replies = [(20, 1 + (37 * n) % 900) for n in range(2000)]
    calm, rough = (cluster.Simulation(COSTS, cards, mtbf, seed) for mtbf in (math.inf, 0.002))
    for simulation in (calm, rough):
        simulation.phase(replies)
        simulation.phase(replies[:300])
        assert simulation.ends == [1] * 2300
        assert simulation.outcome.tokens == sum(n for _, n in replies) + sum(n for _, n in replies[:300])
    assert calm.outcome.failures == calm.outcome.sampled_twice == 0
    assert rough.outcome.failures > 0
    assert rough.outcome.seconds > calm.outcome.seconds or cards > 1


def test_the_same_seed_gives_the_same_and_another_another():
    recipe = load(cluster.RECIPE, ["variants=null", "curate.questions=256"])
    first, again, other = (cluster.curate(recipe, CARDS["h100"], 4, 0.05, seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("words", [["--cards", "0"], ["--mtbf", "0"], ["--mtbf", "nan"]])
def test_what_is_no_cluster_is_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        cluster.main(words)
    assert ended.value.code == 2
    assert "expected numbers above 0" in capsys.readouterr().err
