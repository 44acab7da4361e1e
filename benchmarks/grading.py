"""What grading a reply takes where answers are formulas: `python -m benchmarks.grading`.

MATH500's own solutions, and each with another problem's answer in a box behind it, by the verifier `math`: for the
first time, and once more, when all comparisons are known.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from ssb_unsloth.verifier.verifiers import verifier_for

SOLUTIONS = Path(__file__).parents[1] / "tests" / "fixtures" / "math500" / "solutions.jsonl"


def main() -> None:
    rows = [json.loads(line) for line in SOLUTIONS.read_text(encoding="utf-8").splitlines()]
    others = [row["gold"] for row in (*rows[1:], rows[0])]
    replies = [(row["solution"], row["gold"]) for row in rows]
    replies += [(rf"{row['solution']} \boxed{{{other}}}", row["gold"]) for row, other in zip(rows, others, strict=True)]
    verifier = verifier_for("math")
    for when in ("for the first time", "once more"):
        start = time.perf_counter()
        right = sum(verifier.grade(reply, gold).verdict == "right" for reply, gold in replies)
        each = 1000 * (time.perf_counter() - start) / len(replies)
        print(f"{len(replies):,} replies {when}: {each:.2f} ms each; {right:,} right")


if __name__ == "__main__":
    main()
