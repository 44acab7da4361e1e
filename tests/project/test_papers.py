"""What the project's papers say of it is so: versions, the run's format, files that exist, the tools' settings."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from scripts import house
from ssb_unsloth import __version__
from ssb_unsloth.run.manifests import FORMAT

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
DOCUMENTS.remove("docs/log.md")  # which speaks of its day


def entries():
    """(version, format) of each entry of the changelog, the newest first."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.findall(r"^## \[([\d.]+)\] - (?:\d{4}-\d\d-\d\d|Unreleased)\n\nRun format (\d+)\.$", text, re.M)
    assert len(found) == text.count("\n## ")
    return [(version, int(run_format)) for version, run_format in found]


def test_the_changelogs_newest_entry_is_this_version_and_this_run_format():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert entries()[0] == (__version__, FORMAT)
    assert project["version"] == __version__


def test_another_run_format_is_another_middle_number():
    for (new, new_format), (old, old_format) in zip(entries(), entries()[1:], strict=False):
        assert tuple(map(int, new.split("."))) > tuple(map(int, old.split(".")))
        assert new_format == old_format or new.split(".")[:2] != old.split(".")[:2]


def test_the_citation_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "title", "message", "authors", "version", "license"} <= set(citation)
    assert citation["version"] == __version__
    assert citation["preferred-citation"]["url"].endswith("2512.05105")


def test_pre_commit_has_the_locked_ruff():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    (revision,) = [repo["rev"] for repo in hooks if "ruff" in repo["repo"]]
    assert f"\nruff=={revision.removeprefix('v')}\n" in (ROOT / "constraints" / "dev.txt").read_text(encoding="utf-8")


def test_the_workflow_runs_what_ci_runs_and_the_issue_form_asks_for_doctor():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert [step["run"] for step in workflow["jobs"]["ci"]["steps"] if "run" in step] == [".ci/run"]
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8"))
    asked = {field["id"]: field for field in form["body"]}
    assert "ssb doctor --json" in asked["doctor"]["attributes"]["label"]
    assert asked["doctor"]["validations"] == {"required": True}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    command = r"(?:pytest|python|ssb run|ssb plan|ssb sweep) ((?:tests|scripts|recipes|examples)/[\w./-]*\w)"
    run = set(re.findall(command, text)) - set(re.findall(r"^\+\+\+ b/(.+)$", text, re.M))  # which a worked diff makes
    text = re.sub(r"^(?:`{3}|~{3}).*?^(?:`{3}|~{3})", "", text, flags=re.M | re.S)
    linked = set(re.findall(r"\]\(([^)#:\s]+)\)", text))
    said = set(re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|sh|txt|ipynb|svg|png|html|jinja|toml))`", text))
    said |= set(re.findall(r"`((?:docs|recipes|tests|scripts|examples|\.github)/[\w./-]*\w)`", text))
    said = {name for name in said if not name.startswith("runs/")}  # what a run writes
    bare = {name for name in said if "/" not in name}
    places = [ROOT, (ROOT / document).parent, ROOT / "ssb_unsloth"]
    missing = [name for name in run | linked | said - bare if not any((place / name).exists() for place in places)]
    folders = ("ssb_unsloth", "tests", "scripts", "benchmarks", "docs", "examples", "constraints", "recipes")
    missing += [name for name in bare if not any(any((ROOT / folder).rglob(name)) for folder in folders)]
    assert sorted(missing) == []


def test_the_design_lists_every_room_once():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    listed = re.findall(r"^      (\w+)/ ", text, re.M)
    assert sorted(listed) == sorted(name for name in house.ROOMS if (ROOT / house.PACKAGE / name).is_dir())
