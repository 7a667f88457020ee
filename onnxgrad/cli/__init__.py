"""The command line: parsing and printing only."""

from __future__ import annotations

from onnxgrad.cli.program import app, main

__all__ = ["app", "main"]
