"""Check properties of derivatives on many random models.

python -m tests.properties --examples 100000            all properties, in new random models
python -m tests.properties --examples 1000 --check check_hessian
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.properties.checks import CHECKS
from tests.properties.run import explore

#: Programs of one task.
CHUNK = 500


def task(check: str, examples: int, max_steps: int) -> tuple[dict[str, int], str]:
    """Return the counts, or the report of a failure."""
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of ONNX's reference
    try:
        return explore(check, examples, random=True, max_steps=max_steps), ""
    except Exception as error:  # of which only the text goes through to the other process
        return {}, "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])


def main() -> int:
    """Run; the exit code is the number of properties that do not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.properties", description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000, help="number of models, shared among the properties")
    parser.add_argument("--check", action="append", choices=sorted(CHECKS), help="a property; default: all")
    parser.add_argument("--steps", type=int, default=6, help="number of steps that a model is made of at most")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    arguments = parser.parse_args()
    checks = arguments.check or sorted(CHECKS)
    share = -(-arguments.examples // len(checks))
    failed: dict[str, str] = {}
    start = time.monotonic()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        tasks = {
            pool.submit(task, check, min(CHUNK, share - first), arguments.steps): check
            for first in range(0, share, CHUNK)
            for check in checks
        }
        totals: dict[str, dict[str, int]] = {check: {} for check in checks}
        for done in as_completed(tasks):
            check, (counts, report) = tasks[done], done.result()
            for name, count in counts.items():
                totals[check][name] = totals[check].get(name, 0) + count
            print(f"{check}: {totals[check].get('decided', 0)} of {share}", file=sys.stderr, flush=True)
            if report and check not in failed:
                failed[check] = report
                print(f"{check} FAILED\n{report}\n", flush=True)
    for check, counts in totals.items():
        verdict = "FAILED" if check in failed else "held"
        seconds = time.monotonic() - start
        print(f"{check}: {verdict}; {counts.get('decided', 0)} decided, {counts.get('undecided', 0)} undecided")
    print(f"{seconds:.0f} s")
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main())
