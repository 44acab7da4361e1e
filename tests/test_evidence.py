"""docs/evidence.md holds what the stored rows give, and nothing else between its marks."""

import importlib.util
import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("evidence", ROOT / "scripts" / "evidence.py")
assert spec is not None
assert spec.loader is not None
evidence = importlib.util.module_from_spec(spec)
spec.loader.exec_module(evidence)

STORED = sorted((ROOT / "docs" / "evidence").glob("*.json"))


def test_the_documents_tables_are_those_of_the_stored_rows():
    document = evidence.DOCUMENT.read_text(encoding="utf-8")
    assert STORED
    for path in STORED:
        text = evidence.tables(json.loads(path.read_text(encoding="utf-8")))
        assert evidence.rewrite(document, path.stem, text) == document, path.stem


def test_a_mean_in_the_table_is_the_mean_of_the_seeds():
    for path in STORED:
        rows = json.loads(path.read_text(encoding="utf-8"))
        boxed = [s for s in rows["scores"] if (s["scoring"], s["metric"]) == ("equivalent", "pass@1")]
        for mean in (s for s in boxed if s["seed"] is None):
            own = [
                s["value"]
                for s in boxed
                if s["seed"] is not None and (s["model"], s["benchmark"]) == (mean["model"], mean["benchmark"])
            ]
            assert abs(sum(own) / len(own) - mean["value"]) < 1e-9


def test_every_picture_of_the_document_is_there():
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", evidence.DOCUMENT.read_text(encoding="utf-8")):
        assert (evidence.DOCUMENT.parent / name).is_file(), name
