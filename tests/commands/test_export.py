"""Export, push and chat: what a finished run's student is handed on as, and that it is the same student everywhere."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from fake_hub import TOKEN, Hub, client
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import safe_open
from stage_keys import key_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssb_unsloth.backends.chat_template import render
from ssb_unsloth.backends.sampler import Adapter, Request
from ssb_unsloth.backends.transformers import load_model, load_tokenizer
from ssb_unsloth.backends.transformers_sampler import TransformersSampler
from ssb_unsloth.cli import main
from ssb_unsloth.commands.export import export, find_converter
from ssb_unsloth.commands.verify import verify
from ssb_unsloth.errors import UserError
from ssb_unsloth.pipeline.students import finished, students
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.pocket.problems import generate
from ssb_unsloth.prompts import student_messages, texts
from ssb_unsloth.recipe.loading import load, save
from ssb_unsloth.recipe.schema import ModelConfig, SamplingConfig
from ssb_unsloth.run import manifests
from ssb_unsloth.training.common import save_adapter

RECIPE = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
POCKET = ModelConfig(name="pocket", dtype="float32")
TRAINED = {"steps": 4, "first_loss": 1.0, "last_loss": 0.5, "trainable_parameters": 10, "total_parameters": 100}
TRAINED["lora"] = {"layers": {"qkv_proj": 4, "o_proj": 4}, "left_out": {}}
GREEDY = SamplingConfig(temperature=0, max_tokens=80)


def score(model, value, **other):
    row = {"model": model, "benchmark": "test", "scoring": "equivalent", "metric": "pass@1", "temperature": 0.0}
    row |= {"seed": 7, "n_questions": 40, "value": value, "low": value - 0.125, "high": value + 0.125}
    return row | other


COUNTED = {"questions": 1234, "pairs": 56}


def make_run(folder, scale=0.5, changes=(), counted=COUNTED):
    """A run that is finished up to its evaluation, whose adapter was drawn and not trained."""
    folder.mkdir(parents=True)
    recipe = load(RECIPE, ["seed=7", *changes])
    save(recipe, folder / "recipe.yaml")
    (student,) = students(recipe, folder)
    run = student.run
    torch.manual_seed(0)
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(load_model(POCKET), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_().mul_(scale)
    with run.write("curate", *key_of("curate", recipe, run)) as work:
        (work.folder / "statistics.json").write_text(json.dumps(counted))
    with run.write("teach", *key_of("teach", recipe, run)):
        pass
    with run.write("train", *key_of("train", recipe, run)) as work:
        save_adapter(model, work.folder / "adapter")
        work.summary = TRAINED
    rows = [score("base", 0.25), score("ssb", 0.5), score("ssb", 0.375, scoring="string"), score("rft", 0.75)]
    with run.write("evaluate", *key_of("evaluate", recipe, run)) as work:
        (work.folder / "scores.json").write_text(json.dumps({"scores": rows, "differences": []}))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "pocket")


@pytest.fixture(scope="module")
def exported(run):
    export(run, ["adapter", "merged"])
    return run / "export"


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [Request(render(tokenizer, student_messages(p.question)), 0) for p in generate("validation", 12, 0)]


@pytest.fixture(scope="module")
def replies(run, tokenizer, prompts):
    """Greedy token ids of the base, and of the student as the run itself holds it."""
    sampler = TransformersSampler(load_model(POCKET), tokenizer, batch_size=12)
    return {
        name: [reply.token_ids for reply in sampler.sample(prompts, GREEDY, adapter)]
        for name, adapter in (("base", None), ("student", Adapter("student", run / "train" / "adapter")))
    }


# -- Adapter and merged weights ---------------------------------------------------------------------------------------


def test_the_adapter_is_the_trained_one_and_names_its_base_as_the_recipe_does(exported, run):
    files = {path.name for path in (exported / "adapter").iterdir()}
    assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    weights = "adapter_model.safetensors"
    assert (exported / "adapter" / weights).read_bytes() == (run / "train" / "adapter" / weights).read_bytes()
    config = json.loads((exported / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "pocket"
    PeftModel.from_pretrained(load_model(POCKET), str(exported / "adapter"))


def test_a_runs_own_adapter_is_two_files_that_name_no_folder_of_this_machine(run):
    folder = run / "train" / "adapter"
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "pocket"
    assert PeftConfig.from_pretrained(str(folder)).r == 8


def test_nothing_exported_says_where_base_and_data_lie_on_this_machine(tmp_path):
    home = tmp_path / "home-of-somebody"
    shutil.copytree(MODEL_DIR, home / "models" / "my-base")
    (home / "pairs.jsonl").touch()
    changes = [f"model.name={home}/models/my-base", f"evaluate.adapters.theirs={home}/theirs"]
    folder = make_run(home / "runs" / "pocket", changes=[*changes, f"curate.pairs_file={home}/pairs.jsonl"])
    export(folder, ["adapter", "merged"])
    files = [path for path in (folder / "export").rglob("*") if path.is_file()]
    assert len(files) > 6
    assert [path for path in files if home.name.encode() in path.read_bytes()] == []
    config = json.loads((folder / "export" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "my-base"
    card = (folder / "export" / "merged" / "README.md").read_text()
    assert "- **Base**: `my-base`" in card
    assert "base_model:" not in card.split("---\n")[1]  # nothing on the hub
    assert "pairs_file: pairs.jsonl" in card


def test_merged_weights_answer_as_base_and_adapter_do(exported, replies, tokenizer, prompts):
    folder = str(exported / "merged")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    merged = TransformersSampler(model, AutoTokenizer.from_pretrained(folder), batch_size=12).sample(prompts, GREEDY)
    assert [reply.token_ids for reply in merged] == replies["student"] != replies["base"]


def test_merged_is_a_whole_model_folder_of_16_bits(exported, tokenizer):
    folder = exported / "merged"
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118
        assert not [name for name in weights.keys() if "lora" in name]  # noqa: SIM118
    assert (folder / "generation_config.json").is_file()
    messages = student_messages("What is 3+4?")
    again = AutoTokenizer.from_pretrained(folder)
    assert again.apply_chat_template(messages, tokenize=False) == tokenizer.apply_chat_template(
        messages, tokenize=False
    )
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".jinja", ".md", ".safetensors", ".txt"}  # no pickle


VLLM = """
import json, sys
from pathlib import Path
from ssb_unsloth.backends.sampler import Adapter, Request
from ssb_unsloth.backends.vllm import VLLMSampler
from ssb_unsloth.recipe.schema import ModelConfig, SamplerConfig, SamplingConfig

if __name__ == "__main__":
    prompts, run, answered = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), Path(sys.argv[3])
    requests = [Request(ids, 0) for ids in prompts]
    answers = {}
    for name, model, adapter in (
        ("adapter", "pocket", Adapter("student", run / "export" / "adapter")),
        ("merged", str(run / "export" / "merged"), None),
    ):
        config = SamplerConfig(max_model_len=512)
        sampler = VLLMSampler(ModelConfig(name=model, dtype="float32"), config, seed=0, adapters=adapter is not None)
        found = sampler.sample(requests, SamplingConfig(temperature=0, max_tokens=80), adapter)
        answers[name] = [reply.token_ids for reply in found]
    answered.write_text(json.dumps(answers))
"""


@pytest.mark.slow
def test_merged_and_adapter_give_the_same_greedy_replies_through_vllm(exported, run, prompts, replies, tmp_path):
    script, asked, answered = (tmp_path / name for name in ("script.py", "asked.json", "answered.json"))
    script.write_text(VLLM)
    asked.write_text(json.dumps([request.prompt_ids for request in prompts]))
    subprocess.run([sys.executable, script, asked, run, answered], check=True, timeout=600)
    vllm = json.loads(answered.read_text())
    assert vllm["merged"] == vllm["adapter"] == replies["student"]


# -- The model card ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format_", "library"), [("adapter", "peft"), ("merged", "transformers")])
def test_the_card_says_what_it_is_and_how_to_load_it(exported, run, format_, library):
    card = (exported / format_ / "README.md").read_text(encoding="utf-8")
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == library
    assert str(run) not in card
    assert str(RECIPE.parent) not in card
    assert "1,234 questions gave 56 pairs" in body
    assert "| test | greedy | base | 40 | 25.0 % | 12.5 to 37.5 |\n" in body
    assert "| test | greedy | ssb | 40 | 50.0 % | 37.5 to 62.5 |\n" in body
    assert "rft" not in body.split("## How to load it")[0]  # no other student's scores
    assert "37.5 % |" not in body  # nor another scoring's
    for word in (
        "vllm serve",
        "llama.cpp",
        "licence passes on",
        "check it",
        "seed 7",
        "4 steps",
        "LoRA of rank 32 on 4 x qkv_proj, 4 x o_proj, 10.0 % of all",
        "torch",
    ):
        assert word in body, word
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", body, re.DOTALL)[1])
    assert recipe["seed"] == 7
    code = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    assert code
    for block in code:
        compile(block, "card", "exec")


def test_the_card_of_pairs_brought_along_in_the_released_codes_way_says_so(tmp_path):
    counted = {"questions": 0, "pairs": 56, "brought": 60}
    run = make_run(tmp_path / "run", changes=["preset=author_code"], counted=counted)
    export(run, ["adapter"])
    card = (run / "export" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "56 pairs that were made elsewhere." in card
    assert "come from the base itself" not in card
    assert "the question with a space between them" in card
    assert texts("released").tutor in card


# -- What can be wrong ------------------------------------------------------------------------------------------------


def test_an_unfinished_run_is_told_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"holds no recipe\.yaml, so it is no run folder"):
        finished(tmp_path)
    save(load(RECIPE), tmp_path / "recipe.yaml")
    with pytest.raises(UserError, match="training has not been finished"):
        finished(tmp_path)
    with pytest.raises(UserError, match=r"no student of .*which has ssb-s3407"):
        finished(tmp_path / "students" / "sft-s1")


def test_weights_that_are_not_finite_leave_no_model(tmp_path):
    folder = make_run(tmp_path / "run", scale=float("nan"))
    with pytest.raises(UserError, match="not finite; the training has diverged"):
        export(folder, ["merged"])
    assert list((folder / "export").iterdir()) == []


def test_without_llama_cpp_all_else_is_written(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter", "merged"}
    assert "gguf: left out. GGUF is written by llama.cpp's convert_hf_to_gguf.py" in capsys.readouterr().err
    assert main(["export", str(run), "--format", "gguf", "--out", str(tmp_path / "out")]) == 2
    assert "LLAMA_CPP" in capsys.readouterr().err
    monkeypatch.delenv("LLAMA_CPP")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("UNSLOTH_LLAMA_CPP_PATH", str(tmp_path))
    monkeypatch.setattr("ssb_unsloth.commands.export._cuda", lambda: False)
    with pytest.raises(UserError, match="git clone"):
        find_converter()


def test_a_converter_that_fails_says_why_and_leaves_the_rest(run, tmp_path, monkeypatch):
    (tmp_path / "convert_hf_to_gguf.py").write_text("raise NotImplementedError('no such pre-tokenizer')")
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot convert .*merged: NotImplementedError: no such pre-tokenizer"):
        export(run, ["gguf"], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"merged"}


# As much of Unsloth as a conversion asks for. Like the real one it rewrites files in the folder that it converts.
UNSLOTH = """
import json, os, sys
from pathlib import Path
assert not {"transformers", "peft", "trl"} & set(sys.modules), "imported too late"

class FastLanguageModel:
    def from_pretrained(name, **given):
        model = FastLanguageModel()
        model.folder = Path(name)
        return model, None

    def eval(self):
        return self

    def save_pretrained_gguf(self, save_directory, tokenizer, quantization_method):
        print("a greeting")
        if "broken" in os.environ.get("STAND_IN", ""):
            raise RuntimeError("llama.cpp cannot be built\\nmore")
        (self.folder / "config.json").write_text("spoilt")
        Path("intermediate").touch()
        Path(save_directory + "_gguf").mkdir()
        file = Path(save_directory + "_gguf", "Student." + quantization_method.upper() + ".gguf")
        weights = (self.folder / "model.safetensors").stat().st_size
        file.write_text(json.dumps([quantization_method, weights, len(tokenizer)]))
        return {"gguf_files": [str(file)]}
"""


@pytest.fixture
def unsloth(tmp_path, monkeypatch):
    """A machine with CUDA and the stand-in, and without llama.cpp."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "unsloth.py").write_text(UNSLOTH)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{RECIPE.parent.parent}")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    for name in ("PATH", "UNSLOTH_LLAMA_CPP_PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("ssb_unsloth.commands.export._cuda", lambda: True)


def test_without_a_converter_unsloth_writes_gguf_and_leaves_the_merged_folder_alone(run, tmp_path, unsloth, tokenizer):
    export(run, ["gguf"], tmp_path / "out")
    merged, gguf = tmp_path / "out" / "merged", tmp_path / "out" / "gguf"
    assert {path.name for path in gguf.iterdir()} == {"README.md", "pocket.gguf", "manifest.json"}
    weights = (merged / "model.safetensors").stat().st_size
    assert json.loads((gguf / "pocket.gguf").read_text()) == ["f16", weights, len(tokenizer)]
    assert json.loads((merged / "config.json").read_text())["dtype"] == "float16"
    assert "pocket.gguf" in (gguf / "README.md").read_text()


def test_unsloths_failure_is_one_sentence_and_a_converter_at_hand_goes_first(run, tmp_path, unsloth, monkeypatch):
    monkeypatch.setenv("STAND_IN", "broken")
    with pytest.raises(UserError, match=r"^Unsloth cannot convert .*merged: llama\.cpp cannot be built\.$"):
        export(run, ["gguf"], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"merged"}
    (tmp_path / "convert_hf_to_gguf.py").touch()
    assert find_converter() == tmp_path / "convert_hf_to_gguf.py"


def test_the_stand_in_takes_and_gives_what_the_real_one_does():
    spec = importlib.util.find_spec("unsloth")
    if spec is None:
        pytest.skip("Unsloth is not installed here")
    tree = ast.parse((Path(spec.origin).parent / "save.py").read_text(encoding="utf-8"))
    (real,) = [f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "unsloth_save_pretrained_gguf"]
    assert [a.arg for a in real.args.args][:4] == ["self", "save_directory", "tokenizer", "quantization_method"]
    given = [node.value for node in ast.walk(real) if isinstance(node, ast.Return) and isinstance(node.value, ast.Dict)]
    assert "gguf_files" in [key.value for key in given[-1].keys]


# -- What is read is looked at first ----------------------------------------------------------------------------------


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def own(run, tmp_path):
    """A copy of the run, without what was exported."""
    return shutil.copytree(run, tmp_path / "own", ignore=shutil.ignore_patterns("export"))


COMMANDS = (["export", "--format", "adapter"], ["chat"], ["push", "me/student", "--yes"])


@pytest.mark.parametrize("words", COMMANDS)
def test_an_adapter_that_was_damaged_goes_nowhere(own, words, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    path = own / "train" / "adapter" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    before = snapshot(own)
    assert main([words[0], str(own), *words[1:]]) == 2
    assert f"{path}: changed since it was written; put it back" in capsys.readouterr().err
    assert snapshot(own) == before


@pytest.mark.parametrize("words", COMMANDS)
def test_a_student_that_is_not_the_recipes_goes_nowhere(own, words, capsys, monkeypatch):
    """As after a command that changed recipe.yaml alone: model card and adapter would name another model."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    save(load(RECIPE, ["seed=7", "model.name=somebody/other"]), own / "recipe.yaml")
    before = snapshot(own)
    assert main([words[0], str(own), *words[1:]]) == 2
    assert "curate: not there, or not as the recipe asks for it now" in capsys.readouterr().err
    assert snapshot(own) == before


def test_a_refused_report_changes_nothing(own, capsys):
    before = snapshot(own)
    runs = own.rename(own.with_name("pocket")).parent
    words = ["report", str(RECIPE), "--runs", str(runs), "seed=7"]
    assert main([*words, "model.name=somebody/other"]) == 2
    assert "not as the recipe asks for it now" in capsys.readouterr().err
    (runs / "pocket").rename(own)
    (own / ".lock").unlink()
    assert snapshot(own) == before


def test_scores_of_another_adapter_are_not_on_the_card(own):
    (student,) = students(load(own / "recipe.yaml"), own)
    with student.run.write("train", *key_of("train", student.recipe, student.run)) as work:
        shutil.copytree(own / "train" / "adapter", work.folder / "adapter")
        (work.folder / "history.jsonl").write_text("another training")
        work.summary = TRAINED
    export(own, ["adapter"])
    assert "It has not been evaluated." in (own / "export" / "adapter" / "README.md").read_text()


def test_scores_that_were_changed_by_hand_are_not_on_the_card(own):
    path = own / "evaluate" / "scores.json"
    path.write_text(path.read_text().replace("0.5", "0.9", 1))
    with pytest.raises(UserError, match=r"scores\.json: changed since it was written"):
        export(own, ["adapter"])
    assert not (own / "export").exists()


@pytest.mark.parametrize("where", ["train", "train/adapter", "train.partial", "evaluate/deep/er"])
def test_an_export_goes_into_no_stages_folder(own, where, capsys):
    (own / "train.partial").mkdir()
    (own / "train.partial" / ".key").write_text("a training that was stopped")
    before = snapshot(own)
    for format_ in ("adapter", "merged", "all"):
        assert main(["export", str(own), "--format", format_, "--out", str(own / where)]) == 2
        assert "is a stage's own, and nothing is added to it" in capsys.readouterr().err
    assert snapshot(own) == before


FOREIGN = ["adapter/mine.txt", "adapter", "adapter.partial/mine.txt", ".adapter.old/mine.txt"]


@pytest.mark.parametrize("foreign", FOREIGN)
def test_an_export_replaces_and_deletes_nothing_that_is_not_an_exports(run, tmp_path, foreign):
    out = tmp_path / "out"
    (out / foreign).parent.mkdir(parents=True)
    (out / foreign).write_text("mine")
    with pytest.raises(UserError, match="move it away, or delete it"):
        export(run, ["adapter"], out)
    assert snapshot(out) == {out / foreign: b"mine"}
    assert list(out.iterdir()) == [out / foreign.split("/")[0]]


def test_an_export_replaces_an_export(run, tmp_path):
    for _ in range(2):
        export(run, ["adapter"], tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
        assert not manifests.damage(tmp_path / "adapter", manifests.read(tmp_path / "adapter"))


def test_an_export_of_an_earlier_training_is_not_pushed(own, capsys):
    from ssb_unsloth.commands.push import pushable

    export(own, ["adapter"])
    stamp = (own / "export" / "adapter" / "manifest.json").read_bytes()
    assert pushable(own, "adapter")
    assert (own / "export" / "adapter" / "manifest.json").read_bytes() == stamp
    (student,) = students(load(own / "recipe.yaml"), own)
    with student.run.write("train", *key_of("train", student.recipe, student.run)) as work:
        shutil.copytree(own / "train" / "adapter", work.folder / "adapter")
        (work.folder / "history.jsonl").write_text("another training")
        work.summary = TRAINED
    assert verify(own)[0].count("made from another train") == 2  # evaluation and export
    assert pushable(own, "adapter")
    assert verify(own)[0].count("made from another train") == 1
    (own / "export" / "adapter" / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"README\.md: changed since it was written"):
        pushable(own, "adapter")


# -- The hub ----------------------------------------------------------------------------------------------------------


def push(run, *words, hub=None, **environment):
    """`ssb push` as a user runs it, with nobody at the terminal."""
    done = client(hub, run, "-m", "ssb_unsloth", "push", str(run), "me/student", *words, **environment)
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr.splitlines()[-1] if done.stderr else ""


def test_push_is_private_and_uploads_what_was_exported(exported, run):
    with Hub() as hub:
        code, out, said = push(run, "--yes", hub=hub, HF_TOKEN=TOKEN)
        assert (code, out.strip()) == (0, f"http://127.0.0.1:{hub.server_port}/me/student"), said
        assert [(c["name"], c["visibility"]) for c in hub.created] == [("student", "private")]
        files = [path for path in (exported / "adapter").iterdir() if path.name != "manifest.json"]
        assert hub.files == {path.name: path.read_bytes() for path in files}
        assert hub.tokens == {f"Bearer {TOKEN}"}
        assert push(run, "--yes", "--public", hub=hub, HF_TOKEN=TOKEN)[0] == 0
        assert hub.created[-1]["visibility"] == "public"
        hub.shutdown()


def test_nothing_goes_out_unasked_nor_to_a_public_place(exported, run):
    with Hub(private=False) as hub:
        code, _, said = push(run, hub=hub, HF_TOKEN=TOKEN)
        assert code == 2
        assert re.search(r"Would upload 3 files, .* to me/student, private: say --yes", said)
        assert hub.created == []
        code, _, said = push(run, "--yes", hub=hub, HF_TOKEN=TOKEN)
        assert code == 2
        assert "is there already and is public: say --public" in said
        assert hub.files == {}
        hub.shutdown()


def test_no_token_and_no_network_are_one_sentence_each(exported, run):
    code, _, said = push(run, "--yes")
    assert (code, said) == (2, "ssb: The hub wants a token and there is none: run `hf auth login`, or set HF_TOKEN.")
    code, _, said = push(run, "--yes", HF_TOKEN=TOKEN)  # nothing listens there
    assert code == 2
    assert said.startswith("ssb: The hub did not take me/student: ")
    code, _, said = push(run, "--yes", HF_TOKEN=TOKEN, HF_HUB_OFFLINE="1")
    assert (code, said) == (2, "ssb: HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it first.")


@pytest.mark.parametrize("name", ["student", "a/b/c", "me/..\n", "me/ü"])
def test_a_name_that_is_none_is_refused(run, name, capsys):
    assert main(["push", str(run), name, "--yes"]) == 2
    assert "is no name of a hub repository" in capsys.readouterr().err


# -- Chat -------------------------------------------------------------------------------------------------------------


def test_base_and_student_answer_side_by_side(run, replies):
    questions = [p.question for p in generate("validation", 2, 0)]
    tokenizer = load_tokenizer(POCKET)
    given = "\n".join([questions[0], "", "[red]" + "very " * 600, questions[1]])
    done = subprocess.run(
        [sys.executable, "-m", "ssb_unsloth", "chat", str(run)],
        input=given,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "400"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert sum("base (" in line and "ssb (" in line for line in lines) == 2
    for number, question in enumerate(questions):
        assert question in done.stdout
        both = [tokenizer.decode(replies[name][number], skip_special_tokens=True) for name in ("base", "student")]
        (row,) = [line for line in lines if both[0] in line]
        assert [cell.strip() for cell in row.split("│")[1:-1]] == both
    assert "The question takes" in done.stdout


def test_chat_wants_a_finished_run(tmp_path, capsys):
    assert main(["chat", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
