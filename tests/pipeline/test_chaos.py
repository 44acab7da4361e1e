"""The harness that kills runs (`make chaos`): in short, and that it sees what it is there to see."""

import json
import shutil

import pytest
from chaos import STAGES, campaign, differences


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_as_an_undisturbed_one(tmp_path):
    hit, _, lost = campaign(5, 7, tmp_path)
    assert lost == []
    assert hit.total() == 5
    assert hit["train", "checkpoint"]


def test_one_changed_byte_a_lost_file_another_score_and_a_leftover_are_seen(tmp_path):
    expected = tmp_path / "expected"
    for stage in STAGES:
        (expected / stage).mkdir(parents=True)
        (expected / stage / "manifest.json").write_text("{}")
        (expected / stage / "rows.jsonl").write_text("{}\n")
    (expected / "report" / "report.json").write_text(json.dumps({"scores": [1], "seconds": 3}))

    def seen(change):
        run = shutil.copytree(expected, tmp_path / "run")
        change(run)
        found = differences(run, expected)
        shutil.rmtree(run)
        return found

    assert seen(lambda run: None) == []
    assert seen(lambda run: (run / "report" / "report.json").write_text('{"scores": [1], "seconds": 4}')) == []
    assert seen(lambda run: (run / "train" / "rows.jsonl").write_text("{}\r")) == ["train/rows.jsonl"]
    assert seen(lambda run: (run / "curate" / "rows.jsonl").unlink()) == ["curate/rows.jsonl"]
    assert seen(lambda run: (run / "teach" / "more").write_text("")) == ["teach/more"]
    assert seen(lambda run: (run / "report" / "report.json").write_text('{"scores": [2]}')) == ["report: other scores"]
    assert seen(lambda run: (run / "train.partial").mkdir()) == ["train.partial was left behind"]
