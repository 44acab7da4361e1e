"""The pages that are written from the source are the source's, and the site lists every page."""

import ast
import os
import re
import subprocess
import sys

import pytest
import yaml

import ssb_unsloth
from scripts import library, messages

DOCS = messages.ROOT / "docs"


def in_nav(entry):
    if isinstance(entry, str):
        return [entry]
    return [page for each in (entry.values() if isinstance(entry, dict) else entry) for page in in_nav(each)]


@pytest.mark.parametrize("module", [library, messages], ids=["library", "messages"])
def test_a_written_page_is_what_its_script_writes(module):
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), f"run `python scripts/{module.PAGE.stem}.py`"


def test_the_library_page_has_every_public_name_with_its_arguments():
    text = library.page()
    for name in library.public():
        entry = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert f"{name}(" in entry
        assert (getattr(ssb_unsloth, name).__doc__ or "").split(".")[0] in entry


def test_a_message_is_findable_by_its_words():
    """Of every raise whose text stands in it, the longest run of words without anything put in."""
    page = " ".join(messages.page().split())
    looked = 0
    for path in messages.PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args):
                continue
            text = node.exc.args[0]
            if ast.unparse(node.exc.func) == "UserError" and isinstance(text, ast.JoinedStr):
                parts = [part.value for part in text.values if isinstance(part, ast.Constant)]
                assert " ".join(max(parts, key=len).split()) in page, path
                looked += 1
    assert looked > 200


def test_the_site_has_every_page_once():
    nav = in_nav(yaml.safe_load((messages.ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(nav) == sorted(path.name for path in DOCS.glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built strictly: a link to nowhere, a page that is in no menu, an anchor that is none are errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--no-directory-urls", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=messages.ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


def test_the_site_is_built_without_a_warning(site):
    assert "train.kd_temperature" in (site / "keys.html").read_text(encoding="utf-8")
    assert (site / "idea.svg").is_file()


@pytest.mark.slow
def test_on_a_phone_no_page_is_wider_than_the_screen_and_none_loads_anything_from_elsewhere(site, browser):
    browser.resize(390, 840)
    for page in sorted(site.glob("*.html")):
        browser.open(page)
        assert browser.js("document.documentElement.scrollWidth") <= 390, page.name
        assert [url for url in browser.requests if not url.startswith("file:")] == []


def test_the_wheels_extra_for_a_cpu_is_never_shown_without_the_index_that_has_torchs_build():
    shown = 0
    for page in [messages.ROOT / "README.md", *DOCS.glob("*.md")]:
        for command in re.findall(r"pip install [^`\n]*ssb_unsloth\[cpu\][^`\n]*", page.read_text(encoding="utf-8")):
            assert "--extra-index-url https://download.pytorch.org/whl/cpu" in command, page.name
            shown += 1
    assert shown >= 2


def test_every_page_but_the_home_page_is_linked_from_it_and_from_the_readme():
    pages = {path.name for path in DOCS.glob("*.md")} - {"index.md"}
    home = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8")))
    assert pages - home == {"messages.md"}  # from troubleshooting.md
    readme = set(re.findall(r"\]\(docs/([\w-]+\.md)\)", (messages.ROOT / "README.md").read_text(encoding="utf-8")))
    assert pages - readme <= {"messages.md", "keys.md", "library.md", "troubleshooting.md"}
