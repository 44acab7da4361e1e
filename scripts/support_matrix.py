"""Write the support matrix of docs/models.md, from what was run: docs/models.json.

python scripts/support_matrix.py                    all families by transformers, in this process
python scripts/support_matrix.py --vllm FAMILY ...  these by vLLM's CPU build, one after another
python scripts/support_matrix.py --page             the page alone, which the others write too

`tests/support/matrix.py` says what is run. A result of other versions than those of today's run is not kept.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "models.md", ROOT / "docs" / "models.json"
BEGIN, END = "<!-- support: written by scripts/support_matrix.py -->\n", "<!-- end of support -->\n"
HEADS = {
    **{
        "plan": "plan",
        "prompt": "prompt",
        "head": "head",
        "teach": "teach",
        "train": "train",
        "sample": "transformers",
    },
    **{"sample": "transformers", "vllm": "vLLM", "adapter": "adapter", "merged": "merged", "unsloth": "Unsloth"},
}
LIBRARIES = {  # what each group of columns was run with
    "transformers": ("torch", "transformers", "peft", "trl"),
    "vllm": ("vllm", "transformers"),
}

Results = dict[str, Any]  # {"ran": {group: {"date", "versions"}}, "families": {family: {column: "yes" or a sentence}}}


def read() -> Results:
    if not RESULTS.is_file():
        return {"ran": {}, "families": {}}
    found: Results = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def write(results: Results) -> None:
    rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(cells)}" for name, cells in results["families"].items())
    ran = json.dumps(results["ran"])
    RESULTS.write_text(f'{{\n  "ran": {ran},\n  "families": {{\n{rows}\n  }}\n}}\n', encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


def page(text: str, results: Results) -> str:
    """The page with the section in its place."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + section(results) + END + rest.partition(END)[2]


def section(results: Results) -> str:
    """When and with what it was run, the table, and what failed as notes."""
    notes: list[str] = []

    def cell(said: str | None) -> str:
        if said is None or said == "yes":
            return said or "-"
        if said not in notes:
            notes.append(said)
        return f"no ({notes.index(said) + 1})"

    lines = ["| family | " + " | ".join(HEADS.values()) + " |", "|---" * (len(HEADS) + 1) + "|"]
    for name, cells in results["families"].items():
        lines.append(f"| `{name}` | " + " | ".join(cell(cells.get(column)) for column in HEADS) + " |")
    said = [
        f"- {group}: {entry['date']}, " + ", ".join(f"{name} {version}" for name, version in entry["versions"].items())
        for group, entry in results["ran"].items()
    ]
    failed = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join(["", *said, "", *lines, *(["", *failed] if failed else []), ""]) + "\n"


def now(group: str) -> dict[str, Any]:
    """Today, and the versions of what the group of columns stands on."""
    versions = {name: importlib.import_module(name).__version__ for name in LIBRARIES[group]}
    return {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "versions": versions}


def by_transformers() -> Results:
    """All families, a few seconds each; what vLLM did is kept."""
    import matrix

    found = {}
    for family in matrix.FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            found[family] = matrix.in_process(family, Path(folder))
        print(family, found[family], flush=True)
    results = read()
    old = results["families"]
    kept = {family: {"vllm": old[family]["vllm"]} for family in found if "vllm" in old.get(family, {})}
    results["families"] = {family: cells | kept.get(family, {}) for family, cells in found.items()}
    results["ran"]["transformers"] = now("transformers")
    return results


def by_vllm(families: list[str]) -> Results:
    """These families, half a minute each; results of other versions are dropped."""
    import matrix

    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            said = matrix.by_vllm(family, Path(folder))
        results = read()
        today, before = now("vllm"), results["ran"].get("vllm")
        if before and before["versions"] != today["versions"]:
            for cells in results["families"].values():
                cells.pop("vllm", None)
        results["ran"]["vllm"] = today
        results["families"].setdefault(family, {})["vllm"] = said
        print(family, said, flush=True)
        write(results)  # each, for an engine may take the process with it
    return read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", nargs="+", metavar="FAMILY")
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    write(read() if asked.page else by_vllm(asked.vllm) if asked.vllm else by_transformers())


if __name__ == "__main__":
    main()
