"""train.kd_temperature was train.temperature: old recipes are read, and what they made stays fresh."""

import hashlib
import json
from dataclasses import asdict

import pytest
from finished_run import make
from recipe_texts import POCKET, SMALLEST

from ssb_unsloth.commands.verify import verify
from ssb_unsloth.errors import UserError
from ssb_unsloth.pipeline.stage import Scope
from ssb_unsloth.pipeline.students import students
from ssb_unsloth.pipeline.table import stage
from ssb_unsloth.recipe.loading import is_as_saved, load, save, variant
from ssb_unsloth.recipe.renamed import RENAMED
from ssb_unsloth.recipe.schema import SEVEN, LoraConfig, Recipe, TrainConfig
from ssb_unsloth.run import keys
from ssb_unsloth.run.manifests import digest
from ssb_unsloth.run.rundir import RunDir


def temperatures(recipe: Recipe) -> dict[str, float]:
    """T_KD of the recipe's own student, and of each variant."""
    everyone = {"": recipe, **{name: variant(recipe, name) for name in recipe.variants}}
    return {name: one.train.kd_temperature for name, one in everyone.items()}


# -- Old recipes


def test_the_old_name_is_read_in_every_layer_and_the_layer_above_wins(tmp_path):
    files = {"below": SMALLEST + "train: {temperature: 3}\nvariants: {hot-2.5: {train: {temperature: 5}}}\n"}
    files["above"] = "base: below.yaml\npreset: author_code\n"
    files["over"] = files["above"] + "train: {temperature: 4}\n"
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    assert temperatures(load(tmp_path / "below.yaml")) == {"": 3, "hot-2.5": 5}
    assert temperatures(load(tmp_path / "above.yaml")) == {"": 2, "hot-2.5": 5}  # the preset's own
    assert temperatures(load(tmp_path / "over.yaml")) == {"": 4, "hot-2.5": 5}
    for key in ("temperature", "kd_temperature"):
        overrides = [f"train.{key}=6", f"variants.cold.train.{key}=1"]
        assert temperatures(load(tmp_path / "over.yaml", overrides)) == {"": 6, "hot-2.5": 5, "cold": 1}


def test_todays_name_over_a_base_with_the_old_one(tmp_path):
    (tmp_path / "below.yaml").write_text(
        SMALLEST + "train: {temperature: 3}\nvariants: {a: {train: {temperature: 5}}}\n"
    )
    above = "base: below.yaml\ntrain: {kd_temperature: 4}\nvariants: {a: {train: {kd_temperature: 6}}}\n"
    (tmp_path / "above.yaml").write_text(above)
    assert temperatures(load(tmp_path / "above.yaml")) == {"": 4, "a": 6}


def test_a_reference_can_name_a_key_as_it_was_called(recipe):
    r = recipe(
        SMALLEST
        + "train: {temperature: 3, max_grad_norm: '${train.temperature}', sharpen: '${train.kd_temperature}'}\n"
        + "variants: {a: {train: {temperature: 7}}, b: {train: {kd_temperature: '${variants.a.train.temperature}'}}}\n"
    )
    assert (r.train.max_grad_norm, r.train.sharpen) == (3, 3)
    assert temperatures(r) == {"": 3, "a": 7, "b": 7}
    assert recipe(SMALLEST + "train: {max_grad_norm: '${train.temperature}'}\n").train.max_grad_norm == 2


@pytest.mark.parametrize("where", ["{}", "variants: {{a: {{{}}}}}"])
def test_both_names_in_one_layer_are_refused(complaint, where):
    (line,) = complaint(SMALLEST + where.format("train: {temperature: 3, kd_temperature: 3}") + "\n")
    path = "variants.a.train" if "variants" in where else "train"
    assert line == f"{path}.temperature: is called train.kd_temperature now, which is given too; leave this one out."


def test_both_names_among_the_overrides_or_in_the_base_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"train\.temperature: is called train\.kd_temperature now, which is given too"):
        load(POCKET, ["train.temperature=3", "train.kd_temperature=3"])
    (tmp_path / "below.yaml").write_text(SMALLEST + "train: {temperature: 3, kd_temperature: 3}\n")
    (tmp_path / "above.yaml").write_text("base: below.yaml\ntrain: {kd_temperature: 4}\n")
    with pytest.raises(UserError, match=r"train\.temperature: is called train\.kd_temperature now, which is given too"):
        load(tmp_path / "above.yaml")


def test_a_value_that_cannot_work_is_named_by_todays_name(complaint):
    (line,) = complaint(SMALLEST + "train: {temperature: 0}\n")
    assert line == "train.kd_temperature: 0.0 is not a number above 0."


def test_other_temperatures_are_what_they_were(recipe):
    text = "train: {grpo: {temperature: 0.7}}\ncurate: {rollout: {temperature: 0.6}}\n"
    r = recipe(SMALLEST + text + "evaluate: {benchmarks: {pocket-test: {temperature: 0.5}}}\n")
    found = (r.train.grpo.temperature, r.curate.rollout.temperature, r.evaluate.benchmarks["pocket-test"].temperature)
    assert found == (0.7, 0.6, 0.5)


def test_keys_with_dots_of_their_own_are_no_sections(complaint):
    (line,) = complaint(SMALLEST + "train.temperature: 3\n")
    assert line.startswith("train.temperature: unknown key")


def test_a_first_name_is_no_key_of_today():
    for section, names in RENAMED.items():
        today = asdict(getattr(load(POCKET), section))
        assert not set(names) & set(today)
        assert set(names.values()) <= set(today)


# -- Old runs


def as_saved_before(recipe: Recipe, path):
    """recipe.yaml as the version before the new name wrote it."""
    save(recipe, path)
    text = path.read_text(encoding="utf-8").partition("\n")[2].replace("  kd_temperature: ", "  temperature: ")
    seal = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(f"# Written by ssb; SHA-256 of the lines below: {seal}\n{text}", encoding="utf-8")


def test_the_saved_recipe_of_an_old_run_is_as_saved_and_the_same_recipe(tmp_path):
    recipe = load(POCKET, ["train.kd_temperature=3", "variants.hot.train.kd_temperature=4"])
    as_saved_before(recipe, tmp_path / "recipe.yaml")
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert "kd_temperature" not in text
    assert "\n  temperature: 3.0\n" in text
    assert is_as_saved(tmp_path / "recipe.yaml")
    assert load(tmp_path / "recipe.yaml") == recipe


# What determined a training with all keys at their defaults, before the new name.
TRAINING = {
    "method": "ssb",
    "grpo": {
        "questions": 2000,
        "steps": None,
        "questions_per_step": 8,
        "generations": 8,
        "micro_batch_size": None,
        "learning_rate": 1e-5,
        "temperature": 1.0,
        "max_tokens": 1024,
        "beta": 0.0,
        "loss": "dapo",
        "use_vllm": None,
        "gpu_memory_utilization": 0.3,
    },
    "lora": {
        "r": 32,
        "alpha": 32,
        "dropout": 0.0,
        "dtype": "float32",
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    },
    "epochs": 3,
    "batch_size": 4,
    "micro_batch_size": None,
    "learning_rate": 2e-4,
    "lr_scheduler": "linear",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "temperature": 2.0,
    "denominator": "example",
    "kd_weight": 1.0,
    "ce_weight": 0.0,
    "sharpen": 1.0,
    "gradient_checkpointing": False,
    "save_steps": 50,
    "logging_steps": 1,
    "probe_steps": 32,
    "probe_questions": 32,
    "drift_texts": None,
    "token_pairs": 24,
    "report_to": [],
}


def test_what_determines_a_training_is_the_same_dictionary_as_before():
    assert keys.of_training(TrainConfig()) == TRAINING
    assert list(keys.of_training(TrainConfig())) == list(TRAINING)
    assert digest(keys.of_training(TrainConfig(kd_temperature=3.0))) == digest({**TRAINING, "temperature": 3.0})


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"divergence": "forward", "beta": 0.5, "clip": None}, True),
        ({"divergence": "reverse"}, False),
        ({"divergence": "jsd"}, False),
        ({"clip": 3.0}, False),
    ],
)
def test_the_divergence_is_of_a_training_as_it_was_when_there_was_one(change, same):
    assert (digest(keys.of_training(TrainConfig(**change))) == digest(TRAINING)) is same
    skewed = [digest(keys.of_training(TrainConfig(divergence="jsd", beta=beta))) for beta in (0.5, 0.3)]
    assert len({*skewed, digest(TRAINING)}) == 3


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"target_modules": "auto"}, True),
        ({"target_modules": list(SEVEN)}, True),
        ({"use_rslora": False, "use_dora": False}, True),
        ({"target_modules": "all-linear"}, False),
        ({"target_modules": list(SEVEN[:2])}, False),
        ({"use_rslora": True}, False),
        ({"use_dora": True}, False),
    ],
)
def test_where_lora_goes_is_of_a_training_as_it_was_before_there_was_a_choice(change, same):
    changed = keys.of_training(TrainConfig(lora=LoraConfig(**change)))
    assert (digest(changed) == digest(TRAINING)) is same


def test_the_train_stages_key_is_made_of_it(tmp_path):
    recipe = load(POCKET, ["train.kd_temperature=3"])
    found = stage("train").determined_by(Scope(recipe, RunDir(tmp_path)))["train"]
    before = {**asdict(recipe.train), "temperature": 3.0}
    del before["kd_temperature"], before["grpo"], before["lora"]["use_rslora"], before["lora"]["use_dora"]
    del before["divergence"], before["beta"], before["clip"], before["refresh"], before["guard"]
    del before["processes"], before["sharding"]
    before["lora"]["target_modules"] = list(SEVEN)
    assert digest(found) == digest(before)


def test_no_stage_of_any_student_is_determined_by_the_new_name(tmp_path):
    recipe = load(POCKET, ["variants.hot.train.kd_temperature=4", "variants.grpo.train.method=grpo"])
    for student in students(recipe, tmp_path):
        for name in student.chain:
            assert "kd_temperature" not in json.dumps(stage(name).determined_by(Scope(student.recipe, student.run)))
    whole = keys.of_recipe(recipe)
    assert "kd_temperature" not in json.dumps(whole)
    assert whole["variants"]["hot"] == {"train": {"temperature": 4}}
    assert whole["train"] == keys.of_training(recipe.train)


def test_a_run_that_was_finished_under_the_old_name_is_as_its_recipe_asks(tmp_path):
    root = make(POCKET, tmp_path / "run", ["train.temperature=3", "variants.hot.train.temperature=4", "rounds=2"])
    manifests = list(root.rglob("manifest.json"))
    assert [path for path in manifests if "kd_temperature" in path.read_text(encoding="utf-8")] == []
    assert any('"temperature": 3.0' in path.read_text(encoding="utf-8") for path in manifests)
    for path in root.rglob("recipe.yaml"):
        as_saved_before(load(path), path)
    said, as_written = verify(root)
    assert as_written, said
