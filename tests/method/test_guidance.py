"""Guidance: the base moved by what a hint changes, in hidden space and in logits, stored and on line."""

import math

import pytest
import torch
from training import LORA, make_trainer
from transformers import AutoConfig, AutoModelForCausalLM

from ssb_unsloth.errors import UserError
from ssb_unsloth.method.collator import Example, PairCollator, contexts
from ssb_unsloth.method.distributions import TeacherLogits, TeacherTopK
from ssb_unsloth.method.guidance import first_change, guided, states, teacher_rows
from ssb_unsloth.method.losses import head_logits, kd_loss, row_weights
from ssb_unsloth.method.modeling import as_teacher, output_head
from ssb_unsloth.method.targets import Targets, TargetWriter
from ssb_unsloth.method.teach import teach
from ssb_unsloth.recipe.schema import TeachConfig
from ssb_unsloth.training.trainer import SSBTrainer

FAMILIES = ["qwen2", "llama", "gemma2", "cohere", "granite", "phi"]  # a cap, two scales, and a head with a bias


def make(make_model, family):
    if family != "phi":
        return make_model(family)
    config = AutoConfig.for_model(
        "phi", vocab_size=528, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
            if name == "lm_head.bias":
                parameter.normal_(std=2)
    return model


def make_examples(n=5, **fields):
    generator = torch.Generator().manual_seed(1)

    def draw(length):
        return torch.randint(3, 500, (length,), generator=generator).tolist()

    return [Example(f"pair{i}", draw(4 + i), draw(9 + 3 * i), draw(3 + 2 * i), draw(6 + i), **fields) for i in range(n)]


def logits_of(model, prompt, reply):
    """The model's own logits [R, V] of the reply's tokens, from one plain forward pass."""
    with torch.no_grad():
        out = model(input_ids=torch.tensor([[*prompt, *reply]])).logits[0].double()
    return out[len(prompt) - 1 : len(prompt) + len(reply) - 1]


def expected_of(model, example, a):
    """t* = s + a (t_hint - t_none), from three plain passes."""
    bare, hinted, unhinted = (
        logits_of(model, prompt, example.reply_ids)
        for prompt in (example.student_ids, example.teacher_ids, example.unhinted_ids)
    )
    return bare + a * (hinted - unhinted)


def store(model, examples, folder, config):
    folder.mkdir(exist_ok=True)
    writer = TargetWriter(folder)
    told = teach(model, examples, config, 2.0, 0, writer)
    writer.close({"targets": config.targets, "temperature": 2.0 if config.targets == "top_k" else None})
    return Targets(folder), told


@pytest.mark.parametrize("a", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_bare_logits_moved_by_what_the_hint_changes(make_model, tmp_path, family, a):
    """Of stored vectors where the head is linear, with bias and scale; else of stored logits."""
    model, examples = make(make_model, family), make_examples()
    head = output_head(model)
    kind = "logits" if head.softcap else "hidden"
    targets, told = store(model, examples, tmp_path, TeachConfig(targets=kind, guidance=a, batch_tokens=64))
    for example in examples:
        rows = targets([example.id])
        found = rows.logits if isinstance(rows, TeacherLogits) else head_logits(rows, head)
        expected = expected_of(model, example, a)
        assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()
    prompts = sum(len(e.student_ids) + len(e.teacher_ids) + len(e.unhinted_ids) for e in examples)
    assert told.tokens == prompts + 3 * sum(len(e.reply_ids) for e in examples)


def test_a_capped_head_has_no_hidden_states_for_it(make_model, tmp_path):
    model = make_model("gemma2")
    with pytest.raises(UserError, match=r"teach.targets: hidden.*caps its logits.*logits, top_k or online"):
        store(model, make_examples(), tmp_path, TeachConfig(guidance=1.0))
    store(model, make_examples(), tmp_path, TeachConfig())  # the hinted teacher has


@pytest.mark.parametrize("family", FAMILIES)
def test_with_no_guidance_there_is_no_gradient(make_model, family):
    model, examples = make(make_model, family), make_examples()
    head = output_head(model)
    with as_teacher(model):
        known = states(model, contexts(examples, 0, guided=True))
        teacher = teacher_rows(known, 0.0, head)
    student = known.bare.clone().requires_grad_()
    weights = row_weights(torch.tensor([len(e.reply_ids) for e in examples]))
    out = kd_loss(student, teacher, head, weights, temperature=2.0)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(0, abs=1e-6)
    assert student.grad.norm() < 1e-5


def test_without_a_manner_it_is_the_hinted_teacher(make_model):
    """Where the unhinted context is the bare one, a = 1 leaves the hinted logits alone."""
    model = make_model("llama")
    examples = [Example(e.id, e.student_ids, e.teacher_ids, e.reply_ids, e.student_ids) for e in make_examples()]
    with as_teacher(model):
        known = states(model, contexts(examples, 0, guided=True))
    torch.testing.assert_close(teacher_rows(known, 1.0, output_head(model)), known.hinted, rtol=1e-5, atol=1e-5)


def test_what_half_precision_costs(make_model):
    """h* rounded to bf16, as the head receives it, against the logits of t* in float32 from the same states: at a
    temperature of 2 the KL of that rounding is a small part of what guidance teaches."""
    model, examples = make_model("llama").to(torch.bfloat16), make_examples()
    head = output_head(model)
    with as_teacher(model):
        known = states(model, contexts(examples, 0, guided=True))
    stored = teacher_rows(known, 1.0, head)
    assert stored.dtype == torch.bfloat16
    wide = [rows.float() @ head.weight.float().T for rows in (known.bare, known.hinted, known.unhinted)]
    exact, rounded, bare = (
        (x / 2).log_softmax(-1) for x in (guided(tuple(wide), 1.0), head_logits(stored, head), wide[0])
    )

    def kl(p, q):
        return (p.exp() * (p - q)).sum(-1).mean().item()

    assert kl(exact, rounded) < 2e-4 * kl(exact, bare)


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
@pytest.mark.parametrize("kind", ["hidden", "logits", "top_k"])
def test_stored_or_on_line_the_loss_is_the_same(make_model, tokenizer, tmp_path, family, kind):
    if (family, kind) == ("gemma2", "hidden"):
        kind = "logits"
    examples = make_examples()
    config = TeachConfig(targets=kind, guidance=1.5, top_k=528)
    targets, _ = store(make_model(family), examples, tmp_path / "targets", config)
    losses = []
    for given in (targets, None):
        trainer = make_trainer(make_model(family), tokenizer, tmp_path, examples, given, guidance=1.5)
        batch = trainer.data_collator(examples)
        losses.append(trainer.compute_loss(trainer.model, batch).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] > 0.01


def test_guidance_on_line_needs_the_third_prompt(make_model, tokenizer, tmp_path):
    rows = [{"prompt": "ab", "teacher_prompt": "abc", "reply": "d"}]
    with pytest.raises(UserError, match=r"Row 0 of the data set has no unhinted_prompt; guidance needs"):
        make_trainer(make_model("qwen2"), tokenizer, tmp_path, rows, guidance=1.0)
    rows[0]["unhinted_prompt"] = "abcd"
    trainer = make_trainer(make_model("qwen2"), tokenizer, tmp_path, rows, guidance=1.0)
    (example,) = trainer.train_dataset
    assert tokenizer.decode(example.unhinted_ids) == "abcd"
    assert isinstance(trainer, SSBTrainer)
    rows[0]["unhinted_prompt"] = [{"role": "user", "content": "x"}]
    with pytest.raises(UserError, match="unhinted_prompt one is text and another messages"):
        make_trainer(make_model("qwen2"), tokenizer, tmp_path, rows, guidance=1.0)


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, True, "1"])
def test_what_is_no_guidance(wrong, make_model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"guidance: .* is neither a number above 0 nor None"):
        make_trainer(make_model("qwen2"), tokenizer, tmp_path, make_examples(), guidance=wrong)


# -- Windows


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_a_window_begins_where_hinted_and_bare_part(make_model, tmp_path, family):
    model, examples = make_model(family), make_examples(8)
    same = Example("same", examples[0].student_ids, examples[0].student_ids, examples[0].reply_ids)
    config = TeachConfig(window=2)
    targets, _ = store(model, [*examples, same], tmp_path, config)
    for example in examples:
        words = [
            logits_of(model, prompt, example.reply_ids).argmax(-1).tolist()
            for prompt in (example.teacher_ids, example.student_ids)
        ]
        parted = [hinted != bare for hinted, bare in zip(*words, strict=True)]
        assert targets.starts[example.id] == (parted.index(True) if True in parted else len(parted))
    assert targets.starts["same"] == len(same.reply_ids)


def test_the_first_change_is_no_token_late_or_early():
    head = output_head_of_identity(4)
    bare = torch.eye(4)[[0, 1, 2, 3]]
    for place in range(4):
        hinted = bare.clone()
        hinted[place] = torch.eye(4)[(place + 1) % 4]
        assert first_change(hinted, bare, head) == place
    assert first_change(bare, bare, head) == 4


def output_head_of_identity(n):
    from ssb_unsloth.method.distributions import Head

    return Head(torch.eye(n))


def test_the_collator_counts_the_windows_tokens():
    examples = [
        Example("a", [1], [1, 2], [5, 6, 7, 8]),
        Example("b", [1], [2], [9, 9]),
        Example("c", [1], [2], [4, 4, 4], taught=False),
        Example("d", [1], [2], [6, 6, 6]),
    ]
    starts = {"a": 1, "b": 1, "d": 3}
    batch = PairCollator(0, lambda ids: ids, window=2, starts=starts)(examples)
    expected = [[False, True, True, False], [False, True], [True] * 3, [False] * 3]
    assert batch["counted"].tolist() == [token for row in expected for token in row]
    assert batch["targets"] == ["a", "b", "d"]
    assert batch["own"].tolist() == [False] * 6 + [True] * 3 + [False] * 3


@pytest.mark.parametrize("denominator", ["example", "token"])
def test_only_the_windows_tokens_teach(make_model, tokenizer, tmp_path, denominator):
    """The loss of a batch, by hand from each token's KL; and over micro-batches as over the whole."""
    model, examples = make_model("qwen2"), make_examples()
    targets, _ = store(model, examples, tmp_path / "targets", TeachConfig(window=2))
    targets.starts = {e.id: min(i, len(e.reply_ids) - 1) for i, e in enumerate(examples)}
    trainer = make_trainer(
        make_model("qwen2"), tokenizer, tmp_path, examples, targets, window=2, denominator=denominator
    )
    total, shares = 0.0, []
    for example in examples:
        hinted, bare = (
            (logits_of(model, prompt, example.reply_ids) / 2).log_softmax(-1)
            for prompt in (example.teacher_ids, example.student_ids)
        )
        kl = (hinted.exp() * (hinted - bare)).sum(-1)
        start = targets.starts[example.id]
        shares.append(kl[start : start + 2])
        total += len(shares[-1])
    expected = sum(s.mean().item() for s in shares) / len(shares)
    if denominator == "token":
        expected = sum(s.sum().item() for s in shares) / total
    batches, items = trainer.get_batch_samples(
        iter([trainer.data_collator([e]) for e in examples]), 5, torch.device("cpu")
    )
    found = sum(trainer.compute_loss(trainer.model, batch, num_items_in_batch=items).item() for batch in batches)
    assert found == pytest.approx(4 * expected, rel=1e-4)


def test_a_window_needs_targets_that_know_where(make_model, tokenizer, tmp_path):
    with pytest.raises(UserError, match="window: needs stored targets"):
        make_trainer(make_model("qwen2"), tokenizer, tmp_path, make_examples(), window=3)
    with pytest.raises(ValueError, match="window: 0 is neither a whole number above 0 nor None"):
        make_trainer(make_model("qwen2"), tokenizer, tmp_path, make_examples(), window=0)


# -- Replies that are taught by their own tokens, and weights of questions


def test_own_tokens_and_teacher_stand_in_one_loss(make_model, tokenizer, tmp_path):
    """T² cross-entropy at T of the one example's own tokens, T² KL of the other's; the mean over both, by hand."""
    model = make_model("qwen2")
    one, two, *_ = make_examples()
    one = Example(one.id, one.student_ids, one.teacher_ids, one.reply_ids, taught=False)
    targets, told = store(model, [one, two], tmp_path / "targets", TeachConfig())
    assert told.tokens == len(two.teacher_ids) + len(two.reply_ids)
    trainer = make_trainer(make_model("qwen2"), tokenizer, tmp_path, [one, two], targets)
    bare = (logits_of(model, one.student_ids, one.reply_ids) / 2).log_softmax(-1)
    own = -bare[torch.arange(len(one.reply_ids)), one.reply_ids].mean()
    hinted, s = (
        (logits_of(model, prompt, two.reply_ids) / 2).log_softmax(-1) for prompt in (two.teacher_ids, two.student_ids)
    )
    kl = (hinted.exp() * (hinted - s)).sum(-1).mean()
    found = trainer.compute_loss(trainer.model, trainer.data_collator([one, two]))
    assert found.item() == pytest.approx(4 * (own + kl).item() / 2, rel=1e-4)
    found.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trainer.model.parameters())
    alone = trainer.compute_loss(trainer.model, trainer.data_collator([one]))
    assert alone.item() == pytest.approx(4 * own.item(), rel=1e-4)


def test_a_question_weighs_as_its_example_says(make_model, tokenizer, tmp_path):
    plain = make_examples(2)
    heavy = [
        Example(e.id, e.student_ids, e.teacher_ids, e.reply_ids, weight=w)
        for e, w in zip(plain, (0.5, 1.5), strict=True)
    ]
    trainer = make_trainer(make_model("qwen2"), tokenizer, tmp_path, plain)
    alone = [trainer.compute_loss(trainer.model, trainer.data_collator([e])).item() for e in plain]
    both = trainer.compute_loss(trainer.model, trainer.data_collator(heavy)).item()
    assert both == pytest.approx((0.5 * alone[0] + 1.5 * alone[1]) / 2, rel=1e-4)


def test_one_hot_by_own_tokens_is_the_losss_cross_entropy_at_its_temperature():
    generator = torch.Generator().manual_seed(4)
    logits, words = torch.randn(6, 9, generator=generator), torch.randint(9, (6,), generator=generator)
    from ssb_unsloth.method.distributions import Head

    out = kd_loss(
        logits, TeacherTopK.one_hot(words), Head(torch.eye(9)), row_weights(torch.tensor([6])), temperature=3.0
    )
    expected = 9 * torch.nn.functional.cross_entropy(logits.double() / 3, words)
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_adapter_of_the_tests_is_no_part_of_the_teacher(make_model, tokenizer, tmp_path):
    """On line the three contexts are read with the adapter off, however far the student has gone."""
    examples = make_examples()
    trainer = make_trainer(make_model("qwen2"), tokenizer, tmp_path, examples, guidance=1.0)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    assert LORA["r"] == 4
    head = output_head(trainer.model)
    moved = trainer._teacher(trainer.model, trainer.data_collator(examples), head)
    model = make_model("qwen2")
    expected = torch.cat([expected_of(model, example, 1.0) for example in examples])
    assert (head_logits(moved, head) - expected).abs().max() <= 2e-5 * expected.abs().max()
