"""The tables of docs/scale.md: the plan's arithmetic for many cards, and the simulation beside it.

python scripts/scale.py            # write them into the document
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import cluster  # noqa: E402
from ssb_unsloth.io.markdown import pipes  # noqa: E402
from ssb_unsloth.machine.cards import CARDS  # noqa: E402
from ssb_unsloth.machine.plan import span  # noqa: E402
from ssb_unsloth.machine.scaling import Cluster, Scale, make_scale  # noqa: E402
from ssb_unsloth.recipe.loading import load  # noqa: E402

DOCUMENT = ROOT / "docs" / "scale.md"
RECIPE = ROOT / "recipes" / "qwen2.5-3b-gsm8k.yaml"
MODELS = {
    "3B": "Qwen/Qwen2.5-3B-Instruct",
    "32B": "Qwen/Qwen2.5-32B-Instruct",
    "70B": "meta-llama/Llama-3.1-70B-Instruct",
}
CARD, PRICE = "h100", 2.5
PAIRS = 0.27  # of the questions, as the plan has it
# Of each number of questions: nodes of 8 cards, and how the recipe is changed for them.
SIZES: dict[int, tuple[tuple[int, ...], tuple[str, ...]]] = {
    10**3: ((1,), ()),
    10**5: ((1, 8), ("curate.wave=16384", "train.batch_size=64", "train.micro_batch_size=4")),
    10**7: ((8, 128), ("curate.wave=131072", "train.batch_size=512", "train.micro_batch_size=4", "train.epochs=1")),
}


def plan(model: str, questions: int, nodes: int, *overrides: str) -> Scale:
    """Of the paper's recipe with one student, on so many nodes of 8 cards, without loading and installing."""
    changes = ["variants=null", "problems.source=my/questions", f"curate.questions={questions}", f"card.price={PRICE}"]
    changes += [f"model.name={MODELS[model]}", f"curate.pairs={int(PAIRS * questions)}", "train.probe_steps=1000"]
    scale = make_scale(load(RECIPE, [*changes, *overrides]), Cluster(CARDS[CARD], 8, nodes))
    scale.plan.before = None  # it depends on what is on the machine that writes the table
    return scale


def sizes() -> list[list[str]]:
    rows = [["model", "questions", "cards", "curate", "teach", "train", "evaluate", "in all", "money"]]
    for model in MODELS:
        for questions, (nodes, changes) in SIZES.items():
            for count in nodes:
                scale = plan(model, questions, count, *changes)
                times = {row.name: span(row.seconds) for row in scale.rows}
                stages = [times.get(name, "does not fit") for name in ("curate", "teach", "train", "evaluate")]
                assert scale.money is not None
                low, high = scale.money
                cost = f"{low:,.0f} to {high:,.0f}"
                rows.append([model, f"{questions:,}", f"{8 * count:,}", *stages, span(scale.seconds), cost])
    return rows


def stops() -> list[list[str]]:
    rows = [["model", "questions", "stage", "a replica", "pays up to", "what stops more"]]
    for model in MODELS:
        for questions, (nodes, changes) in SIZES.items():
            for row in plan(model, questions, nodes[-1], *changes).rows:
                replica = f"{row.split} card{'s' * (row.split > 1)}, {row.memory / 2**30:.0f} GiB each"
                rows.append([model, f"{questions:,}", row.name, replica, f"{row.pays_up_to:,}", row.why])
    return rows


def simulated(overrides: tuple[str, ...], cards: tuple[int, ...], mtbf: float) -> Callable[[], list[list[str]]]:
    return lambda: cluster.table(overrides, cards, mtbf, 0)


INFINITE = float("inf")
LARGE = ("problems.source=my/questions", "curate.questions=100000", "curate.pairs=27000", "curate.wave=16384")
TABLES: dict[str, Callable[[], list[list[str]]]] = {
    "sizes": sizes,
    "stops": stops,
    "waves of 128": simulated(("curate.wave=128",), (1, 2, 4, 8, 16, 64), INFINITE),
    "waves of 1,024": simulated(("curate.wave=1024",), (1, 2, 4, 8, 16, 64), INFINITE),
    "many questions": simulated(LARGE, (8, 64), INFINITE),
    "failures": simulated(LARGE, (8, 64), 2.0),
}


def rewrite(document: str, name: str, text: str) -> str:
    """The document with what stands between a table's two marks replaced."""
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.S)
    if not pattern.search(document):
        raise SystemExit(f"docs/scale.md: no <!-- {name} --> ... <!-- /{name} --> to write the table between.")
    return pattern.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", document)


def main() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        document = rewrite(document, name, pipes(table()))
    DOCUMENT.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()
