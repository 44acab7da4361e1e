"""The rooms of the package: who imports whom, without a circle; and the picture of it is what the code gives."""

import ast
import re
import sys
from collections import defaultdict
from graphlib import TopologicalSorter

import pytest

from scripts import house

IMPORTS = house.imports()


def test_a_room_imports_only_what_the_table_allows_it():
    assert set(house.ROOMS) == {house.room(module) for module in house.modules()}
    assert sorted(f"{a} imports {b}" for a, b in house.arrows() if b not in house.ROOMS[a]) == []
    before = set()
    for name, may in house.ROOMS.items():
        assert set(may) <= before, f"{name} may import only what stands above it in the table"
        before.add(name)


def test_no_circle_between_modules():
    graph = defaultdict(set)
    for one in IMPORTS:
        graph[one.module].add(one.of)
    list(TopologicalSorter(graph).static_order())  # CycleError names the circle


def test_no_private_name_is_imported_from_another_module():
    private = re.compile(r"(^|\.)_(?!_)")
    assert [one for one in IMPORTS if private.search(one.of) or private.search(one.name)] == []


@pytest.mark.parametrize("name", [name for name in house.ROOMS if (house.ROOT / house.PACKAGE / name).is_dir()])
def test_a_rooms_first_file_says_what_it_is_about_and_who_may_import_whom_and_imports_nothing(name):
    tree = ast.parse((house.ROOT / house.PACKAGE / name / "__init__.py").read_text(encoding="utf-8"))
    about, _, law = (ast.get_docstring(tree) or "").partition("\n\nMay import: ")
    assert len(about) > 40
    assert f"May import: {law}" == house.law(name), "python scripts/house.py writes it"
    taken = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert name == "backends" or {each.partition(".")[0] for each in taken} <= sys.stdlib_module_names


def test_the_picture_is_current():
    assert house.PICTURE.read_text(encoding="utf-8") == house.draw(), "python scripts/house.py draws it again"


def test_no_function_is_above_80_lines_but_the_kernel():
    long = {
        f"{module}.{node.name}"
        for module, path in house.modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 80
    }
    assert long == {"method.kernels._kd_rows"}


def test_no_test_imports_a_test():
    imports = re.compile(r"^\s*(?:from|import) (?:test_|tests\b|conftest\b)", re.M)
    files = [*(house.ROOT / "tests").rglob("*.py")]
    assert len(files) > 90
    assert [file.name for file in files if imports.search(file.read_text(encoding="utf-8"))] == []
