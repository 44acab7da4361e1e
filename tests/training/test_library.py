"""What a library user may hand to SSBTrainer: it does what was meant, or says in one sentence why not."""

import json

import datasets
import numpy
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from tiny import tiny_model
from transformers import TrainerCallback, TrainingArguments
from trl import SFTConfig

from ssb_unsloth import SSBConfig, SSBTrainer
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.collator import Example
from ssb_unsloth.method.modeling import as_teacher
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.training.rows import examples_from

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
ASKED = [{"role": "user", "content": "Mia has 9 shells and finds 3. How many now?"}]
HINTED = [{"role": "user", "content": ASKED[0]["content"] + " A right solution: 9+3=12."}]
ROW = {"prompt": ASKED, "teacher_prompt": HINTED, "reply": "Mia has 9+3=12. The answer is \\boxed{12}."}
ROWS = [ROW] * 4
SETTINGS = {
    "per_device_train_batch_size": 2,
    "max_steps": 2,
    "learning_rate": 1e-2,
    "report_to": "none",
    "use_cpu": True,
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_steps": 1,
}


@pytest.fixture
def make(tokenizer, tmp_path):
    """make(model, rows, ...): the trainer; settings are SSBConfig's, all else SSBTrainer's."""

    def trainer(model=None, rows=ROWS, args=None, settings=None, **more):
        model = tiny_model("qwen2") if model is None else model
        args = args or SSBConfig(output_dir=str(tmp_path), **SETTINGS | (settings or {}))
        more = {"processing_class": tokenizer, "peft_config": LoraConfig(**LORA)} | more
        return SSBTrainer(model, args, rows, **more)

    return trainer


# -- The model and its adapter ----------------------------------------------------------------------------------------


def adapted(**more):
    return get_peft_model(tiny_model("qwen2"), LoraConfig(**LORA | more))


def test_a_second_adapter_is_not_put_on_top(make):
    injected = tiny_model("qwen2")
    injected.add_adapter(LoraConfig(**LORA))
    for model in (adapted(), injected):
        with pytest.raises(UserError, match=r"has an adapter already.*leave peft_config out"):
            make(model)
    trainer = make(model := adapted(), peft_config=None)
    before = {n: p.clone() for n, p in model.named_parameters() if p.requires_grad}
    trainer.train()
    assert trainer.model is model
    assert all(not torch.equal(before[n], p) for n, p in model.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_nothing_is_trained_that_the_teacher_has_too(make, bias):
    with pytest.raises(UserError, match=r"q_proj.*bias and .* more would be trained.*bias='none'"):
        make(peft_config=LoraConfig(**LORA, bias=bias))


def test_a_base_that_is_not_frozen_is_refused(make):
    model = adapted()
    model.get_base_model().model.norm.weight.requires_grad_(True)
    with pytest.raises(UserError, match=r"norm\.weight and 0 more would be trained"):
        make(model, peft_config=None)


@pytest.mark.parametrize("more", [{"use_dora": True}, {"lora_bias": True}], ids=str)
def test_what_is_off_with_the_adapter_may_be_trained_beside_it(make, more):
    trainer = make(peft_config=LoraConfig(**LORA, modules_to_save=["norm"], **more))
    batch = trainer.data_collator(trainer.train_dataset)

    def teacher():
        with as_teacher(trainer.model):
            return trainer.model(batch["teacher"].hinted.input_ids).logits

    before = teacher()
    norms = {n: p.clone() for n, p in trainer.model.named_parameters() if "norm.modules_to_save" in n}
    trainer.train()
    assert torch.equal(teacher(), before)
    assert norms
    assert all(not torch.equal(p, norms[n]) for n, p in trainer.model.named_parameters() if n in norms)


def test_a_head_that_would_be_trained_is_refused(make):
    with pytest.raises(UserError, match=r"output head would be trained"):
        make(peft_config=None, targets=lambda ids: torch.zeros(1))
    with pytest.raises(UserError, match=r"ModulesToSaveWrapper"):
        make(peft_config=LoraConfig(**LORA, modules_to_save=["lm_head"]))


def test_an_adapter_that_would_not_be_trained_is_refused(make, tmp_path):
    adapted().save_pretrained(tmp_path / "adapter")
    frozen = PeftModel.from_pretrained(tiny_model("qwen2"), tmp_path / "adapter")
    off, merged = adapted(), adapted()
    off.disable_adapter_layers()
    merged.merge_adapter()
    prompts = get_peft_model(tiny_model("qwen2"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    for model, said in (
        (frozen, "is_trainable=True"),
        (off, "leave it on"),
        (merged, "unmerge_adapter"),
        (prompts, "of the kind PROMPT_TUNING"),
    ):
        with pytest.raises(UserError, match=said):
            make(model, peft_config=None)
    loaded = PeftModel.from_pretrained(tiny_model("qwen2"), tmp_path / "adapter", is_trainable=True)
    make(loaded, peft_config=None).train()


def test_targets_that_match_nothing_are_a_sentence(make):
    with pytest.raises(UserError, match=r"peft_config: .*W_pack.* not found"):
        make(peft_config=LoraConfig(**LORA | {"target_modules": ["W_pack"]}))


def test_a_models_name_is_loaded_with_its_tokenizer(make):
    trainer = make(str(MODEL_DIR), processing_class=None)
    assert trainer.model.get_base_model().config.hidden_size == 128
    assert trainer.processing_class.chat_template
    trainer.train()
    with pytest.raises(UserError, match="nowhere/at-all"):
        make("nowhere/at-all", processing_class=None)


def test_a_training_that_diverges_does_not_look_finished(make):
    class Diverge(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))

    with pytest.raises(UserError, match=r"diverged.*Lower learning_rate \(0\.01\)"):
        make(callbacks=[Diverge()]).train()


# -- Rows -------------------------------------------------------------------------------------------------------------


def one(tokenizer, **row):
    (example,) = examples_from([ROW | row], tokenizer)
    return example


def test_a_plain_prompt_is_tokenized_as_it_stands(tokenizer):
    """TRL's standard form; also where it spells a chat template."""
    text = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
    for prompt in ("Mia has 9 shells.", text):
        example = one(tokenizer, prompt=prompt, teacher_prompt="Hint. " + prompt, reply="12")
        assert example.student_ids == tokenizer.encode(prompt)
        assert example.teacher_ids == tokenizer.encode("Hint. " + prompt)
        assert example.reply_ids == [*tokenizer.encode("12"), tokenizer.eos_token_id]
    assert example.student_ids == one(tokenizer).student_ids


class Bracketing:
    """A tokenizer that puts bos before a text and eos behind it."""

    bos_token, eos_token, eos_token_id = "<s>", "</s>", 2

    def __init__(self):
        self.added_tokens_decoder = {}

    def encode(self, text, add_special_tokens=True):
        ids = [{"<s>": 1, "</s>": 2}.get(word, 10 + len(word)) for word in text.split()]
        return [1, *ids, 2] if add_special_tokens else ids

    def convert_ids_to_tokens(self, token):
        return {1: "<s>", 2: "</s>"}[token]


def test_a_plain_prompt_has_its_bos_once_and_no_eos():
    for prompt in ("how many ?", "<s> how many ?"):
        example = one(Bracketing(), prompt=prompt, teacher_prompt=prompt, reply="it is 12 </s>")
        assert example.student_ids == [1, 13, 14, 11]
        assert example.reply_ids == [12, 12, 12, 2]


@pytest.mark.parametrize("ending", ["", "{eos}", "{eos}\n", "{eos}{eos}", " {eos} "])
def test_a_reply_ends_its_turn_once(tokenizer, ending):
    ids = one(tokenizer, reply="So 12." + ending.format(eos=tokenizer.eos_token)).reply_ids
    assert tokenizer.decode(ids).count(tokenizer.eos_token) == 1
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]).rstrip() == "So 12."


def test_a_turn_that_does_not_end_in_eos_is_closed_as_the_template_does(tokenizer):
    template = tokenizer.chat_template
    gemma = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
    gemma.add_special_tokens({"additional_special_tokens": ["<end_of_turn>"]})
    gemma.chat_template = template.replace(tokenizer.eos_token, "<end_of_turn>")
    end = gemma.convert_tokens_to_ids("<end_of_turn>")
    for reply in ("So 12.", "So 12.<end_of_turn>\n", f"So 12.{gemma.eos_token}"):
        ids = one(gemma, reply=reply).reply_ids
        assert ids[-1] == end
        assert not {end, gemma.eos_token_id} & set(ids[:-1])


def test_a_control_token_within_a_reply_is_text(tokenizer):
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    ids = one(tokenizer, reply="So <|im_start|>user 12.").reply_ids
    assert start is not None
    assert start not in ids
    assert tokenizer.decode(ids[:-1]) == "So <|im_start|>user 12."


def test_ids_of_arrays_and_tensors_are_ids(tokenizer):
    for kind in ("numpy", "torch"):
        rows = datasets.Dataset.from_list([ROW | {"reply_ids": [5, 6, 2]}]).with_format(kind, columns=["reply_ids"])
        (example,) = examples_from([ROW | row for row in rows], tokenizer)
        assert example.reply_ids == [5, 6, 2]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"reply": ""}, "Row 1 of the data set, reply: it is empty"),
        ({"reply": " \n"}, "reply: it is empty"),
        ({"reply": "{eos}"}, "reply: it is empty"),
        ({"reply": None}, "none of them empty"),
        ({"reply": 7}, "reply: expected text, found 7"),
        ({"reply": None, "reply_ids": []}, "reply_ids: expected token ids"),
        ({"reply_ids": ["a"]}, "reply_ids: expected token ids"),
        ({"reply_ids": [True, False]}, "reply_ids: expected token ids"),
        ({"reply_ids": {"5": 6}}, "reply_ids: expected token ids"),
        ({"reply": "So \ud800"}, r"reply: \\ud800 is half a character"),
        ({"prompt": [{"role": "user", "content": "\udfff"}]}, r"prompt: \\udfff is half a character"),
        ({"prompt": "\ud800", "teacher_prompt": "Hint."}, r"prompt: \\ud800 is half a character"),
        ({"prompt": [*ASKED, {"role": "assistant", "content": "So"}]}, "ends in the assistant's message"),
        ({"reply_ids": [1.5]}, "reply_ids: expected token ids"),
        ({"reply_ids": [5, 10**6]}, "token id 1000000, where the model has 528"),
        ({"reply_ids": [-100, 5]}, "token id -100"),
        ({"prompt": "", "teacher_prompt": "Hint."}, "prompt: expected messages or text"),
        ({"prompt": []}, "prompt: expected messages or text"),
        ({"prompt": None}, "none of them empty"),
        ({"prompt": "text"}, "of prompt and teacher_prompt one is text"),
        ({"prompt": ["text"]}, "expected messages of role and content"),
        ({"teacher_prompt": [{"role": "user"}]}, "teacher_prompt: expected messages of role and content"),
        ({"teacher_prompt": [{"role": "user", "content": [{"type": "text"}]}]}, "role and content, both text"),
        ({"prompt": {"role": "user", "content": "?"}}, "prompt: expected messages or text"),
    ],
)
def test_a_row_that_is_no_pair_is_named(make, tokenizer, row, said):
    row = json.loads(json.dumps(row).replace("{eos}", tokenizer.eos_token))
    with pytest.raises(UserError, match=said) as refused:
        make(rows=[ROW, ROW | row])
    assert "Row 1 of the data set" in str(refused.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}),
            r"a mapping of train; .*give one.*data\['train'\]",
        ),
        ({"train": ROWS}, "a mapping of train; rows were expected"),
        ({}, "has no rows"),
        ([], "has no rows"),
        ("pairs.jsonl", "rows of prompt, teacher_prompt and reply"),
        (7, "rows of prompt, teacher_prompt and reply"),
        (["pairs"], "Row 0 of the data set: expected columns by name"),
    ],
)
def test_what_is_no_data_set_is_said(make, rows, said):
    with pytest.raises(UserError, match=said):
        make(rows=rows)


def test_ids_have_an_order_and_are_whole_numbers(tokenizer):
    for ids in ({5, 6}, b"ab", {5: 6}, [torch.tensor(True)], [numpy.bool_(True)], [5, False]):
        with pytest.raises(UserError, match="reply_ids: expected token ids"):
            one(tokenizer, reply_ids=ids)


def test_a_row_without_a_name_has_its_number(tokenizer):
    assert [example.id for example in examples_from([ROW | {"id": None}, ROW, ROW | {"id": 7}], tokenizer)] == list(
        "017"
    )


def test_rows_of_torchs_data_set_and_of_numpy_are_rows(tokenizer):
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, number):  # without an IndexError at its end
            return ROW

    plain = examples_from(ROWS, tokenizer)
    assert examples_from(Rows(), tokenizer) == plain
    assert examples_from(datasets.Dataset.from_list(ROWS).with_format("numpy"), tokenizer) == plain


# -- Evaluation sets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [dict, datasets.DatasetDict], ids=["dict", "DatasetDict"])
def test_several_evaluation_sets_are_logged_by_name(make, kind):
    other = [ROW | {"reply": "No idea."}] * 3
    sets = kind({"near": datasets.Dataset.from_list(ROWS), "far": datasets.Dataset.from_list(other)})
    trainer = make(eval_dataset=sets, settings={"eval_strategy": "steps", "eval_steps": 1, "logging_steps": 2})
    trainer.train()
    log = trainer.state.log_history
    for name, rows in (("near", ROWS), ("far", other)):
        found = [row for row in log if f"eval_{name}_loss" in row]
        assert [row["step"] for row in found] == [1, 2]
        alone = trainer.evaluate(rows)
        assert found[-1][f"eval_{name}_loss"] == pytest.approx(alone["eval_loss"], rel=1e-5)
        assert found[-1][f"eval_{name}_kl"] == pytest.approx(alone["eval_kl"], rel=1e-5)
    assert trainer.predict(other).metrics["test_loss"] == pytest.approx(alone["eval_loss"], rel=1e-5)
    (trained,) = [row for row in log if "loss" in row]
    # An evaluation between two logs leaves the training's own means alone: T = 2, one token mean of both steps.
    plain = make(settings={"logging_steps": 2})
    plain.train()
    assert trained["kl"] == next(row["kl"] for row in plain.state.log_history if "loss" in row)


# -- Arguments --------------------------------------------------------------------------------------------------------


def test_plain_training_arguments_train_by_the_objectives_defaults(make, tmp_path):
    plain = make(args=TrainingArguments(output_dir=str(tmp_path), hub_token="secret", **SETTINGS))
    ours = make()
    assert (plain.args.learning_rate, plain.args.denominator, plain.args.hub_token) == (1e-2, "example", "secret")
    losses = [[row["loss"] for row in t.state.log_history if "loss" in row] for t in (plain, ours) if t.train()]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"compute_metrics": lambda p: {}}, "compute_metrics: .* no logits"),
        ({"preprocess_logits_for_metrics": lambda a, b: a}, "preprocess_logits_for_metrics: "),
        ({"compute_loss_func": lambda *a: 0}, "compute_loss_func: "),
        ({"data_collator": lambda rows: rows}, "data_collator: "),
        ({"model_init": lambda: None}, "model_init: "),
        ({"settings": {"label_smoothing_factor": 0.1}}, "label_smoothing_factor: 0.1"),
        ({"settings": {"train_sampling_strategy": "group_by_length"}}, "train_sampling_strategy: "),
        ({"args": SFTConfig("x", report_to="none", use_cpu=True, bf16=False)}, "args is a SFTConfig"),
    ],
)
def test_what_would_have_no_effect_is_refused(make, more, said):
    with pytest.raises(UserError, match=said):
        make(**more)


NUMBERS = ("kd_temperature", "kd_weight", "ce_weight", "sharpen", "beta", "clip")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, value) for key in NUMBERS for value in ("2", True)],
        *[(key, float(value)) for key in NUMBERS for value in ("nan", "inf")],
        ("denominator", "tokens"),
        ("divergence", "backward"),
    ],
)
def test_a_setting_that_is_none_is_said_before_the_model_is_looked_at(tmp_path, key, value):
    with pytest.raises(
        ValueError, match=f"{key}: .* is (not a finite number|neither example nor token|neither forward)"
    ):
        SSBConfig(output_dir=str(tmp_path), **SETTINGS | {key: value})


@pytest.mark.parametrize("key", ["fp16", "fp16_full_eval"])
def test_half_precision_without_a_gpu_is_refused(make, key):
    with pytest.raises(UserError, match=f"{key}: has no effect on a CPU"):
        make(settings={key: True})


def test_a_training_without_a_step_does_not_look_finished(make):
    with pytest.raises(UserError, match="dataloader_drop_last: fewer rows than one batch"):
        make(rows=[ROW], settings={"dataloader_drop_last": True}).train()
    foreign = torch.optim.SGD(tiny_model("qwen2").parameters(), 0.1)
    with pytest.raises(UserError, match=r"optimizers: .* nothing would be trained"):
        make(optimizers=(foreign, None))


@pytest.mark.parametrize("start", ["pissa", "olora", "pissa_niter_2"])
def test_a_first_adapter_that_is_taken_out_of_the_base_is_refused(make, start):
    with pytest.raises(UserError, match=f"init_lora_weights: {start} .* the teacher would be another model"):
        make(peft_config=LoraConfig(**LORA, init_lora_weights=start))
    with pytest.raises(UserError, match="layer_replication: the teacher"):
        make(peft_config=LoraConfig(**LORA, layer_replication=[[0, 2], [1, 2]]))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"peft_config": dict(LORA)}, "peft_config is a dict; expected one of PEFT's"),
        ({"peft_config": LoraConfig(**LORA | {"target_modules": "("})}, "peft_config: it cannot be put on this model"),
        ({"processing_class": "pocket"}, "processing_class is a str"),
        ({"model": 5}, "model is 5; expected a causal language model"),
        ({"model": tiny_model}, "model is <function"),
        ({"model": tiny_model("qwen2").model}, "peft_config: it cannot be put on this model"),
    ],
)
def test_what_is_of_another_type_is_named(make, more, said):
    with pytest.raises(UserError, match=said):
        make(**more)


def test_a_tokenizer_without_an_end_or_a_template_is_named(make):
    bare = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
    bare.eos_token = None
    with pytest.raises(UserError, match="no eos token"):
        make(processing_class=bare)
    bare.eos_token, bare.chat_template = "<|im_end|>", None
    with pytest.raises(UserError, match=r"chat template of .*chat_template is not set"):
        make(processing_class=bare)


def test_examples_of_something_else_than_ids_are_named(make):
    with pytest.raises(UserError, match="Row 0 of the data set: holds something else than token ids"):
        make(rows=[Example("a", ["x"], [6], [7])])


def test_examples_of_ids_pass_as_they_are(make):
    assert make(rows=[Example("a", [5], [6], [7])]).train_dataset == [Example("a", [5], [6], [7])]


# -- A run's own pairs, and plain text --------------------------------------------------------------------------------


CURATED = {
    "id": "p1",
    "problem_id": "q1",
    "question": ASKED[0]["content"],
    "gold": "12",
    "right": "9+3=12. The answer is \\boxed{12}.",
    "wrong": "9-3=6. The answer is \\boxed{6}.",
    "reply": "Mia has 9+3=12. The answer is \\boxed{12}.",
    "right_id": "q1-rollout-0",
    "wrong_id": "q1-rollout-1",
    "refinement_id": "q1-refinement-0",
    "prompt": None,
    "teacher_prompt": None,
}


def test_the_pairs_of_a_run_are_read_as_its_training_reads_them(tokenizer, tmp_path):
    """As `datasets` reads the file that the curate stage has written, whose prompts are made from its recipe."""
    from ssb_unsloth.method.examples import render_examples
    from ssb_unsloth.recipe.loading import load
    from ssb_unsloth.records import Pair

    reply_ids = tokenizer(CURATED["reply"])["input_ids"] + [tokenizer.eos_token_id]
    pair = Pair(**CURATED, reply_ids=reply_ids)
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(CURATED | {"reply_ids": reply_ids}) + "\n")
    recipe = load(MODEL_DIR.parents[2] / "recipes" / "pocket.yaml", [])
    (expected,) = render_examples(recipe, [pair], tokenizer)
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    (found,) = examples_from(rows, tokenizer)
    assert (found.id, found.student_ids, found.teacher_ids, found.reply_ids) == (
        *("p1", expected.student_ids, expected.teacher_ids),
        reply_ids,
    )
    assert len(found.unhinted_ids) < len(found.teacher_ids)  # what guidance asks for
    own = CURATED | {"prompt": ASKED, "teacher_prompt": HINTED}
    assert examples_from([own], tokenizer)[0].student_ids != found.student_ids  # prompts of its own are taken


def test_what_is_missing_of_a_curated_pair_is_said(tokenizer):
    for name in ("question", "right", "wrong"):
        with pytest.raises(UserError, match=r"pairs\.jsonl has it, question, right and wrong"):
            examples_from([CURATED | {name: None}], tokenizer)


def test_a_list_of_plain_texts_trains(make):
    row = {"prompt": "9 and 3 are", "teacher_prompt": "9+3=12, so 9 and 3 are", "reply": " 12."}
    trainer = make(rows=[row] * 4)
    trainer.train()
    assert trainer.state.global_step == 2


def test_dir_shows_the_public_names_and_nothing_else():
    import ssb_unsloth

    assert dir(ssb_unsloth) == sorted(ssb_unsloth.__all__)
    assert {"SSBTrainer", "SSBConfig", "kd_loss", "Head", "__version__"} <= set(dir(ssb_unsloth))
    for name in dir(ssb_unsloth):
        assert getattr(ssb_unsloth, name) is not None
