"""Measure all models of the frameworks that are installed, and write the table of docs/frameworks.md.

python -m tests.frameworks                  all that are installed (some minutes)
python -m tests.frameworks PyTorch JAX      only these
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from tests.frameworks.catalog import installed, measure
from tests.frameworks.table import PAGE, written


def main() -> None:
    there = {framework.name: framework for framework in installed()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", nargs="*", help=f"of {', '.join(there)}")
    names = parser.parse_args().framework or list(there)
    for name in names:
        if name not in there:
            parser.error(f"{name} is not installed, or not known; there is {', '.join(there)}")
    found = []
    for name in names:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # each has threads of its own
            found += pool.submit(measure, name).result()
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), found, names), encoding="utf-8")


if __name__ == "__main__":
    main()
