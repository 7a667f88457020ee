"""The tasks: what is asked of which network, on how much data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.networks import Network
from benchmarks.networks.convolutional import cnn, mobilenet, resnet18, unet
from benchmarks.networks.mlp import mlp
from benchmarks.networks.pipeline import pipeline
from benchmarks.networks.sequential import lstm, transformer

#: What is asked, of a network from ``(N, *x)`` to ``(N, *y)``:
#:
#: - jacobian: the Jacobians of all samples, ``(N, *y, *x)``.
#: - gradient: the output, and the gradient by the input of its element `INDEX`, per sample.
#: - vjp: the product of a cotangent with the Jacobian.
#: - weights: the mean squared error against a target, and its gradient by all weights.
#: - hessian: the Hessians of all samples, ``(N, x, x)``, of an output that is one number per sample.
#: - hvp: the Hessian of each sample times a vector.
Asked = Literal["jacobian", "gradient", "vjp", "weights", "hessian", "hvp"]

#: The element of an output whose gradient is asked for.
INDEX = 0

#: Largest relative differences (of 2-norms) at which two results count as the same.
SMOOTH = 2e-5  # one operation in float32 rounds by 6e-8, and sums of hundreds of terms differ by their order
DEEP = 1e-3  # many layers with kinks: an element that rounding moves across one changes a little of the result
CROWDED = 1e-2  # MobileNetV2 has 6.1 million activations, with two kinks each
#: Factor for central differences: they have eps^(2/3) where others have eps, and see both sides of a kink nearby.
DIFFERENCES = 100


@dataclass(frozen=True)
class Task:
    """One line of the table.

    Attributes:
        network: the network.
        asked: what is asked of it.
        batch: number of samples.
        part: the heading that it stands under.
        label: what is special about it.
        tolerance: largest relative difference to the results of other systems.
        also: further systems than those that take part everywhere.
        without: systems that take no part.
        quick: whether it is part of a short round.
    """

    network: Network
    asked: Asked
    batch: int
    part: str
    label: str = ""
    tolerance: float = SMOOTH
    also: Sequence[str] = ()
    without: Sequence[str] = ()
    quick: bool = False

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return f"{self.network.name}/{self.asked}/{self.batch}"

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes worth trying for a Jacobian, the likelier first: without one that has by far more to do."""
        x, y = math.prod(self.network.sample), math.prod(self.network.output)
        modes = ("reverse", "forward") if y <= x else ("forward", "reverse")
        return modes if max(x, y) <= _FAR * min(x, y) else modes[:1]


#: How many times more directions make a mode not worth trying; some take all memory of a machine.
_FAR = 64

#: Headings, in order.
SMALL, WIDE, SECOND, IMAGES, SEQUENCES, WEIGHTS, SKLEARN, GROWTH = (
    "Jacobians of small networks",
    "Jacobians of wide networks",
    "Second derivatives",
    "Images",
    "Sequences",
    "Gradients by weights",
    "From scikit-learn",
    "How cost grows",
)

#: Modes that are forced on onnxgrad, to show what choosing is worth.
_MODES = ("onnxgrad reverse", "onnxgrad forward")
#: The model with a fixed number of samples instead of an open one.
STATIC = "onnxgrad static"
#: Compiling takes ten seconds for each task, and is left out where a neighbour tells the same.
_NOT_COMPILED = ("torch.compile",)
_FEW = ("torch.compile", "differences")


def _small() -> Iterator[Task]:
    for sizes in ((1, 3, 1), (10, 20, 1), (10, 64, 64, 4)):
        for batch in (1, 100, 1_000, 10_000):
            without = () if batch == 10_000 else _NOT_COMPILED
            quick = sizes == (10, 20, 1) and batch == 1_000
            if quick or batch != 1_000:
                yield Task(mlp(*sizes), "jacobian", batch, SMALL, without=without, quick=quick)


def _wide() -> Iterator[Task]:
    yield Task(mlp(64, 256, 256, 32), "jacobian", 1_024, WIDE)
    yield Task(mlp(1_000, 256, 64, 2), "jacobian", 256, WIDE, "wide in, narrow out")
    yield Task(mlp(3, 64, 64, 64), "jacobian", 1_024, WIDE, "narrow in, wide out", also=_MODES)
    yield Task(mlp(512, 64, 8, 64, 512), "jacobian", 32, WIDE, "autoencoder", also=_MODES)
    yield Task(cnn(), "jacobian", 16, WIDE, "convolutions", DEEP)


def _second() -> Iterator[Task]:
    yield Task(mlp(64, 64, 64, 1), "hessian", 1, SECOND, without=_NOT_COMPILED)
    yield Task(mlp(64, 64, 64, 1), "hessian", 100, SECOND)
    yield Task(mlp(1_000, 128, 128, 1), "hvp", 16, SECOND, quick=True)


def _large() -> Iterator[Task]:
    yield Task(resnet18(), "gradient", 1, IMAGES, tolerance=DEEP, also=(STATIC,))
    yield Task(resnet18(), "gradient", 8, IMAGES, tolerance=DEEP, also=(STATIC,), without=_NOT_COMPILED)
    yield Task(mobilenet(), "gradient", 1, IMAGES, tolerance=CROWDED)
    yield Task(unet(), "vjp", 1, IMAGES, tolerance=DEEP, also=(STATIC,))
    yield Task(transformer(), "gradient", 1, SEQUENCES, also=(STATIC,))
    yield Task(transformer(), "jacobian", 1, SEQUENCES)
    yield Task(lstm(), "gradient", 8, SEQUENCES, "100 steps", without=_NOT_COMPILED)
    yield Task(mlp(64, 256, 256, 32), "weights", 1_024, WEIGHTS, quick=True)
    yield Task(resnet18(), "weights", 8, WEIGHTS, tolerance=DEEP, without=_NOT_COMPILED)
    yield Task(pipeline(), "jacobian", 1_000, SKLEARN)


def _growth() -> Iterator[Task]:
    for batch in (1, 10, 100, 1_000, 10_000):
        yield Task(mlp(64, 64, 64, 16), "jacobian", batch, GROWTH, "batch", without=_FEW)
    for width in (32, 128, 256, 512):
        yield Task(mlp(64, width, width, 16), "jacobian", 100, GROWTH, "width", without=_FEW)
    for depth in (4, 8, 16):
        yield Task(mlp(64, *(64,) * depth, 16), "jacobian", 100, GROWTH, "depth", without=_FEW)


#: All tasks, in the order of the tables.
TASKS = [*_small(), *_wide(), *_second(), *_large(), *_growth()]
