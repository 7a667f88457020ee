"""Write the tables of docs/sklearn.md: what becomes of each estimator of scikit-learn, or check that they are right.

python docs/make_sklearn.py            measure, and write them; refuses if a derivative is gone that the tables had
python docs/make_sklearn.py --remove   write them all the same
python docs/make_sklearn.py --check    exit code 1 if a verdict is another, or a difference larger than the page says
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is run as a script

from tests.estimators.cases import Case, every_class
from tests.estimators.variants import variants
from tests.estimators.verdicts import Verdict, verdict

PAGE = Path(__file__).parent / "sklearn.md"
#: The smallest difference that is told from none: what is left of differences between numbers in float64.
_SMALLEST = 1e-11
_SAID = {
    "derivative": "derivative", "zero": "zero almost everywhere", "labels": "labels only", "refused": "refused",
    "no new samples": "not applicable",
}  # fmt: skip
_HEAD = "| estimator | derivative | of | difference | |\n|---|---|---|---|---|"


def row(case: Case, found: Verdict) -> str:
    """Return the row of one estimator."""
    bound = f"{bound_of(found.difference):.0e}" if found.kind == "derivative" else ""
    words = reason(found)
    return f"| {escaped(case.name)} | {_SAID[found.kind]} | {found.method} | {bound} | {escaped(words)} |"


def bound_of(difference: float) -> float:
    """Return the power of ten that a difference stays below with a factor of three to spare."""
    return float(10.0 ** math.ceil(math.log10(max(3 * difference, _SMALLEST))))


def reason(found: Verdict) -> str:
    """Return why there is no derivative."""
    if found.kind == "no new samples":
        return "it says nothing of samples that it was not fitted on"
    words = found.why.split("cannot be converted: ")[-1]
    if " is in the way of the derivative" in words:
        words = words.split("': ", 1)[-1]
    return " ".join(words.split(";")[0].split()).rstrip(".")


def escaped(text: str) -> str:
    """Return a text as it stands in a cell."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;")


def rows_of(text: str) -> dict[str, str]:
    """Return the rows of a page by their first cell."""
    found = re.findall(r"^(\| (.+?) \| (?:" + "|".join(_SAID.values()) + r") \| .*\|)$", text, re.MULTILINE)
    return {name: line for line, name in found if name != "estimator"}


def agrees(case: Case, found: Verdict, text: str) -> str:
    """Return what is wrong with the row of an estimator on a page, or nothing."""
    before = rows_of(text).get(escaped(case.name))
    if before is None:
        return f"{case.name} has no row"
    now, stated = row(case, found), before.split(" | ")[3]
    if found.kind == "derivative" and stated and found.difference <= float(stated):
        now = now.replace(f" | {bound_of(found.difference):.0e} | ", f" | {stated} | ")
    return "" if now == before else f"the row is\n{before}\nand should be\n{now}"


def table(rows: Iterable[str]) -> str:
    """Return a table."""
    return "\n".join([_HEAD, *rows])


def page(before: str) -> str:
    """Return the page with its tables written anew."""
    text = before
    for name, cases in (("classes", every_class()), ("choices", variants())):
        new = table(row(case, verdict(case)) for case in cases)
        start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        text = text[: text.index(start) + len(start)] + new + text[text.index(end) :]
    return text


def main(arguments: list[str]) -> int:
    """Write or check the page; return the exit code."""
    before = PAGE.read_text(encoding="utf-8")
    if "--check" in arguments:
        wrong = [agrees(case, verdict(case), before) for case in [*every_class(), *variants()]]
        print("\n".join(filter(None, wrong)), end="")
        return int(any(wrong))
    text = page(before)
    derivatives = {name for name, line in rows_of(before).items() if "| derivative |" in line}
    gone = derivatives - {name for name, line in rows_of(text).items() if "| derivative |" in line}
    if gone and "--remove" not in arguments:
        print(f"derivatives are gone: {', '.join(sorted(gone))}; pass --remove if that is meant")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
