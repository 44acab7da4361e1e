"""What a backend has to agree in, whichever loads the model."""

from __future__ import annotations

import torch
import transformers

from ssb_unsloth.pocket import MODEL_DIR

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 528,  # as many as the pocket's tokenizer has, which gives the tests their ids
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOLERANCE = {"float32": 1e-5, "float16": 1e-2}
# What test_unsloth.py runs.
# The fused LoRA kernels run in half precision, which is float16 here: the interpreter has no arithmetic for bfloat16.
FAST = [("qwen2", "float32"), ("qwen2", "float16")]
SLOW = [(family, dtype) for family in ("llama", "gemma", "qwen3") for dtype in ("float32", "float16")]
SLOW.append(("gemma3_text", "float32"))  # in float16 its states overflow


def save_tiny(family, folder):
    config = transformers.AutoConfig.for_model(family, **SHAPE, tie_word_embeddings=family != "llama")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # wider than the usual start, so that distributions are far from uniform
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(folder)


def close(found, expected, relative):
    """By the size of the whole: single entries near zero cancel."""
    assert found.shape == expected.shape
    assert (found.double() - expected.double()).norm() <= relative * expected.double().norm() + 1e-12


def check_training(theirs, ours, dtype, losses=None):
    """The same first adapter, five losses (`losses`: their tolerance, if another), and where the steps led."""
    firsts = [name for name in theirs if name.startswith("first")]
    assert firsts
    for name in firsts:
        assert torch.equal(ours[name], theirs[name]), name
    assert len(theirs["losses"]) == 5
    close(ours["losses"], theirs["losses"], losses or TOLERANCE[dtype])
    step, expected = (
        torch.cat([f[name].flatten() for name in sorted(f) if name.startswith("update")]) for f in (ours, theirs)
    )
    assert torch.cosine_similarity(step, expected, dim=0) >= (0.9999 if dtype == "float32" and losses is None else 0.99)
