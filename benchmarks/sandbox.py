"""How many programs the verifier `code` grades in a second, and what each costs: `python benchmarks/sandbox.py [N]`."""

from __future__ import annotations

import resource
import sys
import time

from ssb_unsloth.io.limits import cores
from ssb_unsloth.verifier import sandbox

TESTS = "assert f(2) == 5\nassert f(1) == 4\n"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    tasks = [sandbox.Task(f"def f(x):\n    return x + {n % 7}\n", TESTS, 5.0, 512, 16) for n in range(count)]
    sandbox.run(tasks[: cores()])  # starts the runners
    start = time.perf_counter()
    passed = sum(result.outcome == "passed" for result in sandbox.run(tasks))
    seconds = time.perf_counter() - start
    sandbox.POOL.stop()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = 1000 * (used.ru_utime + used.ru_stime) / count
    rate = f"{count / seconds:.0f} programs a second on {cores()} cores"
    print(f"{rate}, {cpu:.0f} ms of CPU time each; {passed} pass")


if __name__ == "__main__":
    main()
