"""What is refused among ONNX's own test cases, and why: all of it, so that nothing is refused in silence."""

from __future__ import annotations

import re

#: Operators without a rule.
WITHOUT_RULE: set[str] = set()

#: Operators with a rule that refuses some of their cases: what the refusal says, as a pattern, and the reason.
REASONS = {
    "Dropout": (
        r"in training mode its output jumps as the ratio changes",
        "by the ratio, in training mode: the draw that was made jumps as the ratio changes",
    ),
    "Resize": (
        r"it jumps just where the product is a whole number",
        "by the scales, linear and cubic: the size of the output is rounded down from a product that is a whole number "
        "there",
    ),
}

#: Refusals at, or behind, an operator whose result has a rank that is known at run time only, by that operator.
RANKS = {
    "If": (
        r"gives .* different ranks in its branches",
        "its branches give a tensor different ranks, and sizes that are fed decide which is taken",
    ),
    "Squeeze": (
        r"takes out axes of size 1, which depends on the open sizes",
        "without axes, of a tensor with open sizes: its rank is known at run time only",
    ),
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
        elif "the type or rank of" not in why:  # for that, the node where it is lost is named, too
            names = [name for name in REASONS if operator in ("", name) and re.search(REASONS[name][0], why)]
            names += [name for name, (pattern, _) in RANKS.items() if re.search(pattern, why)]
            assert names, f"a refusal that is not in the table: {operator}: {why}"
            found.update(names)
    assert found, f"a refusal that nothing in the table explains: {detail}"
    return found
