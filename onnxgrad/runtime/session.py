"""Sessions of onnxruntime, whose errors are told in its words and with the node that they are about."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxgrad.errors import RunError
from onnxgrad.model.read import read
from onnxgrad.model.tensors import tensors_of
from onnxgrad.model.write import serialize, to_proto, write
from onnxgrad.runtime.parallel import cores

#: A provider's name, or its name and options.
Provider = str | tuple[str, Mapping[str, Any]]
#: onnxruntime's options: the object; by name (attributes, and configuration entries with a dot); or a function that
#: makes them.
SessionOptions: TypeAlias = "ort.SessionOptions | Mapping[str, Any] | Callable[[], ort.SessionOptions]"

_CPU = "CPUExecutionProvider"

#: Models with more weights than this are not handed over as bytes.
_SERIALIZED_LIMIT = 1_800_000_000


@dataclass(frozen=True)
class Settings:
    """How sessions are made.

    Attributes:
        providers: execution providers in order of preference; None: the CPU (or those that the session options hold).
        session_options: further options of onnxruntime.
        threads: threads within one operator; None: one per core.
    """

    providers: Sequence[Provider] | None = None
    session_options: SessionOptions | None = None
    threads: int | None = None

    def check(self) -> None:
        """Check what can be checked without a model.

        Raises:
            RunError: if a provider is not there.
            ValueError: if options contradict each other or do not exist.
        """
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads} is no number of threads; pass 1 or more")
        if self.threads is not None and not isinstance(self.session_options, (Mapping, type(None))):
            raise ValueError(
                "threads and session_options are both given; set intra_op_num_threads in the session options"
            )
        there = ort.get_available_providers()
        for provider in self.providers or ():
            name = provider if isinstance(provider, str) else provider[0]
            if name not in there:
                raise RunError(
                    f"onnxruntime has no {name!r} here, only {', '.join(there)}; "
                    "install the onnxruntime package that has it, or choose another"
                )
        self.options()

    def options(self) -> ort.SessionOptions:
        """Return onnxruntime's options for one session."""
        given = self.session_options
        if callable(given):
            return given()
        if given is not None and not isinstance(given, Mapping):
            return given
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, not printed
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        for name, value in (given or {}).items():
            if "." in name:
                options.add_session_config_entry(name, str(value))
            elif hasattr(options, name):
                setattr(options, name, value)
            else:
                raise ValueError(f"onnxruntime's session options have no attribute {name!r}")
        return options

    @property
    def workers(self) -> int | None:
        """Number of threads that work on an operator, which could each run a model instead; None: it is not known."""
        given = self.session_options or {}
        on_cpu = self.providers is None or [p if isinstance(p, str) else p[0] for p in self.providers] == [_CPU]
        if not on_cpu or not isinstance(given, Mapping):
            return None
        return int(given.get("intra_op_num_threads", self.threads or 0)) or cores()

    def having(self, **entries: Any) -> Settings:
        """Return the same settings with other options of the session, given by name; see `workers` for when."""
        given = cast("Mapping[str, Any]", self.session_options or {})
        threads = {} if self.threads is None else {"intra_op_num_threads": self.threads}
        return replace(self, threads=None, session_options={**threads, **given, **entries})

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self.session_options, ort.SessionOptions):
            raise TypeError(
                "onnxruntime's SessionOptions cannot be sent to another process; pass them to onnxgrad.load as a "
                "dictionary, or as a function that makes them"
            )
        return self.__dict__


class Session:
    """A model that onnxruntime has loaded.

    Args:
        model: content of a model file, or its path.
        settings: how the session is made.
        folder: where the external data of a model lies that is given by its content.

    Raises:
        RunError: if onnxruntime refuses the model.
    """

    def __init__(self, model: bytes | str, settings: Settings, folder: str | None = None) -> None:
        options = settings.options()
        providers = settings.providers
        if providers is None:
            kept = getattr(options, "has_providers", bool)()
            providers = None if kept else [_CPU]
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        try:
            # without fallback: a model that does not run where it should is an error, not a message on the terminal
            self._session = ort.InferenceSession(model, options, providers, enable_fallback=0)
        except Exception as error:  # onnxruntime's own derive from nothing narrower
            raise _explained("refuses the model", error) from error
        self._session._model_bytes = None  # kept only to make the session anew, which nobody asks for
        # what is fed is checked already, so it goes past the checks of onnxruntime's class, which take a microsecond
        inner = getattr(self._session, "_sess", self._session)
        self._run, self._run_bound = inner.run, inner.run_with_iobinding
        self._on_cpu = self._session.get_providers() == [_CPU]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Return the named outputs.

        Raises:
            RunError: if onnxruntime fails.
        """
        try:
            return self._run(outputs, feeds, None)  # type: ignore[no-any-return]
        except Exception as error:  # see above
            raise _explained("failed", error) from error

    def run_into(self, outputs: Sequence[str], feeds: Mapping[str, Any], places: Sequence[Any]) -> None:
        """Compute the named outputs, each into the array that is given for it; see `can_bind`.

        Raises:
            RunError: if onnxruntime fails, as it does where an array has not the shape of its output.
        """
        pieces = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        self.bound(pieces, dict(zip(outputs, places, strict=True)))()

    def can_bind(self, inputs: Iterable[Any], results: Iterable[Any]) -> bool:
        """Whether `run_into` takes these: arrays of numbers on the CPU, and results that lie in one piece."""
        results = list(results)
        numbers = all(isinstance(a, np.ndarray) and a.dtype.kind in "fiub" for a in (*inputs, *results))
        return self._on_cpu and numbers and all(place.flags.c_contiguous for place in results)

    def bound(self, feeds: Mapping[str, Any], results: Mapping[str, Any]) -> Callable[[], None]:
        """Return a function that reads the inputs from arrays, and writes the outputs to others, each time anew.

        All lie in one piece, and are kept. The function raises RunError if onnxruntime fails, as it does where an array
        has not the shape of its output.
        """
        assert all(array.flags.c_contiguous for array in (*feeds.values(), *results.values()))
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in results.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        run_bound, inner = self._run_bound, getattr(binding, "_iobinding", binding)

        def run(_kept: object = (feeds, results, binding)) -> None:
            try:
                run_bound(inner, None)
            except Exception as error:  # see above
                raise _explained("failed", error) from error

        return run


#: How the sessions of a model differ from that which the settings ask for: runs take one thread each, and go side by
#: side; weights stay as they are, where otherwise each product would have a copy of its own, in another order.
KINDS: Mapping[str, Mapping[str, Any]] = {
    "as set": {},
    "alone": {"intra_op_num_threads": 1},
    "unpacked": {"session.disable_prepacking": "1"},
}


class Sessions:
    """The sessions of one model, each made when it is asked for.

    Args:
        make: makes a session.
        settings: how.
    """

    def __init__(self, make: Callable[[Settings], Session], settings: Settings) -> None:
        self._make, self._settings = make, settings
        self._lock = threading.Lock()
        self._made: dict[str, Session] = {}

    def get(self, kind: str = "as set") -> Session:
        """Return a session of one of `KINDS`."""
        session = self._made.get(kind)
        if session is None:
            with self._lock:
                session = self._made.get(kind)
                if session is None:
                    entries = KINDS[kind]
                    session = self._make(self._settings.having(**entries) if entries else self._settings)
                    self._made[kind] = session
        return session


def open_model(model: ir.Model, settings: Settings) -> Session:
    """Return a session of a model in memory, or whose weights are mapped from a file.

    Raises:
        RunError: if onnxruntime refuses the model.
    """
    tensors = list(tensors_of(model))
    external = [t for t in tensors if isinstance(t, ir.ExternalTensor)]
    inside = sum(t.nbytes for t in tensors) - sum(t.nbytes for t in external)
    folders = {os.path.abspath(t.base_dir) for t in external}
    if external and len(folders) == 1 and inside <= _SERIALIZED_LIMIT:
        return Session(serialize(model).SerializeToString(), settings, folders.pop())
    if sum(t.nbytes for t in tensors) <= _SERIALIZED_LIMIT:
        return Session(to_proto(model).SerializeToString(), settings)
    # what is in memory and too large for protobuf goes through a file, of which the session keeps nothing open
    with tempfile.TemporaryDirectory(prefix="onnxgrad-", ignore_cleanup_errors=True) as folder:
        path = os.path.join(folder, "model.onnx")
        write(read(model), path)
        return Session(path, settings)


#: How onnxruntime names a node.
_AT_NODE = (
    re.compile(r"running (?P<op>\w+) node\. Name:\s*'(?P<node>[^']*)'"),
    re.compile(r"implementation for (?P<op>[\w.:]+)\(-?\d+\) node with name '(?P<node>[^']*)'"),
    re.compile(r"Node ?\((?P<node>[^()]*)\) Op \((?P<op>[^()]*)\)"),
    re.compile(r"In Node, \(\"(?P<node>[^\"]*)\", (?P<op>\w+)"),
    re.compile(r"(?:of|in|at) [Nn]ode:? ?[('](?P<node>[^()']+)[)']"),
    re.compile(r"\(node:'?(?P<node>[^'\s)]+)"),
)


def _explained(happened: str, error: Exception) -> RunError:
    words = " ".join(str(error).split())
    found = next((m for pattern in _AT_NODE if (m := pattern.search(words))), None)
    where = ""
    if found is not None:
        op = found.groupdict().get("op")
        where = f" at node {found['node']!r}" + (f" ({op})" if op else "")
    return RunError(f"onnxruntime {happened}{where}: {words}; {_remedy(words)}")


def _remedy(words: str) -> str:
    if any(said in words for said in ("Could not find an implementation", "NOT_IMPLEMENTED", "not support double")):
        return (
            "it has no kernel of this operator for these types: use the model in float32, or another provider "
            "(some operators have no float64 or float16 kernel on the CPU)"
        )
    if "MLDataType" in words or "No corresponding Numpy type" in words:
        return (
            "it takes and gives no such arrays in Python (bfloat16, floats of 8 bits, integers of 4): "
            "put Cast nodes to float32 at the inputs and outputs of the model"
        )
    if "is not a registered function/op" in words:
        return "register the library of this operator in the session options (register_custom_ops_library)"
    if "allocate" in words and "memory" in words.lower():
        return "feed fewer rows at a time, or pass a smaller max_bytes to onnxgrad.load"
    if "IR version" in words or "opset" in words.lower():
        return "install a newer onnxruntime, or export the model with an older opset"
    if "invalid model" in words or "Type Error" in words:
        return "the model is not valid: check it with onnx.checker.check_model, and export it anew"
    return "if `onnxgrad check` finds nothing wrong with the model, look at the shapes of what is fed"
