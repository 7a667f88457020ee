"""Models of other frameworks, exported: value, Jacobian, gradient and Hessian are those of the framework itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.frameworks.catalog import FRAMEWORKS, installed
from tests.frameworks.comparing import QUANTITIES, Case, compare
from tests.frameworks.table import DTYPES, PAGE, number, rows_of, written

CASES = {f"{framework.name}-{case}": case for framework in installed() for case in framework.cases()}


@pytest.mark.parametrize("name", CASES)
def test_derivatives(name: str) -> None:
    compare(CASES[name])


# --- the comparison itself ------------------------------------------------------------------------


@pytest.fixture
def case() -> Case:
    """A case in float64 with a fixed batch."""
    found = [case for case in CASES.values() if (case.dtype, case.batch) == ("float64", "static")]
    assert found, "no framework is installed"
    return found[0]


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_difference_is_found(case: Case, quantity: str) -> None:
    """The comparison is one that can fail: what differs by a hundredth of a millionth, in one element, is wrong."""
    export = case.make()
    own = np.array(getattr(export, quantity.lower()))
    own.flat[np.argmax(np.abs(own))] *= 1 + 1e-8
    planted = replace(case, make=lambda: replace(export, **{quantity.lower(): own}))
    with pytest.raises(AssertionError, match=f"the {quantity} differs by 1.0e-08"):
        compare(planted)


# --- the table ------------------------------------------------------------------------------------


def test_the_table_has_these_rows() -> None:
    """Figures change with versions and processors, rows do not: run ``python -m tests.frameworks`` after a change."""
    page = PAGE.read_text(encoding="utf-8")
    rows = rows_of(page)
    assert written(page, [], []) == page, "a row stands twice, or out of order"
    assert {row[0] for row in rows} == {framework.name for framework in FRAMEWORKS}
    there = {framework.name for framework in installed()}
    assert [row for row in rows if row[0] in there] == list(dict.fromkeys(case.row for case in CASES.values()))


def test_the_figures_of_the_table_are_within_the_tolerances() -> None:
    rows = rows_of(PAGE.read_text(encoding="utf-8"))
    columns = [(dtype, quantity) for dtype in DTYPES for quantity in QUANTITIES]
    for case in CASES.values():
        for (dtype, quantity), cell in zip(columns, rows[case.row], strict=True):
            if dtype == case.dtype:
                assert number(cell) <= case.tolerance(quantity), (case.row, dtype, quantity)
