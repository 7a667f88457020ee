"""The public callable: a model, its values and its derivatives, on onnxruntime."""

from __future__ import annotations

import contextlib
import inspect
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxgrad.augmentation import Augmentation, Batched, Index, Mode, Names
from onnxgrad.errors import FeedError, ModelWriteError
from onnxgrad.model.read import Source
from onnxgrad.model.signature import Port, signature
from onnxgrad.model.tensors import tensors_of
from onnxgrad.model.write import write
from onnxgrad.runtime.plain import Plain
from onnxgrad.runtime.program import Program
from onnxgrad.runtime.request import Request
from onnxgrad.runtime.session import Provider, SessionOptions, Settings
from onnxgrad.runtime.sources import Origin, find

#: Bound of the memory where none is given: 1 GiB.
MAX_BYTES = 2**30

#: A derivative to save: True, the options of its transform, or several of those.
Asked = bool | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


def load(
    source: Source | Any,
    sample: Any = None,
    *,
    method: str | Sequence[str] | None = None,
    variable: str | None = None,
    providers: Sequence[Provider] | None = None,
    session_options: SessionOptions | None = None,
    threads: int | None = None,
    max_bytes: int = MAX_BYTES,
    straight_through: bool = False,
) -> Function:
    """Return a model as a function, which also gives its derivatives.

    Example:
        >>> f = onnxgrad.load("model.onnx")     # doctest: +SKIP
        >>> y = f(x)                            # doctest: +SKIP
        >>> J = f.jacobian(x)                   # doctest: +SKIP

    Args:
        source: path of a model, its bytes, a `ModelProto`, an `ir.Model`, a fitted scikit-learn estimator, a PyTorch
            module, or the path of a MATLAB network (a function that genFunction wrote, .m, or a .mat file) or of a
            neural network in PMML (.pmml, .xml).
        sample: for an estimator, some rows of its input, of which the number of columns, their types, and the names
            of those of a data frame are taken; for a PyTorch module, an example of its input: a tensor or an array,
            several as a tuple, or by name as a dictionary.
        method: for an estimator, the method to compute, or several: "predict", "predict_proba", "decision_function",
            "transform", "predict_std" and the like. None: "predict", with the probabilities or scores of a classifier.
        variable: which network of a file is meant: the variable of a .mat file, or the modelName in a PMML file.
            None: the only one.
        providers: onnxruntime's execution providers in order of preference, each a name or a name with options. None:
            the CPU.
        session_options: onnxruntime's session options: a dictionary of its attributes and configuration entries, a
            function that makes a ``SessionOptions``, or one itself (a function with that cannot be pickled).
        threads: number of threads within an operator, or of parts of long data that are run side by side, one thread
            each. None: one per core.
        max_bytes: bound of the result of one call, and of the working memory of one run. Long data are run some rows
            at a time and wide Jacobians some rows or columns at a time, where that is needed to stay within it.
        straight_through: whether gradients pass straight through the roundings of quantized operators.

    Raises:
        ModelReadError: if there is no model to be read.
        RunError: if there is no such provider.
    """
    settings = Settings(providers, session_options, threads)
    settings.check()
    if max_bytes < 1:
        raise ValueError(f"max_bytes={max_bytes} is no number of bytes")
    return Function(
        find(source, sample, straight_through, variable, method), settings, int(max_bytes), straight_through
    )


class Function:
    """A model that can be called, for its values and for its derivatives. `load` makes it.

    **Arguments.** All methods take the model's inputs by position, in the model's order, or by name, or as one
    dictionary by name (which is the way where an input is called like an option of the method). A pandas data frame
    gives one column to each input, by name, where all inputs are single columns; else its columns are the features of
    the only input, in order. Numbers are converted to the type of the input, except floating-point numbers to
    integers.

    **Results.** One output is an array, several are a dictionary by name. A derivative of one output with respect to
    one input is an array; with several inputs it is a dictionary by input, with several outputs one by output, and
    with several of both a dictionary of dictionaries: ``result[output][input]``, ``result[output][input1][input2]``
    for a Hessian.

    **Batches.** Where axis 0 is a batch of samples that do not mix, derivatives are per sample: the Jacobian of a
    model from ``(N, 3)`` to ``(N, 2)`` has shape ``(N, 2, 3)``. See `onnxgrad.jacobian`.

    What is needed for a request is made at the first call and kept. Calls may come from several threads. A pickled
    function takes its model along (or the path, if the model is large or has weights in other files).

    Attributes:
        inputs: what the model takes.
        outputs: what the model returns.
    """

    def __init__(self, origin: Origin, settings: Settings, max_bytes: int, straight_through: bool = False) -> None:
        self._origin = origin
        self._settings = settings
        self._max_bytes = max_bytes
        self._straight_through = straight_through
        self._set_up()

    def _set_up(self) -> None:
        described = signature(self._origin.model)
        self.inputs: tuple[Port, ...] = described.inputs
        self.outputs: tuple[Port, ...] = described.outputs
        self._plain: Plain | None = None
        self._programs: dict[Any, Program] = {}
        self._lock = threading.RLock()

    def __getstate__(self) -> tuple[Origin, Settings, int, bool]:
        return self._origin, self._settings, self._max_bytes, self._straight_through

    def __setstate__(self, state: tuple[Origin, Settings, int, bool]) -> None:
        self._origin, self._settings, self._max_bytes, self._straight_through = state
        self._set_up()

    def __repr__(self) -> str:
        return f"Function({', '.join(map(_spelled, self.inputs))} -> {', '.join(map(_spelled, self.outputs))})"

    # --- values ----------------------------------------------------------------------------------

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Return the outputs of the model.

        Raises:
            FeedError: if what is fed does not fit the inputs: names, shapes, types.
            MemoryBoundError: if the result would exceed the bound.
            RunError: if onnxruntime refuses the model or fails.
        """
        plain = self._plain or self._get_plain()
        return plain(inputs, named)

    # --- first order -----------------------------------------------------------------------------

    def jacobian(
        self,
        *inputs: Any,
        of: Names = None,
        wrt: Names = None,
        batched: Batched = "auto",
        mode: Mode = "auto",
        **named: Any,
    ) -> Any:
        """Return the Jacobian: of shape ``(N, *y, *x)`` per sample, else ``(*y, *x)``.

        Args:
            inputs: inputs of the model, in order.
            of: what to differentiate: a name or several. None: every floating-point output.
            wrt: what to differentiate by. None: every floating-point input.
            batched: whether per sample; "auto": where the size of both axes 0 is open.
            mode: "reverse", "forward", or "auto" for what takes fewer operations.
            named: inputs of the model, by name.

        Raises:
            NotDifferentiableError: naming every node in the way.
            UnknownNameError: if there is no tensor of a name in `of` or `wrt`.
            TensorTypeError: if that is no floating-point tensor.
            MixedSamplesError: if it is to be per sample, and it is not proven that samples stay apart.
            FeedError, MemoryBoundError, RunError: as for a call.
        """
        return self._get(("jacobian", of, wrt, None, batched, mode, False))(inputs, named)

    def value_and_jacobian(
        self,
        *inputs: Any,
        of: Names = None,
        wrt: Names = None,
        batched: Batched = "auto",
        mode: Mode = "auto",
        **named: Any,
    ) -> tuple[Any, Any]:
        """Return the outputs, as a call does, and the Jacobian, as `jacobian` does, in one run."""
        return self._get(("jacobian", of, wrt, None, batched, mode, True))(inputs, named)  # type: ignore[no-any-return]

    def gradient(
        self,
        *inputs: Any,
        of: Names = None,
        wrt: Names = None,
        index: Index = None,
        batched: Batched = "auto",
        **named: Any,
    ) -> Any:
        """Return the gradient of an output that is one number, in all or per sample; it is shaped like the input.

        Args:
            inputs: inputs of the model, in order.
            of: what to differentiate. None: every floating-point output.
            wrt: what to differentiate by. None: every floating-point input.
            index: picks one element of a wider output: its position, or "max" for the largest, e.g. the predicted
                class.
            batched: whether per sample; "auto": where the size of both axes 0 is open.
            named: inputs of the model, by name.

        Raises:
            TensorTypeError: also if an output has several elements and there is no `index`.
            OnnxgradError: and what `jacobian` raises.
        """
        return self._get(("gradient", of, wrt, index, batched, "auto", False))(inputs, named)

    def value_and_gradient(
        self,
        *inputs: Any,
        of: Names = None,
        wrt: Names = None,
        index: Index = None,
        batched: Batched = "auto",
        **named: Any,
    ) -> tuple[Any, Any]:
        """Return the outputs, as a call does, and the gradient, as `gradient` does, in one run."""
        return self._get(("gradient", of, wrt, index, batched, "auto", True))(inputs, named)  # type: ignore[no-any-return]

    def vjp(self, *inputs: Any, cotangent: Any = None, of: Names = None, wrt: Names = None, **named: Any) -> Any:
        """Return the vector-Jacobian product ``Σ_y (∂y/∂x)ᵀ ct_y`` for each x of `wrt`, shaped like x.

        ``f.vjp(x, ct)``: the cotangent follows the inputs, unless it is given by its keyword. It is shaped like y, or
        has one more axis in front, for several at a time; the result then has it, too. For several outputs it is a
        dictionary by name, in which those that are missing count as zero.

        Args:
            inputs: inputs of the model, in order, then the cotangent.
            cotangent: the cotangent.
            of: what to differentiate. None: every floating-point output.
            wrt: what to differentiate by. None: every floating-point input.
            named: inputs of the model, by name.

        Raises:
            OnnxgradError: what `jacobian` raises.
        """
        program = self._get(("vjp", of, wrt, None, "auto", "auto", False))
        return program.along(*self._last("cotangent", inputs, cotangent, named), named)

    def jvp(self, *inputs: Any, tangent: Any = None, of: Names = None, wrt: Names = None, **named: Any) -> Any:
        """Return the Jacobian-vector product ``Σ_x (∂y/∂x) t_x`` for each y of `of`, shaped like y.

        ``f.jvp(x, t)``: the tangent follows the inputs, unless it is given by its keyword. It is shaped like x, or
        has one more axis in front, for several at a time; the result then has it, too. For several inputs it is a
        dictionary by name, in which those that are missing count as zero.

        Args:
            inputs: inputs of the model, in order, then the tangent.
            tangent: the tangent.
            of: what to differentiate. None: every floating-point output.
            wrt: what to differentiate by. None: every floating-point input.
            named: inputs of the model, by name.

        Raises:
            OnnxgradError: what `jacobian` raises.
        """
        program = self._get(("jvp", of, wrt, None, "auto", "auto", False))
        return program.along(*self._last("tangent", inputs, tangent, named), named)

    # --- second order ----------------------------------------------------------------------------

    def hessian(
        self,
        *inputs: Any,
        of: Names = None,
        wrt: Names = None,
        index: Index = None,
        batched: Batched = "auto",
        **named: Any,
    ) -> Any:
        """Return the Hessian of an output that is one number: ``(N, *x1, *x2)`` per sample, else ``(*x1, *x2)``.

        The arguments are those of `gradient`.
        """
        return self._get(("hessian", of, wrt, index, batched, "auto", False))(inputs, named)

    def hvp(
        self,
        *inputs: Any,
        vector: Any = None,
        of: Names = None,
        wrt: Names = None,
        index: Index = None,
        batched: Batched = "auto",
        **named: Any,
    ) -> Any:
        """Return the Hessian of an output that is one number, times a vector: shaped like x.

        ``f.hvp(x, v)``: the vector, shaped like x, follows the inputs, unless it is given by its keyword. For several
        inputs it is a dictionary by name, in which those that are missing count as zero. Other arguments are those of
        `gradient`.
        """
        program = self._get(("hvp", of, wrt, index, batched, "auto", False))
        return program.along(*self._last("vector", inputs, vector, named), named)

    # --- files -----------------------------------------------------------------------------------

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        jacobian: Asked = None,
        gradient: Asked = None,
        hessian: Asked = None,
        vjp: Asked = None,
        jvp: Asked = None,
        hvp: Asked = None,
        keep_outputs: bool | Sequence[str] = True,
        external_data: str | None = None,
    ) -> None:
        """Write the model, with the derivatives that are asked for, to a file, which appears whole or not at all.

        Example:
            >>> f.save("with_jacobian.onnx", jacobian=True)                                 # doctest: +SKIP
            >>> f.save("both.onnx", jacobian={"of": "y"}, gradient={"index": 3})            # doctest: +SKIP

        Args:
            path: the file.
            jacobian: True, or the options of the transform of that name (`onnxgrad.jacobian`) in a dictionary, or
                several of these. The same holds for the other derivatives.
            gradient: see `jacobian`.
            hessian: see `jacobian`.
            vjp: see `jacobian`.
            jvp: see `jacobian`.
            hvp: see `jacobian`.
            keep_outputs: whether the model's own outputs stay; a list of names keeps those.
            external_data: name of a file for the weights, in the same folder. None: one is made above 1.8 GB.

        Raises:
            ModelWriteError: if the file cannot be written.
            OnnxgradError: what `jacobian` raises.
        """
        asked = {"jacobian": jacobian, "gradient": gradient, "hessian": hessian, "vjp": vjp, "jvp": jvp, "hvp": hvp}
        target = os.path.realpath(path)
        used = {os.path.realpath(t.path) for t in tensors_of(self._origin.model) if isinstance(t, ir.ExternalTensor)}
        if used and used & {
            target,
            os.path.join(os.path.dirname(target), external_data or f"{os.path.basename(target)}.data"),
        }:
            raise ModelWriteError(
                f"{os.fspath(path)!r} holds weights that this function goes on using; give another path"
            )
        augmentation = Augmentation(self._origin.model, self._straight_through)
        for kind, requests in asked.items():
            for options in _each(requests):
                add = getattr(augmentation, kind)
                known = list(inspect.signature(add).parameters)
                for name in options:
                    if name not in known:
                        raise TypeError(f"{kind} has no option {name!r}, only {', '.join(known)}")
                add(**options)
        write(augmentation.finish(keep_outputs) if augmentation.records else self._origin.model, path, external_data)

    # --- arguments -------------------------------------------------------------------------------

    def _last(
        self, what: str, inputs: tuple[Any, ...], given: Any, named: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Any]:
        """Return the inputs and the direction, which is the last of them unless it is given by its name."""
        if given is not None:
            return inputs, given
        if len(inputs) < (1 if named or not self.inputs else 2):
            raise FeedError(f"there is no {what}; pass it behind the inputs, or as {what}=…")
        return inputs[:-1], inputs[-1]

    # --- what is made and kept -------------------------------------------------------------------

    def _get(self, key: tuple[Any, ...]) -> Program:
        """Return the program for ``(kind, of, wrt, index, batched, mode, values)``."""
        try:
            program = self._programs.get(key)
        except TypeError:  # names in a list
            program = None
        if program is None:
            kind, of, wrt, index, batched, mode, values = key
            if not (batched is True or batched is False or batched == "auto"):
                raise ValueError(f"batched={batched!r} is neither True, False nor 'auto'")
            if mode not in ("auto", "reverse", "forward"):
                raise ValueError(f"mode={mode!r} is neither 'auto', 'reverse' nor 'forward'")
            if isinstance(index, list):
                index = tuple(index)
            straight = self._straight_through
            program = self._make(
                Request(kind, _names(of), _names(wrt), index, batched, mode, values=values, straight_through=straight)
            )
            with contextlib.suppress(TypeError):
                self._programs[key] = program
        return program

    def _make(self, request: Request) -> Program:
        with self._lock:
            program = self._programs.get(request)
            if program is None:
                make = Program(request, self._origin, self._settings, self._max_bytes, self._make, self._get_plain)
                program = self._programs[request] = make
            return program

    def _get_plain(self) -> Plain:
        with self._lock:
            if self._plain is None:
                self._plain = Plain(self._origin, self._settings, self._max_bytes)
            return self._plain


def _names(names: Names) -> tuple[str, ...] | None:
    if names is None:
        return None
    return (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))


def _each(asked: Asked) -> Sequence[Mapping[str, Any]]:
    if asked is None or asked is False:
        return ()
    if asked is True:
        return ({},)
    return (asked,) if isinstance(asked, Mapping) else asked


def _spelled(port: Port) -> str:
    kind = port.kind if port.kind != "tensor" else "?" if port.dtype is None else port.dtype.name
    sizes = "" if port.shape is None else f"[{', '.join('?' if d is None else str(d) for d in port.shape)}]"
    return f"{port.name}: {kind}{sizes}"


__all__ = ["MAX_BYTES", "Function", "load"]
