"""All numbers of the tables against a script of their own (recomputed.py), which shares no code with the package."""

import random

import pytest
from recomputed import disagreements

from ssb_unsloth.data.problems import load_benchmark
from ssb_unsloth.errors import UserError
from ssb_unsloth.evaluation.evaluate import Contestant, base_contestants, evaluate, graded
from ssb_unsloth.evaluation.scores import as_rows, score
from ssb_unsloth.recipe.schema import BenchmarkConfig, ModelConfig, SamplerConfig
from ssb_unsloth.records import Generation, generations_file, write_jsonl

SPELLINGS = {"1": ["1", "1.0", "2/2"], "1/2": ["1/2", "0.5", r"\frac{1}{2}"], "-3": ["-3", "-3.00", "-6/2"], "7": ["7"]}
PLACES = {"test": (4, [1, 2, 3, 4]), "hard": (3, [2]), "few": (1, [])}  # replies a question at T = 0.8, and k


def replies(rng, model, run_seed, benchmark, questions, temperature, ability):
    """Graded replies that box, forget the box, are cut off, or answer nothing, in several spellings of one answer."""
    samples = PLACES[benchmark][0] if temperature else 1
    made = []
    for question in range(questions):
        gold = list(SPELLINGS)[question % len(SPELLINGS)]
        for sample in range(samples):
            kind = gold if rng.random() < ability else rng.choice(list(SPELLINGS))
            said = rng.choice(SPELLINGS[kind])
            form, finish = rng.choice(
                [("so \\boxed{%s}.", "stop")] * 6
                + [("so it is %s", "stop"), ("nothing to say", "stop"), ("so \\boxed{%s} and", "length")]
            )
            text = form % said if "%s" in form else form
            sampled = ("tutor", temperature, 0.9, 5, 1.1, 64, rng.randrange(10**9))
            reply = Generation(
                *(model, run_seed, benchmark, f"p{question}", sample, *sampled),
                *(text, rng.randrange(1, 64), finish, "", None, gold),
            )
            made.append(graded(reply))
    return made


def check(folder, generations, against=None, seed=5):
    """Score, and recompute from the files."""
    files = {}
    for g in generations:
        files.setdefault(generations_file(g.model, g.run_seed, g.benchmark, g.temperature), []).append(g)
    for name, rows in files.items():
        write_jsonl(folder / name, rows)
    benchmarks = {name: BenchmarkConfig(source="x", samples=n, k=k) for name, (n, k) in PLACES.items()}
    made, differences = score(generations, benchmarks, seed, against)
    report = {"scores": as_rows(made), "differences": as_rows(differences)}
    assert disagreements(folder, report, {name: k for name, (_, k) in PLACES.items()}, seed) == []
    return report


@pytest.mark.parametrize("number", range(8))
def test_random_replies(tmp_path, number):
    """One to twelve questions, one to three seeds that need not be the base's, two decodings, three benchmarks."""
    rng = random.Random(number)
    questions = {name: rng.choice([1, 2, 3, 7, 12]) for name in PLACES}
    several = {"base": [1, 2], "ssb": [1, 2, 3], "rft": [2]}
    seeds = several if number % 2 else {"base": [4], "ssb": [4], "rft": [4]}
    generations = [
        g
        for model, own in seeds.items()
        for run_seed in own
        for name in PLACES
        for temperature in (0.0, 0.8)
        for g in replies(rng, model, run_seed, name, questions[name], temperature, {"base": 0.2}.get(model, 0.8))
    ]
    against = [(m, r) for r in ("base", "ssb") for m in seeds if m not in (r, "base")]
    report = check(tmp_path, generations, against)
    assert {row["test"] for row in report["differences"]} >= ({"bootstrap"} if number % 2 else {"mcnemar", "bootstrap"})
    row = report["scores"][number]
    row["low"] += 1e-6  # and a number that is wrong is found
    ks = {name: k for name, (_, k) in PLACES.items()}
    (found,) = disagreements(tmp_path, report, ks, 5)
    assert row["model"] in found
    assert " low: " in found


@pytest.mark.parametrize("verdict", ["right", "wrong"])
def test_all_right_and_all_wrong(tmp_path, verdict):
    """The interval keeps its width, and a difference of nothing is no difference."""
    rng = random.Random(0)
    ability = {"right": 1.0, "wrong": 0.0}[verdict]
    generations = []
    for model in ("base", "ssb"):
        for g in replies(rng, model, 1, "test", 5, 0.8, ability):
            said = g.gold if verdict == "right" else "99"
            generations.append(graded(Generation(**{**vars(g), "text": f"\\boxed{{{said}}}", "finish_reason": "stop"})))
    report = check(tmp_path, generations)
    assert all(row["interval"] == "wilson" and row["high"] - row["low"] > 0.4 for row in report["scores"])
    assert all(row["p"] == 1 and not row["significant"] for row in report["differences"])


def test_two_better_questions_are_not_significant(tmp_path):
    """Two questions, all of whose replies change: the bootstrap alone would be sure."""
    generations = []
    for model, said in (("base", "0"), ("ssb", "1")):
        for q in range(2):
            for sample in range(4):
                sampled = ("tutor", 0.8, 1.0, 0, 1.0, 64, 1)
                reply = Generation(
                    model, 1, "test", f"p{q}", sample, *sampled, f"\\boxed{{{said}}}", 9, "stop", "", None, "1"
                )
                generations.append(graded(reply))
    report = check(tmp_path, generations)
    assert {(row["value"], row["p"], row["significant"]) for row in report["differences"]} == {(1.0, 0.5, False)}


def test_seeds_with_other_numbers_of_replies_are_refused():
    rng = random.Random(0)
    generations = replies(rng, "base", 1, "test", 3, 0.8, 0.5) + replies(rng, "base", 2, "hard", 3, 0.8, 0.5)
    mixed = [Generation(**{**vars(g), "benchmark": "test"}) for g in generations]
    with pytest.raises(UserError, match=r"seeds of 'base' on 'test'.*\[3, 4\]"):
        score(mixed, {}, seed=0)


def test_real_replies(tmp_path, tokenizer):
    """The pocket and an adapter of it, two seeds, greedy and two samples, through the real engine and grader."""
    import torch
    from peft import LoraConfig, get_peft_model

    from ssb_unsloth.backends.transformers import load_model
    from ssb_unsloth.training.common import save_adapter

    model = ModelConfig(name="pocket", dtype="float32")
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    save_adapter(get_peft_model(load_model(model), config), tmp_path / "adapter")
    benchmark = BenchmarkConfig(source="pocket", split="test", limit=6, samples=2, k=[2], max_tokens=60)
    folder = tmp_path / "evaluate"
    folder.mkdir()
    generations = evaluate(
        [e for s in (1, 2) for e in (*base_contestants(model, s), Contestant("ssb", model, tmp_path / "adapter", s))],
        {"test": (benchmark, load_benchmark("test", benchmark))},
        SamplerConfig(engine="transformers", max_model_len=512),
        folder,
    )
    generations = list(generations)
    made, differences = score(generations, {"test": benchmark}, seed=9)
    report = {"scores": as_rows(made), "differences": as_rows(differences)}
    assert disagreements(folder, report, {"test": [2]}, 9) == []
    assert len(generations) == 2 * 2 * 6 * 3
