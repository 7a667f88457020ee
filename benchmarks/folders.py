"""Where files of the benchmarks lie."""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Exported models and logs; not under version control, and made anew when deleted.
BUILD = ROOT / "build" / "benchmarks"
#: What a full run writes.
DOCS = ROOT / "docs"

_SOURCES = ("networks", "export.py")
_EXPORTERS = ("torch", "onnxscript", "scikit-learn", "skl2onnx")


@cache
def fingerprint() -> str:
    """Return a text that changes when exported models must be made anew."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for source in _SOURCES:
        path = here / source
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    for package in _EXPORTERS:
        digest.update(version(package).encode())
    BUILD.mkdir(parents=True, exist_ok=True)
    return digest.hexdigest()[:10]


def version(package: str) -> str:
    """Return the version of a package, or an empty text if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
