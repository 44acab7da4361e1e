"""Kills the pocket's run at random moments, lets the same command resume, and compares with an undisturbed run.

    python tests/support/chaos.py --kills 50 --seed 1

A round is one run from nothing, killed (SIGKILL, all its processes) once or more in every stage: somewhere in it, while
it writes a checkpoint, or while it closes its folder. Then the same command runs to its end, and every file of every
stage has to be that of the undisturbed run, byte for byte; of the report, which tells what it cost, its scores.
Printed are the kills by stage and moment, and what was lost. Exit code 1 if anything was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAGES = ("curate", "teach", "train", "evaluate", "report")
SETTINGS = [
    "sampler.engine=transformers",
    "problems.limit=40",
    "curate.pairs=1000",  # more than there are: all waves are sampled
    "curate.wave=10",
    "train.epochs=2",
    "train.save_steps=1",
    "train.logging_steps=2",
    "train.probe_steps=3",
    "train.probe_questions=4",
    "evaluate.benchmarks.test.limit=8",
    "evaluate.benchmarks.test-hard.limit=4",
]
WHERE = ("anywhere", "checkpoint", "closing")
TIMED = {"report"}  # stages whose files hold seconds


@dataclass(frozen=True)
class Kill:
    """A moment in a stage: `seconds` after it begins, after its `nth` checkpoint begins, or after its manifest does."""

    stage: str
    where: str  # of WHERE
    seconds: float
    nth: int = 1


def command(runs: Path) -> list[str]:
    recipe = str(ROOT / "recipes" / "pocket.yaml")
    return [sys.executable, "-m", "ssb_unsloth", "run", recipe, "--runs", str(runs), *SETTINGS]


def start(runs: Path, log: Path) -> subprocess.Popen[bytes]:
    """The run, in a process group of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(command(runs), stdout=file, stderr=file, env=environment, start_new_session=True)


def draw(rng: random.Random, seconds: dict[str, float]) -> list[Kill]:
    """The kills of a round, in the order of the stages."""
    kills = []
    for stage in STAGES:
        kills += [Kill(stage, "anywhere", rng.uniform(0, seconds[stage])) for _ in range(rng.choice((1, 1, 2)))]
        if stage == "train":
            kills += [Kill(stage, "checkpoint", rng.uniform(0, 0.05), rng.randint(1, 3)) for _ in range(3)]
        if rng.random() < 0.5:
            kills.append(Kill(stage, "closing", rng.uniform(0, 0.02)))
    return kills


def strike(kill: Kill, runs: Path, log: Path) -> bool:
    """Start the run, and kill it at that moment, or as soon as the stage is over. Returns whether it was killed."""
    folder, unsealed = runs / "pocket", set[str]()
    partial, closed = folder / f"{kill.stage}.partial", folder / kill.stage / "manifest.json"

    def reached() -> bool:
        if kill.where == "checkpoint":
            for checkpoint in (partial / "checkpoints").glob("checkpoint-*"):
                if not (checkpoint / "sealed.json").exists():
                    unsealed.add(checkpoint.name)
            return len(unsealed) >= kill.nth
        if kill.where == "closing":
            return bool(list(partial.glob("manifest.json*")))
        return partial.exists()

    process = start(runs, log)
    while not reached() and not closed.exists() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(kill.seconds if not closed.exists() else 0)
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return alive


def differences(run: Path, expected: Path) -> list[str]:
    """The files of all stages that are not as expected, and what should not have been left behind."""
    left = [path for path in run.rglob("*") if path.suffix in (".partial", ".tmp", ".old")]
    odd = [f"{path.relative_to(run)} was left behind" for path in left]
    for stage in STAGES:
        names = {
            path.relative_to(where).as_posix()
            for where in (run / stage, expected / stage)
            for path in where.rglob("*")
            if path.is_file() and path.name != "manifest.json"
        }
        if stage in TIMED:
            scores = [json.loads((where / stage / "report.json").read_text())["scores"] for where in (run, expected)]
            odd += [] if scores[0] == scores[1] else [f"{stage}: other scores"]
            continue
        for name in sorted(names):
            found, wanted = run / stage / name, expected / stage / name
            if not (found.is_file() and wanted.is_file() and found.read_bytes() == wanted.read_bytes()):
                odd.append(f"{stage}/{name}")
    return odd


def undisturbed(folder: Path) -> tuple[Path, dict[str, float]]:
    """A run that nobody kills: where it lies, and how long each of its stages took."""
    log = folder / "undisturbed.log"
    if start(folder / "undisturbed", log).wait() != 0:
        raise SystemExit(f"The undisturbed run failed:\n{log.read_text()[-2000:]}")
    run = folder / "undisturbed" / "pocket"
    return run, {s: json.loads((run / s / "manifest.json").read_text())["cost"]["seconds"] for s in STAGES}


def one_round(
    number: int, kills: list[Kill], folder: Path, expected: Path
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """One run with these kills: those that hit, by stage and moment, and what differs at its end."""
    runs, log, hit = folder / f"round-{number}", folder / f"round-{number}.log", Counter[tuple[str, str]]()
    for kill in kills:
        if not (runs / "pocket" / kill.stage / "manifest.json").exists():  # else a kill before has come that late
            hit[kill.stage, kill.where] += strike(kill, runs, log)
    code = start(runs, log).wait()
    said = log.read_text(errors="replace")
    wrong = [f"exit code {code}: {said[-500:]}"] if code else differences(runs / "pocket", expected)
    return hit, wrong + (["a traceback"] if "Traceback" in said else [])


def campaign(wanted: int, seed: int, folder: Path) -> tuple[Counter[tuple[str, str]], int, list[str]]:
    """Rounds until so many kills have hit. Returns those, how many rounds there were, and what was lost in them."""
    rng, hit, rounds, lost = random.Random(seed), Counter[tuple[str, str]](), 0, list[str]()
    expected, seconds = undisturbed(folder)
    while hit.total() < wanted:
        rounds += 1
        kills = draw(rng, seconds)
        chosen = sorted(rng.sample(range(len(kills)), min(len(kills), wanted - hit.total())))
        found, wrong = one_round(rounds, [kills[place] for place in chosen], folder, expected)
        hit += found
        lost += [f"round {rounds}: {what}" for what in wrong]
        print(f"round {rounds}: {found.total()} kills, {'; '.join(wrong) or 'nothing lost'}", flush=True)
    return hit, rounds, lost


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="keep the runs there")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        hit, rounds, lost = campaign(chosen.kills, chosen.seed, folder)
    print(f"\n| stage | {' | '.join(WHERE)} |\n|---|{'---|' * len(WHERE)}")
    for stage in STAGES:
        print(f"| {stage} | {' | '.join(str(hit[stage, where]) for where in WHERE)} |")
    print(f"\n{hit.total()} kills in {rounds} runs, seed {chosen.seed}; lost or different: {len(lost)}.")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
