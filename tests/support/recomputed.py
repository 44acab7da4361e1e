r"""A report's numbers once more, from the stored replies alone: plain Python, NumPy and SciPy, no line of the package.

    python tests/support/recomputed.py RUN [SEED]     # SEED where report.json does not name the bootstraps'

Whether a reply is right is its stored verdict; the other scorings and the vote are read off the text again, for
answers that are whole numbers, decimals and fractions.
"""

import itertools
import json
import math
import re
import sys
from fractions import Fraction
from pathlib import Path
from statistics import fmean, pstdev, stdev

import numpy as np
from scipy.stats import binomtest, norm

RESAMPLES = 10_000
NUMBER = r"-?\d+(?:\.\d+)?(?:/\d+)?"


def boxed(text):
    found = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", text)
    return found[-1] if found else None


def slashed(text):
    return re.sub(r"\\frac\{(-?\d+)\}\{(\d+)\}", r"\1/\2", text)


def number(answer):
    """The answer's value; the text itself where it is no number."""
    plain = slashed(answer.strip())
    return Fraction(plain) if re.fullmatch(NUMBER, plain) else plain


def is_right(scoring, row):
    box = boxed(row["text"])
    if scoring == "string":
        return row["finish_reason"] != "length" and box is not None and box.strip() == row["gold"].strip()
    if scoring == "equivalent" or row["verdict"] == "right":
        return row["verdict"] == "right"
    said = box if box is not None else ([None, *re.findall(NUMBER, slashed(row["text"]))][-1])
    return said is not None and number(said) == number(row["gold"])


def vote(rows):
    """The chance that the most frequent answer is right; ties by their share, no answer no vote."""
    voters = [row for row in rows if row["verdict"] in ("right", "wrong")]
    if not voters:
        return 0.0
    counts = {}
    for row in voters:
        counts.setdefault(number(row["answer"]), []).append(row["verdict"] == "right")
    most = max(map(len, counts.values()))
    return fmean(rights[0] for rights in counts.values() if len(rights) == most)


def drawn_means(values, seed):
    values = np.array(values, dtype=float)
    return values[np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)


def interval(values, counted, seed):
    total, n = sum(values), len(values)
    if counted or total in (0, n):
        found = binomtest(round(total), n).proportion_ci(method="wilson")
        return found.low, found.high, "wilson"
    return *np.quantile(drawn_means(values, seed), [0.025, 0.975]), "bootstrap"


def measures(questions, k):
    """(scoring, metric) -> the value of each question."""
    n = len(next(iter(questions.values())))
    found = {
        (scoring, "pass@1"): {q: fmean(is_right(scoring, row) for row in rows) for q, rows in questions.items()}
        for scoring in ("string", "equivalent", "format_free")
    }
    if n > 1:
        for size in k:
            if 1 < size <= n:
                found["equivalent", f"pass@{size}"] = {
                    q: fmean(any(row["verdict"] == "right" for row in s) for s in itertools.combinations(rows, size))
                    for q, rows in questions.items()
                }
        found["equivalent", f"majority@{n}"] = {q: vote(rows) for q, rows in questions.items()}
    return found


def scores(places, k, seed):
    """(model, benchmark, temperature, scoring, metric, seed) -> what the report has to say there."""
    found = {}
    for place, by_seed in places.items():
        all_values = {}
        for run_seed, questions in by_seed.items():
            replies = [row for rows in questions.values() for row in rows]
            samples = len(replies) // len(questions)
            for (scoring, metric), values in measures(questions, k.get(place[1], [])).items():
                all_values.setdefault((scoring, metric), {})[run_seed] = values
                low, high, kind = interval(list(values.values()), metric == "pass@1" and samples == 1, seed)
                lengths = {True: [], False: []}
                for row in replies:
                    lengths[is_right(scoring, row)].append(row["n_tokens"])
                found[(*place, scoring, metric, run_seed)] = {
                    "n_questions": len(questions),
                    "n_samples": samples,
                    "n_seeds": 1,
                    "value": fmean(values.values()),
                    "low": low,
                    "high": high,
                    "interval": kind,
                    "sd": None,
                    "no_answer": fmean(row["verdict"] == "no_answer" for row in replies),
                    "truncated": fmean(row["finish_reason"] == "length" for row in replies),
                    "undecided": sum(row.get("note") is not None for row in replies),
                    "mean_tokens": fmean(row["n_tokens"] for row in replies),
                    "tokens_right": fmean(lengths[True]) if lengths[True] else None,
                    "tokens_wrong": fmean(lengths[False]) if lengths[False] else None,
                }
        if len(by_seed) > 1:
            for measure, values in all_values.items():
                each = [found[(*place, *measure, run_seed)] for run_seed in by_seed]
                means = [fmean(values[s][q] for s in values) for q in next(iter(values.values()))]
                low, high, kind = interval(means, False, seed)
                over = {"n_seeds": len(by_seed), "value": fmean(means), "low": low, "high": high, "interval": kind}
                over["sd"] = stdev(row["value"] for row in each)
                for key in ("no_answer", "truncated", "mean_tokens", "tokens_right", "tokens_wrong"):
                    known = [row[key] for row in each if row[key] is not None]
                    over[key] = fmean(known) if known else None
                over["undecided"] = sum(row["undecided"] for row in each)
                found[(*place, *measure, None)] = {**each[0], **over}
    return found


def differences(places, against, seed):
    """(model, reference, benchmark, temperature, scoring) -> what the report has to say; Holm's within a scoring."""
    found = {}
    for scoring in ("string", "equivalent", "format_free"):
        table = {}
        for model, reference in against:
            for name, benchmark, temperature in places:
                other = places.get((reference, benchmark, temperature))
                if name == model and other is not None:
                    row = _difference(places[name, benchmark, temperature], other, scoring, seed)
                    table[model, reference, benchmark, temperature, scoring] = row
        least = 0.0
        for rank, row in enumerate(sorted(table.values(), key=lambda row: row["p"])):
            least = row["p_holm"] = max(least, min(1.0, (len(table) - rank) * row["p"]))
            row["significant"] = row["p_holm"] < 0.05
        found |= table
    return found


def _difference(ours, theirs, scoring, seed):
    model, reference = (
        {s: {q: fmean(is_right(scoring, r) for r in rows) for q, rows in run.items()} for s, run in side.items()}
        for side in (ours, theirs)
    )
    questions = list(next(iter(model.values())))
    a, b = ([fmean(run[q] for run in side.values()) for q in questions] for side in (model, reference))
    d = [x - y for x, y in zip(a, b, strict=True)]
    means = drawn_means(d, seed)
    low, high = np.quantile(means, [0.025, 0.975])
    row = {"n_questions": len(d), "value": fmean(d), "low": low, "high": high, "gained": None, "lost": None}
    of_reference = {s: fmean(run.values()) for s, run in reference.items()}
    row["by_seed"] = [fmean(run.values()) - of_reference.get(s, fmean(b)) for s, run in model.items()]
    runs = [run for side in (ours, theirs) for run in side.values()]
    if len(runs) == 2 and all(len(rows) == 1 for run in runs for rows in run.values()):
        gained, lost = sum(x > 0 for x in d), sum(x < 0 for x in d)
        p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        return {**row, "gained": gained, "lost": lost, "test": "mcnemar", "p": p}
    tails = min((means < 1e-12).sum(), (means > -1e-12).sum())
    least = 2 * 0.5 ** sum(abs(x) > 1e-12 for x in d)
    p = 2 * (tails + 1) / (RESAMPLES + 1)
    if tails == 0 and pstdev(d):  # more than the resamples can tell
        p = min(p, 2 * norm.sf(abs(fmean(d)) / (pstdev(d) / math.sqrt(len(d)))))
    return {**row, "test": "bootstrap", "p": min(1.0, max(least, p))}


def read(folder):
    """(model, benchmark, temperature) -> seed -> problem -> its replies, of the pairs' own examples none."""
    places = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines() if not path.name.startswith("problems-") else ():
            row = json.loads(line)
            if row["benchmark"] != "pairs.examples":
                place = places.setdefault((row["model"], row["benchmark"], row["temperature"]), {})
                place.setdefault(row["run_seed"], {}).setdefault(row["problem_id"], []).append(row)
    return places


def disagreements(folder, report, k, seed):
    """Every place where the report's rows are not what the replies in `folder` give, in words."""
    places, wrong = read(folder), []
    against = list(dict.fromkeys((d["model"], d["reference"]) for d in report["differences"]))
    columns = ("benchmark", "temperature", "scoring")
    found = {
        "scores": {tuple(r[c] for c in ("model", *columns, "metric", "seed")): r for r in report["scores"]},
        "differences": {tuple(r[c] for c in ("model", "reference", *columns)): r for r in report["differences"]},
    }
    expected = {"scores": scores(places, k, seed), "differences": differences(places, against, seed)}
    for table, rows in expected.items():
        wrong += [f"{table}: a row twice"] * (len(found[table]) < len(report[table]))
        wrong += [f"{table}: {key} on one side only" for key in set(rows) ^ set(found[table])]
        for key in set(rows) & set(found[table]):
            for column, value in rows[key].items():
                if not same(value, found[table][key][column]):
                    wrong.append(f"{table} {key} {column}: {value} recomputed, {found[table][key][column]} reported")
    return wrong


def same(a, b):
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float | np.floating) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
    return a == b


def of_run(root, seed=None):
    report = json.loads((root / "report" / "report.json").read_text(encoding="utf-8"))
    k = {name: benchmark["k"] for name, benchmark in report["decoding"].items()}
    return disagreements(root / "evaluate", report, k, report["bootstrap"]["seed"] if seed is None else seed)


if __name__ == "__main__":
    unlike = of_run(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
    print("\n".join(unlike) or "All of the report's numbers are those of its replies.")
    sys.exit(bool(unlike))
