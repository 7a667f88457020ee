"""What is fed to a model: taken in the forms that people have it in, converted, and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgrad.errors import FeedError, UnknownNameError
from onnxgrad.model.signature import Port

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Slot:
    """One input, and what it takes.

    Attributes:
        port: the input.
        dtype: type of its elements, if it is a tensor and that is known.
        rank: number of its axes, if it is a tensor and that is known.
        fixed: axes whose size is a number.
        named: axes whose size has a name.
    """

    port: Port
    dtype: np.dtype[Any] | None
    rank: int | None
    fixed: tuple[tuple[int, int], ...]
    named: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, port: Port) -> Slot:
        """Return what a port takes."""
        shape = port.shape if port.kind == "tensor" else None
        sizes = list(enumerate(shape or ()))
        return cls(
            port,
            port.dtype if port.kind == "tensor" else None,
            None if shape is None else len(shape),
            tuple((i, d) for i, d in sizes if isinstance(d, int) and d >= 0),  # some files say -1
            tuple((i, d) for i, d in sizes if isinstance(d, str)),
        )

    @property
    def name(self) -> str:
        """Name of the input."""
        return self.port.name


class Feeds:
    """Puts arguments to the inputs that they are for.

    Args:
        ports: the inputs, in order.
        columns: names of the features of the only input, in order, where they are known.
    """

    def __init__(self, ports: Sequence[Port], columns: Sequence[str] | None = None) -> None:
        self.slots = [Slot.of(port) for port in ports]
        self.names = [port.name for port in ports]
        self._columns = columns

    def bind(self, args: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is fed, by name.

        Args:
            args: one value per input, in order; or a dictionary by name; or a data frame.
            named: values by name.

        Raises:
            FeedError: if they do not fit the inputs.
        """
        slots = self.slots
        if len(args) == 1 and not named and type(args[0]) is not np.ndarray:
            (only,) = args
            if isinstance(only, Mapping):
                return self.bind((), only)
            if is_frame(only):
                return self._from_frame(only)
        if len(args) > len(slots):
            raise FeedError(f"{len(args)} values are given, and there are {_count(self.names)}")
        feeds = {slot.name: take(slot, value) for slot, value in zip(slots, args, strict=False)}
        if named:
            for name, value in named.items():
                if name not in self.names:
                    raise FeedError(str(UnknownNameError.among("an input of the model", name, self.names)))
                if name in feeds:
                    raise FeedError(f"input {name!r} is given twice, by position and by name")
                feeds[name] = take(slots[self.names.index(name)], value)
        if len(feeds) < len(slots):
            missing = [s.name for s in slots if s.name not in feeds and s.port.kind != "optional"]
            if missing:
                raise FeedError(
                    f"nothing is given for {_count(missing)}; pass values in order, by name, or as one dictionary"
                )
        return feeds

    def sizes(self, feeds: Mapping[str, Any]) -> dict[str, int]:
        """Return the number that each symbolic size has in `feeds`.

        Raises:
            FeedError: if it has two.
        """
        sizes: dict[str, int] = {}
        for slot in self.slots:
            if slot.named and slot.name in feeds:
                shape = feeds[slot.name].shape
                for axis, name in slot.named:
                    if sizes.setdefault(name, shape[axis]) != shape[axis]:
                        raise FeedError(
                            f"the size {name!r} is {sizes[name]} in one input and {shape[axis]} on axis {axis} of "
                            f"{slot.name!r}; both must be the same"
                        )
        return sizes

    def _from_frame(self, frame: Any) -> dict[str, Any]:
        """Take columns by name where each input is one column, else as the features of the only input."""
        columns = [str(c) for c in frame.columns]
        narrow = all(slot.rank == 1 or (slot.rank == 2 and (1, 1) in slot.fixed) for slot in self.slots)
        if narrow and (len(self.slots) > 1 or self.names[0] in columns):
            return {slot.name: take(slot, _column(frame, slot.name)) for slot in self.slots}
        if len(self.slots) != 1:
            wide = next(
                slot for slot in self.slots if not (slot.rank == 1 or (slot.rank == 2 and (1, 1) in slot.fixed))
            )
            raise FeedError(
                f"a data frame fits a model with one input, or with one input per column, and {wide.name!r} takes "
                f"{_wanted(wide)}; pass a dictionary of arrays"
            )
        (slot,) = self.slots
        if slot.rank not in (2, None) or slot.dtype is None:
            raise FeedError(f"a data frame has two axes, and {slot.name!r} takes {_wanted(slot)}; pass an array")
        names = list(frame.columns) if self._columns is None else [_found(frame, c) for c in self._columns]
        matrix = np.empty((len(frame), len(names)), slot.dtype)
        for i, name in enumerate(names):
            values = frame[name]
            if getattr(values, "ndim", 1) != 1:
                raise FeedError(f"the data frame has several columns {name!r}; rename them")
            matrix[:, i] = convert(_values(values), slot.dtype, f"column {name!r}")
        return {slot.name: fit(slot, matrix)}


def take(slot: Slot, value: Any) -> Any:
    """Return `value` as what an input takes.

    Raises:
        FeedError: if it does not fit.
    """
    if slot.dtype is None:
        return value if slot.port.kind != "unknown" else np.asarray(value)
    if type(value) is np.ndarray and value.dtype == slot.dtype and value.dtype.kind != "O":
        return fit(slot, value)
    where = f"input {slot.name!r}"
    if _is_series(value):
        value = _values(value)
        if slot.rank == 2 and (1, 1) in slot.fixed and value.ndim == 1:
            value = value[:, None]
    elif is_frame(value):
        value = value.to_numpy()
    return fit(slot, convert(value, slot.dtype, where))


def fit(slot: Slot, array: Array) -> Array:
    """Return `array` if it has the shape that an input takes.

    Raises:
        FeedError: if it has not.
    """
    if slot.rank is None:
        return array
    shape = array.shape
    if len(shape) != slot.rank:
        raise FeedError(
            f"input {slot.name!r} takes {_wanted(slot)}, and was given shape {list(shape)}{_hint(slot, shape)}"
        )
    for axis, size in slot.fixed:
        if shape[axis] != size:
            raise FeedError(
                f"input {slot.name!r} takes {_wanted(slot)}, and was given shape {list(shape)}, with {shape[axis]} "
                f"instead of {size} on axis {axis}{_hint(slot, shape)}"
            )
    return array


def convert(value: Any, dtype: np.dtype[Any], where: str) -> Array:
    """Return `value` as an array of a type, where that changes no number into another kind.

    Integers and flags become floating-point numbers, and floating-point numbers of any precision those of another;
    nothing else changes its kind. NaN and infinities stay.

    Raises:
        FeedError: if it is no array of that kind, or holds numbers beyond the type's range.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise FeedError(f"{where}: the array is masked in places; fill them first (`.filled(…)`)")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise FeedError(f"{where}: this is no array: {error}; all rows must have the same length") from error
    if array.dtype == dtype and dtype.kind != "O":
        return array
    have, want = _kind(array.dtype), _kind(dtype)
    if array.dtype.kind == "O" and want != "text":
        raise FeedError(f"{where} takes {dtype.name}, and was given {_sort_of(array)}; convert it first")
    if want == "text":
        return _texts(array, where)
    if have not in _BECOMES[want]:
        remedy = (
            f"if that is meant, convert it first (`.astype({dtype.name!r})`)" if have != "text" else "convert it first"
        )
        raise FeedError(f"{where} takes {dtype.name}, and was given {array.dtype.name}; {remedy}")
    if want == "integer" and have == "integer" and array.size and not np.can_cast(array.dtype, dtype):
        low, high = int(array.min()), int(array.max())
        if low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
            raise FeedError(
                f"{where} takes {dtype.name}, and was given integers from {low} to {high}, beyond its range"
            )
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype)
    except FloatingPointError:
        raise FeedError(
            f"{where} takes {dtype.name}, and was given numbers beyond its range (up to {np.nanmax(np.abs(array)):.3g})"
        ) from None


#: Which kinds of elements become which other without a loss in kind.
_BECOMES = {
    "float": ("float", "integer", "flag"),
    "integer": ("integer", "flag"),
    "flag": ("flag",),
    "complex": ("complex", "float", "integer", "flag"),
}


def _kind(dtype: np.dtype[Any]) -> str:
    kind = {"f": "float", "i": "integer", "u": "integer", "b": "flag", "c": "complex", "U": "text", "O": "text"}.get(
        dtype.kind
    )
    if kind is None and dtype.kind == "V":  # those of ml_dtypes
        kind = "float" if "float" in dtype.name else "integer" if "int" in dtype.name else None
    return kind or dtype.name


def _texts(array: Array, where: str) -> Array:
    if array.dtype.kind not in "UO":
        raise FeedError(f"{where} takes texts, and was given {array.dtype.name}; convert it first (`.astype(str)`)")
    for item in array.flat:
        if not isinstance(item, str):
            raise FeedError(f"{where} takes texts, and was given {item!r} among them; replace it by a text")
    return array.astype(object)


def _sort_of(array: Array) -> str:
    if array.ndim == 0:
        return f"a {type(array.item()).__name__}"
    return next((f"{item!r} among others" for item in array.flat if not isinstance(item, (int, float))), "objects")


def _wanted(slot: Slot) -> str:
    if slot.port.kind != "tensor":
        return f"a {slot.port.kind}"
    dtype = (
        "elements of unknown type" if slot.dtype is None else "texts" if slot.dtype.kind in "OU" else slot.dtype.name
    )
    if slot.port.shape is None:
        return f"{dtype} of any shape"
    return f"{dtype} of shape [{', '.join('?' if d is None else str(d) for d in slot.port.shape)}]"


def _hint(slot: Slot, shape: Sequence[int]) -> str:
    """Return what to do, where that can be told."""
    rank = slot.rank or 0
    if 0 in (axis for axis, _ in slot.fixed) and rank == len(shape):
        if all(shape[a] == n for a, n in slot.fixed if a):
            return "; the model takes that many samples at a time and no other number: feed them in such portions"
        return ""
    if len(shape) == rank - 1 and all(shape[a - 1] == n for a, n in slot.fixed if a):
        return "; a single sample is a batch of one: pass x[None]"
    if len(shape) == 1 and rank == 2 and (1, 1) in slot.fixed:
        return "; numbers in a row are a column here: pass x.reshape(-1, 1)"
    if len(shape) == rank + 1 and shape[-1] == 1:
        return "; pass x[..., 0]"
    return "; reshape it"


def _count(names: Iterable[str]) -> str:
    listed = [repr(name) for name in names]
    shown = ", ".join(listed[:12]) + (", …" if len(listed) > 12 else "")
    return f"{len(listed)} input{'' if len(listed) == 1 else 's'} ({shown})" if listed else "no inputs"


# --- data frames, of pandas or others, known by what they can do ----------------------------------


def is_frame(value: Any) -> bool:
    """Whether a value is a data frame."""
    return hasattr(value, "columns") and hasattr(value, "to_numpy") and hasattr(value, "__getitem__")


def _is_series(value: Any) -> bool:
    return hasattr(value, "to_numpy") and not hasattr(value, "columns") and hasattr(value, "name")


def _found(frame: Any, name: str) -> Any:
    """Return the label of a column by its name."""
    labels = {str(c): c for c in frame.columns}
    if name not in labels:
        raise FeedError(str(UnknownNameError.among("a column of the data frame", name, labels)))
    return labels[name]


def _column(frame: Any, name: str) -> Any:
    values = frame[_found(frame, name)]
    if getattr(values, "ndim", 1) != 1:
        raise FeedError(f"the data frame has several columns {name!r}; rename them")
    return values


def _values(series: Any) -> Array:
    """Return a column's elements; missing ones of numbers are NaN."""
    array = np.asarray(series.to_numpy())
    if array.dtype.kind == "O" and getattr(getattr(series, "dtype", None), "kind", "O") in "iufb":
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    return array
