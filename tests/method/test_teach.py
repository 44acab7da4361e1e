"""The teacher pass: head(hidden) is the model's own distribution, whatever the architecture does to logits."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open

from ssb_unsloth.backends.wrapped import causal_lm
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.collator import Example
from ssb_unsloth.method.losses import head_logits
from ssb_unsloth.method.modeling import as_teacher, hidden_states, output_head
from ssb_unsloth.method.targets import Targets, TargetWriter, bytes_per_token
from ssb_unsloth.method.teach import teach
from ssb_unsloth.recipe.schema import TeachConfig

FAMILIES = ["qwen2", "llama", "gemma2", "cohere", "granite"]


def make_examples(n=5):
    generator = torch.Generator().manual_seed(1)

    def draw(length):
        return torch.randint(3, 500, (length,), generator=generator).tolist()

    return [Example(f"pair{i}", draw(4 + i), draw(9 + 3 * i), draw(3 + 2 * i)) for i in range(n)]


def with_lora(model, **kwargs):
    peft = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **kwargs)
    )
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    return peft


@pytest.mark.parametrize("family", FAMILIES)
def test_head_of_hidden_states_is_the_models_logits(make_model, family):
    model = make_model(family)
    ids = torch.randint(3, 500, (2, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        ours = head_logits(hidden_states(model, ids, mask), output_head(model))
        torch.testing.assert_close(ours, model(input_ids=ids, attention_mask=mask).logits, rtol=1e-5, atol=1e-5)


def test_the_adapter_is_off_for_the_teacher_and_on_again_afterwards(make_model):
    base = make_model("qwen2")
    ids = torch.arange(3, 15)[None]
    mask = torch.ones_like(ids)
    with torch.no_grad():
        before = hidden_states(base, ids, mask)
        model = with_lora(base, lora_dropout=0.5).train()
        with as_teacher(model):
            assert torch.equal(hidden_states(model, ids, mask), before)
            assert not model.training
        assert model.training
        model.eval()
        assert not torch.allclose(hidden_states(model, ids, mask), before)


@pytest.mark.parametrize("targets", ["hidden", "logits", "top_k", "one_hot"])
def test_targets_are_those_of_each_pair_on_its_own(make_model, tmp_path, targets):
    """Batches by length and padding change nothing, and every reply token has its row, end of turn included."""
    model, examples = make_model("gemma2"), make_examples()
    writer = TargetWriter(tmp_path)
    taught = teach(model, examples, TeachConfig(targets=targets, top_k=5, batch_tokens=60), 2.0, 0, writer)
    writer.close({"targets": targets, "temperature": 2.0})
    assert taught.tokens == sum(len(e.teacher_ids) + len(e.reply_ids) for e in examples)
    stored = Targets(tmp_path)
    for example in examples:
        ids = torch.tensor([example.teacher_ids + example.reply_ids])
        with torch.no_grad():
            logits_RV = model(input_ids=ids).logits[0, len(example.teacher_ids) - 1 : -1]
        found = stored([example.id])
        if targets == "hidden":
            found = head_logits(found, output_head(model))
        elif targets == "logits":
            found = found.logits
        elif targets == "one_hot":
            assert torch.equal(found.indices[:, 0], logits_RV.argmax(-1))
            assert not found.log_p(torch.float32).exp()[:, 1].any()
            continue
        else:
            expected = torch.log_softmax(logits_RV / 2.0, -1).topk(5)
            torch.testing.assert_close(found.values, expected.values, rtol=1e-4, atol=1e-4)
            rest = 1 - expected.values.exp().sum(-1)
            torch.testing.assert_close(found.log_tail.exp(), rest, rtol=1e-3, atol=1e-5)
            continue
        torch.testing.assert_close(found, logits_RV, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_each_pair_gets_exactly_one_pass_and_its_rows_are_those_of_a_pass_alone(
    make_model, tmp_path, batch_tokens, dtype, tolerance
):
    model, examples = make_model("qwen2").to(dtype), make_examples(9)
    seen = []
    causal_lm(model).get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((kwargs["input_ids"], kwargs["attention_mask"])), with_kwargs=True
    )
    writer = TargetWriter(tmp_path)
    teach(model, examples, TeachConfig(batch_tokens=batch_tokens), 2.0, 0, writer)
    writer.close({"targets": "hidden", "temperature": None})
    passes = [ids[mask.bool()].tolist() for batch in seen for ids, mask in zip(*batch, strict=True)]
    assert sorted(passes) == sorted(e.teacher_ids + e.reply_ids for e in examples)
    lengths = [int(mask.sum()) for _, masks in seen for mask in masks]
    assert lengths == sorted(lengths)
    assert all(ids.numel() <= batch_tokens or len(ids) == 1 for ids, _ in seen)
    stored = Targets(tmp_path)
    for e in examples:
        ids = torch.tensor([e.teacher_ids + e.reply_ids])
        with torch.no_grad():
            alone = hidden_states(model, ids, torch.ones_like(ids))[0, len(e.teacher_ids) - 1 : -1].float()
        found = stored([e.id])
        assert found.dtype == dtype
        assert ((found.float() - alone).norm(dim=-1) <= tolerance * alone.norm(dim=-1)).all()


@pytest.mark.parametrize("kind", ["hidden", "logits", "top_k", "one_hot"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_takes_the_bytes_that_are_told(make_model, tmp_path, kind, dtype):
    model, examples = make_model("qwen2").to(dtype), make_examples(6)
    writer = TargetWriter(tmp_path)
    teach(model, examples, TeachConfig(targets=kind, top_k=8), 2.0, 0, writer)
    writer.close({"targets": kind, "temperature": 2.0})
    with safe_open(tmp_path / "targets-00000.safetensors", "pt") as shard:
        stored = sum(tensor.nbytes for tensor in map(shard.get_tensor, shard.keys()))
    config = model.config
    told = bytes_per_token(kind, config.hidden_size, config.vocab_size, 8, dtype.itemsize)
    assert stored == told * sum(len(e.reply_ids) for e in examples)


@pytest.mark.parametrize(
    ("kind", "says"),
    [("top_k", "the 8 likeliest words of a token hold "), ("one_hot", "the likeliest word holds "), ("hidden", "")],
)
def test_what_approximate_targets_keep_is_said(make_model, tmp_path, capsys, kind, says):
    writer = TargetWriter(tmp_path)
    taught = teach(make_model("qwen2"), make_examples(3), TeachConfig(targets=kind, top_k=8), 2.0, 0, writer)
    said = capsys.readouterr().err
    assert (f"Approximate targets: {says}" in said) if says else ("Approximate" not in said)
    assert (taught.mean_mass is None) == (kind == "hidden")


@pytest.mark.parametrize("targets", ["hidden", "logits"])
def test_targets_are_read_without_copying(make_model, tmp_path, targets):
    """A pair's tensor lies in the mapped shard: reading it twice gives the same memory."""
    writer = TargetWriter(tmp_path)
    teach(make_model("qwen2"), make_examples(), TeachConfig(targets=targets), 2.0, 0, writer)
    writer.close({"targets": targets, "temperature": None})
    (shard,) = Targets(tmp_path)._shards.values()
    one, other = (shard.get_tensor(f"pair0.{targets}") for _ in range(2))
    assert one.data_ptr() == other.data_ptr()
    spans = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if "targets-00000" in line]
    assert any(low <= one.data_ptr() < high for low, high in ([int(x, 16) for x in s.split("-")] for s in spans))


@pytest.mark.parametrize(("targets", "k"), [("top_k", 5), ("one_hot", 1)])
def test_approximate_targets_say_how_much_mass_they_hold(make_model, tmp_path, capsys, targets, k):
    model, examples = make_model("qwen2"), make_examples()
    taught = teach(model, examples, TeachConfig(targets=targets, top_k=5), 1.5, 0, TargetWriter(tmp_path))
    masses = []
    for e in examples:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([e.teacher_ids + e.reply_ids])).logits[0, len(e.teacher_ids) - 1 : -1]
        masses += (logits.double() / 1.5).softmax(-1).topk(k).values.sum(-1).tolist()
    assert taught.mean_mass == pytest.approx(sum(masses) / len(masses), rel=1e-4)
    assert taught.least_mass == pytest.approx(min(masses), rel=1e-4)
    said = " ".join(capsys.readouterr().err.split())
    assert "Approximate" in said
    assert f"{taught.mean_mass:.1%}" in said
    assert f"{taught.least_mass:.1%}" in said
    with pytest.raises(UserError, match=r"teach.top_k: 529 .* 528 words"):
        teach(model, examples, TeachConfig(targets="top_k", top_k=529), 1.5, 0, TargetWriter(tmp_path))


def test_exact_targets_say_nothing_of_mass(make_model, tmp_path, capsys):
    taught = teach(make_model("qwen2"), make_examples(), TeachConfig(), 2.0, 0, TargetWriter(tmp_path))
    assert taught.mean_mass is taught.least_mass is None
    assert "Approximate" not in capsys.readouterr().err


def test_a_batch_of_targets_is_the_rows_end_to_end(make_model, tmp_path):
    examples = make_examples()
    writer = TargetWriter(tmp_path)
    teach(make_model("qwen2"), examples, TeachConfig(), 2.0, 0, writer)
    writer.close({"targets": "hidden", "temperature": 2.0})
    stored = Targets(tmp_path)
    ids = [examples[3].id, examples[0].id]
    assert torch.equal(stored(ids), torch.cat([stored([i]) for i in ids]))
    with pytest.raises(UserError, match="no pair nobody"):
        stored(["nobody"])


def test_a_store_of_hidden_states_takes_their_bytes_and_little_more(make_model, tmp_path):
    model = make_model("qwen2").to(torch.bfloat16)
    examples = make_examples(40)
    writer = TargetWriter(tmp_path)
    teach(model, examples, TeachConfig(), 2.0, 0, writer)
    writer.close({"targets": "hidden", "temperature": 2.0})
    rows = sum(len(e.reply_ids) for e in examples)
    assert Targets(tmp_path)([examples[0].id]).dtype == torch.bfloat16
    shard = tmp_path / "targets-00000.safetensors"
    header = 8 + int.from_bytes(shard.read_bytes()[:8], "little")
    assert shard.stat().st_size - header == rows * 32 * 2


def test_damaged_or_missing_targets_say_what_to_do(make_model, tmp_path):
    with pytest.raises(UserError, match="ssb teach"):
        Targets(tmp_path)
    writer = TargetWriter(tmp_path)
    teach(make_model("qwen2"), make_examples(), TeachConfig(), 2.0, 0, writer)
    writer.close({"targets": "hidden", "temperature": 2.0})
    shard = tmp_path / "targets-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(UserError, match="--force"):
        Targets(tmp_path)


def test_a_head_under_lora_is_refused(make_model):
    model = get_peft_model(
        make_model("llama"), LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    )
    with pytest.raises(UserError, match="lm_head"):
        output_head(model)
