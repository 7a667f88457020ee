"""Write docs/conformance.md: what becomes of ONNX's own test cases.

python -m tests.conformance                write it, from all modules of cases (some twenty minutes on two cores)
python -m tests.conformance if_ loop       only print what became of the cases of these modules
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import onnx
import onnxruntime

from tests.conformance.cases import modules
from tests.conformance.refusals import RANKS, REASONS, explained
from tests.conformance.run import Outcome, outcomes

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
FORMS = {
    "given": "as it is",
    "constants": "integers as constants",
    "symbolic": "every size symbolic",
}
VERDICTS = {
    "right": "agrees with differences; forward mode by the adjoint identity",
    "zero": "zero by nature, which differences confirm",
    "kink": "at a point without a derivative; right beside it",
    "refused": "with the reason below",
    "not runnable": "takes an optional, which cannot be fed as a number",
    "wrong": "disagrees with differences",
}


def _run(module: str) -> list[Outcome]:
    warnings.simplefilter("ignore")
    return list(outcomes(module))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", nargs="*", help="modules of onnx.backend.test.case.node to look at")
    names = parser.parse_args().module
    if names:
        for outcome in (outcome for name in names for outcome in _run(name)):
            print(outcome)
        return
    _write()


def _write() -> None:
    with ProcessPoolExecutor(2) as pool:
        found = [outcome for part in pool.map(_run, modules()) for outcome in part]
    counts = Counter((o.verdict, o.form) for o in found)
    unknown = {o.verdict for o in found} - set(VERDICTS)
    assert not unknown, unknown
    refused: dict[str, set[str]] = {}
    for o in found:
        if o.verdict == "refused":
            for name in explained(o.detail):
                refused.setdefault(name, set()).add(o.case)
    lines = [
        "# Conformance",
        "",
        f"What becomes of the node test cases of onnx {onnx.__version__} when each floating-point output is",
        "differentiated by each floating-point input, held against differences by `onnxgrad.checks`, run by",
        f"onnxruntime {onnxruntime.__version__} where it has the kernels, else by ONNX's reference. Written by",
        "`python -m tests.conformance`; the tests in `tests/conformance` fail if anything is wrong, or refused for a",
        "reason that is not listed here.",
        "",
        f"{len({o.case for o in found})} cases have a floating-point input and output. A row counts pairs of both.",
        "",
        f"| verdict | {' | '.join(FORMS.values())} | |",
        f"|---|{'---:|' * len(FORMS)}---|",
        *(
            f"| {verdict} | {' | '.join(str(counts[verdict, form]) for form in FORMS)} | {what} |"
            for verdict, what in VERDICTS.items()
        ),
        "",
        "## Refused",
        "",
        "| operator | cases | why |",
        "|---|---:|---|",
        *(
            f"| {name} | {len(cases)} | {({**REASONS, **RANKS}).get(name, ('', 'no rule'))[1]} |"
            for name, cases in sorted(refused.items())
        ),
        "",
        "Cases whose operator has a body are in ONNX's set a second time, expanded, and counted by what is in the way.",
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
