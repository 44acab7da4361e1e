"""Random models at true geometries, and random pairs for them: what is measured needs no weights and no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ssb_unsloth.method.collator import Example

PAD = 0
FIRST_WORD = 3  # those below are pad, begin and end


@dataclass(frozen=True)
class Geometry:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int


GEOMETRIES = {
    "tiny": Geometry(2, 64, 4, 2, 128, 4_000),
    "0.1B": Geometry(8, 512, 8, 2, 1_408, 151_936),  # 100 M parameters, 78 M of them the tied head
    "3B": Geometry(36, 2_048, 16, 2, 11_008, 151_936),  # Qwen2.5-3B's
}


def qwen2_config(name: str, vocabulary: int | None = None) -> Any:
    from transformers import Qwen2Config

    g = GEOMETRIES[name]
    return Qwen2Config(
        vocab_size=vocabulary or g.vocabulary,
        hidden_size=g.hidden,
        intermediate_size=g.intermediate,
        num_hidden_layers=g.layers,
        num_attention_heads=g.heads,
        num_key_value_heads=g.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=2,
    )


def random_model(name: str, vocabulary: int | None, device: str, dtype: str) -> nn.Module:
    """A causal language model with Qwen2's layers and random weights, the same every time."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(qwen2_config(name, vocabulary), dtype=getattr(torch, dtype))
    return model.eval()


def lora(rank: int = 32) -> Any:
    """The paper's adapter (§4.1), on the released code's seven projections."""
    from peft import LoraConfig

    from ssb_unsloth.recipe.schema import SEVEN

    return LoraConfig(r=rank, lora_alpha=rank, target_modules=list(SEVEN), task_type="CAUSAL_LM")


def wake(model: nn.Module) -> None:
    """Give the adapter's B, which starts at zero, some weight: the student then differs, and every gradient counts."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)


def random_examples(
    count: int, prompt: int, teacher_prompt: int, reply: Sequence[int], vocabulary: int, seed: int = 0
) -> list[Example]:
    """Pairs of random tokens: prompts of these lengths, replies of a length drawn from reply[0] to reply[1]."""
    generator = torch.Generator().manual_seed(seed)

    def words(length: int) -> list[int]:
        return torch.randint(FIRST_WORD, vocabulary, (length,), generator=generator).tolist()

    lengths = torch.randint(reply[0], reply[-1] + 1, (count,), generator=generator).tolist()
    return [Example(f"pair{i}", words(prompt), words(teacher_prompt), words(n)) for i, n in enumerate(lengths)]
