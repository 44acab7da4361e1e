"""Peak memory and time of curation, `ssb grade`, scores and the report's examples, by the number of questions.

python -m benchmarks.memory --questions 2000 10000 100000

No model: the replies are a rule's, four rollouts a question, right or wrong by the seed, of some 700 characters and 150
tokens; the bases' and the students' four samples a question are graded and scored. Each part runs in a process of its
own, whose peak is the resident memory above that at its beginning.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ssb_unsloth.backends.sampler import Adapter, Completion, Keep, Request
from ssb_unsloth.commands.grade import graded_again
from ssb_unsloth.data.problems import OnDisk, iter_problems
from ssb_unsloth.evaluation.scores import as_rows, score
from ssb_unsloth.method.curate import Curator
from ssb_unsloth.prompts import Messages
from ssb_unsloth.recipe.schema import BenchmarkConfig, CurateConfig, ProblemsConfig, SamplingConfig
from ssb_unsloth.records import EXAMPLES_BENCHMARK, Generation, Problem, Stored, generations_file, write_jsonl
from ssb_unsloth.report.worked_examples import worked_examples
from ssb_unsloth.run.curated import first_pairs
from ssb_unsloth.run.rundir import RunDir

from . import common
from .problems import rows

SAMPLES = 4
SEED = 1
STEPS = " ".join(f"Step {step}: the {step} before are counted once more and written down." for step in range(1, 11))
MODELS = ("base", "ssb")
PARTS = ("curate", "grade", "score", "report")
BENCHMARK = {"test": BenchmarkConfig(source="test", samples=SAMPLES, temperature=0.8, max_tokens=200)}


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, repeats=1)
    parser.add_argument("--questions", type=int, nargs="+", default=[2_000, 10_000])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="report needs what curate leaves")
    parser.add_argument("--folder", type=Path, help="where the files lie; default: a new one, removed at the end")
    args = parser.parse_args(argv)
    if args.measure_peak:
        common.print_peak(parts(args.folder)[args.measure_peak])
        return
    results = []
    for count in args.questions:
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            write(Path(name), count)
            for part in args.parts:
                peak = common.peak_in_fresh_process("benchmarks.memory", {"folder": name}, part)
                if peak is None:
                    raise SystemExit("Peak memory is not to be had on this machine (no /proc).")
                size: dict[str, Any] = {"rows": count, "hidden": 0, "vocabulary": 0, "peak_bytes": peak.bytes}
                results.append(
                    common.row("memory", f"ours:{part}", common.Times([peak.wall], [peak.cpu]), args, **size)
                )
                common.show(results[-1:])
                common.save(results, "memory", args)  # what an hour has measured stays, whatever the next part does


def parts(folder: Path) -> dict[str, Callable[[], Any]]:
    """What is measured, in the order in which each leaves files for the next."""
    run = RunDir(folder)
    evaluate = run.stage("evaluate")

    def curate() -> None:
        config = CurateConfig(pairs=10**9, rollouts=SAMPLES, rollout=SamplingConfig(), refine=SamplingConfig())
        problems = OnDisk(_source(folder), run.stage("curate"))
        Curator(config, Scripted, 10**6, SEED, run.stage("curate")).run(problems)

    def score_all() -> None:
        replies = chain.from_iterable(Stored(evaluate / _file(model), Generation) for model in MODELS)
        scores, differences = score(replies, BENCHMARK, SEED)
        found = {"scores": as_rows(scores), "differences": as_rows(differences)}
        (evaluate / "scores.json").write_text(json.dumps(found))

    def report() -> None:
        for model in MODELS:
            replies = (_generation(model, EXAMPLES_BENCHMARK, Problem(p.problem_id, p.question, p.gold), 0)
                       for p in first_pairs(run))  # fmt: skip
            write_jsonl(evaluate / generations_file(model, SEED, EXAMPLES_BENCHMARK, 0.0), replies)
        if not (evaluate / "scores.json").exists():  # of it only which replies there are is read
            said = [{"model": m, "benchmark": "test", "seed": SEED, "temperature": 0.8} for m in MODELS]
            (evaluate / "scores.json").write_text(json.dumps({"scores": said}))
        worked_examples(run, "ssb", SEED)

    return {
        "curate": curate,
        "grade": lambda: graded_again([evaluate / _file("base")], folder / "again"),
        "score": score_all,
        "report": report,
    }


class Scripted:
    """A sampler that answers by a rule: right where the seed is even, and in every refinement."""

    def render(self, messages: Messages) -> list[int]:
        asked = messages[1]["content"]
        found = re.search(r"Mia has (\d+) shells", asked)
        assert found is not None
        return [int(found[1]), int(not asked.startswith("Mia"))]

    def sample(
        self,
        requests: Sequence[Request],
        decoding: SamplingConfig,
        adapter: Adapter | None = None,
        title: str = "sample",
        keep: Keep | None = None,
        quiet: bool = False,
    ) -> list[Completion]:
        return [_reply(r.prompt_ids[0], bool(r.prompt_ids[1]) or r.seed % 2 == 0) for r in requests]

    def close(self) -> None:
        pass


def _reply(number: int, right: bool) -> Completion:
    return Completion(list(range(1000, 1150)), rf"{STEPS} So it is \boxed{{{number + (not right)}}}.", "stop")


def write(folder: Path, count: int) -> None:
    """The questions, and both models' replies to them."""
    for stage in ("curate", "evaluate"):
        (folder / stage).mkdir()
    write_jsonl(folder / "questions.jsonl", rows(count))
    evaluate = folder / "evaluate"
    write_jsonl(evaluate / "problems-test.jsonl", iter_problems(_source(folder)))
    for model in MODELS:
        write_jsonl(evaluate / _file(model), _generations(folder, model))


def _generations(folder: Path, model: str) -> Iterator[Generation]:
    for problem in iter_problems(_source(folder)):
        for sample in range(SAMPLES):
            yield _generation(model, "test", problem, sample)


def _generation(model: str, benchmark: str, problem: Problem, sample: int) -> Generation:
    right = (int(problem.gold) + sample) % (2 + MODELS.index(model)) != 0
    how = ("tutor", 0.8, 1.0, 0, 1.0, 200)
    reply = _reply(int(problem.gold), right)
    verdict = "right" if right else "wrong"
    answer = str(int(problem.gold) + (not right))
    return Generation(
        *(model, SEED, benchmark, problem.id, sample),
        *how,
        sample,
        reply.text,
        150,
        "stop",
        verdict,
        answer,
        problem.gold,
    )


def _source(folder: Path) -> ProblemsConfig:
    return ProblemsConfig(source=str(folder / "questions.jsonl"))


def _file(model: str) -> str:
    return generations_file(model, SEED, "test", 0.8)


if __name__ == "__main__":
    main()
