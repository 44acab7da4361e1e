"""`ssb verify`: whatever is done to a finished run is found, and nothing else is."""

import json
import random
import shutil

import finished_run
import pytest
from tiny import POCKET_RECIPE

from ssb_unsloth.cli import main
from ssb_unsloth.commands.reproduction import compare
from ssb_unsloth.commands.verify import verify
from ssb_unsloth.errors import UserError
from ssb_unsloth.pipeline.process import run_stage
from ssb_unsloth.pipeline.students import students
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.run import manifests
from ssb_unsloth.run.rundir import RunDir

TWO = "variants: {hot: {train: {learning_rate: 1e-3}}}"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    (folder / "two.yaml").write_text(f"base: {finished_run.ROOT / POCKET_RECIPE}\nname: two\n{TWO}\n")
    return finished_run.make(folder / "two.yaml", folder / "runs" / "two")


@pytest.fixture
def run(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "two")


def files(run):
    return sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size)


def said(run):
    """What verify says of a run in which something differs."""
    shown, whole = verify(run)
    assert not whole, shown
    return shown


def test_a_finished_run_is_whole_and_the_command_says_so(run, capsys):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files(run)}
    assert main(["verify", str(run)]) == 0
    shown = capsys.readouterr().out
    for stage in ("curate", "teach", "train", "evaluate", "report", "students/hot-s3407/train"):
        (line,) = [line for line in shown.splitlines() if line.startswith(f"{stage} ")]
        assert line.endswith("as written")
        assert json.loads((run / stage / "manifest.json").read_text())["id"][:12] in line
    assert "all as written" in shown.splitlines()[-1]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files(run)} == before


def flip(path, chance):
    """One bit of the file, anywhere."""
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def flips(run, seed, times):
    """One bit after another, anywhere in any file of the run; each is found, by the file's name."""
    chance = random.Random(seed)
    for _ in range(times):
        path = chance.choice(files(run))
        before = path.read_bytes()
        flip(path, chance)
        assert str(path) in said(run), (path, before, path.read_bytes())
        path.write_bytes(before)
    assert verify(run)[1]


def test_any_flipped_bit_of_any_file_is_found(run):
    flips(run, 1, 6)


@pytest.mark.slow
def test_any_of_three_hundred_flipped_bits_is_found(run):
    flips(run, 2, 300)


def test_any_flipped_bit_of_a_stage_is_found(pristine, run):
    """The same for many bits: only the one stage is read."""
    chance = random.Random(4)
    for _ in range(200):
        path = chance.choice([path for path in files(run) if path.name != "recipe.yaml"])
        before = path.read_bytes()
        flip(path, chance)
        folder = next(parent for parent in path.parents if (parent / "manifest.json").exists())
        if path.name == "manifest.json":
            with pytest.raises(UserError, match="not a manifest any more"):
                manifests.read(folder)
        else:
            assert [d.path for d in manifests.damage(folder, manifests.read(folder))] == [path]
        path.write_bytes(before)


def test_every_bit_of_a_manifest_counts(pristine):
    """Its white space and the letters of its escapes as well: a manifest is its canonical text."""
    data = (pristine / "train" / "manifest.json").read_bytes()
    assert b"\\u" in data
    for at in range(0, len(data), 3):
        for bit in range(8):
            other = bytearray(data)
            other[at] ^= 1 << bit
            assert not manifests._vouches(manifests._parsed(bytes(other)), bytes(other)), (at, bit)


def test_a_file_that_is_gone_added_cut_or_swapped_is_found(run):
    chance = random.Random(3)
    everything = files(run)
    for one in chance.sample(everything, 2):
        before = one.read_bytes()
        one.unlink()
        assert one.name in said(run)
        one.write_bytes(before[: chance.randrange(len(before))])
        assert one.name in said(run)
        extra = one.parent / "more.jsonl"
        extra.touch()
        assert f"{extra}: not written by ssb" in said(run)
        extra.unlink()
        other = chance.choice([path for path in everything if path.read_bytes() != before])
        one.write_bytes(other.read_bytes()), other.write_bytes(before)
        shown = said(run)
        assert str(one) in shown or other == one.parent / "manifest.json"
        assert str(other) in shown or one == other.parent / "manifest.json"
        other.write_bytes(one.read_bytes()), one.write_bytes(before)
    assert verify(run)[1]


def test_a_stage_that_is_gone_as_a_whole_or_lies_in_anothers_place_is_found(run):
    for stage in ("curate", "teach", "train", "evaluate", "report"):
        (run / stage).rename(run.parent / "aside")
        assert f"{run / stage}: not there" in said(run)
        (run.parent / "aside").rename(run / stage)
    hot = run / "students" / "hot-s3407" / "train"
    (run / "train").rename(run.parent / "aside"), hot.rename(run / "train"), (run.parent / "aside").rename(hot)
    assert "made with other settings than recipe.yaml's" in said(run)  # each is whole, and in the wrong place


def edited(run, stage, change, *, key=False, id_=False, seal=False):
    """A manifest in which somebody has changed something, and has then computed some of its digests again."""
    path = run / stage / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if key:
        manifest["key"] = manifests.digest(manifest["determined_by"])
    if id_:
        manifest["id"] = manifests.digest([manifest["key"], manifest["files"]])
    if seal:
        del manifest["seal"]
        manifest["seal"] = manifests.digest(manifest)
    path.write_text(manifests.text(manifest))


def forget(manifest, file):
    del manifest["files"][file], manifest["sizes"][file]


@pytest.mark.parametrize(
    ("change", "again", "what"),
    [
        (lambda m: m.update(id="0" * 64), {}, "not a manifest any more"),
        (lambda m: m["summary"].update(steps=400), {}, "not a manifest any more"),
        (lambda m: m["cost"].update(seconds=1), {}, "not a manifest any more"),
        (lambda m: m.update(format=2), {}, "not a manifest any more"),
        (lambda m: m.pop("seal"), {}, "not a manifest any more"),
        (lambda m: m.update(id="0" * 64), {"seal": True}, "its id is not that of its key and its files"),
        (lambda m: m["determined_by"].update(seed=8), {"seal": True}, "its key is not that of what it says"),
        (lambda m: m["determined_by"].update(seed=8), {"key": True, "id_": True, "seal": True}, "another train"),
        (lambda m: m["files"].pop("history.jsonl"), {"seal": True}, "not a manifest any more"),
        (lambda m: forget(m, "history.jsonl"), {"seal": True}, "history.jsonl: not written by ssb"),
        (lambda m: forget(m, "history.jsonl"), {"id_": True, "seal": True}, "another train"),
    ],
)
def test_an_edited_manifest_is_found_however_many_digests_were_mended(run, change, again, what):
    edited(run, "train", change, **again)
    assert what in said(run)


def test_a_result_that_was_made_again_breaks_the_chain_behind_it(run):
    shutil.rmtree(run / "curate")
    finished_run.close(RunDir(run), load(run / "recipe.yaml"), "curate", random.Random(5))
    shown = said(run)
    assert f"{run / 'teach'}: made from another curate" in shown
    assert f"{run / 'train'}: made from another curate" in shown
    assert "evaluate: not compared with recipe.yaml" in shown


def test_a_recipe_that_was_changed_by_hand_is_found(run):
    path = run / "recipe.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.0", "learning_rate: 0.1", 1))
    assert f"{path}: changed since ssb wrote it" in said(run)
    path.write_text("base: {")
    assert f"{path}: changed since ssb wrote it" in said(run)


def test_of_a_students_folder_all_that_it_was_made_from_is_looked_at(run):
    hot = run / "students" / "hot-s3407"
    shown, whole = verify(hot)
    assert whole
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == ["curate", "students/hot-s3407/train", "teach"]
    flip(run / "teach" / "targets.json", random.Random(1))
    assert "targets.json" in said(hot)
    assert verify(run / "students" / "hot-s3407")[1] is False


def test_what_is_not_finished_is_named_and_is_no_difference(run):
    (run / "train.partial" / "checkpoints").mkdir(parents=True)
    (run / "train.partial" / "checkpoints" / "half").write_text("half")
    shown, whole = verify(run)
    assert whole
    assert "train.partial: not finished" in shown


def test_an_unreadable_file_is_a_difference_and_not_the_end(run):
    path = run / "train" / "history.jsonl"
    path.unlink()
    path.mkdir()
    assert "history.jsonl: missing" in said(run)


def test_without_a_run_there_is_nothing_to_verify(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="no run folder"):
            verify(folder)


def test_large_files_are_read_too(tmp_path):
    run = RunDir(tmp_path)
    with run.write("teach", "key", {}) as work, (work.folder / "targets.safetensors").open("wb") as file:
        file.truncate((1 << 26) + 10)
    path = tmp_path / "teach" / "targets.safetensors"
    run.check("teach")
    with path.open("r+b") as file:
        file.seek(1 << 25)
        file.write(b"\1")
    with pytest.raises(UserError, match=r"targets\.safetensors: changed since it was written; put it back"):
        run.check("teach")
    with path.open("r+b") as file:
        file.truncate(1 << 26)
    with pytest.raises(UserError, match=r"67,108,864 bytes, not 67,108,874; put it back"):
        run.check("teach")


READ = [  # what reads a finished run, and one of the files that it reads
    (["report", "{recipe}", "--force"], "train/history.jsonl"),
    (["report", "{recipe}", "--force"], "evaluate/scores.json"),
    (["evaluate", "{recipe}", "--force"], "train/adapter/adapter_model.safetensors"),
    (["evaluate", "{recipe}", "--force"], "curate/pairs.jsonl"),
    (["train", "{recipe}", "--force"], "teach/targets-00000.safetensors"),
    (["teach", "{recipe}", "--force"], "curate/pairs.jsonl"),
    (["export", "{run}"], "train/adapter/adapter_model.safetensors"),
    (["chat", "{run}"], "train/adapter/adapter_config.json"),
]


@pytest.mark.parametrize(("words", "file"), READ)
def test_whatever_reads_a_stage_looks_at_it_first(run, words, file, capsys):
    places = {"run": str(run), "recipe": str(run / "recipe.yaml")}
    flip(run / file, random.Random(file))
    before = {path: path.read_bytes() for path in files(run)}
    words = [word.format(**places) for word in words]
    assert main([*words, *(["--runs", str(run.parent)] if "--force" in words else [])]) == 2
    assert f"{run / file}: changed since it was written" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in files(run)} == before


def test_the_comparison_with_the_paper_looks_at_what_it_reads(run):
    for file in ("report/report.json", "train/history.jsonl"):
        data = (run / file).read_bytes()
        flip(run / file, random.Random(1))
        with pytest.raises(UserError, match="changed since it was written"):
            compare(run)
        (run / file).write_bytes(data)


def test_the_base_of_a_later_round_is_made_of_the_adapter_that_was_trained(tmp_path):
    (tmp_path / "rounds.yaml").write_text(f"base: {finished_run.ROOT / POCKET_RECIPE}\nname: rounds\nrounds: 2\n")
    run = finished_run.make(tmp_path / "rounds.yaml", tmp_path / "runs" / "rounds")
    recipe = load(tmp_path / "rounds.yaml", [])
    (later,) = [student for student in students(recipe, run) if student.before is not None]
    flip(run / "train" / "adapter" / "adapter_model.safetensors", random.Random(1))
    with later.run.lock(), pytest.raises(UserError, match=r"adapter_model\.safetensors: changed since it was written"):
        run_stage("base", later.recipe, later.run, force=True)
