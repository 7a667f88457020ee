"""docs/how-it-works.md runs, and prints what it says."""

from __future__ import annotations

import doctest
from pathlib import Path

from onnxgrad.rules import REGISTRY

PAGE = Path(__file__).parents[2] / "docs" / "how-it-works.md"


def test_page() -> None:
    try:
        failed, tried = doctest.testfile(
            str(PAGE),
            module_relative=False,
            optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL,
            encoding="utf-8",
        )
    finally:
        REGISTRY.remove("my.domain::Cube")
    assert tried > 40
    assert failed == 0
