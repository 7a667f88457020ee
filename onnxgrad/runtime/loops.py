"""`Scan` and `Loop` for ONNX's reference evaluator, in place of its own.

Those know no `Scan` that goes backward, along another axis than the first, or through no element; take a `Loop` without
a condition for one that ends at once; and join its results (``vstack``) where they are to be stacked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]


class _Iteration(OpRun):
    """What `Scan` and `Loop` share."""

    op_domain = ""
    body: Any

    def need_context(self) -> bool:
        return True

    def _iterate(self, context: Mapping[str, Any] | None, entering: Sequence[Any]) -> list[Any]:
        """Run the body once."""
        names = self.body.input_names
        found = self._run_body({**(context or {}), **dict(zip(names, entering, strict=True))})  # type: ignore[attr-defined]
        return list(found)

    def _stacked(self, results: Sequence[Sequence[Array]], axes: Sequence[int]) -> list[Array]:
        """Return the results of all iterations in one tensor each.

        Those of no iteration have sizes of 0 where the body leaves them open, as in onnxruntime.
        """
        if results:
            return [np.stack(r, axis) for r, axis in zip(zip(*results, strict=True), axes, strict=True)]
        outputs = list(self.body.proto_.output)
        empty = []
        for output, axis in zip(outputs[len(outputs) - len(axes) :], axes, strict=True):
            kind = output.type.tensor_type
            shape = [d.dim_value for d in kind.shape.dim]
            shape.insert(axis % (len(shape) + 1), 0)
            empty.append(np.empty(shape, tensor_dtype_to_np_dtype(kind.elem_type)))
        return empty


class Scan(_Iteration):
    """From opset 9 on."""

    def _run(self, *args: Array, context: Mapping[str, Any] | None = None, **attrs: Any) -> tuple[Array, ...]:
        scanned = attrs["num_scan_inputs"]
        n = len(args) - scanned
        states, elements = list(args[:n]), args[n:]
        given = len(self.body.output_names) - n

        def ints(name: str, count: int) -> list[int]:
            return list(attrs.get(name) or [0] * count)

        axes, back = ints("scan_input_axes", scanned), ints("scan_input_directions", scanned)
        out_axes, out_back = ints("scan_output_axes", given), ints("scan_output_directions", given)
        length, results = elements[0].shape[axes[0]], []
        for i in range(length):
            taken = zip(elements, axes, back, strict=True)
            slices = [np.take(e, length - 1 - i if turned else i, axis=axis) for e, axis, turned in taken]
            found = self._iterate(context, [*states, *slices])
            states = found[:n]
            results.append(found[n:])
        stacked = zip(self._stacked(results, out_axes), out_axes, out_back, strict=True)
        return (*states, *(np.flip(y, axis) if turned else y for y, axis, turned in stacked))


class Loop(_Iteration):
    """States may be tensors only."""

    def _run(
        self,
        count: Array | None,
        condition: Array | None = None,
        *states: Array,
        context: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> tuple[Array, ...]:
        n, i, results, goes_on = len(states), 0, [], condition is None or bool(condition)
        while goes_on and (count is None or i < count):
            found = self._iterate(context, [np.array(i, np.int64), np.array(True), *states])
            goes_on, states = bool(found[0]), tuple(found[1 : n + 1])
            results.append(found[n + 1 :])
            i += 1
        return (*states, *self._stacked(results, [0] * (len(self.body.output_names) - 1 - n)))
