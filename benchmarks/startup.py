"""The time until `ssb --help` has answered, against that of an interpreter that does nothing.

python -m benchmarks.startup
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from . import common


def main(argv: list[str] | None = None) -> None:
    args = common.parser(__doc__, repeats=7).parse_args(argv)

    def run(*arguments: str) -> Callable[[], object]:
        command = [sys.executable, *arguments]
        return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    contestants = {"ours": run("-m", "ssb_unsloth", "--help"), "raw": run("-c", "pass")}
    for step in contestants.values():
        step()  # once to bring the files into memory
    times = common.in_turn(contestants, args.repeats, args.device)
    size = {"rows": 1, "hidden": 0, "vocabulary": 0}
    results = [common.row("startup", name, found, args, **size) for name, found in times.items()]
    common.show(results)
    common.save(results, "startup", args)


if __name__ == "__main__":
    main()
