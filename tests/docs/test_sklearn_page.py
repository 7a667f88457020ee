"""The tables of docs/sklearn.md are right row by row, its recipes run, its writer drops nothing in silence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from docs import make_sklearn
from tests.estimators.cases import KINDS, Case, every_class
from tests.estimators.variants import variants
from tests.estimators.verdicts import Verdict, verdict

TEXT = make_sklearn.PAGE.read_text(encoding="utf-8")
CASES = [*every_class(), *variants()]


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_row(case: Case) -> None:
    found = verdict(case)
    assert found.values <= (1e-11 if found.kind != "refused" else 1e-6)  # refused is what skl2onnx does in float32
    assert not make_sklearn.agrees(case, found, TEXT)


def test_there_is_a_row_for_each_class_and_for_nothing_else() -> None:
    assert set(make_sklearn.rows_of(TEXT)) == {make_sklearn.escaped(case.name) for case in CASES}
    assert len({case.name for case in CASES}) == len(CASES)
    assert set(KINDS) == {case.kind for case in every_class()}


def test_most_have_a_derivative() -> None:
    lines = make_sklearn.rows_of(TEXT).values()
    assert sum("| derivative |" in line for line in lines) >= 265
    assert sum("| refused |" in line for line in lines) <= 35


def test_a_derivative_that_is_gone_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ridge = next(case for case in CASES if case.name == "Ridge")
    monkeypatch.setattr(make_sklearn, "PAGE", tmp_path / "sklearn.md")
    monkeypatch.setattr(make_sklearn, "every_class", lambda: [ridge])
    monkeypatch.setattr(make_sklearn, "variants", list)
    markers = [f"<!-- {n} -->\n\n<!-- end of {n} -->" for n in ("classes", "choices")]
    make_sklearn.PAGE.write_text("\n".join(markers), encoding="utf-8")
    assert make_sklearn.main([]) == 0
    assert make_sklearn.main(["--check"]) == 0
    assert "| Ridge | derivative | predict | 1e-11 |" in make_sklearn.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(make_sklearn, "verdict", lambda case: Verdict("zero", "predict"))
    assert make_sklearn.main(["--check"]) == 1
    assert make_sklearn.main([]) == 1
    assert make_sklearn.main(["--remove"]) == 0
    assert "| Ridge | zero almost everywhere |" in make_sklearn.PAGE.read_text(encoding="utf-8")


def test_a_difference_beyond_the_bound_is_noticed() -> None:
    case = CASES[0]
    text = make_sklearn.row(case, Verdict("derivative", "predict", 1e-10))
    assert not make_sklearn.agrees(case, Verdict("derivative", "predict", 5e-13), text)
    assert "should be" in make_sklearn.agrees(case, Verdict("derivative", "predict", 2e-9), text)
    assert "should be" in make_sklearn.agrees(case, Verdict("zero", "predict"), text)


def test_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    after = []
    for block in re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE):
        exec(block, names)
        after.append(dict(names))
    plain, probable, mixed, target, file = after
    assert plain["jacobian"].shape == (442, 1, 10)
    np.testing.assert_allclose(plain["value"][:, 0], plain["estimator"].predict(plain["x"]), rtol=1e-12)
    assert set(plain["ranking"]) == set(plain["x"].columns)
    assert probable["jacobian"].shape == (5, 3, 4)
    np.testing.assert_allclose(probable["jacobian"].sum(1), 0, atol=1e-12)
    assert probable["toward"].shape == (5, 4)
    assert probable["scores"].outputs[0].name == "decision_function"
    assert {k: v.shape for k, v in mixed["by_column"].items()} == {"age": (40, 2, 1), "bmi": (40, 2, 1)}
    rate = target["original"][:, 0] / target["f"](target["x"])  # of exp(w x + b): w
    np.testing.assert_allclose(rate, np.broadcast_to(rate[0], rate.shape), rtol=1e-10)
    assert {k: v.shape for k, v in target["both"].items()} == {"predict": (40, 1, 3), "predict_std": (40, 1, 3)}
    assert target["curvature"].shape == (40, 3, 3)
    assert [o.name for o in onnx.load("model.onnx").graph.output] == ["predict", "jac_predict_X"]
    assert "grad_cost_regressor/coef_" in [o.name for o in file["cost"].graph.output]
