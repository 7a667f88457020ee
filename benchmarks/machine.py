"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from benchmarks.folders import version

_PACKAGES = ("onnxgrad", "onnxruntime", "numpy", "jax", "torch", "onnx-ad", "scikit-learn", "skl2onnx")


def processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def described(threads: int) -> str:
    """Return the machine in a sentence."""
    cores = os.cpu_count()
    return f"{processor()}, {cores} cores, {threads} threads for each system, {platform.system()}"


def versions() -> str:
    """Return the versions of all packages that take part."""
    found = {package: version(package) for package in _PACKAGES}
    listed = [f"{package} {number}" for package, number in found.items() if number]
    return ", ".join([f"Python {platform.python_version()}", *listed])
