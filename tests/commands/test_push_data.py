"""Pairs, rollouts and targets as data sets: what was shared is read back to the byte, and nothing else is taken."""

import hashlib
import json
import shutil

import pytest
import yaml
from fake_hub import TOKEN, Hub, client
from safetensors.torch import load_file, save_file
from shared_run import POCKET, SMALL, make, student_in, write_curation

from ssb_unsloth.backends import TrainingBackend
from ssb_unsloth.cli import main
from ssb_unsloth.commands.data_card import licence_of
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.brought_targets import ORIGIN, Published
from ssb_unsloth.pipeline.preflight import check
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.recipe.loading import load, save
from ssb_unsloth.run import manifests

SHARD = "targets-00000.safetensors"


def snapshot(folder):
    """All files by their names, but for the manifest."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", ".lock")
    }


def put(run, what, to):
    assert main(["push", str(run), "--what", what, "--to", str(to)]) == 0
    return to


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer):
    folder = write_curation(tmp_path_factory.mktemp("home-of-somebody") / "pocket", tokenizer)
    make("teach", folder)
    return folder


@pytest.fixture(scope="module")
def shared(run, tmp_path_factory):
    """The run's targets in a folder."""
    return put(run, "targets", tmp_path_factory.mktemp("shared") / "targets")


@pytest.fixture
def own(shared, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(shared, tmp_path / "own")


@pytest.fixture
def reader(run, tmp_path):
    """A run of the same pairs, without targets."""
    return shutil.copytree(run, tmp_path / "reader" / "pocket", ignore=shutil.ignore_patterns("teach"))


# -- To a folder and back ---------------------------------------------------------------------------------------------


def test_pairs_read_back_byte_for_byte(run, tmp_path):
    out = put(run, "pairs", tmp_path / "pairs")
    assert snapshot(out).keys() == {"README.md", "pairs.jsonl"}
    for source in (out, out / "pairs.jsonl"):
        again = make("curate", tmp_path / f"again-{source.name}", f"curate.pairs_file={source}")
        assert (again / "pairs.jsonl").read_bytes() == (run / "curate" / "pairs.jsonl").read_bytes()


def test_rollouts_read_back_byte_for_byte_token_ids_and_seeds_included(run, tmp_path):
    out = put(run, "rollouts", tmp_path / "rollouts")
    assert snapshot(out).keys() == {"README.md", "rollouts.jsonl", "questions.jsonl"}
    without_a_model = ("curate.refinements=0", "teach.replies=rollouts")
    for source in (out, out / "rollouts.jsonl"):
        again = make("curate", tmp_path / f"a-{source.name}", f"curate.rollouts_file={source}", *without_a_model)
        for name in ("rollouts.jsonl", "questions.jsonl"):
            assert (again / name).read_bytes() == (run / "curate" / name).read_bytes(), name
        counted = json.loads((again / "statistics.json").read_text())
        assert (counted["mixed"], counted["rollouts"], counted["rollout_tokens"]) == (4, 16, 0)  # none paid for here


def test_targets_read_back_byte_for_byte_and_no_model_is_loaded(run, shared, reader, monkeypatch):
    monkeypatch.setattr(TrainingBackend, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    again = make("teach", reader, f"teach.targets_from={shared}")
    assert snapshot(again) == snapshot(run / "teach")
    ours, theirs = (manifests.read(folder) for folder in (run / "teach", again))
    assert (ours["key"], ours["id"], ours["summary"]) == (theirs["key"], theirs["id"], theirs["summary"])
    assert theirs["cost"]["tokens"] == 0 < ours["cost"]["tokens"]


def test_the_pairs_that_targets_belong_to_go_along(run, shared, tmp_path):
    assert snapshot(shared).keys() == {"README.md", "origin.json", "pairs.jsonl", *snapshot(run / "teach")}
    again = make("curate", tmp_path / "again", f"curate.pairs_file={shared}")
    made = make("teach", again.parent, f"curate.pairs_file={shared}", f"teach.targets_from={shared}")
    assert snapshot(made) == snapshot(run / "teach")


@pytest.mark.parametrize(
    "changes",
    [
        ("teach.targets=logits",),
        ("teach.targets=top_k", "teach.top_k=8"),
        ("teach.targets=one_hot",),
        ("teach.guidance=1", "teach.window=3"),
        ("teach.replies=rollouts", "teach.right=tokens"),
    ],
)
def test_every_kind_of_targets_reads_back(tmp_path, tokenizer, changes):
    run = write_curation(tmp_path / "pocket", tokenizer, *changes)
    before = snapshot(make("teach", run, *changes))
    out = put(run, "targets", tmp_path / "out")
    assert ("rollouts.jsonl" in snapshot(out)) == ("teach.replies=rollouts" in changes)
    shutil.rmtree(run / "teach")
    assert snapshot(make("teach", run, *changes, f"teach.targets_from={out}")) == before


def test_shards_that_a_stopped_attempt_left_are_no_part_of_the_store(run, reader, shared):
    partial = reader / "teach.partial"
    partial.mkdir()
    key = manifests.read(run / "teach")["key"]
    (partial / ".key").write_text(key)
    (partial / "targets-00007.safetensors").write_bytes(b"of another attempt")
    assert snapshot(make("teach", reader, f"teach.targets_from={shared}")) == snapshot(run / "teach")


# -- The card ---------------------------------------------------------------------------------------------------------


def test_the_cards_say_how_it_was_made_and_no_file_says_where(run, tmp_path):
    for what, words in {
        "pairs": ("pairs_file", "3 pairs came of them", "a pair a line"),
        "rollouts": ("rollouts_file", "4 a question, temperature 0.8", "a rollout a line"),
        "targets": ("targets_from", "`hidden`", "shown the hint `both`"),
    }.items():
        out = put(run, what, tmp_path / what)
        card = (out / "README.md").read_text(encoding="utf-8")
        head = yaml.safe_load(card.split("---\n")[1])
        assert head["license"] == "unknown"
        assert head["tags"] == ["ssb_unsloth", what]
        for word in (
            *words,
            "`pocket`",
            "`stories.jsonl`",
            "is **not known**",
            "seed 3407",
            "`math`",
            "It has not been evaluated",
            "temperature 0.4",
        ):
            assert word in card, word
        assert yaml.safe_load(card.split("```yaml\n")[-1].split("```")[0])["seed"] == 3407
        for path in out.iterdir():
            for folder in (run.parent.name, str(POCKET.parents[1])):
                assert folder.encode() not in path.read_bytes(), path


def test_a_licence_that_nobody_states_is_to_be_filled_in(run, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    recipe = load(POCKET, [f"problems.source={data}"])
    assert licence_of(recipe) is None
    assert licence_of(load(POCKET)) == "apache-2.0"
    (data / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Questions\n")
    assert licence_of(recipe) == "cc-by-4.0"
    for text in ("no head", "---\n[\n---\n", "---\nlicense: [a, b]\n---\n", "---\nlicense: unknown\n---\n"):
        (data / "README.md").write_text(text)
        assert licence_of(recipe) is None
    from ssb_unsloth.commands.data_card import data_card

    student = student_in(run)
    student.recipe.problems.source = str(data)
    card = data_card(student, "pairs", "me/pairs", ["pairs.jsonl"], [])
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "unknown"
    assert "The licence of the questions, `data`, is **not known**" in card


# -- What is not shared -----------------------------------------------------------------------------------------------


def refused(run, *words, capsys):
    assert main(["push", str(run), *words]) == 2
    return capsys.readouterr().err


def test_where_to_has_to_be_one_place(run, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert "Where to?" in refused(run, "--what", "pairs", capsys=capsys)
    assert "Where to?" in refused(run, "me/pairs", "--what", "pairs", "--to", out, capsys=capsys)
    assert "`ssb export RUN --out DIR`" in refused(run, "--to", out, capsys=capsys)
    assert "--format: is a student's" in refused(run, "--what", "pairs", "--format", "gguf", "--to", out, capsys=capsys)
    assert "no such file" not in refused(tmp_path, "--what", "pairs", "--to", out, capsys=capsys)
    assert "--to /: has no name" in refused(run, "--what", "pairs", "--to", "/", capsys=capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["curate", "curate/deeper", "mine"])
def test_nothing_but_a_data_set_of_ours_is_replaced(reader, place, capsys):
    (reader / "mine").mkdir()
    (reader / "mine" / "file").write_text("mine")
    before = snapshot(reader)
    said = refused(reader, "--what", "pairs", "--to", str(reader / place), capsys=capsys)
    assert "a stage's own" in said or "move it away, or delete it" in said
    assert snapshot(reader) == before


def test_a_data_set_of_ours_is_replaced(run, tmp_path):
    for what in ("pairs", "rollouts", "pairs"):
        out = put(run, what, tmp_path / "out")
        assert f"{what}.jsonl" in snapshot(out)
    assert snapshot(out).keys() == {"README.md", "pairs.jsonl"}


def test_what_was_changed_or_is_not_there_or_holds_a_token_stays(reader, tokenizer, tmp_path, capsys):
    out = ["--to", str(tmp_path / "out")]
    assert "teach: not there, or not as the recipe" in refused(reader, "--what", "targets", *out, capsys=capsys)
    path = reader / "curate" / "pairs.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Read", b"Hear", 1))
    assert "pairs.jsonl: changed since it was written" in refused(reader, "--what", "pairs", *out, capsys=capsys)
    folder = write_curation(tmp_path / "told" / "pocket", tokenizer)
    with (folder / "curate" / "questions.jsonl").open("a") as file:
        file.write(json.dumps({"id": "0", "question": f"What is {TOKEN}?", "gold": "1"}) + "\n")
    from ssb_unsloth.commands.data_set import _refuse_tokens

    with pytest.raises(UserError, match=r"questions\.jsonl, line 5: holds what looks like a token"):
        _refuse_tokens(folder / "curate" / "questions.jsonl")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "what", "said"),
    [
        (("teach.targets=online",), "targets", "teach.targets: online stores none"),
        (("train.method=sft",), "targets", "train.method sft has no stage teach"),
    ],
)
def test_a_run_without_targets_shares_none(tmp_path, tokenizer, capsys, changes, what, said):
    run = write_curation(tmp_path / "pocket", tokenizer, *changes)
    if "train.method=sft" not in changes:
        make("teach", run, *changes)
    assert said in refused(run, "--what", what, "--to", str(tmp_path / "out"), capsys=capsys)


def test_pairs_without_replies_and_rollouts_that_are_none_are_not_shared(run, tmp_path, capsys):
    bare = make("curate", tmp_path / "bare", f"curate.rollouts_file={run / 'curate' / 'rollouts.jsonl'}", *BARE).parent
    save(
        load(POCKET, [*SMALL, f"curate.rollouts_file={run / 'curate' / 'rollouts.jsonl'}", *BARE]), bare / "recipe.yaml"
    )
    out = ["--to", str(tmp_path / "out")]
    assert "its pairs have no replies" in refused(bare, "--what", "pairs", *out, capsys=capsys)
    key = f"curate.pairs_file={run / 'curate' / 'pairs.jsonl'}"
    given = make("curate", tmp_path / "given", key).parent
    save(load(POCKET, [*SMALL, key]), given / "recipe.yaml")
    assert "has no rollouts" in refused(given, "--what", "rollouts", *out, capsys=capsys)
    assert main(["push", str(given), "--what", "pairs", *out]) == 0
    assert "3 pairs were made elsewhere" in (tmp_path / "out" / "README.md").read_text()


BARE = ("curate.refinements=0", "teach.replies=rollouts")


# -- What is not taken ------------------------------------------------------------------------------------------------


def another_model(folder, part):
    """The pocket with other weights, another chat template, or another size in its config."""
    shutil.copytree(MODEL_DIR, folder)
    if part == "weights":
        tensors = load_file(folder / "model.safetensors")
        name = sorted(tensors)[0]
        save_file({**tensors, name: tensors[name] + 1}, folder / "model.safetensors", metadata={"format": "pt"})
    elif part == "template":
        path = folder / "chat_template.jinja"
        path.write_text(path.read_text() + "{# #} ")
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 2 * config["hidden_size"]}))
    return folder


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("weights", "made by pocket, whose weights or config are others than those of model.name"),
        ("template", "made by pocket with another tokenizer or chat template"),
        (
            "size",
            r"made by pocket, whose hidden states have \d+ numbers, and those of model.name .* \d+; take that model",
        ),
    ],
)
def test_targets_of_another_model_are_refused(reader, shared, tmp_path, part, said):
    model = another_model(tmp_path / "other", part)
    with pytest.raises(UserError, match=f"^teach.targets_from: {shared}: {said}"):
        make("teach", reader, f"teach.targets_from={shared}", f"model.name={model}")
    assert not list(reader.glob("teach*"))


def test_the_same_model_elsewhere_is_the_same(run, reader, shared, tmp_path):
    copy = shutil.copytree(MODEL_DIR, tmp_path / "copy")
    again = make("teach", reader, f"teach.targets_from={shared}", f"model.name={copy}")
    assert snapshot(again) == snapshot(run / "teach")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.dtype=bfloat16", "made with model.dtype float32, and the recipe says bfloat16; set it so"),
        ("prompts.wording=unquoted", "made with prompts.wording paper, and the recipe says unquoted"),
        ("prompts.tutor=Be brief. <answer_form>", "made with prompts.tutor null, and the recipe says Be brief."),
        ("teach.targets=logits", "made with teach.targets hidden, and the recipe says logits"),
        ("teach.hint=right", "made with teach.hint both, and the recipe says right"),
        ("teach.replies=right", "made with teach.replies refined, and the recipe says right"),
        ("teach.guidance=0.5", "made with teach.guidance null, and the recipe says 0.5"),
        ("teach.window=4", "made with teach.window null, and the recipe says 4"),
        ("teach.right=tokens", "made with teach.right teacher, and the recipe says tokens"),
        ("teach.batch_tokens=100", "made with teach.batch_tokens 8192, and the recipe says 100"),
    ],
)
def test_targets_by_other_keys_are_refused_before_anything_is_sampled(reader, shared, change, said):
    changes = (f"teach.targets_from={shared}", change)
    recipe = load(POCKET, [*SMALL, *changes])
    with pytest.raises(UserError) as error:
        make("teach", reader, *changes)
    assert str(error.value).startswith(f"teach.targets_from: {shared}: {said}")
    assert "or leave the key out, and the teacher runs here" in str(error.value)
    assert not list(reader.glob("teach*"))
    with pytest.raises(UserError, match=r"teach\.targets_from"):
        check(load(POCKET, [*SMALL, *changes, "evaluate.benchmarks=null"]), [student_in(reader, *changes)], reader)
    assert recipe.teach.targets_from == str(shared)


def test_a_tail_belongs_to_its_k_and_to_its_temperature(own):
    change_origin(own, settings=lambda s: s | {"teach.targets": "top_k", "teach.top_k": 8, TEMPERATURE: 2.0})
    published, wanted = Published(own, "me/targets"), ("teach.targets=top_k", "teach.top_k=8")
    published.check_settings(student_in(own, *wanted).recipe)
    with pytest.raises(UserError, match=r"made with teach.top_k 8, and the recipe says 9"):
        published.check_settings(student_in(own, wanted[0], "teach.top_k=9").recipe)
    with pytest.raises(UserError, match=r"made with train.kd_temperature / train.sharpen 2.0, and the recipe says 4.0"):
        published.check_settings(student_in(own, *wanted, "train.kd_temperature=4").recipe)


TEMPERATURE = "train.kd_temperature / train.sharpen"


def test_targets_of_other_pairs_or_prompts_are_refused(shared, own, reader, tmp_path, tokenizer):
    fewer = write_curation(tmp_path / "fewer" / "pocket", tokenizer, pairs=2)
    with pytest.raises(UserError, match=r"made for 3 other replies than the 2 of this recipe's curate stage; give"):
        make("teach", fewer, f"teach.targets_from={shared}")
    change_origin(own, contexts=lambda _: "0" * 64)
    with pytest.raises(UserError, match="the teacher has read other prompts for the same replies"):
        make("teach", reader, f"teach.targets_from={own}")
    assert not list(fewer.glob("teach*")) + list(reader.glob("teach*"))


def change_origin(folder, **changes):
    found = json.loads((folder / ORIGIN).read_text())
    for key, change in changes.items():
        found[key] = change(found[key])
    (folder / ORIGIN).write_text(json.dumps(found))


def reseal(folder, name):
    """As somebody who makes a set up would: the file's hash and size are right."""
    data = (folder / name).read_bytes()
    sealed = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change_origin(folder, files=lambda files: files | {name: sealed})


def flip(folder):
    data = bytearray((folder / SHARD).read_bytes())
    data[-3] ^= 8
    (folder / SHARD).write_bytes(data)


def cut(folder):
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-9])


def cut_and_seal(folder):
    cut(folder)
    reseal(folder, SHARD)


def narrow(folder):
    save_file({name: rows[:, 1:].contiguous() for name, rows in load_file(folder / SHARD).items()}, folder / SHARD)
    reseal(folder, SHARD)


def shorten(folder):
    save_file({name: rows[1:].contiguous() for name, rows in load_file(folder / SHARD).items()}, folder / SHARD)
    reseal(folder, SHARD)


def rename(folder):
    index = json.loads((folder / "index.json").read_text())
    index["shards"] = {f"x{name}": shard for name, shard in index["shards"].items()}
    (folder / "index.json").write_text(json.dumps(index))
    reseal(folder, "index.json")


def start_late(folder):
    index = json.loads((folder / "index.json").read_text())
    index["starts"] = dict.fromkeys(index["shards"], 10_000)
    (folder / "index.json").write_text(json.dumps(index))
    reseal(folder, "index.json")


def no_index(folder):
    (folder / "index.json").write_text('{"shards": 3}')
    reseal(folder, "index.json")


def named(name):
    return lambda folder: change_origin(folder, files=lambda files: files | {name: files[SHARD]})


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (flip, f"{SHARD} is damaged: its SHA-256 is not that of origin.json; fetch it again"),
        (cut, SHARD + r" has [\d,]+ bytes, not [\d,]+; fetch it again"),
        (cut_and_seal, f"{SHARD} is no safetensors file"),
        (narrow, SHARD + r": \w+\.hidden is \[\d+, \d+\], and this model and its reply want \[\d+, \d+\]"),
        (shorten, SHARD + r": \w+\.hidden is \[\d+, \d+\], and this model and its reply want \[\d+, \d+\]"),
        (lambda folder: (folder / SHARD).unlink(), f"{SHARD} is missing; fetch it again"),
        (lambda folder: (folder / ORIGIN).unlink(), "holds no origin.json, so it is not what `ssb push"),
        (lambda folder: (folder / ORIGIN).write_text("[1]"), "expected a JSON object"),
        (
            lambda folder: change_origin(folder, format=lambda _: 2),
            "origin.json is of format 2, and this version reads 1",
        ),
        (lambda folder: change_origin(folder, told=lambda _: {"code": "x"}), "origin.json is damaged, or was not"),
        *(
            (lambda folder, told=told: change_origin(folder, told=lambda _: told), "origin.json is damaged, or was not")
            for told in (
                {},
                {"backend": 3},
                {"backend": "x", "mean_mass": 0.9},
                {"backend": "x", "mean_mass": float("nan"), "least_mass": 0.5, "mass_temperature": 2.0},
            )
        ),
        *(
            (lambda folder, model=model: change_origin(folder, model=model), "origin.json is damaged, or was not")
            for model in (
                lambda model: {"name": model["name"], "identity": model["identity"]},
                lambda model: model | {"revision": 3},
            )
        ),
        (named("targets.bin"), "origin.json is damaged, or was not written by `ssb push`"),
        (named("../targets-00001.safetensors"), "origin.json is damaged, or was not written by `ssb push`"),
        (rename, "index.json names other replies than origin.json does"),
        (start_late, "index.json lets a reply count from a token that it has not"),
        (no_index, "index.json is not that of targets"),
    ],
)
def test_damaged_targets_are_refused_and_nothing_is_left(reader, own, harm, said):
    harm(own)
    with pytest.raises(UserError, match=said) as error:
        make("teach", reader, f"teach.targets_from={own}")
    assert "\n" not in str(error.value)
    assert not list(reader.glob("teach*"))


def test_what_is_not_there_and_what_cannot_be_meant(reader, tmp_path):
    with pytest.raises(UserError, match=r"teach\.targets_from: .*none: no such file or folder"):
        make("teach", reader, f"teach.targets_from={tmp_path / 'none'}")
    with pytest.raises(UserError, match=r"teach\.targets_from: data set 'nobody/nothing' cannot be loaded"):
        make("teach", reader, "teach.targets_from=nobody/nothing")
    with pytest.raises(UserError, match=r"teach\.targets_from: names stored targets, and teach\.targets: online"):
        load(POCKET, ["teach.targets_from=x/y", "teach.targets=online"])
    with pytest.raises(UserError, match=r"teach\.targets_from: belongs to one model"):
        load(POCKET, ["teach.targets_from=x/y", "rounds=2"])


def test_rollouts_that_are_none_of_ours_are_refused(tmp_path):
    folder = tmp_path / "rollouts"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"expected rollouts\.jsonl, or one \.jsonl file; found a\.jsonl, b\.jsonl"):
        make("curate", tmp_path / "run", f"curate.rollouts_file={folder}")


# -- The hub ----------------------------------------------------------------------------------------------------------

FETCH = "import sys; from ssb_unsloth.data.shared import found; print(found(sys.argv[1], 'key', sys.argv[2:]))"


def test_through_the_hub_and_back(run, shared, tmp_path):
    with Hub() as hub:
        words = ("-m", "ssb_unsloth", "push", str(run), "me/student", "--what", "targets")
        done = client(hub, tmp_path, *words, HF_TOKEN=TOKEN)
        assert done.returncode == 2
        assert "of " in done.stderr.splitlines()[-1]
        assert "to me/student, private: say --yes" in done.stderr
        assert hub.created == []
        done = client(hub, tmp_path, *words, "--yes", HF_TOKEN=TOKEN)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"http://127.0.0.1:{hub.server_port}/datasets/me/student"
        assert TOKEN not in done.stdout + done.stderr
        (created,) = hub.created
        assert (created["name"], created["type"], created["visibility"]) == ("student", "dataset", "private")
        there = snapshot(shared)
        assert {name: data for name, data in hub.files.items() if name != "README.md"} == {
            name: data for name, data in there.items() if name != "README.md"
        }
        assert "targets_from: me/student" in hub.files["README.md"].decode()
        done = client(hub, tmp_path, "-c", FETCH, "me/student", ORIGIN, "index.json", "*.safetensors")
        assert done.returncode == 0, done.stderr
        fetched = snapshot(tmp_path / done.stdout.strip())
        assert fetched == {name: there[name] for name in (ORIGIN, "index.json", SHARD)}
        hub.shutdown()


def test_a_public_data_set_is_not_added_to_unasked(run, tmp_path):
    with Hub(private=False) as hub:
        words = ("-m", "ssb_unsloth", "push", str(run), "me/student", "--what", "pairs", "--yes")
        done = client(hub, tmp_path, *words, HF_TOKEN=TOKEN)
        assert done.returncode == 2
        assert "is there already and is public: say --public" in done.stderr
        assert hub.files == {}
        done = client(hub, tmp_path, *words, "--public", HF_TOKEN=TOKEN)
        assert done.returncode == 0, done.stderr
        assert hub.created[-1]["visibility"] == "public"
        assert hub.files.keys() == {"README.md", "pairs.jsonl"}
        hub.shutdown()
