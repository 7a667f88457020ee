"""The text of a file of MATLAB's, and what is said about a line of it."""

from __future__ import annotations

from dataclasses import dataclass

from onnxgrad.errors import ModelReadError

#: What helps against nearly everything that is wrong with such a file.
GENERATE = (
    "write the file again with genFunction(net,'name') and do not edit it, or save the network: "
    "save('f.mat','net','-v7')"
)

#: So much of a line is shown.
_SHOWN = 100


@dataclass(frozen=True)
class Source:
    """A file.

    Attributes:
        path: where it lies.
        text: what is in it, with lines that end in a line feed.
    """

    path: str
    text: str

    def refusal(self, line: int, why: str, remedy: str = GENERATE) -> ModelReadError:
        """Return the error that names the file, a line (from 1), and its text."""
        lines = self.text.split("\n")
        shown = lines[line - 1].strip() if 0 < line <= len(lines) else ""
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]} …"
        return ModelReadError(f"{self.path!r}, line {line}: {why}; {remedy}\n  line {line}: {shown}")


__all__ = ["GENERATE", "Source"]
