"""What the support matrix of docs/models.md is made of: a tiny random model of a family, taken along the whole chain.

Each cell is "yes" or the sentence with which it failed. Oracles are the model's own logits, one sequence at a time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pictures
import torch
from backend_checks import FAST, SLOW
from peft import PeftModel
from shapes import CASES, SHAPE
from training import store
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ssb_unsloth import SSBConfig, SSBTrainer
from ssb_unsloth.backends.adapters import assert_fits
from ssb_unsloth.backends.chat_template import end_of_turn, render
from ssb_unsloth.backends.sampler import Adapter, Completion, Request, Sampler
from ssb_unsloth.backends.transformers import add_lora, load_model, load_tokenizer, save_merged
from ssb_unsloth.backends.transformers_sampler import TransformersSampler
from ssb_unsloth.errors import UserError
from ssb_unsloth.machine.geometry import geometry
from ssb_unsloth.machine.lora_targets import select
from ssb_unsloth.method.collator import Example
from ssb_unsloth.method.losses import head_logits
from ssb_unsloth.method.modeling import as_teacher, output_head
from ssb_unsloth.method.selfchecks import check_arithmetic, check_head, check_template, skeleton
from ssb_unsloth.method.targets import Targets
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.prompts import PAPER, student_messages, teacher_messages
from ssb_unsloth.recipe.schema import LoraConfig, ModelConfig, SamplerConfig, SamplingConfig
from ssb_unsloth.training.common import save_adapter

COLUMNS = ("plan", "prompt", "head", "teach", "train", "adapter", "merged", "sample")
# 32 is the narrowest head for which vLLM's CPU build has attention.
WIDER = {
    **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32},
    **{"vocab_size": 528, "max_position_embeddings": 1024},
}
# Layers of each kind in two: the shapes of CASES are for four.
TWO: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_expand": 1},
    "bamba": {"attn_layer_indices": [1], "mamba_expand": 1},
    "falcon_h1": {"mamba_expand": 1},
    "mamba2": {"n_groups": 1},
    "deepseek_v3": {"num_key_value_heads": 2},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
}
FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo", "olmo2", "olmo3"),
    *("granite", "smollm3", "cohere", "cohere2", "starcoder2", "stablelm", "gpt2", "gpt_neox", "falcon", "opt"),
    *("bloom", "glm", "glm4", "exaone4", "ernie4_5", "hunyuan_v1_dense", "seed_oss", "nemotron", "arcee", "helium"),
    *("apertus", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss", "phimoe", "deepseek_v3"),
    *("lfm2", "mamba2", "falcon_h1", "bamba", "granitemoehybrid", "qwen3_next"),
    *("gemma3", "mistral3", "qwen2_5_vl"),
)
UNSLOTH = frozenset(family for family, _ in (*FAST, *SLOW))  # by tests/backends/test_unsloth.py
PAIRS = (
    ("Mia has 9 shells. Tom gives 3 to Mia. How many?", "9+3=12, not 9-3. The answer is \\boxed{12}.", "\\boxed{6}"),
    ("Ben has 5 cups and breaks 2. How many are left?", "5-2=3. \\boxed{3}", "5+2=7, so \\boxed{7}."),
)
GREEDY = SamplingConfig(temperature=0, max_tokens=6)
TIE = 1e-3  # a share of the largest logit, within which the order of a sum decides which word is likeliest


def write(family: str, folder: Path) -> Path:
    """A model folder as the hub would give it: tiny random weights, the pocket's vocabulary and ChatML."""
    torch.manual_seed(0)
    if family in pictures.KINDS:
        model: Any = load_model(ModelConfig(name=str(pictures.write(family, folder)), dtype="float32"))
    else:
        tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
        tokenizer.save_pretrained(folder)
        own = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        shape = {**SHAPE, **CASES.get(family, [{}])[0], **WIDER, **TWO.get(family, {}), **own}
        if family in ("falcon", "deepseek_v3"):
            del shape["head_dim"]
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape), dtype=torch.float32)
    with torch.no_grad():  # wider than the usual start, so that distributions are far from uniform
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    model.save_pretrained(folder)
    return folder


class Chain:
    """A family's model on its way; what a column needs is made when first asked for, and fails there."""

    def __init__(self, family: str, folder: Path) -> None:
        self.folder = folder
        self.named = ModelConfig(name=str(write(family, folder / "model")), dtype="float32", backend="transformers")

    @cached_property
    def base(self) -> Any:
        return load_model(self.named)

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.named)

    @cached_property
    def examples(self) -> list[Example]:
        tokenizer, made = self.tokenizer, []
        for question, right, wrong in PAIRS:
            reply = [*tokenizer.encode(right, add_special_tokens=False), end_of_turn(tokenizer)]
            asked, hinted = student_messages(question), teacher_messages(question, right, wrong)
            made.append(Example(question[:3], render(tokenizer, asked)[-40:], render(tokenizer, hinted)[-60:], reply))
        return made

    @cached_property
    def targets(self) -> Targets:
        store(self.base, self.examples, self.folder / "targets")
        return Targets(self.folder / "targets")

    @cached_property
    def student(self) -> Any:
        """Trained for three steps on the stored teacher."""
        model = add_lora(load_model(self.named), LoraConfig(r=4), 1, gradient_checkpointing=False)
        args = SSBConfig(
            output_dir=str(self.folder / "checkpoints"),
            per_device_train_batch_size=len(PAIRS),
            max_steps=3,
            learning_rate=1e-3,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = SSBTrainer(model, args, self.examples, processing_class=self.tokenizer, targets=self.targets)
        trainer.train()
        self.losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        return trainer.model.eval()

    @cached_property
    def adapter(self) -> Adapter:
        folder = self.folder / "adapter"
        save_adapter(self.student, folder)
        return Adapter("ssb", folder)

    def logits(self, model: Any, ids: Sequence[int] | None = None) -> torch.Tensor:
        """[S, V] of one sequence, by default the first pair's, as the model itself says them."""
        first = self.examples[0]
        with torch.no_grad():
            ids_1S = torch.tensor([list(ids or first.student_ids + first.reply_ids)])
            said: torch.Tensor = model(input_ids=ids_1S, use_cache=False).logits[0]
        return said

    def plan(self) -> None:
        shape, _ = geometry(self.named)
        assert shape.how == "family", f"the plan knows no such family, and counts it by its {shape.how}"
        assert shape.parameters == sum(p.numel() for p in self.base.parameters())
        assert shape.targets("auto") == select(self.base).targets

    def prompt(self) -> None:
        check_template(self.tokenizer, PAPER)
        question, right, wrong = PAIRS[0]
        reply = [*self.tokenizer.encode(right, add_special_tokens=False), end_of_turn(self.tokenizer)]
        for messages in (student_messages(question), teacher_messages(question, right, wrong)):
            turn = [*messages, {"role": "assistant", "content": right}]
            whole = self.tokenizer.apply_chat_template(turn, tokenize=True, return_dict=False)
            asked = render(self.tokenizer, messages)
            assert whole[: len(asked) + len(reply)] == asked + reply

    def head(self) -> None:
        check_arithmetic(skeleton(self.named), self.named.name)
        check_head(self.base, self.examples[0].student_ids)

    def teach(self) -> None:
        for example in self.examples:
            own = self.logits(self.base, example.teacher_ids + example.reply_ids)[-len(example.reply_ids) - 1 : -1]
            ours = head_logits(self.targets([example.id]), output_head(self.base))
            assert (ours - own).abs().max() <= 1e-3 * own.abs().max(), "stored states are not the teacher's"

    def train(self) -> None:
        student = self.student
        assert self.losses[2] < self.losses[0], f"the loss went from {self.losses[0]:.3g} to {self.losses[2]:.3g}"
        assert (self.logits(student) - self.logits(self.base)).abs().max() > 1e-3
        with as_teacher(student):
            assert torch.equal(self.logits(student), self.logits(self.base)), "the teacher has changed"

    @cached_property
    def reloaded(self) -> Any:
        """The student, from its files."""
        return PeftModel.from_pretrained(load_model(self.named), self.adapter.path).eval()

    def saved(self) -> None:
        assert_fits(self.named, self.adapter.path, "transformers")
        torch.testing.assert_close(self.logits(self.reloaded), self.logits(self.student))

    def merged(self) -> None:
        save_merged(self.named, self.adapter.path, self.folder / "merged")
        whole = load_model(ModelConfig(name=str(self.folder / "merged"), dtype="float32"))
        beside = self.logits(self.student)
        assert (self.logits(whole) - beside).abs().max() <= 1e-3 * beside.abs().max()

    def sample(self) -> None:
        self.greedy(TransformersSampler(self.base, self.tokenizer, batch_size=len(PAIRS)))

    def greedy(self, sampler: Sampler) -> None:
        """Base and student: each word is the likeliest by the model's own logits."""
        asked = [Request(e.student_ids[-n:], 0) for e, n in zip(self.examples, (40, 30), strict=True)]
        for model, adapter in ((self.base, None), (self.reloaded, self.adapter)):
            for request, reply in zip(asked, sampler.sample(asked, GREEDY, adapter, quiet=True), strict=True):
                self.likeliest(model, request, reply, "with the adapter" if adapter else "of the base")

    def likeliest(self, model: Any, request: Request, reply: Completion, whose: str) -> None:
        ids = [*request.prompt_ids, *reply.token_ids]
        rows = self.logits(model, ids)[len(request.prompt_ids) - 1 : -1]
        chosen = rows.gather(1, torch.tensor(reply.token_ids)[:, None])[:, 0]
        assert (rows.max(1).values - chosen <= TIE * rows.abs().max()).all(), f"words {whose} are not the likeliest"


def tried(check: Any) -> str:
    """ "yes", or the sentence with which it failed."""
    try:
        check()
    except UserError as error:
        return _first(str(error))
    except Exception as error:  # any is what a cell tells of
        return _first(f"{type(error).__name__}: {error}")
    return "yes"


def _first(text: str) -> str:
    return re.sub(r"'?/\S*/model'?", "the model", text.strip().splitlines()[0])[:200]


def in_process(family: str, folder: Path) -> dict[str, str]:
    """The cells of COLUMNS, by transformers, and Unsloth's, where a test of its own runs the family."""
    chain = Chain(family, folder)
    checks = {name: getattr(chain, "saved" if name == "adapter" else name) for name in COLUMNS}
    return {name: tried(check) for name, check in checks.items()} | ({"unsloth": "yes"} if family in UNSLOTH else {})


def by_vllm(family: str, folder: Path) -> str:
    """vLLM's cell: its greedy words, base and adapter, are the likeliest by transformers. In a process of its own."""
    from ssb_unsloth.backends.vllm import VLLMSampler

    chain = Chain(family, folder)

    def check() -> None:
        chain.adapter  # noqa: B018  # made before the engine takes its memory
        sampler = VLLMSampler(chain.named, SamplerConfig(max_model_len=512), seed=0, adapters=True)
        try:
            chain.greedy(sampler)
        finally:
            sampler.close()

    return tried(check)
