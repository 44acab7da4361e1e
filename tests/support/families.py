"""Tiny random models of the recipes' families: architecture, chat template and special tokens; the pocket's words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "fixtures" / "gsm8k"
TEMPLATES = Path(__file__).parents[1] / "fixtures" / "templates"


@dataclass(frozen=True)
class Family:
    recipe: str
    template: str
    model_type: str
    bos: str | None
    eos: str
    end: str  # of a turn
    special: tuple[str, ...]  # all other tokens of the template
    plain: tuple[str, ...] = ()  # added, but part of the text (Qwen3's think block)
    pad: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "qwen2.5": Family(
        "qwen2.5-0.5b-t4.yaml",
        "qwen2_5",
        "qwen2",
        bos=None,
        eos="<|im_end|>",
        end="<|im_end|>",
        special=("<|im_start|>",),
        pad="<|endoftext|>",
        config={"tie_word_embeddings": True},
    ),
    "qwen3": Family(
        "qwen3-1.7b.yaml",
        "qwen3",
        "qwen3",
        bos=None,
        eos="<|im_end|>",
        end="<|im_end|>",
        special=("<|im_start|>",),
        plain=("<think>", "</think>"),
        pad="<|endoftext|>",
        config={"tie_word_embeddings": True},
    ),
    "llama-3.2": Family(
        "llama-3.2-1b.yaml",
        "llama3_2",
        "llama",
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        end="<|eot_id|>",
        special=("<|start_header_id|>", "<|end_header_id|>"),
        config={"tie_word_embeddings": True},
    ),
    "gemma-3": Family(
        "gemma-3-1b.yaml",
        "gemma3",
        "gemma3_text",
        bos="<bos>",
        eos="<eos>",
        end="<end_of_turn>",
        special=("<start_of_turn>",),
        pad="<pad>",
        config={"query_pre_attn_scalar": 32, "sliding_window": 64, "sliding_window_pattern": 2},
    ),
}


def write(family: Family, folder: Path, templates: Path = TEMPLATES) -> Path:
    """A model folder as the hub would give it: tiny random weights, the pocket's vocabulary, the real template."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from ssb_unsloth.pocket import MODEL_DIR

    backend = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    tokens = {"eos_token": family.eos}
    tokens |= {"bos_token": family.bos} if family.bos else {}
    tokens |= {"pad_token": family.pad} if family.pad else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)
    tokenizer.add_special_tokens({"additional_special_tokens": [*family.special, family.end]})
    tokenizer.add_tokens(list(family.plain))
    tokenizer.chat_template = (templates / f"{family.template}.jinja").read_text(encoding="utf-8")
    tokenizer.save_pretrained(str(folder))
    config = AutoConfig.for_model(
        family.model_type,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **family.config,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def whole_chain(path: Path, folder: Path, pairs: Sequence[dict[str, str]], out: Path, more: Sequence[str] = ()) -> Any:
    """The recipe of that path for the tiny model in `folder`, on these pairs, from curation to report, in out/run."""
    from ssb_unsloth.pipeline.process import run_stage
    from ssb_unsloth.pipeline.students import students
    from ssb_unsloth.recipe.loading import load
    from ssb_unsloth.run.rundir import RunDir

    (out / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    overrides = [
        f"model.name={folder}",
        "model.dtype=float32",
        "model.backend=transformers",
        "sampler.engine=transformers",
        f"problems.source={DATA / 'train_rows.jsonl'}",
        f"curate.pairs_file={out / 'pairs.jsonl'}",
        "curate.rollout.max_tokens=6",
        "train.epochs=2",
        "train.learning_rate=0.1",
        "train.lora.r=4",
        "train.probe_questions=2",
        "train.probe_steps=2",
        "train.token_pairs=1",
        "evaluate.default_prompt=false",
        f"evaluate.adapters.published={out / 'run' / 'train' / 'adapter'}",
        f"evaluate.benchmarks.gsm8k.source={DATA / 'train_rows.jsonl'}",
        "evaluate.benchmarks.gsm8k.count=null",
        "evaluate.benchmarks.gsm8k.limit=2",
        "evaluate.benchmarks.gsm8k.max_tokens=6",
        f"evaluate.benchmarks.math500.source={DATA / 'train_rows.jsonl'}",
        "evaluate.benchmarks.math500.question=question",
        "evaluate.benchmarks.math500.gold_format=####",
        "evaluate.benchmarks.math500.count=null",
        "evaluate.benchmarks.math500.id=null",
        "evaluate.benchmarks.math500.limit=2",
        "evaluate.benchmarks.math500.max_tokens=6",
    ]
    recipe = load(path, [*overrides, *more])
    for student in students(recipe, out / "run"):
        for stage in student.chain:
            if student.owns(stage):
                run_stage(stage, student.recipe, student.run, force=False)
    for stage in ("evaluate", "report"):
        run_stage(stage, recipe, RunDir(out / "run"), force=False)
    return recipe
