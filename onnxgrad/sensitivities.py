"""Sensitivity: what the partial derivatives of a model say about its inputs, over data.

For each output y and each feature x (an element of an input), over the samples of the data:

- ``mean``, ``mean_abs``, ``rms``: mean, mean absolute value and root mean square of ∂y/∂x (Pizarroso, Portela & Muñoz,
  *NeuralSens: Sensitivity analysis of neural networks*, J. Stat. Softw. 102(7), 2022; the mean of squares is the
  derivative-based global sensitivity measure of Sobol' & Kucherenko, Math. Comput. Simul. 79, 2009);
- ``positive``, ``negative``: the shares of samples in which ∂y/∂x has that sign;
- ``elasticity``: mean of (x/y) ∂y/∂x, the relative change of y by that of x, as in economics. Samples with y = 0, where
  it is not defined, are left out; NaN if these are all;
- ``per_sd``: sd(x) times the mean, the change of y, to first order, as x grows by one standard deviation;
- ``normalized``: sd(x)/sd(y) times the mean, the sigma-normalized derivative (Saltelli et al., *Global sensitivity
  analysis: The primer*, 2008, section 1.2.1). NaN where y does not vary;
- ``importance``: sd(x) times the mean absolute value, which does not depend on the unit of x.

Standard deviations are those of the data, with the divisor N.
"""

from __future__ import annotations

import csv
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxgrad.errors import FeedError, MemoryBoundError, OnnxgradError, TensorTypeError, UnknownNameError, level_outside
from onnxgrad.model.signature import Port
from onnxgrad.model.write import write_all_or_nothing
from onnxgrad.runtime.feeds import Feeds, is_frame
from onnxgrad.runtime.function import MAX_BYTES, Function, load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

#: What is computed of each partial derivative.
STATISTICS = (
    "mean", "mean_abs", "rms", "positive", "negative", "elasticity", "per_sd", "normalized", "importance",
)  # fmt: skip

#: Derivatives of so many bytes are held at a time.
_PART_BYTES = 16 * 2**20
#: Samples of the first part, which shows how many elements the outputs have, and of the others at most.
_FIRST, _MOST = 16, 65536
#: Outputs that are drawn at most.
_PANELS = 6


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Statistics of partial derivatives; the module says what each is.

    Attributes:
        outputs: names of the elements of the outputs, ``y`` or ``y[0]``.
        features: names of the elements of the inputs.
        samples: number of samples.
        mean: of shape ``(outputs, features)``, like the following.
        mean_abs: mean absolute value.
        rms: root mean square.
        positive: share of samples in which the derivative is positive.
        negative: share of samples in which it is negative.
        elasticity: mean of (x/y) ∂y/∂x.
        per_sd: mean times the standard deviation of the feature.
        normalized: that, divided by the standard deviation of the output.
        importance: mean absolute value times the standard deviation of the feature.
        undefined: for each output, the number of samples in which it is 0, which elasticities leave out.
        feature_mean: mean of each feature over the data.
        feature_sd: its standard deviation.
        output_mean: mean of each output over the data.
        output_sd: its standard deviation.
        interactions: mean absolute ∂²y/∂x₁∂x₂, ``(outputs, features, features)``, or None if they were not asked for.
    """

    outputs: tuple[str, ...]
    features: tuple[str, ...]
    samples: int
    mean: Array
    mean_abs: Array
    rms: Array
    positive: Array
    negative: Array
    elasticity: Array
    per_sd: Array
    normalized: Array
    importance: Array
    undefined: Array
    feature_mean: Array
    feature_sd: Array
    output_mean: Array
    output_sd: Array
    interactions: Array | None = None

    def ranking(self, output: str | None = None, by: str = "importance") -> list[str]:
        """Return the features, the one with the largest absolute value of a statistic first.

        Equal ones, as with data of one sample, which has no standard deviation, follow their mean absolute derivative.

        Args:
            output: which output. None: the only one, else the first.
            by: the statistic, one of `STATISTICS`.

        Raises:
            UnknownNameError: if there is no such output or statistic.
        """
        row = self._row(output)
        return [self.features[i] for i in self._order(row, by)]

    def rows(self, by: str = "importance") -> list[dict[str, Any]]:
        """Return the statistics as one dictionary for each output and feature, ranked within the outputs.

        Raises:
            UnknownNameError: if `by` is none of `STATISTICS`.
        """
        result = []
        for row, output in enumerate(self.outputs):
            for rank, i in enumerate(self._order(row, by), start=1):
                numbers = {name: float(getattr(self, name)[row, i]) for name in STATISTICS}
                result.append({"output": output, "feature": self.features[i], "rank": rank, **numbers})
        return result

    def pairs(self, output: str | None = None) -> list[tuple[str, str, float]]:
        """Return pairs of different features with their interaction, the strongest first.

        Raises:
            UnknownNameError: if there is no such output.
            OnnxgradError: if interactions were not asked for.
        """
        if self.interactions is None:
            raise OnnxgradError("interactions were not computed; pass interactions=True to onnxgrad.sensitivity")
        table = self.interactions[self._row(output)]
        first, second = np.triu_indices(len(self.features), 1)
        order = np.argsort(-table[first, second], kind="stable")
        return [
            (self.features[i], self.features[j], float(table[i, j]))
            for i, j in zip(first[order], second[order], strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as lists and numbers, for JSON; None stands for what is not defined."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _plain(value) for name, value in values.items()}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `rows` to a .csv file, which appears whole or not at all.

        Raises:
            ModelWriteError: if it cannot be written.
        """
        with write_all_or_nothing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ("output", "feature", "rank", *STATISTICS))
            writer.writeheader()
            writer.writerows(self.rows())

    def plot(self, by: str = "importance", top: int = 20) -> Figure:
        """Draw the largest values of a statistic as bars, one panel for each of the first outputs.

        Blue bars are features whose derivative is positive in most samples, red ones those where it is negative.

        Args:
            by: the statistic, one of `STATISTICS`.
            top: number of features in a panel at most.

        Returns:
            A figure of matplotlib; ``figure.savefig("sensitivity.png")`` writes it.

        Raises:
            OnnxgradError: if matplotlib is not installed.
            UnknownNameError: if `by` is none of `STATISTICS`.
        """
        make = figure_class()
        shown = self.outputs[:_PANELS]
        count = min(top, len(self.features))
        figure = make(figsize=(7, (0.28 * count + 0.9) * len(shown)), layout="constrained")
        panels = figure.subplots(len(shown), squeeze=False)[:, 0]
        for row, (output, panel) in enumerate(zip(shown, panels, strict=True)):
            order = self._order(row, by)[:count][::-1]
            rising = self.positive[row, order] >= self.negative[row, order]
            panel.barh(
                [str(self.features[i]) for i in order],
                getattr(self, by)[row, order],
                color=np.where(rising, "tab:blue", "tab:red").tolist(),
            )
            panel.axvline(0, color="black", linewidth=0.8)
            panel.set_title(f"{output}: {by} of the derivative over {self.samples} samples", fontsize=10)
        return figure

    def _row(self, output: str | None) -> int:
        if output is None:
            return 0
        if output not in self.outputs:
            raise UnknownNameError.among("an output here", output, self.outputs)
        return self.outputs.index(output)

    def _order(self, row: int, by: str) -> Array:
        if by not in STATISTICS:
            raise UnknownNameError.among("a statistic", by, STATISTICS)
        values = np.nan_to_num(np.abs(getattr(self, by)[row]), nan=-1.0, posinf=np.inf)
        return np.lexsort((-self.mean_abs[row], -values))


def figure_class() -> type[Figure]:
    """Return matplotlib's `Figure`.

    Raises:
        OnnxgradError: if it is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OnnxgradError(
            "the plot needs matplotlib, which is not installed; install it with: pip install 'onnxgrad[plot]'"
        ) from error
    return Figure


def _plain(value: Any) -> Any:
    """Return arrays as lists; None for NaN and infinities, which JSON has not."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- the computation -----------------------------------------------------------------------------


def sensitivity(
    model: Any,
    data: Any,
    of: str | Sequence[str] | None = None,
    wrt: str | Sequence[str] | None = None,
    *,
    names: Sequence[str] | None = None,
    sample: Any = None,
    interactions: bool = False,
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Return statistics of each partial derivative of a model over data.

    Data of any length are processed some samples at a time.

    Args:
        model: whatever `onnxgrad.load` takes, or a `Function`. Axis 0 of its inputs and outputs holds samples, which
            must not mix. A model of a fixed number of samples is run on the data in such portions.
        data: samples for its inputs: an array for the only one, a tuple of arrays, a dictionary by name, or a data
            frame, of which the names of columns are kept.
        of: names of outputs. None: every floating-point output.
        wrt: names of inputs. None: every floating-point input.
        names: names of the features, in order. None: those of the columns of a data frame or of the pipeline, else
            ``x`` or ``x[0]``.
        sample: for an estimator, as for `onnxgrad.load`; None: the first rows of the data.
        interactions: whether to compute mean absolute second derivatives, too. That takes one Hessian per element of
            the outputs.
        max_bytes: bound of the memory, as for `onnxgrad.load`.
        progress: is called with the number of samples done and that of all.

    Raises:
        FeedError: if the data do not fit the inputs, there are none, they have NaN or infinities, or the `names` do not
            fit the features.
        UnknownNameError: if `of` or `wrt` names what is no output or input.
        TensorTypeError: if that is no floating-point tensor with samples on axis 0.
        MixedSamplesError: if samples mix, or cannot be shown to stay apart.
        MemoryBoundError: if the statistics would exceed the bound.
        OnnxgradError: and what `Function.jacobian` raises.
    """
    function = model if isinstance(model, Function) else _loaded(model, data, sample, max_bytes)
    ys = _chosen(function.outputs, of, "an output of the model")
    xs = _chosen(function.inputs, wrt, "an input of the model")
    source = _Samples(function, data, xs)
    features = _features(function, data, xs, source.feeds, names)
    source.check_finite(features)
    totals: _Totals | None = None
    done = 0
    for feeds, count in source.parts():
        x, y, jacobian = _derivatives(function, feeds, xs, ys, count)
        if totals is None:
            _check_size(y, len(features), interactions, max_bytes)
            totals = _Totals(x, {name: y[name].shape[1:] for name in ys}, interactions)
            source.at_once = _rows_at_once(len(totals.outputs), len(features), interactions)
        with np.errstate(invalid="ignore", over="ignore"):  # a warning in the end says more
            totals.add(x, np.concatenate([a.reshape(count, -1) for a in y.values()], axis=1), jacobian)
            if interactions:
                totals.add_second(_second_derivatives(function, feeds, xs, y, count))
        done += count
        if progress is not None:
            progress(done, source.count)
    assert totals is not None
    totals.warn(features)
    return totals.result(features)


def _loaded(model: Any, data: Any, sample: Any, max_bytes: int) -> Function:
    if sample is None and hasattr(model, "fit") and hasattr(model, "get_params"):
        sample = data[:100]
    return load(model, sample, max_bytes=max_bytes)


def _chosen(ports: Sequence[Port], names: str | Sequence[str] | None, what: str) -> list[str]:
    """Return the names of ports that have derivatives per sample."""
    known = {port.name: port for port in ports}

    def reason(port: Port) -> str | None:
        if port.kind != "tensor" or port.dtype is None or not _is_float(port.dtype):
            return f"a {port.kind}{'' if port.dtype is None else f' of {port.dtype}'}, not of floating-point numbers"
        return "without an axis of samples" if port.shape == () else None

    if names is None:
        chosen = [port.name for port in ports if reason(port) is None]
        if not chosen:
            there = "; ".join(f"{port.name!r} is {reason(port)}" for port in ports) or "there is none"
            raise TensorTypeError(f"no name is {what} of floating-point numbers with an axis of samples: {there}")
        return chosen
    chosen = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise UnknownNameError.among(what, name, known)
        why = reason(known[name])
        if why is not None:
            raise TensorTypeError(f"{name!r} is {why}, so there is no sensitivity; choose another one")
    return chosen


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or "float" in dtype.name


class _Samples:
    """The data, some samples at a time.

    Args:
        function: the model.
        data: what the user gave.
        xs: the inputs that are differentiated by.

    Attributes:
        feeds: the data by input.
        count: number of samples.
        at_once: how many samples may be taken at a time.
    """

    def __init__(self, function: Function, data: Any, xs: Sequence[str]) -> None:
        ports = {port.name: port for port in function.inputs}
        lead = (ports[xs[0]].shape or (None,))[0]
        self.at_once = _FIRST
        self._portion = lead if isinstance(lead, int) and lead > 0 else None
        rows = {name for name, port in ports.items() if port.shape and (name in xs or port.shape[0] == lead)}
        if self._portion is not None:
            ports |= {name: replace(ports[name], shape=(None, *(ports[name].shape or ())[1:])) for name in rows}
        args = data if isinstance(data, tuple) else (data,)
        self.feeds = Feeds(list(ports.values()), function._origin.columns).bind(args, {})
        self.count = len(self.feeds[xs[0]])
        self._rows = {name for name in rows if name in self.feeds}
        self._xs = xs
        for name in sorted(self._rows):
            if len(self.feeds[name]) != self.count:
                raise FeedError(
                    f"input {name!r} has {len(self.feeds[name])} samples, and {xs[0]!r} has {self.count}; give as "
                    "many, or, if its axis 0 holds no samples, leave it out of `wrt`"
                )
        if self.count == 0:
            raise FeedError("there are no samples in the data, so nothing can be said of the derivatives; give some")

    def check_finite(self, features: Sequence[str]) -> None:
        """Raise an error that says where, if there are NaN or infinities among the features."""
        column = 0
        for name in self._xs:
            array = self.feeds[name]
            width = math.prod(array.shape[1:])
            for start in range(0, self.count, _MOST):
                part = array[start : start + _MOST].reshape(-1, width)
                bad = np.argwhere(~np.isfinite(part))
                if len(bad):
                    row, place = bad[0]
                    value = "NaN" if np.isnan(part[row, place]) else "infinity"
                    more = sum(
                        int(np.count_nonzero(~np.isfinite(array[s : s + _MOST]))) for s in range(0, self.count, _MOST)
                    )
                    raise FeedError(
                        f"{value} in the data: sample {start + row + 1}, feature {features[column + place]!r} of input "
                        f"{name!r} ({more} such in that input); fill them, or leave these samples out"
                    )
            column += width

    def parts(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield what to feed, and how many samples of it count.

        A portion of a model that takes a fixed number is filled up with copies of its last sample.
        """
        start = 0
        while start < self.count:
            wanted = self._portion or self.at_once
            stop = min(start + wanted, self.count)
            part = {n: v[start:stop] if n in self._rows else v for n, v in self.feeds.items()}
            if self._portion is not None and stop - start < self._portion:
                places = np.minimum(np.arange(self._portion), stop - start - 1)
                part = {n: v[places] if n in self._rows else v for n, v in part.items()}
            yield part, stop - start
            start = stop


def _features(
    function: Function, data: Any, xs: Sequence[str], feeds: Mapping[str, Array], names: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the names of the features."""
    own = [element for x in xs for element in _element_names(x, feeds[x].shape[1:])]
    if names is not None:
        given = tuple(map(str, names))
        if len(given) != len(own) or len(set(given)) < len(given):
            raise FeedError(
                f"{len(given)} names are given for {len(own)} features; give one, and another one, for each"
            )
        return given
    columns = function._origin.columns
    if is_frame(data) and columns is None:
        columns = tuple(map(str, data.columns))
    alone = len(function.inputs) == 1 and feeds[xs[0]].ndim == 2
    return tuple(columns) if alone and columns is not None and len(columns) == len(own) else tuple(own)


def _element_names(name: str, shape: Sequence[int]) -> list[str]:
    if math.prod(shape) == 1:
        return [name]
    return [f"{name}[{','.join(map(str, place))}]" for place in np.ndindex(*shape)]


def _derivatives(
    function: Function, feeds: Mapping[str, Any], xs: Sequence[str], ys: Sequence[str], count: int
) -> tuple[Array, dict[str, Array], Array]:
    """Return the features ``(count, F)``, the outputs by name, and the derivatives ``(count, outputs, F)``."""
    values, derived = function.value_and_jacobian(feeds, of=list(ys), wrt=list(xs), batched=True)
    if not isinstance(values, dict):
        values = {ys[0]: values}
    y = {name: np.asarray(values[name], np.float64)[:count] for name in ys}
    rows = []
    for name in ys:
        by_input = derived[name] if len(ys) > 1 else derived
        width = math.prod(y[name].shape[1:])
        blocks = [by_input[x] if len(xs) > 1 else by_input for x in xs]
        rows.append(
            np.concatenate([np.asarray(b, np.float64)[:count].reshape(count, width, -1) for b in blocks], axis=2)
        )
    x = np.concatenate([np.asarray(feeds[n], np.float64)[:count].reshape(count, -1) for n in xs], axis=1)
    return x, y, np.concatenate(rows, axis=1)


def _second_derivatives(
    function: Function, feeds: Mapping[str, Any], xs: Sequence[str], ys: Mapping[str, Array], count: int
) -> Iterator[Array]:
    """Yield the Hessians ``(count, F, F)`` of one output element after the other."""
    widths = [math.prod(np.shape(feeds[x])[1:]) for x in xs]
    for name, y in ys.items():
        for index in range(math.prod(y.shape[1:])):
            found = function.hessian(feeds, of=name, wrt=list(xs), index=index, batched=True)
            blocks = [
                [
                    np.asarray(found[a][b] if len(xs) > 1 else found, np.float64)[:count].reshape(count, m, n)
                    for b, n in zip(xs, widths, strict=True)
                ]
                for a, m in zip(xs, widths, strict=True)
            ]
            yield np.block(blocks)


def _rows_at_once(outputs: int, features: int, interactions: bool) -> int:
    each = 8 * features * (outputs + (features if interactions else 0))
    return max(1, min(_MOST, _PART_BYTES // each))


def _check_size(y: Mapping[str, Array], features: int, interactions: bool, max_bytes: int) -> None:
    outputs = sum(math.prod(a.shape[1:]) for a in y.values())
    size = 8 * outputs * features * (2 * len(STATISTICS) + (features if interactions else 0))
    if size > max_bytes:
        raise MemoryBoundError(
            f"statistics of {outputs} outputs by {features} features take {size} bytes, and max_bytes is {max_bytes}; "
            "pass a larger one, or choose fewer outputs or inputs by of=… and wrt=…"
        )


class _Moments:
    """Mean and standard deviation of numbers that come in parts (Chan, Golub & LeVeque, 1979)."""

    def __init__(self, width: int) -> None:
        self.count, self.mean, self._squares = 0, np.zeros(width), np.zeros(width)

    def add(self, part: Array) -> None:
        """Take in more rows."""
        mean, n = part.mean(axis=0), len(part)
        shift, total = mean - self.mean, self.count + n
        self._squares += np.square(part - mean).sum(axis=0) + shift**2 * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = total

    @property
    def sd(self) -> Array:
        """The standard deviation, with the divisor N."""
        return np.sqrt(self._squares / self.count)


class _Totals:
    """Sums over the samples so far."""

    def __init__(self, x: Array, shapes: Mapping[str, tuple[int, ...]], interactions: bool) -> None:
        self.outputs = [element for name, shape in shapes.items() for element in _element_names(name, shape)]
        size = len(self.outputs), x.shape[1]
        self.sum, self.sum_abs, self.squares, self.elastic = (np.zeros(size) for _ in range(4))
        self.positive, self.negative = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.undefined = np.zeros(size[0], np.int64)
        self.second = np.zeros((*size, size[1])) if interactions else None
        self.x, self.y = _Moments(size[1]), _Moments(size[0])

    def add(self, x: Array, y: Array, jacobian: Array) -> None:
        """Take in features, outputs and derivatives of more samples."""
        self.x.add(x)
        self.y.add(y)
        self.sum += jacobian.sum(axis=0)
        self.positive += np.count_nonzero(jacobian > 0, axis=0)
        self.negative += np.count_nonzero(jacobian < 0, axis=0)
        self.sum_abs += np.abs(jacobian).sum(axis=0)
        self.squares += np.square(jacobian).sum(axis=0)
        self.undefined += np.count_nonzero(y == 0, axis=0)
        share = np.divide(1.0, y, out=np.zeros_like(y), where=y != 0)
        self.elastic += np.einsum("nf,ny,nyf->yf", x, share, jacobian)

    def add_second(self, hessians: Iterator[Array]) -> None:
        """Take in the Hessians of each output."""
        assert self.second is not None
        for row, hessian in enumerate(hessians):
            self.second[row] += np.abs(hessian).sum(axis=0)

    def warn(self, features: Sequence[str]) -> None:
        """Warn of derivatives that are not finite everywhere, as that of a square root at 0."""
        bad = np.argwhere(~np.isfinite(self.sum_abs))
        if len(bad):
            named = [f"{self.outputs[i]!r} by {features[j]!r}" for i, j in bad[:5]]
            more = ", …" if len(bad) > len(named) else ""
            warnings.warn(
                f"{len(bad)} derivatives are not finite in some samples ({', '.join(named)}{more}), so their "
                "statistics are not; look for these samples by the Jacobian, and leave them out",
                stacklevel=level_outside(),
            )

    def result(self, features: Sequence[str]) -> Sensitivity:
        """Return the statistics."""
        n, x_sd, y_sd = self.x.count, self.x.sd, self.y.sd
        mean, mean_abs, defined = self.sum / n, self.sum_abs / n, (n - self.undefined)[:, None]
        nan = np.full_like(mean, np.nan)
        return Sensitivity(
            outputs=tuple(self.outputs),
            features=tuple(features),
            samples=n,
            mean=mean,
            mean_abs=mean_abs,
            rms=np.sqrt(self.squares / n),
            positive=self.positive / n,
            negative=self.negative / n,
            elasticity=np.divide(self.elastic, defined, out=nan.copy(), where=defined > 0),
            per_sd=mean * x_sd,
            normalized=np.divide(mean * x_sd, y_sd[:, None], out=nan.copy(), where=y_sd[:, None] > 0),
            importance=mean_abs * x_sd,
            undefined=self.undefined,
            feature_mean=self.x.mean,
            feature_sd=x_sd,
            output_mean=self.y.mean,
            output_sd=y_sd,
            interactions=None if self.second is None else self.second / n,
        )
