"""What the pocket's students learnt, told apart as only a constructed model allows. Two tables of a finished run:

    python scripts/readings.py runs/evidence [--benchmark test]

Which wordings are read rightly, by how often the pre-training text misreads them. An answer says only that all steps
were right; the steps in a reply say each wording's reading. So this tells learning apart from sharpening: a model that
only becomes surer of what it usually does reads the seldom misread wordings better, and the others worse.

Where the loss lies: KL to the hinted teacher before and after training, at the opening of a refined solution, where a
step ends or goes on into a caution (", not 9+3"), and at the signs, which are all that an answer depends on.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssb_unsloth.pipeline.students import students
from ssb_unsloth.pocket.problems import NAMES, WORDINGS, Wording
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.records import Generation, Problem, read_jsonl
from ssb_unsloth.training.token_kl import FILE as TOKENS

STEP = re.compile(r"(\w+) has (\d+)([+-])(\d+)=")
_NAME = "|".join(NAMES)


def events(question: str) -> list[tuple[Wording, int]]:
    """The wordings of a question's events with their numbers, in their order."""
    known, *_ = question.split()
    found = []
    for sentence in re.findall(r"[^.?]+\.", question)[1:]:
        for wording in WORDINGS:
            pattern = re.escape(wording.text).replace(r"\{c\}", known).replace(r"\{n\}", r"(?P<n>\d+)")
            pattern = pattern.replace(r"\{o\}", rf"(?P<o>(?!{known}\b)(?:{_NAME}))")
            if match := re.fullmatch(pattern, sentence.strip()):
                found.append((wording, int(match["n"])))
                known = match["o"] if wording.passes_on else known
                break
        else:
            raise ValueError(f"No wording of the pocket's: {sentence!r}")
    return found


def readings(folder: Path, benchmark: str) -> list[dict[str, Any]]:
    """A row for each model and misread rate: the share of wordings with that rate that its replies read rightly.

    `folder`: a run's evaluate stage. Sampled replies of all seeds count alike; a step that is missing, or stands at
    another number, is no right reading.
    """
    asked = {p.id: events(p.question) for p in read_jsonl(folder / f"problems-{benchmark}.jsonl", Problem)}
    right: dict[tuple[str, float], list[bool]] = defaultdict(list)
    for path in sorted(folder.glob(f"*-{benchmark}-0.8.jsonl")):
        for g in read_jsonl(path, Generation):
            if g.benchmark != benchmark:
                continue  # the name of another benchmark ends alike
            steps = [(sign, int(number)) for _, _, sign, number in STEP.findall(g.text)]
            for place, (wording, number) in enumerate(asked[g.problem_id]):
                right[g.model, wording.misread].append(steps[place : place + 1] == [(wording.means, number)])
    return [
        {"model": model, "misread": rate, "events": len(found), "right": sum(found) / len(found)}
        for (model, rate), found in right.items()
    ]


def places(run: Path) -> list[dict[str, Any]]:
    """A row for each student and place in a reply: mean KL(teacher ‖ base) and KL(teacher ‖ student) there, in nats at
    temperature 1, over the pairs of all seeds that training followed token by token (`train.token_pairs`).
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for student in students(load(run / "recipe.yaml"), run):
        kept = student.run.stage("train") / TOKENS
        for line in kept.read_text(encoding="utf-8").splitlines() if kept.exists() else ():
            row = json.loads(line)
            pieces = [row["pieces"][str(token)] for token in row["ids"]]
            for place, before, after in zip(_places(pieces), row["before"], row["after"], strict=True):
                found[student.name, place].append((before, after))
    return [
        {
            "model": model,
            "place": place,
            "tokens": len(kl),
            "before": sum(before for before, _ in kl) / len(kl),
            "after": sum(after for _, after in kl) / len(kl),
        }
        for (model, place), kl in found.items()
    ]


PLACES = ("opening", "caution or not", "sign of a step", "sign in a caution", "all else")


def _places(pieces: Sequence[str]) -> list[str]:
    """The place of each token of a refined solution."""
    found, cautioned = ["opening"], False
    for piece in pieces[1:]:
        if piece in ("+", "-"):
            found.append("sign in a caution" if cautioned else "sign of a step")
        else:
            found.append("caution or not" if piece in (",", ".") and not cautioned else "all else")
        cautioned = (cautioned or "not" in piece) and "." not in piece
    return found


def place_table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line a student, a column a place; the first line is the head."""
    kl = {(row["model"], row["place"]): row for row in rows}
    lines = [["KL to its teacher, nats a token, before > after", *PLACES]]
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [kl[model, place] for place in PLACES if (model, place) in kl]
        if len(own) == len(PLACES):
            lines.append([model, *(f"{row['before']:.3f} > {row['after']:.3f}" for row in own)])
    return lines


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line a model, a column a rate; the first line is the head."""
    rates = sorted({row["misread"] for row in rows})
    share = {(row["model"], row["misread"]): row["right"] for row in rows}
    lines = [["read rightly, %; misread in pre-training", *(f"{100 * rate:.0f} %" for rate in rates)]]
    for model in dict.fromkeys(row["model"] for row in rows):
        lines.append([model, *(f"{100 * share[model, rate]:.1f}" for rate in rates)])
    return lines


def main() -> None:
    from ssb_unsloth.io.markdown import pipes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--benchmark", default="test")
    args = parser.parse_args()
    print(pipes(table(readings(args.run / "evaluate", args.benchmark))))
    print()
    print(pipes(place_table(places(args.run))))


if __name__ == "__main__":
    main()
