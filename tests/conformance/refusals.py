"""What is refused among ONNX's own test cases, and why: all of it, so that nothing is refused in silence."""

from __future__ import annotations

import re

#: Operators without a rule.
WITHOUT_RULE: set[str] = set()

#: Operators with a rule that refuses some of their cases: the reason, as a pattern.
REASONS = {
    "Dropout": r"in training mode its output jumps as the ratio changes",
    "Resize": r"it jumps just where the product is a whole number",
}

_OBSTACLE = re.compile(r"- ([\w:.]+)(?: \(version \d+\))?, node .*?: (.*)")


def explained(detail: str) -> set[str]:
    """Return which entries of the tables explain a refusal.

    Raises:
        AssertionError: if a part of it is not explained.
    """
    found = set()
    for operator, why in _OBSTACLE.findall(detail) or [("", detail)]:
        if "there is no rule for this operator" in why:
            assert operator in WITHOUT_RULE, f"{operator} has no rule, and is not in the table"
            found.add(operator)
        elif "the type or rank of" not in why:  # that is lost behind an operator of which nothing is known
            names = [name for name in REASONS if operator in ("", name) and re.search(REASONS[name], why)]
            assert names, f"a refusal that is not in the table: {operator}: {why}"
            found.update(names)
    assert found, f"a refusal that nothing in the table explains: {detail}"
    return found
