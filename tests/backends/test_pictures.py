"""Checkpoints for text and pictures: through the class that they need, and their language part is what is trained."""

from pathlib import Path

import pictures
import pytest
import torch
from peft import PeftModel

from ssb_unsloth.backends import transformers as backend
from ssb_unsloth.backends.adapters import assert_fits
from ssb_unsloth.backends.sampler import Adapter, Request
from ssb_unsloth.backends.transformers import add_lora, load_model, load_tokenizer, save_merged
from ssb_unsloth.backends.transformers_sampler import TransformersSampler
from ssb_unsloth.errors import UserError
from ssb_unsloth.machine.geometry import geometry
from ssb_unsloth.machine.lora_targets import select
from ssb_unsloth.method.collator import make_view
from ssb_unsloth.method.losses import head_logits
from ssb_unsloth.method.modeling import as_teacher, output_head, reply_states
from ssb_unsloth.method.selfchecks import check_arithmetic, check_head, skeleton
from ssb_unsloth.recipe.schema import LoraConfig, ModelConfig, SamplingConfig

PROMPTS, REPLIES = [[5, 9, 13], [7, 8]], [[21, 22, 23, 24], [30, 31, 32]]


OTHERS = pytest.param("qwen3_vl", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["gemma3", "mistral3", "qwen2_5_vl", OTHERS])
def base(request, tmp_path_factory):
    return ModelConfig(name=str(pictures.write(request.param, tmp_path_factory.mktemp(request.param))), dtype="float32")


def dense(model, view):
    """The model's own logits, at the same rows."""
    logits = model(input_ids=view.input_ids, attention_mask=view.attention_mask, use_cache=False).logits
    return view.reply_rows(logits)


def test_its_language_part_is_found_taught_trained_saved_and_merged(base, tmp_path):
    model = load_model(base)
    assert type(model).__name__.endswith("ForConditionalGeneration")
    check_head(model, list(range(3, 40)))
    check_arithmetic(skeleton(base), base.name)
    view = make_view(PROMPTS, REPLIES, 0)
    with torch.no_grad():
        before = dense(model, view)
        torch.testing.assert_close(head_logits(reply_states(model, view), output_head(model)), before)
    layers = select(model).targets
    g, _ = geometry(base)
    assert g.parameters == sum(p.numel() for p in model.parameters())
    assert g.targets("auto") == layers
    assert g.lora_parameters(4, "auto") == 4 * sum(a + b for a, b in layers.values())

    lora = LoraConfig(r=4, alpha=8, target_modules=list(layers))
    student = add_lora(model, lora, seed=0, gradient_checkpointing=False)
    trained = {n: p for n, p in student.named_parameters() if p.requires_grad}
    assert all("language_model.layers." in name for name in trained)
    assert sum(p.numel() for p in trained.values()) == g.lora_parameters(4, "auto")
    optimizer = torch.optim.SGD(trained.values(), lr=1.0)
    for _ in range(2):  # the first moves B, the second both
        (reply_states(student, view) @ output_head(student).weight.T).square().mean().backward()
        optimizer.step()
    with torch.no_grad(), as_teacher(student):
        torch.testing.assert_close(dense(student, view), before)
    with torch.no_grad():
        after = dense(student, view)
    assert (after - before).abs().max() > 1e-3
    student.save_pretrained(tmp_path / "adapter")
    assert_fits(base, tmp_path / "adapter", "vllm")

    again = PeftModel.from_pretrained(load_model(base), str(tmp_path / "adapter")).eval()
    save_merged(base, tmp_path / "adapter", tmp_path / "merged", "float32")
    merged = load_model(ModelConfig(name=str(tmp_path / "merged"), dtype="float32"))
    assert type(merged) is type(again.get_base_model())
    with torch.no_grad():
        torch.testing.assert_close(dense(again, view), after)
        torch.testing.assert_close(dense(merged, view), after, rtol=1e-4, atol=1e-5)


def test_a_sampler_of_plain_transformers_puts_the_adapter_on(base, tmp_path):
    model = load_model(base)
    student = add_lora(model, LoraConfig(r=4, target_modules=list(select(model).targets)), 0, False)
    for name, parameter in student.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, generator=torch.Generator().manual_seed(1))
    student.save_pretrained(tmp_path / "adapter")
    sampler = TransformersSampler(load_model(base), load_tokenizer(base), batch_size=4)
    requests = [Request([5, 9, 13], 1), Request([7, 8], 2)]
    decoding = SamplingConfig(temperature=0.0, max_tokens=8)
    alone = [c.token_ids for c in sampler.sample(requests, decoding)]
    put_on = [c.token_ids for c in sampler.sample(requests, decoding, Adapter("own", tmp_path / "adapter"))]
    assert alone == [c.token_ids for c in sampler.sample(requests, decoding)]
    assert alone != put_on


def test_what_a_checkpoint_says_of_its_pictures_goes_with_the_merged_model(base, tmp_path):
    (Path(base.name) / "preprocessor_config.json").write_text('{"size": 4}')
    save_merged(base, None, tmp_path / "merged", "float32")
    assert (tmp_path / "merged" / "preprocessor_config.json").read_text() == '{"size": 4}'
    assert set(backend.PROCESSORS) - {p.name for p in (tmp_path / "merged").iterdir()} == set(backend.PROCESSORS[::2])
    (Path(base.name) / "preprocessor_config.json").unlink()


def test_a_text_beyond_the_models_positions_is_refused(base):
    model = load_model(base)
    model.config.get_text_config().max_position_embeddings = 6
    view = make_view(PROMPTS[1:], REPLIES[1:], 0)
    reply_states(model, view)
    longer = make_view(PROMPTS, REPLIES, 0)
    with pytest.raises(UserError, match="7 tokens is longer than the 6 that the model has positions for"):
        reply_states(model, longer)
