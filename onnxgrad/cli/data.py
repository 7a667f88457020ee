"""Files with data: what goes into a model, and what comes out of it."""

from __future__ import annotations

import csv
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxgrad.errors import FeedError, ModelWriteError, UnknownNameError
from onnxgrad.model.signature import Port
from onnxgrad.model.write import write_all_or_nothing

Array = np.ndarray[Any, Any]

#: Rows of a table that are turned into text at once.
_ROWS = 4096


def read_feeds(path: str, ports: Sequence[Port], partial: bool = False) -> dict[str, Array]:
    """Return what a file feeds to inputs, by name; with `partial`, an ``.npz`` file need not have all of them.

    - ``.npz``: arrays by name of the input; a single array for a single input may have any name.
    - ``.npy``: the only input.
    - ``.csv``: one row per sample. Columns are found by name, ``x`` for an input with one column, ``x[0,3]`` for an
      element of a wider one. For a single input, columns with other names (or none) are taken in order.

    Raises:
        FeedError: if the file cannot be read, or does not fit the inputs.
    """
    suffix = _suffix(path, (".csv", ".npz", ".npy"), FeedError)
    if suffix == ".csv":
        return _from_table(path, *_read_csv(path), ports)
    arrays = _read_numpy(path)
    if len(arrays) == len(ports) == 1:
        return {ports[0].name: next(iter(arrays.values()))}
    known = [port.name for port in ports]
    if suffix == ".npy":
        raise FeedError(f"{path!r} holds one array, and the model has inputs {_list(known)}; give an .npz file")
    for name in arrays:
        if name not in known:
            raise FeedError(f"{path!r}: {UnknownNameError.among('an input of the model', name, known)}")
    missing = [name for name in known if name not in arrays]
    if missing and not partial:
        raise FeedError(f"{path!r} has no arrays for {_list(missing)}; it has {_list(list(arrays))}")
    return arrays


def column_names(path: str) -> list[str] | None:
    """Return the names of the columns of a ``.csv`` file that `read_feeds` could read; None where it has none."""
    if os.path.splitext(path)[1].lower() != ".csv":
        return None
    with open(path, newline="", encoding="utf-8-sig") as file:
        first = file.readline()
    cells = next(csv.reader([first], delimiter=max(",;\t", key=first.count)), [])
    return None if all(map(_is_number, cells)) else [cell.strip() for cell in cells]


def write_results(path: str, results: Mapping[str, Array], per_row: Mapping[str, bool]) -> None:
    """Write results to a file, which appears whole or not at all.

    Args:
        path: an ``.npz`` file, for anything, or a ``.csv`` file, for results with one row per sample.
        results: arrays by name.
        per_row: by name, whether axis 0 is that of the samples.

    Raises:
        ModelWriteError: if this cannot be done.
    """
    if check_target(path) == ".npz":
        with write_all_or_nothing(path) as temporary:
            np.savez_compressed(temporary, **dict(results))  # type: ignore[arg-type]
        return
    rows = max((len(array) for array in results.values() if array.ndim), default=0)
    check_rows(path, {name: per_row[name] and array.shape[:1] == (rows,) for name, array in results.items()})
    with write_all_or_nothing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([name for key, array in results.items() for name in _element_names(key, array.shape[1:])])
        tables = [array.reshape(len(array), math.prod(array.shape[1:])) for array in results.values()]
        for start in range(0, rows, _ROWS):
            writer.writerows(np.concatenate([t[start : start + _ROWS].astype(str) for t in tables], axis=1))


def check_target(path: str) -> str:
    """Return the suffix of a file for results.

    Raises:
        ModelWriteError: if it is not one that can be written.
    """
    return _suffix(path, (".csv", ".npz"), ModelWriteError)


def check_rows(path: str, per_row: Mapping[str, bool]) -> None:
    """Check that results fit a table.

    Raises:
        ModelWriteError: if not.
    """
    for name, flag in per_row.items():
        if check_target(path) == ".csv" and not flag:
            raise ModelWriteError(
                f"{name!r} does not have one row per sample, so it does not fit the table {path!r}; write an .npz file"
            )


def _suffix(path: str, known: Sequence[str], error: type[FeedError | ModelWriteError]) -> str:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in known:
        raise error(f"{path!r} is no file of a kind that is known here; give one that ends in {' or '.join(known)}")
    return suffix


# --- numpy's files -----------------------------------------------------------------------------


def _read_numpy(path: str) -> dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return dict(loaded)
    except FileNotFoundError:
        raise FeedError(_no_file(path)) from None
    except Exception as error:  # zipfile, pickle and numpy each have their own
        raise FeedError(f"{path!r} cannot be read as numpy's arrays: {error}; save it again with numpy") from error


# --- tables ------------------------------------------------------------------------------------


def _read_csv(path: str) -> tuple[list[str] | None, list[list[str]]]:
    """Return the names of the columns, None where the first row holds numbers, and the columns as text."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            delimiter = max(",;\t", key=first.count)
            rows = [row for row in csv.reader(itertools.chain([first], file), delimiter=delimiter) if row]
    except FileNotFoundError:
        raise FeedError(_no_file(path)) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FeedError(f"{path!r} cannot be read as a table: {error}; give a .csv file in UTF-8") from error
    if not rows:
        raise FeedError(f"{path!r} is empty; give a row of names and a row for each sample")
    width = len(rows[0])
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise FeedError(f"{path!r}: row {number} has {len(row)} cells, and the first one has {width}")
    names = None if all(map(_is_number, rows[0])) else [name.strip() for name in rows[0]]
    if names is not None and len(set(names)) < width:
        double = next(name for name in names if names.count(name) > 1)
        raise FeedError(f"{path!r} has several columns {double!r}; rename them")
    body = rows if names is None else rows[1:]
    return names, [[row[i] for row in body] for i in range(width)]


def _from_table(
    path: str, names: list[str] | None, columns: list[list[str]], ports: Sequence[Port]
) -> dict[str, Array]:
    wanted = {port.name: _columns_of(path, port, len(columns), len(ports) == 1) for port in ports}
    places = {} if names is None else {name: i for i, name in enumerate(names)}
    missing = [name for elements in wanted.values() for name in elements if name not in places]
    count = sum(map(len, wanted.values()))
    if missing and len(ports) == 1 and len(missing) == count == len(columns):  # other names: in order
        places = dict(zip(missing, range(count), strict=True))
        missing = []
    if missing:
        takes = f"{count} columns: {_list([name for elements in wanted.values() for name in elements])}"
        has = f"{len(columns)}" if names is None else f"{len(columns)}: {_list(names)}"
        raise FeedError(
            f"the columns of {path!r} do not match the model's inputs. The model takes {takes}. The file has {has}. "
            "Name the columns like that"
            + (", or give as many as the model takes, in order" if len(ports) == 1 else ", or give an .npz file")
        )
    spelled = names or [f"{i + 1}" for i in range(len(columns))]
    feeds = {}
    for port in ports:
        inner = _inner_shape(port, len(wanted[port.name]))
        matrix = [_converted(path, spelled[places[name]], columns[places[name]], port) for name in wanted[port.name]]
        stacked = np.stack(matrix, axis=-1) if matrix else np.zeros((len(columns[0]), 0))
        feeds[port.name] = stacked.reshape(len(stacked), *inner)
    return feeds


def _columns_of(path: str, port: Port, columns: int, alone: bool) -> list[str]:
    """Return the names of the columns that an input takes."""
    if port.kind != "tensor" or port.shape is None or not port.shape:
        raise FeedError(f"{path!r}: input {port.name!r} does not have one row per sample; give an .npz file")
    inner = port.shape[1:]
    if all(isinstance(size, int) for size in inner):
        return _element_names(port.name, [int(size) for size in inner if isinstance(size, int)])
    if alone and len(inner) == 1:  # as many as there are
        return _element_names(port.name, [columns])
    raise FeedError(
        f"{path!r}: input {port.name!r} has the shape {list(port.shape)}, which a table cannot tell; give an .npz file"
    )


def _inner_shape(port: Port, count: int) -> list[int]:
    inner = (port.shape or ())[1:]
    return [size if isinstance(size, int) else count for size in inner]


def _element_names(name: str, inner: Sequence[int]) -> list[str]:
    """Return a column's name for each element of a sample: ``x`` if there is one, else ``x[0,0]``, ``x[0,1]``, …."""
    if math.prod(inner) == 1:
        return [name]
    return [f"{name}[{','.join(map(str, place))}]" for place in np.ndindex(*inner)]


def _converted(path: str, name: str, cells: list[str], port: Port) -> Array:
    kind = "f" if port.dtype is None else port.dtype.kind
    if kind in "OU":
        return np.array(cells, dtype=object)
    convert = _integer if kind in "iub" else _number
    values = []
    for row, cell in enumerate(cells, start=1):
        try:
            values.append(convert(cell))
        except ValueError:
            what = "an integer" if kind in "iub" else "a number"
            raise FeedError(f"{path!r}, column {name!r}, sample {row}: {cell!r} is not {what}") from None
    return np.array(values, dtype={"b": bool, "i": np.int64, "u": np.int64}.get(kind, np.float64))


def _number(cell: str) -> float:
    """Return a number; an empty cell is a missing one."""
    return float(cell) if cell.strip() else math.nan


def _integer(cell: str) -> int:
    value = float(cell)
    if value != int(value):
        raise ValueError
    return int(value)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _no_file(path: str) -> str:
    return f"{path!r}: there is no such file; check the path (the current folder is {os.getcwd()!r})"


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:40])
    return shown if len(names) <= 40 else f"{shown}, … ({len(names)} in all)"
