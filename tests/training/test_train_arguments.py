"""Every key of the recipe's `train` section reaches the trainer, of every method."""

import dataclasses

import pytest
import torch

from ssb_unsloth.recipe.schema import SEVEN, GrpoConfig, TrainConfig
from ssb_unsloth.training import grpo
from ssb_unsloth.training.common import common_arguments, lora
from ssb_unsloth.training.ssb import trainer_arguments

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
    "kd_temperature": (3.5, "kd_temperature", 3.5),
    "denominator": ("token", "denominator", "token"),
    "kd_weight": (0.8, "kd_weight", 0.8),
    "ce_weight": (0.2, "ce_weight", 0.2),
    "sharpen": (1.5, "sharpen", 1.5),
    "divergence": ("jsd", "divergence", "jsd"),
    "beta": (0.3, "beta", 0.3),
    "clip": (2.5, "clip", 2.5),
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
    "refresh",
    "guard",
    "processes",
    "sharding",
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


def test_the_adapter_is_the_recipes(make_model):
    config = TrainConfig()
    config.lora.r, config.lora.alpha, config.lora.dropout, config.lora.target_modules = 5, 7, 0.25, ["q_proj"]
    found = lora(config, make_model("qwen2"))
    assert (found.r, found.lora_alpha, found.lora_dropout, set(found.target_modules)) == (5, 7, 0.25, {"q_proj"})
    assert (found.bias, found.task_type, found.use_rslora, found.use_dora) == ("none", "CAUSAL_LM", False, False)
    config.lora.target_modules, config.lora.use_rslora, config.lora.use_dora = "auto", True, True
    found = lora(config, make_model("qwen2"))
    assert (set(found.target_modules), found.use_rslora, found.use_dora) == (set(SEVEN), True, True)


OF_GRPO = {
    "steps": (17, "max_steps", 17),
    "generations": (4, "num_generations", 4),
    "learning_rate": (7e-6, "learning_rate", 7e-6),
    "temperature": (0.9, "temperature", 0.9),
    "max_tokens": (77, "max_completion_length", 77),
    "beta": (0.04, "beta", 0.04),
    "loss": ("dr_grpo", "loss_type", "dr_grpo"),
}
OF_GRPO_ELSEWHERE = {"questions", "questions_per_step", "micro_batch_size", "use_vllm", "gpu_memory_utilization"}


def grpo_arguments(folder, **settings):
    config = TrainConfig(method="grpo", grpo=GrpoConfig(use_vllm=False, **settings))
    return grpo.arguments(config, 512, 17, torch.float32, folder)


def test_no_key_of_grpo_is_forgotten_here():
    assert {field.name for field in dataclasses.fields(GrpoConfig)} == {*OF_GRPO, *OF_GRPO_ELSEWHERE}


@pytest.mark.parametrize("key", OF_GRPO)
def test_a_key_of_grpo_reaches_its_trainer(tmp_path, key):
    value, argument, expected = OF_GRPO[key]
    assert getattr(grpo_arguments(tmp_path), argument) != expected
    assert getattr(grpo_arguments(tmp_path, **{key: value}), argument) == expected


def test_grpo_samples_plainly_and_its_step_is_cut_into_equal_passes(tmp_path):
    found = grpo_arguments(tmp_path, questions_per_step=3, generations=4, micro_batch_size=6)
    assert (found.top_p, found.top_k, found.repetition_penalty) == (1.0, 0, 1.0)
    assert (found.per_device_train_batch_size, found.gradient_accumulation_steps) == (6, 2)
    assert (found.num_train_epochs, found.max_steps, found.seed) == (1, -1, 17)
    assert found.use_vllm is False


def test_grpo_gives_vllm_its_share_where_it_samples(tmp_path, monkeypatch):
    settings = {"use_vllm": True, "gpu_memory_utilization": 0.21}
    asked = {}
    monkeypatch.setattr(grpo, "GRPOConfig", lambda **arguments: asked.update(arguments))
    grpo.arguments(TrainConfig(grpo=GrpoConfig(**settings)), 512, 17, torch.float32, tmp_path)
    assert asked["use_vllm"] is True
    assert asked["vllm_mode"] == "colocate"
    assert asked["vllm_gpu_memory_utilization"] == 0.21
    assert asked["vllm_max_model_length"] == 512
