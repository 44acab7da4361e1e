"""`train.lora: null`: all weights but embeddings and head, against stored targets; float32 copies of 16-bit weights."""

import json
from pathlib import Path

import pictures
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model
from training import inputs_of, make_examples, store
from transformers import AutoModelForCausalLM, TrainerCallback

from ssb_unsloth.backends import TrainingBackend
from ssb_unsloth.backends.transformers import freeze_the_rest, load_model, load_tokenizer, save_model
from ssb_unsloth.errors import UserError
from ssb_unsloth.machine.all_weights import OTHERS, all_weights
from ssb_unsloth.recipe.schema import LoraConfig, ModelConfig, Recipe, TrainConfig
from ssb_unsloth.training import sft, ssb
from ssb_unsloth.training.checkpoints import Sealed
from ssb_unsloth.training.drift import drift
from ssb_unsloth.training.masters import MasterAdamW
from ssb_unsloth.training.sft import train_sft
from ssb_unsloth.training.ssb import train

POCKET_WEIGHTS = 756_352  # of 823,936: 528 x 128 are the embedding, which is the head too
SETTINGS = {"lora": None, "epochs": 2, "learning_rate": 1e-4, "save_steps": 2, "probe_steps": 0, "token_pairs": 0}


def recipe_of(dtype="float32", **train_keys):
    model = ModelConfig("pocket", dtype=dtype, backend="transformers")
    return Recipe(name="test", seed=5, model=model, train=TrainConfig(**{**SETTINGS, **train_keys}))


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """taught(dtype): the folder of a teach stage, and the examples."""
    kept = {}

    def of(dtype):
        if dtype not in kept:
            folder = tmp_path_factory.mktemp(dtype) / "teach"
            store(load_model(ModelConfig("pocket", dtype=dtype)), make_examples(8), folder)
            kept[dtype] = folder
        return kept[dtype], make_examples(8)

    return of


def run_ssb(taught, folder, dtype="float32", **train_keys):
    """The recipe's SSB on the pocket, by the entry point that the stage calls."""
    targets, examples = taught(dtype)
    recipe = recipe_of(dtype, **train_keys)
    folder.mkdir(parents=True, exist_ok=True)
    given = inputs_of(folder, recipe=recipe, examples=examples, probes=[])
    given.tokenizer = load_tokenizer(recipe.model)
    given.backend = TrainingBackend(recipe.model, recipe.train.lora is None)
    given.run.stage("teach").parent.mkdir(exist_ok=True)
    if not given.run.stage("teach").exists():
        given.run.stage("teach").symlink_to(targets)
    return train(given)


def losses(trained):
    return [row["loss"] for row in trained.history if "loss" in row]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_it_begins_where_lora_begins_and_lowers_the_loss_and_leaves_the_ends(taught, tmp_path, dtype):
    whole = run_ssb(taught, tmp_path / "whole", dtype)
    lora = run_ssb(taught, tmp_path / "lora", dtype, lora=LoraConfig(r=4), epochs=1)
    assert losses(whole)[0] == pytest.approx(losses(lora)[0], rel=1e-6)  # B = 0: the base itself
    assert sum(losses(whole)[2:]) < 0.9 * sum(losses(whole)[:2])  # the same pairs in both epochs
    assert whole.summary["trainable_parameters"] == POCKET_WEIGHTS
    assert whole.summary["left_as_it_is"] == {"embeddings, with the head tied to them": 528 * 128}
    base = load_model(ModelConfig("pocket", dtype=dtype)).state_dict()
    stored = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in stored.values()} == {f"torch.{dtype}"}
    assert torch.equal(stored["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    same = {name for name, tensor in stored.items() if torch.equal(tensor, base[name])}
    vectors = {name for name in stored if stored[name].dim() == 1} if dtype == "bfloat16" else set()  # coarse near 1
    assert same - vectors == {"model.embed_tokens.weight"}


def test_what_is_saved_is_a_model_of_its_own_with_the_bases_settings(taught, tmp_path, capsys):
    trained = run_ssb(taught, tmp_path, epochs=1)
    said = "All weights: 756,352 parameters trained; left as they are: embeddings, with the head tied to them (67,584)."
    assert said in capsys.readouterr().err
    folder = tmp_path / "model"
    names = {*files(folder)}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt"))]
    named = ModelConfig(name=str(folder), dtype="float32")
    again, pocket = load_model(named), load_model(ModelConfig("pocket", dtype="float32"))
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, trained.model.eval()(ids).logits)
    own, base = again.config.to_diff_dict(), pocket.config.to_diff_dict()
    assert {key: own.get(key) for key in base if key != "_name_or_path"} == {
        key: value for key, value in base.items() if key != "_name_or_path"
    }
    assert again.generation_config.eos_token_id == pocket.generation_config.eos_token_id
    template = load_tokenizer(ModelConfig("pocket")).chat_template
    assert load_tokenizer(named).chat_template == template
    text = "".join(content.decode("utf-8", "replace") for name, content in files(folder).items() if "json" in name)
    assert str(Path.home()) not in text
    assert str(Path(__file__).parents[2]) not in text


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ("ssb", "bfloat16"),
        pytest.param("sft", "float32", marks=pytest.mark.slow),
        pytest.param("ssb", "float32", marks=pytest.mark.slow),
        pytest.param("sft", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_stopped_and_resumed_or_done_twice_it_gives_the_same_bytes(taught, tmp_path, monkeypatch, method, dtype):
    """In bfloat16 the copies that are trained are in the checkpoint: the weights alone have lost their last digits."""

    def run(folder):
        if method == "ssb":
            return run_ssb(taught, folder, dtype)
        folder.mkdir(exist_ok=True)
        recipe = recipe_of(dtype, method="sft")
        given = inputs_of(folder, recipe=recipe, probes=[], tokenizer=load_tokenizer(recipe.model))
        return train_sft(given, load_model(recipe.model), [(e.student_ids, e.reply_ids) for e in make_examples(8)])

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr({"ssb": ssb, "sft": sft}[method], "Bar", Stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken")
    again = run(tmp_path / "broken")
    assert json.dumps(whole.history) == json.dumps(again.history)
    assert sum(losses(whole)[2:]) < sum(losses(whole)[:2])  # the same pairs in both epochs
    assert files(tmp_path / "whole" / "model") == files(tmp_path / "broken" / "model")


def test_recomputed_activations_give_the_same_gradients(taught, tmp_path):
    """Though the embedding in front of the first block asks for none."""
    kept, recomputed = (
        run_ssb(taught, tmp_path / str(on), gradient_checkpointing=on, epochs=1) for on in (False, True)
    )
    assert losses(kept) == pytest.approx(losses(recomputed), rel=1e-5)


def test_drift_is_measured_against_a_base_beside_it():
    base, student = tiny_model("qwen2"), tiny_model("qwen2")
    texts = [([3, 4], [5, 6, 7]), ([8], [9, 10])]
    assert drift(student, texts, base) == 0
    with torch.no_grad():
        student.model.layers[0].mlp.down_proj.weight.mul_(1.5)
        logits = [
            torch.cat([m(torch.tensor([a + b])).logits[0, len(a) - 1 : -1].double() for a, b in texts])
            for m in (base, student)
        ]
    log_p, log_q = (x.log_softmax(-1) for x in logits)
    expected = (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()
    assert drift(student, texts, base) == pytest.approx(expected, rel=1e-4)


def test_copies_take_steps_that_16_bits_would_lose():
    """Against torch's AdamW on the same weights in float32, with the same gradients."""
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(50, generator=draw).bfloat16()
    coarse, fine = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.float())
    settings = {"lr": 1e-4, "weight_decay": 0.1}
    ours, theirs = MasterAdamW([coarse], **settings), torch.optim.AdamW([fine], **settings)
    for _ in range(20):
        gradient = torch.randn(50, generator=draw).bfloat16()
        coarse.grad, fine.grad = gradient, gradient.float()
        ours.step()
        theirs.step()
    assert torch.equal(coarse, fine.detach().bfloat16())
    assert torch.equal(ours.state_dict()["copies"][0], fine.detach())
    assert not torch.equal(fine.detach().bfloat16().float(), fine.detach())


def test_a_checkpoint_for_pictures_trains_its_language_part_and_resumes_and_is_saved(tmp_path):
    """On the disk its weights have other names than in memory."""
    base = ModelConfig(name=str(pictures.write("gemma3", tmp_path / "base")), dtype="float32")
    model = load_model(base)
    chosen = freeze_the_rest(model)
    assert chosen.left[OTHERS] > 0
    assert all("language_model" in name for name in chosen.names)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {*chosen.names}
    with torch.no_grad():
        for name in chosen.names:
            model.get_parameter(name).add_(0.01)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "checkpoint")
    fresh = load_model(base)
    Sealed._load_from_checkpoint(type("Trainer", (), {"model": fresh})(), str(tmp_path / "checkpoint"))
    save_model(model, base, tmp_path / "model")
    for again in (fresh, load_model(ModelConfig(name=str(tmp_path / "model"), dtype="float32"))):
        assert type(again) is type(model)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_a_model_of_nothing_but_ends_is_refused():
    model = AutoModelForCausalLM.from_config(tiny_model("qwen2").config)
    model.model.layers, model.model.norm = torch.nn.ModuleList(), torch.nn.Identity()
    with pytest.raises(UserError, match=r"train\.lora: null, and the model has no weights"):
        all_weights(model)
