"""Running the properties on random programs."""

from __future__ import annotations

import secrets
import zlib
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, assume, given, note, seed, settings

from tests.properties.checks import CHECKS, Undecided
from tests.properties.program import Program
from tests.properties.strategies import programs


def explore(check: str, examples: int, *, random: bool = False, max_steps: int = 5) -> Counter[str]:
    """Check a property on random programs, and count what came out.

    A failing program is shrunk, and its exception has a runnable script as a note.

    Args:
        check: name of a check.
        examples: number of programs.
        random: take other programs each time.
        max_steps: number of steps that a program has at most.

    Returns:
        How many were "decided", "undecided", and of those decided how often each operator was met.
    """
    counts: Counter[str] = Counter()

    @seed(zlib.crc32(check.encode()) if not random else secrets.randbits(64))
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        print_blob=False,
        report_multiple_bugs=False,
    )
    @given(programs(max_steps))
    def run(program: Program) -> None:
        note(program.script(check))
        try:
            outcome: Any = CHECKS[check](program)
        except Undecided:
            counts["undecided"] += 1
            assume(False)
        counts["decided"] += 1
        counts["proven"] += outcome is True
        counts.update({node.op for node in program.nodes})

    run()
    return counts
