"""The plan's arithmetic against real models: parameters, LoRA, what autograd keeps, targets; then its answers."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ssb_unsloth import cli
from ssb_unsloth.backends.sampler import Adapter
from ssb_unsloth.backends.sources import check_rank
from ssb_unsloth.errors import UserError
from ssb_unsloth.machine import assumptions, auto, hub, planner, speed
from ssb_unsloth.machine.assumptions import (
    ENVIRONMENT_DOWNLOAD,
    INSTALL,
    LOSS_BLOCK,
    LOSS_ROWS,
    NETWORK,
    PEAK,
    Assumptions,
)
from ssb_unsloth.machine.auto import KEPT_FREE_MIB
from ssb_unsloth.machine.cards import CARDS, Card
from ssb_unsloth.machine.geometry import SHIPPED, from_config, geometry
from ssb_unsloth.machine.plan import beside, card_for, describe, make_plan, span
from ssb_unsloth.machine.reckoning import target_bytes
from ssb_unsloth.machine.scaling import Cluster, make_scale
from ssb_unsloth.pipeline import process
from ssb_unsloth.pipeline.stage import Stage
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import SEVEN, ModelConfig
from ssb_unsloth.run.rundir import RunDir

ROOT = Path(__file__).parents[2]
MODULES = list(SEVEN)
TABLE = {name: entry for name, entry in json.loads(SHIPPED.read_text()).items() if name != "about"}
THREE_B = """
name: three-b
model: {name: Qwen/Qwen2.5-3B-Instruct}
problems: {source: openai/gsm8k, config: main, gold_format: "####"}
train: {gradient_checkpointing: true}
evaluate:
  benchmarks:
    math500: {source: HuggingFaceH4/MATH-500, split: test, max_tokens: 2048}
"""


@pytest.fixture
def three_b(tmp_path):
    """three_b(overrides): the paper's geometry in a recipe."""
    path = tmp_path / "three-b.yaml"
    path.write_text(THREE_B)
    return lambda *overrides: load(path, overrides)


def told(plan):
    """The page of a plan without its line breaks."""
    return " ".join(describe(plan).split())


def stage(plan, name):
    return next(s for s in plan.stages if s.name == name)


# -- Counting, against transformers' and PEFT's own models


def real_model(family, **shape):
    """A causal model of transformers', without memory for its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape))


@pytest.mark.parametrize("name", TABLE)
def test_the_shipped_geometries_have_as_many_parameters_as_the_hub_says_and_transformers_counts(name):
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    entry = TABLE[name]
    shape = {key: value for key, value in entry.items() if key not in ("parameters", "gated", "model_type")}
    if "text_config" in shape:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(entry["model_type"], **shape))
    else:
        model = real_model(entry["model_type"], **shape)
    g = from_config(entry, name)
    assert sum(p.numel() for p in model.parameters()) == entry["parameters"] == g.parameters
    assert g.longest >= 4096


def test_lora_parameters_are_pefts_and_the_papers():
    import peft

    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": 300}
    for modules in (MODULES, ["q_proj", "v_proj"]):
        config = peft.LoraConfig(r=8, target_modules=modules, task_type="CAUSAL_LM")
        real = peft.get_peft_model(real_model("qwen2", **shape), config).get_nb_trainable_parameters()[0]
        assert from_config({"model_type": "qwen2", **shape}, "x").lora_parameters(8, modules) == real
    big, _ = geometry(ModelConfig(name="Qwen/Qwen2.5-3B-Instruct"))
    assert big.lora_parameters(32, MODULES) == 59_867_136  # released code: 59.9 M, 1.94 %


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_what_autograd_keeps_of_a_layer_is_what_the_plan_says(half, checkpointing):
    """Counted by autograd's own hooks on a real model with PEFT's LoRA: the difference that two more layers make."""
    import peft
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    dtype, r, (rows, width) = torch.bfloat16 if half else torch.float32, 8, (4, 64)
    shape = {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 6, "num_key_value_heads": 2}
    shape |= {"vocab_size": 64, "max_position_embeddings": 128}

    def kept(layers):
        config = AutoConfig.for_model("qwen2", num_hidden_layers=layers, **shape)
        lora = peft.LoraConfig(r=r, target_modules=MODULES, task_type="CAUSAL_LM")
        model = peft.get_peft_model(AutoModelForCausalLM.from_config(config, dtype=dtype), lora)
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()
        model.train()
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        held = {}

        def pack(tensor):
            if tensor.untyped_storage().data_ptr() not in own:
                held[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        ids = torch.zeros(rows, width, dtype=torch.long)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", enabled=half):
            model.get_base_model().model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        return sum(t.untyped_storage().nbytes() for t in held.values())

    counted = (kept(4) - kept(2)) / 2 / (rows * width)
    g = from_config({"model_type": "qwen2", "num_hidden_layers": 4, **shape}, "x")
    said = g.H * dtype.itemsize if checkpointing else g.saved_bytes(dtype.itemsize, r)
    assert said == pytest.approx(counted, rel=0.08)  # autocast keeps a copy of LoRA's weights as well


def test_the_plans_constants_are_those_of_the_code_that_they_describe():
    from ssb_unsloth.method import losses, targets

    assert losses.CHUNK_ROWS == LOSS_ROWS
    assert "2**25" in Path(losses.__file__).read_text()
    assert LOSS_BLOCK == 2**25
    g, _ = geometry(ModelConfig(name="Qwen/Qwen2.5-3B-Instruct"))
    for kind in ("hidden", "logits", "top_k", "one_hot", "online"):
        assert target_bytes(kind, g, 64, 2) == targets.bytes_per_token(kind, g.H, g.V, 64, 2)


def test_the_operations_of_a_forward_pass_are_those_that_torch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": 300}
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **shape), attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(2, 32, dtype=torch.long))
    g = from_config({"model_type": "qwen2", **shape}, "x")
    # Plain attention multiplies all pairs of tokens; the plan counts the half that a causal kernel needs.
    assert g.forward_operations(64, 64, 2 * 32) == pytest.approx(counter.get_total_flops(), rel=0.02)


# -- What the plan says


def test_the_papers_run_fits_the_papers_card(three_b):
    plan = make_plan(three_b(), CARDS["a100-40gb"])
    assert plan.fits
    assert plan.dtype == "bfloat16"
    assert stage(plan, "train").note == "192 steps"
    assert stage(plan, "train").memory["weights"] == 2 * 3_085_938_688
    assert stage(plan, "train").memory["LoRA"] == 4 * 59_867_136
    assert stage(plan, "curate").note.startswith("about 1,024 questions")  # the paper's 950, in whole waves
    # Stored hidden states are 4,096 bytes a token, the paper's float32 logits 607,744 (148 times as many).
    stored = stage(make_plan(three_b("teach.targets=logits"), CARDS["a100-40gb"]), "teach").disk
    assert stored / stage(plan, "teach").disk == pytest.approx(607_744 / 4_096)


def test_what_does_not_fit_says_what_to_change_and_then_it_does(three_b):
    recipe = three_b("train.gradient_checkpointing=false")
    tight = stage(make_plan(recipe, CARDS["l4"]), "train")
    assert tight.fits is False
    assert tight.advice[0].startswith("train.gradient_checkpointing=true")
    changes = [advice.split(" ")[0] for advice in tight.advice]
    assert stage(make_plan(three_b("train.gradient_checkpointing=false", *changes), CARDS["l4"]), "train").fits


def test_where_nothing_helps_a_smaller_model_is_named(tmp_path, three_b):
    config = {"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
    config |= {"num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256}
    (tmp_path / "config.json").write_text(json.dumps(config))
    plan = make_plan(three_b(f"model.name={tmp_path}"), CARDS["t4"])
    assert plan.fits is False
    assert "a smaller model" in stage(plan, "curate").advice[-1]
    assert "curate does not fit" in told(plan)


@pytest.mark.parametrize(
    ("recipe", "card"),
    [
        ("qwen2.5-3b-gsm8k", "a100-40gb"),
        ("qwen2.5-3b-gsm8k-author-code", "a100-40gb"),
        ("qwen2.5-0.5b-t4", "t4"),
        ("qwen3-1.7b", "rtx4090"),
        ("llama-3.2-1b", "rtx4090"),
        ("gemma-3-1b", "rtx4090"),
    ],
)
def test_every_shipped_recipe_fits_the_card_that_it_is_for(recipe, card):
    plan = make_plan(load(ROOT / "recipes" / f"{recipe}.yaml"), CARDS[card])
    assert plan.fits, told(plan)
    assert plan.source == "the package's table"  # so that it can be planned without a network


@pytest.mark.parametrize("recipe", ["qwen2.5-3b-gsm8k", "qwen3-1.7b"])
def test_what_is_advised_is_taken_by_the_recipe(recipe):
    """A shorter text than its own limits allow, say, is not."""
    path, small = ROOT / "recipes" / f"{recipe}.yaml", Card("small", 6144, (8, 6))
    advice = [entry for s in make_plan(load(path), small).stages for entry in s.advice]
    changes = [entry.split(" ")[0] for entry in advice if "=" in entry]
    assert changes
    for change in changes:
        load(path, [change])


def test_a_plan_says_what_cannot_run_on_the_card_whatever_its_memory(capsys):
    path = ROOT / "recipes" / "gemma-3-1b.yaml"
    said = told(make_plan(load(path), CARDS["t4"]))
    assert "It cannot run there. unsloth/gemma-3-1b-it overflows in float16, and Tesla T4 has no bfloat16" in said
    assert "cannot run there" not in told(make_plan(load(path), CARDS["l4"]))
    author = make_plan(load(ROOT / "recipes" / "qwen2.5-3b-gsm8k-author-code.yaml"), CARDS["t4"])
    assert "set train.lora.dtype=float32" in told(author)


def test_what_servers_sample_takes_no_memory_here(three_b):
    servers = ("sampler.engine=servers", "sampler.servers=[http://a:8000/v1, http://b:8000/v1]")
    here, there = (make_plan(three_b(*words), CARDS["a100-40gb"]) for words in ((), servers))
    for name in ("curate", "evaluate"):
        assert (stage(there, name).memory, stage(there, name).seconds) == ({}, None)
        assert stage(there, name).sampled == stage(here, name).sampled > 0
        assert "sampled by 2 servers, whose memory and time are not planned" in stage(there, name).note
    assert stage(there, "train").memory == stage(here, "train").memory
    assert there.fits
    assert "2 servers" in told(there)
    assert {row.name for row in make_scale(three_b(*servers), Cluster(CARDS["h100"], 8)).rows} == {"teach", "train"}


def test_two_cards_share_the_models_weights_and_what_is_kept_of_a_reply(three_b):
    one, two = (stage(make_plan(three_b(f"sampler.tensor_parallel={n}"), CARDS["l4"]), "curate").memory for n in (1, 2))
    assert two["weights"] == one["weights"] / 2
    assert two["KV cache"] == one["KV cache"] / 2
    assert two["activations"] == one["activations"]


def test_a_card_without_a_stated_memory_is_planned_for_and_nothing_is_said_to_fit(three_b):
    plan = make_plan(three_b(), Card("NVIDIA GB10", 0, (12, 1)))
    assert plan.fits is None
    assert "memory not known" in told(plan)
    assert "fit" not in told(plan)


def test_every_student_of_a_recipe_is_in_its_plan(three_b):
    one = make_plan(three_b(), CARDS["a100-40gb"])
    all_ = make_plan(
        three_b("variants={sft: {train: {method: sft}}, half: {curate: {pairs: 128}}, grpo: {train: {method: grpo}}}"),
        CARDS["a100-40gb"],
    )
    names = ["curate", "teach", "train", "train sft", "curate half", "teach half", "train half", "train grpo"]
    assert [s.name for s in all_.stages] == [*names, "evaluate", "report"]
    assert stage(all_, "evaluate").sampled == stage(one, "evaluate").sampled / 2 * 5
    grpo = stage(all_, "train grpo")
    assert grpo.note == "250 steps of 64 replies"
    assert grpo.fits is False  # 64 replies in one forward pass beside vLLM
    assert grpo.advice[0].startswith("variants.grpo.train.grpo.micro_batch_size=8")
    seeds = make_plan(three_b("seeds=[1,2,3]"), CARDS["a100-40gb"])
    assert stage(seeds, "train").read == 3 * stage(one, "train").read


@pytest.mark.parametrize(
    ("override", "name", "quantity"),
    [
        ("curate.pairs=512", "train", "seconds"),
        ("curate.pairs=512", "teach", "disk"),
        ("train.batch_size=8", "train", "bytes"),
        ("curate.refine.max_tokens=3000", "train", "bytes"),
        ("train.lora.r=16", "train", "bytes"),
        ("teach.targets=logits", "teach", "disk"),
        ("curate.rollouts=8", "curate", "sampled"),
        ("evaluate.benchmarks.math500.samples=4", "evaluate", "sampled"),
        ("sampler.max_model_len=8192", "curate", "bytes"),
    ],
)
def test_more_of_something_costs_more_and_less_costs_less(three_b, override, name, quantity):
    before = getattr(stage(make_plan(three_b(), CARDS["a100-40gb"]), name), quantity)
    after = getattr(stage(make_plan(three_b(override), CARDS["a100-40gb"]), name), quantity)
    assert (after < before) if override == "train.lora.r=16" else (after > before)


@pytest.mark.parametrize("name", CARDS)
def test_every_card_gets_a_plan_with_a_range_of_time(three_b, name):
    plan = make_plan(three_b(), CARDS[name])
    low, high = plan.seconds
    assert 0 < low < high
    assert high < 86_400 or not plan.fits
    assert CARDS[name].name in told(plan)
    assert "not measured" in told(plan)


def test_a_faster_card_takes_less_time(three_b):
    times = [make_plan(three_b(), CARDS[name]).seconds[1] for name in ("h100", "a100-40gb", "l4", "t4")]
    assert times == sorted(times)


UNKNOWN = Card("NVIDIA Something New", 49152, (13, 0))


@pytest.mark.parametrize("half", [(), ("card.tflops=150",), ("card.bandwidth=700",)])
def test_a_card_whose_speed_is_not_known_gets_memory_and_the_keys_that_give_it_a_time(three_b, half):
    plan = make_plan(three_b(*half), UNKNOWN)
    assert plan.fits is True
    assert plan.seconds is None
    assert "card.tflops=" in told(plan)
    assert "--measure" in told(plan)


def test_a_stated_speed_gives_an_unknown_card_its_times_and_wins_over_the_tables(three_b):
    stated = ("card.tflops=312", "card.bandwidth=1555")
    plan = make_plan(three_b(*stated), UNKNOWN)
    assert plan.seconds[1] == pytest.approx(make_plan(three_b(), CARDS["a100-40gb"]).seconds[1], rel=0.05)
    slower = make_plan(three_b("card.tflops=31.2"), CARDS["a100-40gb"])
    assert slower.seconds[1] > 2 * plan.seconds[1]
    assert "card.tflops and card.bandwidth" in told(slower)


def test_after_a_stage_on_a_gpu_the_plan_stands_beside_what_was_used(three_b):
    recipe, card = three_b("variants={sft: {train: {method: sft}}}"), CARDS["a100-40gb"]
    planned = {s.name: s for s in make_plan(recipe, card).stages}
    used = {"seconds": 600.0, "tokens": 901_000, "peak_device_bytes": 12 * 2**30, "peak_rss_bytes": 1}
    said = beside(recipe, "train", used, card)
    assert f"train: 10.0 min (planned {span(planned['train'].seconds)}); 12.00 GiB by torch (planned" in said
    assert f"(planned {planned['train'].bytes / 2**30:.2f}, 1.5 of it beside torch)" in said
    assert f"901,000 tokens (planned {planned['train'].read:,.0f})" in said
    assert "vLLM takes all" in beside(recipe, "evaluate", used, card)
    assert f"(planned {planned['evaluate'].sampled:,.0f})" in beside(recipe, "evaluate", used, card)  # all students'
    spread = three_b("sampler.engine=ray", "sampler.replicas=2")
    assert "by replicas, whose memory is not seen from here (planned" in beside(spread, "curate", used, card)
    assert "12.00 GiB by torch" in beside(spread, "train", used, card)
    assert "no time planned" in beside(recipe, "teach", used, UNKNOWN)
    assert beside(recipe, "report", used, card) == ""
    assert beside(three_b("model.name=no/model"), "train", used, card) == ""


def test_every_stage_says_it_and_on_a_cpu_none_does(three_b, monkeypatch, tmp_path, capsys):
    class Nothing(Stage):
        name = "train"

        def determined_by(self, scope):
            return {}

        def make(self, scope, work):
            pass

    monkeypatch.setattr("ssb_unsloth.pipeline.stages.train.STAGE", Nothing())
    for name, card in (("gpu", CARDS["t4"]), ("cpu", None)):
        monkeypatch.setattr(process, "here", lambda card=card: card)
        run = RunDir(tmp_path / name)
        with run.lock():
            assert process.run_stage("train", three_b(), run, force=False)
        assert ("train: 0.0 min (planned" in capsys.readouterr().err) is (card is not None)


ROWS = ROOT / "benchmarks" / "results" / "gpu"


def test_the_plan_holds_what_was_measured_on_a_gpu():
    """Rows of an H100, Qwen2.5-3B's geometry: time within the plan's shares of the peak, memory below the plan."""
    g, _ = geometry(ModelConfig(name="Qwen/Qwen2.5-3B-Instruct"))
    lora, peak = g.lora_parameters(32, MODULES), 1e12 * CARDS["h100"].tflops
    (step,) = [r for r in rows("unsloth-train") if (r["contestant"], r["option"]) == ("ours", "hidden")]
    tokens = step["batch"] * step["prompt"] + step["rows"]
    operations = 3 * g.forward_operations(tokens, 0, tokens / step["batch"]) + 6 * lora * tokens
    operations += 6 * step["rows"] * g.H * g.V
    measured = [(step, operations)]
    for taught in (r for r in rows("teacher-pass") if (r["contestant"], r["option"]) == ("ours", None)):
        read = taught["pairs"] * 200 + taught["rows"]  # benchmarks.teacher_pass: prompts of 200
        measured.append((taught, g.forward_operations(read, 0, read / taught["pairs"])))
    assert len(measured) == 3
    for row, done in measured:
        for seconds in row["seconds"].values():
            assert PEAK[1] <= done / seconds / peak <= PEAK[0]
    longest = step["batch"] * (step["prompt"] + step["reply"][1])
    planned = g.weight_bytes(2) + 16 * lora + longest * (g.L * g.H * 2 + g.saved_bytes(2, 32))
    planned += 2 * LOSS_ROWS * g.V * 4 + 2 * (LOSS_BLOCK // g.V) * g.V * 4 + step["batch"] * 600 * g.H * 8
    assert step["total_bytes"] <= planned <= 1.3 * step["total_bytes"]
    (caps,) = [line["figures"] for line in lines("unsloth-train") if line["check"] == "memory-caps"]
    assert 1e9 * caps["beside_allocator_gb"] <= KEPT_FREE_MIB * 2**20


def lines(name):
    paths = sorted(ROWS.glob(f"*-h100-{name}.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def rows(check):
    return [row for line in lines(check) if line["check"] == check for row in line["figures"]["rows"]]


def test_every_number_that_the_plan_rests_on_stands_in_the_docs_with_its_origin():
    text = (ROOT / "docs" / "plan.md").read_text()
    table = {line.split("|")[1].strip(" `"): line for line in text.splitlines() if line.startswith("| `")}
    names = {n for n in vars(assumptions) if n.isupper() and n not in ("GIB", "POCKET", "SIZES")}
    fields = {f"Assumptions.{name}": value for name, value in vars(Assumptions()).items()}
    numbers = {name: getattr(assumptions, name) for name in names} | fields
    numbers |= {name: getattr(auto, name) for name in ("KEPT_FREE_MIB", "MOST_OF_THE_CARD", "CPU_SHARE")}
    assert set(table) == set(numbers)
    for name, value in numbers.items():
        _, _, stated, origin, _ = table[name].split("|")
        found = [float(n.replace(",", "")) for n in re.findall(r"[\d.,]*\d(?:e\d+)?", stated)]
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
        assert found == [pytest.approx(float(part), rel=5e-3) for part in parts], name
        assert len(origin.strip()) > 3, name


def test_the_cost_in_money_is_the_time_at_the_stated_price(three_b, capsys, tmp_path):
    plan = make_plan(three_b("card.price=1.5"), CARDS["a100-40gb"])
    assert plan.money == pytest.approx(tuple(1.5 * seconds / 3600 for seconds in plan.seconds))
    assert f"at 1.5 per hour, {plan.money[0]:.2f} to {plan.money[1]:.2f}." in told(plan)
    assert "card.price=1.50" in told(make_plan(three_b(), CARDS["a100-40gb"]))
    assert cli.main(["plan", str(tmp_path / "three-b.yaml"), "--gpu", "t4", "--json", "card.price=0.35"]) == 0
    assert json.loads(capsys.readouterr().out)["money"] is not None
    with pytest.raises(UserError, match=r"card\.price: 0.0 is not a number above 0"):
        three_b("card.price=0.0")


@pytest.mark.parametrize("build", [None, ("2.13.0+cpu", None), ("2.13.0", "13.0")])
def test_what_has_to_be_loaded_before_the_first_stage_takes_time_too(three_b, monkeypatch, tmp_path, build):
    monkeypatch.setattr(planner, "torch_build", lambda: build)
    weights = 2 * 3_085_938_688
    packages = 0 if build and build[1] else ENVIRONMENT_DOWNLOAD
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    before = make_plan(three_b(), CARDS["a100-40gb"]).before
    assert before[1] == pytest.approx((weights + packages) / NETWORK[1] + (INSTALL[1] if packages else 0))
    folder = tmp_path / "models--Qwen--Qwen2.5-3B-Instruct"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c")
    (folder / "snapshots" / "c").mkdir(parents=True)
    (folder / "snapshots" / "c" / "config.json").write_text(json.dumps(TABLE["Qwen/Qwen2.5-3B-Instruct"]))
    assert make_plan(three_b(), CARDS["a100-40gb"]).before == before  # its config alone
    (folder / "snapshots" / "c" / "model.safetensors").write_text("")
    plan = make_plan(three_b(), CARDS["a100-40gb"])
    assert plan.download == 0
    assert plan.before[1] == pytest.approx(packages / NETWORK[1] + (INSTALL[1] if packages else 0))


def test_the_speed_of_what_is_here_is_measured_and_without_a_gpu_the_command_says_so(monkeypatch, three_b, capsys):
    import torch

    monkeypatch.setattr(speed, "SECONDS", 0.05)
    tflops, bandwidth = speed.speed(torch.device("cpu"), torch.float32)
    assert 0.001 < tflops < 10
    assert 0.1 < bandwidth < 1000
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cli.main(["plan", str(ROOT / "recipes" / "pocket.yaml"), "--measure"]) == 2
    assert "torch sees no GPU here" in capsys.readouterr().err


def test_the_paper_is_planned_for_its_card_where_there_is_none(three_b, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    card, why = card_for(three_b(), None)
    assert card == CARDS["a100-40gb"]
    assert "Planned for the paper's card" in why
    assert card_for(load(ROOT / "recipes" / "pocket.yaml"), None) == (None, "")
    assert card_for(three_b(), "none") == (None, "")


@pytest.mark.parametrize(("seconds", "said"), [((60, 300), "1.0 to 5.0 min"), ((3600, 9000), "1.0 to 2.5 h")])
def test_a_range_of_time_reads_well(seconds, said):
    assert span(seconds) == said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"r": 64}', r"an adapter of rank 64, above sampler.max_lora_rank \(32\); set sampler.max_lora_rank=64"),
        ('{"r": 48}', "set sampler.max_lora_rank=64"),
        ("{}", "no adapter_config.json with a rank"),
    ],
)
def test_an_adapter_above_the_servers_rank_is_refused_with_the_one_that_fits(tmp_path, content, said):
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(UserError, match=said):
        check_rank(Adapter("theirs", tmp_path), 32)


# -- Where the config comes from


def test_a_model_is_found_in_the_hubs_cache_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--some--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    assert hub.cached("some/model") is None
    entry = TABLE["Qwen/Qwen2.5-0.5B-Instruct"]
    (folder / "snapshots" / "abc" / "config.json").write_text(json.dumps(entry))
    found, source = geometry(ModelConfig(name="some/model"))
    assert found.parameters == 494_032_768
    assert source == "the hub's cache"


def test_the_cache_is_where_huggingface_hub_has_it(monkeypatch, tmp_path):
    code = "from huggingface_hub import constants as c; print(c.HF_HUB_CACHE, c.HF_TOKEN_PATH)"
    for name, value in (("HF_HOME", tmp_path / "h"), ("XDG_CACHE_HOME", tmp_path / "x"), ("HF_HUB_CACHE", tmp_path)):
        for other in ("HF_HOME", "XDG_CACHE_HOME", "HF_HUB_CACHE"):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, str(value))
        theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert theirs == [str(hub.cache_folder()), str(hub.home() / "token")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        ('{"model_type": "bert", "hidden_size": 8}', "lacks num_hidden_layers"),
    ],
)
def test_a_config_that_will_not_do_is_named(tmp_path, content, said):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=said):
        geometry(ModelConfig(name=str(tmp_path)))


def test_an_unknown_model_without_a_network_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"no/model is not in the hub's cache, and HF_HUB_OFFLINE is set\. Set model"):
        geometry(ModelConfig(name="no/model"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(UserError, match="does not answer"):
        geometry(ModelConfig(name="no/model"))


# -- The command


def test_the_command_prints_a_page_or_json(three_b, tmp_path, capsys):
    path = str(tmp_path / "three-b.yaml")
    three_b()
    assert cli.main(["plan", path, "--gpu", "rtx4090"]) == 0
    assert "Plan for three-b on NVIDIA GeForce RTX 4090" in capsys.readouterr().out
    assert cli.main(["plan", path, "--gpu", "t4", "--json", "curate.pairs=8"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["card"]["name"] == "Tesla T4"
    assert plan["dtype"] == "float16"
    assert plan["time_is_measured"] is False
    assert [s["name"] for s in plan["stages"]] == ["curate", "teach", "train", "evaluate", "report"]


@pytest.mark.parametrize(("card", "code"), [("a100-40gb", 0), ("t4", 2)])
def test_a_plan_that_does_not_fit_is_shown_and_ends_with_2(capsys, card, code):
    """By GRPO, for which a T4 has too little memory."""
    for form in ([], ["--json"]):
        assert cli.main(["plan", str(ROOT / "recipes" / "qwen2.5-3b-gsm8k.yaml"), "--gpu", card, *form]) == code
        out, err = capsys.readouterr()
        assert err == ""
        fits = json.loads(out)["fits"] if form else "Every stage fits." in out
        assert fits == (code == 0)


def test_what_a_card_cannot_run_for_another_reason_ends_with_2_too(three_b, tmp_path, capsys):
    three_b()
    assert cli.main(["plan", str(tmp_path / "three-b.yaml"), "--gpu", "t4", "model.dtype=bfloat16"]) == 2
    assert "It cannot run there." in capsys.readouterr().out


def test_too_little_memory_on_every_number_of_cards_ends_with_2(capsys):
    paper = str(ROOT / "recipes" / "qwen2.5-3b-gsm8k.yaml")
    assert cli.main(["plan", paper, "--gpu", "t4", "--gpus", "2", "model.name=meta-llama/Llama-3.1-70B-Instruct"]) == 2
    assert "Not every stage fits" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("recipe", "card"),
    [("pocket", "none"), ("evidence-ablations", "none"), ("qwen2.5-3b-gsm8k-beyond", "t4"), ("qwen3-1.7b", "l4")],
)
def test_a_plan_has_80_columns(recipe, card, capsys):
    assert cli.main(["plan", str(ROOT / "recipes" / f"{recipe}.yaml"), "--gpu", card]) in (0, 2)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80 or line != line.rstrip()] == []


def test_an_unknown_card_is_a_mistake(capsys):
    assert cli.main(["plan", str(ROOT / "recipes" / "pocket.yaml"), "--gpu", "gtx"]) == 2
    assert "--gpu gtx: unknown card; known: t4" in capsys.readouterr().err


def test_plan_and_doctor_need_nothing_but_omegaconf_and_what_that_needs(three_b, tmp_path):
    """So that `make reproduce` can show them before anything heavy is installed: a Python with three packages."""
    three_b()
    site = tmp_path / "site"
    site.mkdir()
    for module in ("omegaconf", "yaml", "antlr4"):
        folder = Path(find_spec(module).origin).parent
        (site / module).symlink_to(folder)
    for words, code in (["plan"], 0), (["doctor", "--machine"], 2):
        done = subprocess.run(
            [sys._base_executable, "-S", "-m", "ssb_unsloth", *words, str(tmp_path / "three-b.yaml")],
            env={"PATH": "", "PYTHONPATH": f"{ROOT}:{site}", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "three-b" in done.stdout


def test_all_weights_take_gradients_copies_and_moments():
    recipe, card = load(ROOT / "recipes" / "qwen2.5-3b-gsm8k.yaml", ["train.lora=null", "variants=null"]), CARDS["h100"]
    plan = make_plan(recipe, card)
    (train,) = [stage for stage in plan.stages if stage.name == "train"]
    between = 3_085_938_688 - 151_936 * 2048  # the head is the embedding
    assert plan.whole == between
    assert (train.memory["weights"], train.memory["gradients"]) == (2 * 3_085_938_688, 2 * between)
    assert train.memory["optimizer"] == (4 + 8 + 4) * between  # copies, two moments, gradients in float32
    assert "LoRA" not in train.memory
    assert f"All weights but embeddings and head: {between:,} parameters" in told(plan)
    t4 = make_plan(recipe, CARDS["t4"])
    assert any("train.lora is null, and the model is float16" in why for why in t4.refused)
