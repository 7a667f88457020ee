"""Parts that run side by side, and the memory that results lie in."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from runtime_models import SAME, Net, model, value, watched

import onnxgrad
from onnxgrad.runtime import chunks, plain
from onnxgrad.runtime.buffers import BufferPool
from onnxgrad.runtime.chunks import even_parts
from onnxgrad.runtime.parallel import side_by_side
from onnxgrad.runtime.session import Settings

NET = Net(4, 5, 3)
X = np.random.default_rng(0).normal(size=(103, 4))


@contextmanager
def many_parts() -> Iterator[None]:
    """Let runs of more than a few rows be in parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "MOST_BYTES", 4000)
        yield


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_each_item_is_done_once(workers: int) -> None:
    done: list[int] = []
    side_by_side(done.append, range(100), workers)
    assert sorted(done) == list(range(100))
    side_by_side(done.append, [], workers)


def test_several_work_at_a_time() -> None:
    meeting = threading.Barrier(3, timeout=20)
    side_by_side(lambda _: meeting.wait() and None, range(3), 3)  # fails unless all three are there


def test_an_error_ends_the_work() -> None:
    done: list[int] = []

    def work(i: int) -> None:
        if i == 2:
            raise RuntimeError("item 2")
        time.sleep(0.001)
        done.append(i)

    with pytest.raises(RuntimeError, match="item 2"):
        side_by_side(work, range(1000), 3)
    assert len(done) < 900


def test_without_threads_the_caller_does_all(tmp_path: Path) -> None:
    """As when Python ends, where what is left behind may still want a result."""
    script = tmp_path / "ends.py"
    script.write_text(
        "import atexit, concurrent.futures\n"
        "from onnxgrad.runtime.parallel import side_by_side\n"
        "done = []\n"
        "atexit.register(lambda: (side_by_side(done.append, range(9), 3), print(sorted(done))))\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == str(list(range(9)))


@pytest.mark.parametrize(("total", "most", "workers"), [(10, 3, 2), (7, 100, 4), (5, 1, 3), (1, 1, 8), (1000, 13, 16)])
def test_parts_keep_all_workers_busy(total: int, most: int, workers: int) -> None:
    parts = even_parts(total, most, workers)
    assert [0, *(stop for _, stop in parts)] == [*(start for start, _ in parts), total]
    assert max(stop - start for start, stop in parts) <= most
    assert len(parts) % workers == 0 or len(parts) == total


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_parts_side_by_side_give_the_same(threads: int) -> None:
    f = onnxgrad.load(NET.bytes, threads=threads)
    with many_parts(), watched() as fed:
        value, jacobian = f.value_and_jacobian(X)
        plain = f(X)
    assert len(fed) > 2 * threads
    assert sum(shapes["x"][0] for shapes in fed) == 2 * len(X)
    np.testing.assert_allclose(value, NET(X), **SAME)
    np.testing.assert_allclose(plain, NET(X), **SAME)
    np.testing.assert_allclose(jacobian, NET.jacobian(X), **SAME)


def test_each_of_them_takes_one_thread() -> None:
    f = onnxgrad.load(NET.bytes, session_options={"intra_op_num_threads": 2, "session.intra_op.allow_spinning": "0"})
    with many_parts():
        f.jacobian(X)
    (program,) = set(f._programs.values())
    session = program._sessions.get("alone")._session
    assert session.get_session_options().intra_op_num_threads == 1
    assert program._sessions._made.keys() == {"alone"}  # the other was not needed


@pytest.mark.parametrize(
    ("settings", "workers"),
    [
        (Settings(threads=3), 3),
        (Settings(threads=3, session_options={"intra_op_num_threads": 2}), 2),
        (Settings(session_options=lambda: None), None),  # type: ignore[arg-type, return-value]
        (Settings(providers=["CUDAExecutionProvider", "CPUExecutionProvider"]), None),
        (Settings(providers=["CPUExecutionProvider"], threads=1), 1),
    ],
)
def test_threads_are_multiplied_only_where_they_are_ours(settings: Settings, workers: int | None) -> None:
    assert settings.workers == workers


def test_memory_of_a_result_is_used_again_when_nobody_holds_it() -> None:
    pool = BufferPool()

    def at(array: np.ndarray) -> int:
        return int(array.__array_interface__["data"][0])

    first = pool.empty((100, 10), np.dtype(np.float32))
    first[...] = 1
    place = at(first)
    second = pool.empty((100, 10), np.dtype(np.float32))
    assert at(second) != place
    row = first[3]
    del first
    third = pool.empty((50, 20), np.dtype(np.float32))
    assert at(third) != place  # a row of it is still held
    third[...] = 3
    np.testing.assert_array_equal(row, 1)
    del row
    fourth = pool.empty((10, 100), np.dtype(np.float32))
    assert at(fourth) == place
    assert fourth.flags.writeable


def test_results_of_nothing_and_of_texts() -> None:
    pool = BufferPool()
    assert pool.empty((0, 3), np.dtype(np.float32)).shape == (0, 3)
    texts = pool.empty((2,), np.dtype(object))
    texts[:] = ["a", "b"]
    assert texts.tolist() == ["a", "b"]


def test_texts_are_found_in_parts() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["i"], to=onnx.TensorProto.INT64)]
    nodes.append(helper.make_node("Cast", ["i"], ["y"], to=onnx.TensorProto.STRING))
    y = helper.make_tensor_value_info("y", onnx.TensorProto.STRING, ["N", 4])
    f = onnxgrad.load(model(nodes, [value("x", ["N", 4])], [y]))
    x = np.arange(80.0).reshape(20, 4)
    with many_parts(), pytest.MonkeyPatch.context() as patch, watched() as fed:
        patch.setattr(plain, "_SMALL_INPUT", 0)
        patch.setattr(chunks, "MOST_BYTES", 200)
        found = f(x)
    assert len(fed) > 1
    np.testing.assert_array_equal(found, x.astype(int).astype(str))


def test_results_that_are_kept_stay_as_they_are() -> None:
    f = onnxgrad.load(NET.bytes)
    with many_parts():
        kept = [f.jacobian(k * X) for k in range(1, 6)]
    for k, found in enumerate(kept, 1):
        np.testing.assert_allclose(found, NET.jacobian(k * X), **SAME)
