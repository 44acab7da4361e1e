"""The support matrix of docs/models.md is what its results say, and the results are what comes of running it again."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import support_matrix

SUPPORT = Path(__file__).parents[1] / "support"

RESULTS = support_matrix.read()


def test_the_page_says_what_was_run():
    text = support_matrix.PAGE.read_text(encoding="utf-8")
    assert text == support_matrix.page(text, RESULTS), "python scripts/support_matrix.py --page writes it"
    cells = [cell for row in RESULTS["families"].values() for cell in row.values()]
    assert support_matrix.section(RESULTS).count("| yes ") == cells.count("yes")
    assert all(cell in text for cell in cells)


@pytest.mark.slow
def test_the_families_are_those_that_are_run():
    import matrix

    assert tuple(RESULTS["families"]) == matrix.FAMILIES


@pytest.mark.slow
@pytest.mark.parametrize("family", RESULTS["families"])
def test_a_family_goes_as_far_as_the_matrix_says(family, tmp_path):
    """All columns but vLLM's, whose engine takes half a minute a family."""
    import matrix

    said = {column: cell for column, cell in RESULTS["families"][family].items() if column != "vllm"}
    assert matrix.in_process(family, tmp_path) == said


@pytest.mark.slow
def test_transformers_runs_beside_vllms_engine_of_a_family_that_it_builds_from_transformers_class(tmp_path):
    """OLMo 2's engine leaves its compiler in that class. The base was made before, the student is made after."""
    code = "import sys, matrix; from pathlib import Path; print(matrix.by_vllm('olmo2', Path(sys.argv[1])))"
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=SUPPORT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1] == "yes"
