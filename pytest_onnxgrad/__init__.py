"""The pytest plugin of onnxgrad: the fixture `derivative_regression`.

It stands beside the package, since pytest imports plugins at each start: importing `onnxgrad` takes onnxruntime along.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

_Tolerance = float | Mapping[str, float] | None


class DerivativeRegression:
    """What the fixture `derivative_regression` is; `check` does the work."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    def check(
        self,
        model: Any,
        data: Any = None,
        *,
        of: str | Sequence[str] | None = None,
        wrt: str | Sequence[str] | None = None,
        rtol: _Tolerance = None,
        atol: _Tolerance = None,
        seed: int = 0,
        basename: str | None = None,
        fullpath: str | os.PathLike[str] | None = None,
    ) -> None:
        """Hold the outputs and derivatives of a model against those in a golden file, as `onnxgrad.verify` does.

        The file stands in the folder of the test's data, as files of pytest-regressions do: the first run writes it and
        fails, and so does ``--force-regen`` where it differs.

        Args:
            model: what `onnxgrad.load` takes.
            data: what is fed when the golden file is made; None: random numbers.
            of: the outputs to record; None: all.
            wrt: the inputs to differentiate by; None: all that are floating-point.
            rtol: relative tolerance, for all tensors or by name, as for `onnxgrad.record`; None: that in the file.
            atol: absolute tolerance, likewise.
            seed: seed of random numbers.
            basename: name of the file without its suffix; None: that of the test.
            fullpath: the whole path of the file.
        """
        __tracebackhide__ = True
        try:
            from pytest_regressions.common import perform_regression_check
        except ImportError:
            pytest.fail(
                "derivative_regression needs pytest-regressions: pip install 'onnxgrad[testing]'", pytrace=False
            )
        import numpy as np

        from onnxgrad.comparison import read_golden, record, verify
        from onnxgrad.errors import GoldenError

        def dump(path: Path) -> None:
            record(model, data, path, of=of, wrt=wrt, rtol=rtol, atol=atol, seed=seed)

        def check(obtained: Path, expected: Path) -> None:
            __tracebackhide__ = True
            try:
                now, then = read_golden(obtained), read_golden(expected)
                found = verify(model, expected, rtol=rtol, atol=atol)
            except GoldenError as error:
                raise AssertionError(str(error)) from None
            names = [[(t.of, t.wrt) for t in golden.tensors] for golden in (now, then)]
            if names[0] != names[1]:
                raise AssertionError(f"{expected} has other outputs or inputs than the test; see --force-regen")
            if data is not None and any(not np.array_equal(now.feeds[name], x) for name, x in then.feeds.items()):
                raise AssertionError(f"{expected} was made with other data than those of the test; see --force-regen")
            if not found.ok:
                raise AssertionError(str(found))

        perform_regression_check(
            datadir=self._request.getfixturevalue("datadir"),
            original_datadir=self._request.getfixturevalue("original_datadir"),
            request=self._request,
            check_fn=check,
            dump_fn=dump,
            extension=".npz",
            basename=basename,
            fullpath=None if fullpath is None else Path(fullpath),
        )


@pytest.fixture
def derivative_regression(request: pytest.FixtureRequest) -> DerivativeRegression:
    """Hold values and derivatives of a model against a golden file: ``derivative_regression.check(model, data)``."""
    return DerivativeRegression(request)
