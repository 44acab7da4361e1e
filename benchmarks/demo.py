"""`make demo` from nothing to the table, at several commits in turn, on this machine.

    python benchmarks/demo.py c58d724 HEAD [--repeats 2]

Each time in a fresh checkout with empty caches of pip and uv. Installation is all before `ssb run`; what a stage takes
beside its own manifest's seconds (imports, starting) counts to the stages. Needs nothing but Python, git and make.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = ("PYTHONPATH", "VIRTUAL_ENV", "HF_HUB_OFFLINE")  # of the shell that this is started from


def once(commit: str) -> dict[str, float]:
    """Seconds of installation, of the stages, and of both; and of each stage by its manifest."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder, "checkout")
        checkout.mkdir()
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "x"], cwd=checkout, input=archive, check=True)
        env = {name: value for name, value in os.environ.items() if name not in OURS}
        env |= {"PIP_CACHE_DIR": f"{folder}/pip", "UV_CACHE_DIR": f"{folder}/uv"}
        times = [time.monotonic()]
        for target in ("setup", "demo"):
            done = subprocess.run(["make", target], cwd=checkout, env=env, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"make {target} failed at {commit}:\n{done.stderr[-3000:]}")
            times.append(time.monotonic())
        manifests = sorted(checkout.glob("runs/pocket/*/manifest.json"))
        stages = {path.parent.name: json.loads(path.read_text())["cost"]["seconds"] for path in manifests}
    install, run = times[1] - times[0], times[2] - times[1]
    return {"install": install, "stages": run, "in all": install + run, **stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="+")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    for repeat in range(args.repeats):
        for commit in args.commits:
            load = os.getloadavg()[0]
            took = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in once(commit).items())
            print(f"{commit}, {repeat + 1} of {args.repeats}: {took} (load before it {load:.1f})", flush=True)


if __name__ == "__main__":
    main()
