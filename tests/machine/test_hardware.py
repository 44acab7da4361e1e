"""What the machine can do, seen through nvidia-smi: a stand-in on PATH gives its answers, right and wrong ones."""

import dataclasses
import sys

import pytest

from ssb_unsloth.errors import UserError
from ssb_unsloth.machine import auto, hardware
from ssb_unsloth.machine.auto import choose
from ssb_unsloth.machine.cards import BFLOAT16, CARDS, card_named, known_as
from ssb_unsloth.machine.hardware import Found, find_cards, here, torch_build
from ssb_unsloth.recipe.loading import load, save
from ssb_unsloth.recipe.schema import LORA_RANKS, ModelConfig, Recipe, SamplerConfig

A100 = "0, GPU-aaaa, NVIDIA A100-SXM4-40GB, 40960, 40339, 580.82.07, 8.0"
T4 = "1, GPU-bbbb, Tesla T4, 15360, 15095, 580.82.07, 7.5"


# -- nvidia-smi -------------------------------------------------------------------------------------------------------


def test_cards_are_read_with_what_their_data_sheets_add(nvidia_smi):
    nvidia_smi(f"{A100}\n{T4}")
    a100, t4 = find_cards().cards
    assert (a100.name, a100.memory_mib, a100.free_mib) == ("NVIDIA A100-SXM4-40GB", 40960, 40339)
    assert (a100.driver, a100.capability, a100.tflops) == ("580.82.07", (8, 0), 312)
    assert a100.bfloat16
    assert not t4.bfloat16


def test_a_card_that_the_table_does_not_know_is_described_by_what_nvidia_smi_says(nvidia_smi):
    nvidia_smi("0, GPU-cccc, NVIDIA Something New, 49152, 49000, 600.1, 13.0")
    (card,) = find_cards().cards
    assert (card.memory_mib, card.capability, card.tflops) == (49152, (13, 0), None)


def test_an_old_driver_that_does_not_know_compute_cap_is_asked_without(nvidia_smi):
    nvidia_smi("0, GPU-bbbb, Tesla T4, 15360, 15095, 470.57.02", old=True)
    (card,) = find_cards().cards
    assert (card.capability, card.driver) == ((7, 5), "470.57.02")  # the capability from the table


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0", ["NVIDIA A100-SXM4-40GB"]),
        ("1,0", ["Tesla T4", "NVIDIA A100-SXM4-40GB"]),
        ("GPU-bb", ["Tesla T4"]),
    ],
)
def test_cuda_visible_devices_chooses_and_orders(nvidia_smi, monkeypatch, visible, names):
    nvidia_smi(f"{A100}\n{T4}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [card.name for card in find_cards().cards] == names


def test_a_model_is_split_over_no_more_cards_than_there_are(nvidia_smi, monkeypatch):
    nvidia_smi(f"{A100}\n{T4}")
    for count in (1, 2):
        hardware.check_cards(count)
    with pytest.raises(UserError, match=r"sampler\.tensor_parallel: 4, and this process sees 2 cards .*; set it to 2"):
        hardware.check_cards(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(UserError, match=r"sees 1 card .*; set it to 1"):
        hardware.check_cards(2)


MIG = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)
  MIG 3g.20gb     Device  0: (UUID: MIG-one)
  MIG 1g.5gb      Device  1: (UUID: MIG-two)
GPU 1: Tesla T4 (UUID: GPU-bbbb)"""


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, [("MIG 3g.20gb", 19456), ("MIG 1g.5gb", 4864), ("Tesla T4", 15360)]),
        ("MIG-two", [("MIG 1g.5gb", 4864)]),
        ("1", [("Tesla T4", 15360)]),
    ],
)
def test_of_a_card_in_parts_a_part_is_seen_and_never_the_whole(nvidia_smi, tmp_path, monkeypatch, visible, found):
    nvidia_smi("")
    rows = f"{A100}, Enabled\n{T4}, [N/A]"
    (tmp_path / "nvidia-smi").write_text(
        f"#!/bin/sh\n[ $1 = -L ] && cat <<'END' || cat <<'ROWS'\n{MIG}\nEND\n{rows}\nROWS\n"
    )
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    cards = find_cards().cards
    assert [(card.name.removeprefix("NVIDIA A100-SXM4-40GB "), card.memory_mib) for card in cards] == found
    parts = [card for card in cards if "MIG" in card.name]
    assert all((card.capability, card.free_mib, card.tflops) == ((8, 0), None, None) for card in parts)


def test_a_card_in_parts_without_any_is_none(nvidia_smi):
    nvidia_smi(f"{A100}, Enabled")  # and so it answers -L too
    found = find_cards()
    assert (found.cards, found.broken) == ((), True)
    assert "MIG mode" in found.problem


@pytest.mark.parametrize(
    ("visible", "said"), [("", "hides every GPU"), ("-1", "hides every GPU"), ("7", "names no GPU")]
)
def test_cuda_visible_devices_that_leaves_nothing_is_the_reason(nvidia_smi, monkeypatch, visible, said):
    nvidia_smi(A100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = find_cards()
    assert found.cards == ()
    assert said in found.problem


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that ...",
            9,
            "couldn't communicate with the NVIDIA driver",
        ),
        ("Failed to initialize NVML: Driver/library version mismatch", 18, "Driver/library version mismatch"),
        ("No devices were found", 6, "finds no GPU"),
        ("", 3, "exit code 3"),
    ],
)
def test_what_is_wrong_with_the_driver_is_said(nvidia_smi, answer, code, said):
    nvidia_smi(answer, code)
    found = find_cards()
    assert found.cards == ()
    assert found.broken
    assert said in found.problem


@pytest.mark.parametrize("answer", ["", "WARNING: infoROM is corrupted at gpu 0000:17:00.0", "0, GPU-x, Tesla T4"])
def test_an_answer_without_a_card_is_none_and_no_fault_of_a_variable(nvidia_smi, answer):
    nvidia_smi(answer)
    found = find_cards()
    assert (found.cards, found.broken) == ((), True)
    assert found.problem.startswith("nvidia-smi lists no GPU")
    assert answer in found.problem
    assert "CUDA_VISIBLE_DEVICES" not in found.problem


def test_a_warning_beside_the_cards_is_not_one(nvidia_smi):
    nvidia_smi(f"WARNING: infoROM is corrupted at gpu 0000:17:00.0\n{A100}")
    assert [card.name for card in find_cards().cards] == ["NVIDIA A100-SXM4-40GB"]


def test_a_driver_that_hangs_is_not_waited_for(nvidia_smi):
    nvidia_smi(A100, seconds=5)
    assert "does not answer" in find_cards(seconds=0.2).problem


def test_without_nvidia_smi_there_is_no_card(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_cards() == Found((), "There is no NVIDIA GPU here, or its driver is not installed (no nvidia-smi).")


def test_the_build_of_torch_is_read_without_importing_it():
    import torch

    assert torch_build() == (torch.__version__, torch.version.cuda)


def test_a_cpu_build_of_torch_computes_on_the_cpu_whatever_the_machine_has(nvidia_smi, monkeypatch):
    nvidia_smi(A100)
    monkeypatch.setattr(hardware, "torch_build", lambda: ("2.13.0+cpu", None))
    assert here() is None
    here.cache_clear()
    monkeypatch.setattr(hardware, "torch_build", lambda: ("2.13.0", "13.0"))
    card = here()
    assert card is not None
    assert card.name == "NVIDIA A100-SXM4-40GB"


# -- The table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CARDS)
def test_every_card_is_described_whole_and_plausibly(name):
    card = CARDS[name]
    assert card.capability is not None
    assert card.capability >= hardware.OLDEST
    assert card.source
    assert card.bfloat16 == (card.capability >= BFLOAT16)
    assert 8_000 < card.memory_mib < 300_000
    # Operations a byte: every card with tensor cores needs between 30 and 500 of them to be busy.
    assert 30 < 1000 * card.tflops / card.bandwidth < 500


def test_an_unknown_card_is_named_with_those_that_are_known():
    with pytest.raises(UserError, match=r"--gpu a1000: unknown card; known: t4, .*a100-40gb"):
        card_named("a1000")


@pytest.mark.parametrize("key", CARDS)
def test_every_card_of_the_table_is_known_by_its_own_name(key):
    card = CARDS[key]
    assert known_as(card.name, card.memory_mib) == card == card_named(key) == card_named(key.upper())


@pytest.mark.parametrize(
    ("name", "memory", "key"),
    [
        ("NVIDIA A100-PCIE-40GB", 40960, "a100-40gb"),
        ("A100-SXM4-40GB", 40536, "a100-40gb"),  # as older drivers call it
        ("NVIDIA A100-SXM-80GB", 81251, "a100-80gb"),
        ("NVIDIA A800-SXM4-80GB", 81251, "a100-80gb"),
        ("GRID A100D-40C", 40960, "a100-40gb"),
        ("NVIDIA H100 SXM5 80GB", 81559, "h100"),
        ("NVIDIA H800", 81559, "h100"),
        ("NVIDIA H800 PCIe", 81559, "h100-pcie"),
        ("GRID T4-16Q", 16384, "t4"),
        ("NVIDIA T4G", 15360, "t4"),
        ("NVIDIA A10-24Q", 24576, "a10"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97887, "pro6000"),
        ("NVIDIA GH200 120GB", 97871, "gh200"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, None),
        ("NVIDIA GeForce RTX 4090 D", 24564, None),
        ("NVIDIA GeForce RTX 4080 SUPER", 16376, None),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 97887, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4864, None),
        ("NVIDIA L400", 0, None),
        ("NVIDIA A1000", 8188, None),
        ("NVIDIA Graphics Device", 49140, None),
    ],
)
def test_a_card_is_known_by_its_family_and_none_is_taken_for_a_faster_one(nvidia_smi, name, memory, key):
    expected = CARDS.get(key)
    assert known_as(name, memory) == expected
    nvidia_smi(f"0, GPU-x, {name}, {memory}, {memory}, 580.82.07")
    (card,) = find_cards().cards
    assert (card.name, card.memory_mib) == (name, memory or (expected.memory_mib if expected else 0))
    assert (card.tflops, card.bandwidth) == ((expected.tflops, expected.bandwidth) if expected else (None, None))


# -- What auto becomes ------------------------------------------------------------------------------------------------


def recipe(**sampler):
    return Recipe(name="x", model=ModelConfig(name="m"), sampler=SamplerConfig(**sampler))


@pytest.mark.parametrize(
    ("card", "dtype", "backend"),
    [
        ("t4", "float16", "TRITON_ATTN"),
        ("l4", "bfloat16", "FLASH_ATTN"),
        ("rtx4090", "bfloat16", "FLASH_ATTN"),
        ("a100-40gb", "bfloat16", "FLASH_ATTN"),
        ("h200", "bfloat16", "FLASH_ATTN"),
        ("b200", "bfloat16", "FLASHINFER"),
        (None, "float32", "auto"),
    ],
)
def test_dtype_and_attention_follow_the_card(card, dtype, backend):
    chosen = choose(recipe(), CARDS[card] if card else None)
    assert (chosen.model.dtype, chosen.sampler.attention_backend) == (dtype, backend)
    assert choose(chosen, CARDS["t4"]) == chosen or card is None  # nothing is left to choose


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("used_mib", [0, 3000])
def test_vllms_share_leaves_room_and_is_never_more_than_what_is_free(name, used_mib):
    card = dataclasses.replace(CARDS[name], free_mib=CARDS[name].memory_mib - used_mib)
    share = choose(recipe(), card).sampler.gpu_memory_utilization
    assert isinstance(share, float)
    assert 0.4 < share <= auto.MOST_OF_THE_CARD
    assert share * card.memory_mib <= card.free_mib - 1000


def test_what_the_recipe_says_is_kept():
    said = recipe(gpu_memory_utilization=0.4, attention_backend="TRITON_ATTN")
    said.model.dtype = "float32"
    assert choose(said, CARDS["a100-40gb"]) == said


def test_a_chosen_recipe_is_written_and_read_back(tmp_path):
    given = tmp_path / "r.yaml"
    given.write_text("name: r\nmodel: {name: pocket}\nproblems: {source: pocket}\n")
    chosen = choose(load(given), CARDS["t4"])
    save(chosen, tmp_path / "recipe.yaml")
    assert load(tmp_path / "recipe.yaml") == chosen
    assert load(given, ["sampler.gpu_memory_utilization=0.5"]).sampler.gpu_memory_utilization == 0.5


@pytest.mark.parametrize("share", ["most", "0", "1.5"])
def test_a_share_that_is_none_is_refused(tmp_path, share):
    given = tmp_path / "r.yaml"
    given.write_text("name: r\nmodel: {name: pocket}\nproblems: {source: pocket}\n")
    with pytest.raises(UserError, match="gpu_memory_utilization"):
        load(given, [f"sampler.gpu_memory_utilization={share}"])


@pytest.mark.skipif(sys.platform != "linux", reason="vLLM is for Linux")
def test_the_ranks_and_the_back_ends_are_those_of_the_real_vllm():
    import ast
    import typing
    from importlib.util import find_spec
    from pathlib import Path

    folder = Path(next(iter(find_spec("vllm").submodule_search_locations)))
    lora = ast.parse((folder / "config" / "lora.py").read_text())
    ranks = next(n.value for n in lora.body if isinstance(n, ast.Assign) and n.targets[0].id == "MaxLoRARanks")
    assert eval(ast.unparse(ranks), {"Literal": typing.Literal}).__args__ == LORA_RANKS
    registry = (folder / "v1" / "attention" / "backends" / "registry.py").read_text()
    for card in CARDS.values():
        assert f"    {choose(recipe(), card).sampler.attention_backend} = " in registry
