"""`preset: author_code` against the paper's, and against the released trainer, written here once more."""

import random
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from training import inputs_of
from transformers import Trainer, TrainingArguments, set_seed

from ssb_unsloth.backends.chat_template import render
from ssb_unsloth.backends.transformers import add_lora, load_model
from ssb_unsloth.method.curate import choose
from ssb_unsloth.method.examples import render_examples
from ssb_unsloth.method.modeling import hidden_states
from ssb_unsloth.prompts import PAPER, refinement_messages, student_messages, teacher_messages, texts
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import SEVEN, ModelConfig, PromptsConfig, Recipe
from ssb_unsloth.records import Pair, Problem, Rollout
from ssb_unsloth.training.ssb import train_ssb
from ssb_unsloth.verifier.verifiers import verifier_for

RELEASED = texts("released")
QUESTIONS = [f"Mia has {n} shells. Tom gives {n - 1} to Mia. How many shells does Mia have now?" for n in range(2, 10)]
CAUTIONS = ["Careful: gives to Mia means more.", "Do not subtract.", "", "It is a sum, since Mia gets them, not Tom."]


def recipe(tmp_path, lines="", **overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: x\nmodel: {{name: pocket}}\nproblems: {{source: pocket}}\n{lines}\n")
    return load(path, [f"{key}={value}" for key, value in overrides.items()])


# -- What the preset is ------------------------------------------------------------------------------------------------

DIFFERENCES = {  # every key by which the presets differ, with both values; docs/presets.md explains them
    "prompts.wording": ("paper", "released"),
    "prompts.student": ("chat", "joined"),
    "prompts.reply": ("sampled", "retokenized"),
    "curate.rollout.top_k": (0, 50),
    "curate.rollout.top_p": (1.0, 0.8),
    "curate.rollout.repetition_penalty": (1.0, 1.05),
    "curate.refine.top_k": (0, 50),
    "curate.refine.top_p": (1.0, 0.8),
    "curate.refine.repetition_penalty": (1.0, 1.05),
    "curate.contrast": ("random", "first"),
    "curate.unboxed": ("wrong", "excluded"),
    "curate.equality": ("math", "string"),
    "train.denominator": ("example", "token"),
    "train.lora.dtype": ("float32", "model"),
}


def flat(tree, path=""):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def test_the_presets_differ_in_these_keys_alone(tmp_path):
    paper, released = (dict(flat(asdict(recipe(tmp_path, preset=p)))) for p in ("paper", "author_code"))
    differing = {key: (paper[key], released[key]) for key in paper if paper[key] != released[key]}
    assert differing.pop("preset") == ("paper", "author_code")
    assert differing == DIFFERENCES
    assert (paper["curate.rollout.temperature"], released["curate.refine.temperature"]) == (0.8, 0.4)
    unsaid = dict(flat(asdict(recipe(tmp_path))))
    assert unsaid == paper


def test_the_recipes_own_keys_win(tmp_path):
    mine = recipe(tmp_path, "preset: author_code\ncurate: {rollout: {top_k: 7}}", **{"train.denominator": "example"})
    assert mine.curate.rollout.top_k == 7
    assert mine.curate.rollout.top_p == 0.8
    assert mine.train.denominator == "example"
    assert mine.curate.contrast == "first"


def test_docs_have_a_row_for_every_key():
    table = (Path(__file__).parents[2] / "docs" / "presets.md").read_text(encoding="utf-8")
    assert [key for key in DIFFERENCES if f"`{key}`" not in table] == []


# -- Prompts -----------------------------------------------------------------------------------------------------------


def test_the_released_wording_is_the_papers_but_for_these_places():
    released = " ".join(RELEASED.refine.split())
    paper = " ".join(PAPER.refine.split())
    for ours, theirs in (
        ("is correct, and the other", "is correct and the other"),
        (r"inside \boxed{} in", "inside boxed in"),
        ("-----", "---"),
        ("response, and make it as detailed as possible", "response and make it as detailed as posible"),
        (r"enclosed in \boxed{}", "enclosed in boxed"),
    ):
        assert ours in paper
        paper = paper.replace(ours, theirs)
    assert released == paper
    lines = RELEASED.refine.split("\n")
    assert {line[:12] for line in lines[1:]} == {" " * 12, ""}
    assert lines[-1] == " " * 12
    assert RELEASED.tutor == PAPER.tutor.replace(r"`\boxed{...}`", r"\boxed{}")


def test_trailing_blanks_stand_where_the_released_code_samples_and_not_where_it_computes_logits():
    seen, taught = refinement_messages("Q", "R", "W", RELEASED), teacher_messages("Q", "R", "W", RELEASED)
    assert seen[0]["content"] == taught[0]["content"] + "\n" + " " * 12
    assert seen[1] == taught[1]
    assert refinement_messages("Q", "R", "W") == teacher_messages("Q", "R", "W")


@pytest.mark.parametrize("given", [PAPER, RELEASED])
def test_the_length_probe_asks_in_the_wording_it_is_given(tokenizer, monkeypatch, given):
    from ssb_unsloth.training import callbacks as stage

    asked, logged = [], []

    class Sampler(stage.TransformersSampler):
        def sample(self, requests, *words, **more):
            asked.extend(requests)
            return super().sample(requests, *words, **more)

    monkeypatch.setattr(stage, "TransformersSampler", Sampler)
    monkeypatch.setattr(stage.Trainer, "log", lambda self, row: logged.append(row))
    model = get_peft_model(load_model(ModelConfig(name="pocket", dtype="float32")), LoraConfig(r=2))
    probe = stage.LengthProbe(SimpleNamespace(model=model), tokenizer, [Problem("p", "What is 1+1?", "2")], 1, 3, given)
    probe.on_train_begin(None, SimpleNamespace(global_step=0), None)
    assert [request.prompt_ids for request in asked] == [render(tokenizer, student_messages("What is 1+1?", given))]
    assert [row["reply_tokens"] for row in logged] == [3.0]


def test_a_hint_can_be_left_out_of_the_released_wording_too():
    both = teacher_messages("Q", "R", "W", RELEASED)[1]["content"]
    alone = teacher_messages("Q", "R", None, RELEASED)[1]["content"]
    assert "incorrect by auto-evaluator" in both
    assert "incorrect by auto-evaluator" not in alone
    assert alone.count("---") == 4


# -- Contrast ----------------------------------------------------------------------------------------------------------


def rollout(k, verdict, answer):
    return Rollout(f"q-rollout-{k}", "q", f"reply {k}", None, "stop", None, verdict, answer)


def released_choice(rollouts, gold, rng):
    """The released rule, on boxed answers alone: ids of the right and the wrong rollout, or None."""
    right = [r for r in rollouts if r.answer == gold]
    wrong = [r for r in rollouts if r.answer is not None and r.answer != gold]
    if not right or not wrong:
        return None
    counts: dict = {}
    for r in wrong:
        counts[r.answer] = counts.get(r.answer, 0) + 1
    most = max(counts.values())
    answer = next(a for a, n in counts.items() if n == most) if most > 1 else rng.choice(list(counts))
    return right[0].id, next(r.id for r in wrong if r.answer == answer)


def test_the_first_right_and_the_first_with_the_modal_wrong_answer():
    for seed in range(300):
        draw = random.Random(seed)
        answers = [draw.choice(["12", "6", "6.0", "7", None]) for _ in range(draw.choice([4, 8]))]
        verdicts = ["no_answer" if a is None else "right" if a == "12" else "wrong" for a in answers]
        rollouts = [rollout(k, v, a) for k, (v, a) in enumerate(zip(verdicts, answers, strict=True))]
        shown = choose(rollouts, random.Random(seed), "first", "excluded")
        expected = released_choice(rollouts, "12", random.Random(seed))
        assert (shown and (shown.right.id, shown.wrong.id)) == expected


def test_an_unboxed_rollout_makes_a_question_mixed_in_the_paper_only():
    rollouts = [rollout(0, "right", "12"), rollout(1, "no_answer", None)]
    assert choose(rollouts, random.Random(0)) is not None
    assert choose(rollouts, random.Random(0), "first", "excluded") is None


@pytest.mark.parametrize(("answer", "gold"), [("5,600", "5600"), (r"\$18", "18"), ("18.00", "18")])
def test_string_equality_calls_these_right_answers_wrong(answer, gold):
    grade = verifier_for("math").grade
    reply = f"So \\boxed{{{answer}}}."
    assert grade(reply, gold).verdict == "right"
    assert grade(reply, gold, exact=True).verdict == "wrong"
    assert grade(f"\\boxed{{{gold}}}", gold, exact=True).verdict == "right"


# -- Losses ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tokenizer):
    """Pairs with replies of different lengths, as a sampler gives them: end of turn included."""
    made = []
    for n, question in enumerate(QUESTIONS, start=2):
        reply = f"Mia has {n}+{n - 1}={2 * n - 1}. {CAUTIONS[n % 4]}The answer is \\boxed{{{2 * n - 1}}}."
        ids = [*tokenizer.encode(reply), tokenizer.eos_token_id]
        right, wrong = f"\\boxed{{{2 * n - 1}}}", f"{n}-{n - 1}=1. \\boxed{{1}}"
        made.append(Pair(f"pair{n}", f"q{n}", question, str(2 * n - 1), right, wrong, reply, ids, "", "", ""))
    return made


def losses(tmp_path, tokenizer, make_model, pairs, *lines, **overrides):
    """The loss of every step under a recipe: four pairs a step, three epochs, teacher on line."""
    settings = {"train.logging_steps": 1, "train.learning_rate": 1e-2, "seed": 42, **overrides}
    chosen = recipe(tmp_path, "\n".join(lines), **settings)
    given = inputs_of(tempfile.mkdtemp(dir=tmp_path), recipe=chosen, tokenizer=tokenizer, pairs=pairs, probes=[])
    student = add_lora(make_model("qwen2"), chosen.train.lora, chosen.seed, gradient_checkpointing=False)
    return [row["loss"] for row in train_ssb(given, student, None).history if "loss" in row]


class ReleasedTrainer(Trainer):
    """The released code's loss: dense logits of question + reply, a mask, and the mean over all its tokens times T²."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        student = torch.log_softmax(logits / 2.0, dim=-1)[inputs["mask"]]
        teacher = torch.softmax(inputs["teacher_logits"] / 2.0, dim=-1)[inputs["mask"]]
        return F.kl_div(student, teacher, reduction="batchmean") * 4.0


def released_rows(model, tokenizer, pairs):
    """Token ids and teacher logits of every pair, from text, as the released code makes them."""
    rows = []
    for pair in pairs:
        system, user = student_messages(pair.question, RELEASED)
        asked = tokenizer(f"{system['content']} {user['content']}".strip())["input_ids"]
        hinted = tokenizer.apply_chat_template(
            teacher_messages(pair.question, pair.right, pair.wrong, RELEASED),
            tokenize=False,
            add_generation_prompt=True,
        )
        prompt, reply = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (hinted, pair.reply))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + reply])).logits[0]
        rows.append({"asked": asked, "reply": reply, "logits": logits[len(prompt) - 1 : len(prompt) + len(reply) - 1]})
    return rows


def released_batch(rows):
    width, words = max(len(r["asked"]) + len(r["reply"]) for r in rows), rows[0]["logits"].shape[-1]
    batch = {
        "input_ids": torch.zeros(len(rows), width, dtype=torch.long),
        "attention_mask": torch.zeros(len(rows), width, dtype=torch.long),
        "mask": torch.zeros(len(rows), width, dtype=torch.bool),
        "teacher_logits": torch.zeros(len(rows), width, words),
    }
    for b, r in enumerate(rows):
        first, length = len(r["asked"]) - 1, len(r["asked"]) + len(r["reply"])
        batch["input_ids"][b, :length] = torch.tensor(r["asked"] + r["reply"])
        batch["attention_mask"][b, :length] = 1
        batch["mask"][b, first : length - 1] = True
        batch["teacher_logits"][b, first : length - 1] = r["logits"]
    return batch


def released_losses(tmp_path, tokenizer, make_model, pairs):
    model = make_model("qwen2")
    rows = released_rows(model, tokenizer, pairs)
    chosen = recipe(tmp_path).train.lora
    set_seed(42)
    student = get_peft_model(model, LoraConfig(r=chosen.r, lora_alpha=chosen.alpha, target_modules=list(SEVEN)))
    trainer = ReleasedTrainer(
        student,
        TrainingArguments(
            output_dir=str(tmp_path / "released"),
            per_device_train_batch_size=4,
            num_train_epochs=3,
            learning_rate=1e-2,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=42,
            data_seed=42,
        ),
        train_dataset=rows,
        data_collator=released_batch,
    )
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_author_code_trains_as_the_released_trainer_does_on_the_same_pairs(tmp_path, tokenizer, make_model, pairs):
    ours = losses(tmp_path, tokenizer, make_model, pairs, "preset: author_code")
    theirs = released_losses(tmp_path, tokenizer, make_model, pairs)
    assert len(ours) == 6
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours[-1] < 0.9 * ours[0]


def test_the_papers_preset_trains_by_another_loss_on_the_same_pairs(tmp_path, tokenizer, make_model, pairs):
    ours = losses(tmp_path, tokenizer, make_model, pairs)
    theirs = released_losses(tmp_path, tokenizer, make_model, pairs)
    assert min(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True)) > 1e-3


CHANGES_THE_LOSS = {
    "prompts.wording": "released",  # other context for both
    "prompts.student": "joined",  # other context for the student
    "prompts.reply": "retokenized",  # the row that predicts the end of turn is gone
    "train.denominator": "token",  # a long reply weighs more
}


@pytest.mark.parametrize("key", CHANGES_THE_LOSS)
def test_each_of_these_choices_alone_changes_the_loss(tmp_path, tokenizer, make_model, pairs, key):
    once = {"train.epochs": 1}
    paper = losses(tmp_path, tokenizer, make_model, pairs, **once)
    changed = losses(tmp_path, tokenizer, make_model, pairs, **once, **{key: CHANGES_THE_LOSS[key]})
    assert abs(changed[0] / paper[0] - 1) > 1e-4


def test_where_the_choices_make_no_difference(tmp_path, tokenizer, make_model, pairs):
    """Replies of one length have one mean; LoRA in the model's dtype is float32 where the model is."""
    alike = [Pair(**{**asdict(pairs[0]), "id": f"p{n}", "question": q}) for n, q in enumerate(QUESTIONS)]
    paper = losses(tmp_path, tokenizer, make_model, alike)
    for change in ({"train.denominator": "token"}, {"train.lora.dtype": "model"}):
        assert losses(tmp_path, tokenizer, make_model, alike, **change) == pytest.approx(paper, rel=1e-5)
    # Finished messages are shown as they are, whatever the wording.
    shown = [
        Pair(
            **{
                **asdict(p),
                "prompt": student_messages(p.question),
                "teacher_prompt": teacher_messages(p.question, p.right, p.wrong),
            }
        )
        for p in alike
    ]
    released = losses(tmp_path, tokenizer, make_model, shown, **{"prompts.wording": "released"})
    assert released == pytest.approx(paper, rel=1e-6)


def test_all_rows_but_the_end_of_turn_are_the_same_rows(tokenizer, make_model, pairs):
    """The replies re-tokenize to the sampler's ids here, so `author_code` only drops one row of each."""
    for pair in pairs:
        (sampled,) = render_examples(Recipe(), [pair], tokenizer)
        (again,) = render_examples(Recipe(prompts=PromptsConfig(reply="retokenized")), [pair], tokenizer)
        assert sampled.reply_ids == [*again.reply_ids, tokenizer.eos_token_id]
        assert (sampled.student_ids, sampled.teacher_ids) == (again.student_ids, again.teacher_ids)
    ids = torch.tensor([sampled.teacher_ids + sampled.reply_ids])
    model, start = make_model("qwen2"), len(sampled.teacher_ids) - 1
    with torch.no_grad():
        rows = [hidden_states(model, x, torch.ones_like(x))[0, start:-1] for x in (ids, ids[:, :-1])]
    torch.testing.assert_close(rows[0][:-1], rows[1])


def test_lora_weights_are_float32_and_under_author_code_of_the_models_dtype(tmp_path, tokenizer, make_model, pairs):
    from safetensors.torch import load_file

    for dtype, expected in (("float32", torch.float32), ("model", torch.bfloat16)):
        chosen = recipe(tmp_path, **{"train.lora.dtype": dtype, "train.epochs": 1, "train.save_steps": 1000}).train
        made = render_examples(Recipe(), pairs[:4], tokenizer)
        student = add_lora(make_model("qwen2").to(torch.bfloat16), chosen.lora, 1, gradient_checkpointing=False)
        train_ssb(
            inputs_of(tmp_path / dtype, chosen, seed=1, tokenizer=tokenizer, examples=made, probes=[]), student, None
        )
        kept = load_file(tmp_path / dtype / "adapter" / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in kept.values()} == {expected}
