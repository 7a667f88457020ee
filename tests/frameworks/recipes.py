"""The recipes of docs/frameworks.md: the Python blocks under the heading of a framework, run in order."""

from __future__ import annotations

import re
from typing import Any

from tests.frameworks.table import PAGE


def run(heading: str, **names: Any) -> dict[str, Any]:
    """Run the blocks of a section (``## heading``, up to the next such heading), starting from some names.

    Returns:
        The names that there are afterwards.
    """
    page = PAGE.read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert blocks, f"there is no recipe under {heading!r}"
    for block in blocks:
        exec(block, names)
    return names
