"""Every key of the recipe's `train` section reaches the trainer, of every method."""

import dataclasses

import pytest
import torch

from ssb_unsloth.config import TrainConfig
from ssb_unsloth.train import common_arguments, lora, trainer_arguments

UNUSUAL = {  # key: (a value that is not the default, the argument, what it becomes)
    "epochs": (5, "num_train_epochs", 5),
    "learning_rate": (3e-5, "learning_rate", 3e-5),
    "lr_scheduler": ("cosine", "lr_scheduler_type", "cosine"),
    "warmup_steps": (7, "warmup_steps", 7),
    "weight_decay": (0.03, "weight_decay", 0.03),
    "max_grad_norm": (0.7, "max_grad_norm", 0.7),
    "logging_steps": (9, "logging_steps", 9),
    "save_steps": (13, "save_steps", 13),
    "report_to": (["tensorboard"], "report_to", ["tensorboard"]),
}
OF_SSB = {
    "temperature": (3.5, "kd_temperature", 3.5),
    "denominator": ("token", "denominator", "token"),
    "kd_weight": (0.8, "kd_weight", 0.8),
    "ce_weight": (0.2, "ce_weight", 0.2),
    "sharpen": (1.5, "sharpen", 1.5),
}
ELSEWHERE = {  # read by others: the stage, the backend, the controls; each has its own tests
    "method",
    "grpo",
    "lora",
    "gradient_checkpointing",
    "probe_steps",
    "probe_questions",
    "drift_texts",
    "token_pairs",
}


def test_no_key_is_forgotten_here():
    keys = {field.name for field in dataclasses.fields(TrainConfig)}
    assert keys == {*UNUSUAL, *OF_SSB, *ELSEWHERE, "batch_size", "micro_batch_size"}


@pytest.mark.parametrize("key", UNUSUAL)
def test_a_key_reaches_every_methods_trainer(tmp_path, key):
    value, argument, expected = UNUSUAL[key]
    config = TrainConfig(**{key: value})
    assert common_arguments(TrainConfig(), tmp_path, 1, torch.float32)[argument] != expected
    assert common_arguments(config, tmp_path, 1, torch.float32)[argument] == expected


@pytest.mark.parametrize("key", OF_SSB)
def test_a_key_of_the_objective_reaches_the_trainer(tmp_path, key):
    value, argument, expected = OF_SSB[key]
    assert getattr(trainer_arguments(TrainConfig(), tmp_path, 1, torch.float32), argument) != expected
    assert getattr(trainer_arguments(TrainConfig(**{key: value}), tmp_path, 1, torch.float32), argument) == expected


@pytest.mark.parametrize(("micro", "passes"), [(None, 1), (12, 1), (4, 3), (1, 12)])
def test_a_batch_is_cut_into_equal_passes(tmp_path, micro, passes):
    found = common_arguments(TrainConfig(batch_size=12, micro_batch_size=micro), tmp_path, 1, torch.float32)
    assert found["gradient_accumulation_steps"] == passes
    assert found["per_device_train_batch_size"] * passes == 12


def test_the_seed_is_of_the_weights_and_of_the_order(tmp_path):
    found = common_arguments(TrainConfig(), tmp_path / "here", 17, torch.float32)
    assert (found["seed"], found["data_seed"], found["output_dir"]) == (17, 17, str(tmp_path / "here"))
    assert found["report_to"] == "none"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gpu", [True, False])
def test_half_precision_is_the_bases_and_a_gpus(tmp_path, monkeypatch, dtype, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    found = common_arguments(TrainConfig(), tmp_path, 1, dtype)
    assert found["use_cpu"] == (not gpu)
    assert found["bf16"] == (gpu and dtype == torch.bfloat16)
    assert found["fp16"] == (gpu and dtype == torch.float16)


def test_checkpointing_is_the_controls_trainers_and_for_ssb_the_backends(tmp_path):
    config = TrainConfig(gradient_checkpointing=True)
    assert common_arguments(config, tmp_path, 1, torch.float32)["gradient_checkpointing"]
    assert not trainer_arguments(config, tmp_path, 1, torch.float32).gradient_checkpointing


def test_the_adapter_is_the_recipes():
    config = TrainConfig()
    config.lora.r, config.lora.alpha, config.lora.dropout, config.lora.target_modules = 5, 7, 0.25, ["q_proj"]
    found = lora(config)
    assert (found.r, found.lora_alpha, found.lora_dropout, set(found.target_modules)) == (5, 7, 0.25, {"q_proj"})
    assert (found.bias, found.task_type) == ("none", "CAUSAL_LM")
