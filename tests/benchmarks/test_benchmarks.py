"""The benchmarks measure what they say: wrong results are found, and what is written by hand is right."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from benchmarks.export import dense
from benchmarks.folder import measure as measure_model
from benchmarks.measure import Effort, measure
from benchmarks.networks.mlp import mlp
from benchmarks.report import duration, in_words, ratio, size
from benchmarks.systems.numpy_system import ways as ways_by_hand
from benchmarks.systems.onnxgrad_system import ways as ways_of_onnxgrad
from benchmarks.systems.registry import SYSTEMS, of
from benchmarks.tasks import SMOOTH, TASKS, Task
from benchmarks.verdict import difference, judge
from benchmarks.worker import as_arrays

RIGHT = {"": np.arange(1, 9, dtype=np.float32)}
WRONG = {"": RIGHT[""] + np.float32(0.01)}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.export.BUILD", tmp_path)


# --- which results are right --------------------------------------------------------------------------


def test_what_differs_from_the_others_is_wrong():
    verdicts = judge({"a": WRONG, "b": RIGHT, "c": RIGHT}, 1e-5)
    assert [name for name, v in verdicts.items() if v.right] == ["b", "c"]
    assert "2 others" in verdicts["a"].reason


def test_nobody_is_right_where_as_many_say_otherwise():
    verdicts = judge({"a": RIGHT, "b": WRONG}, 1e-5)
    assert not any(v.right for v in verdicts.values())
    assert "disagree" in verdicts["a"].reason


def test_differences_may_differ_more_and_do_not_decide():
    assert judge({"a": RIGHT, "differences": {"": RIGHT[""] * np.float32(1.0005)}}, 1e-5)["differences"].right
    verdicts = judge({"a": RIGHT, "b": RIGHT, "differences": WRONG}, 1e-5)
    assert [v.right for v in verdicts.values()] == [True, True, False]


@pytest.mark.parametrize("other", [{"": np.ones(7, np.float32)}, {"z": RIGHT[""]}], ids=["shape", "name"])
def test_other_shapes_and_names_are_wrong(other):
    assert difference(RIGHT, other) is None
    assert not judge({"a": RIGHT, "b": RIGHT, "c": other}, 1e-5)["c"].right


def test_what_is_no_number_is_wrong():
    assert not judge({"a": RIGHT, "b": RIGHT, "c": {"": np.full(8, np.nan, np.float32)}}, 1e-5)["c"].right


# --- derivatives by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "asked", "batch"),
    [
        ((3, 5, 4, 2), "jacobian", 6),
        ((7, 5, 2, 4, 6), "jacobian", 3),
        ((4, 6, 5, 1), "hessian", 3),
        ((4, 6, 5, 1), "hvp", 3),
        ((4, 6, 5, 3), "weights", 7),
    ],
)
def test_every_way_by_hand_gives_what_onnxgrad_gives(sizes, asked, batch):
    task = Task(mlp(*sizes), asked, batch, "")
    ((_, ours),) = ways_of_onnxgrad(task, 1).items()
    for how, way in ways_by_hand(task, 1).items():
        found = difference(as_arrays(way()), as_arrays(ours()))
        assert found is not None, how
        assert found < SMOOTH, how  # the limit of the benchmarks themselves


# --- a whole task --------------------------------------------------------------------------------


def test_a_task_is_measured_in_turn_and_what_a_system_cannot_do_is_left_out():
    task = next(task for task in TASKS if task.name == "mlp-64-64-64-1/hessian/1")
    timings = measure(task, [SYSTEMS[name] for name in ("onnxgrad", "numpy", "differences")], Effort(1, 2, 0.01))
    assert [t.status for t in timings] == ["timed", "timed", "left out"]
    assert all(t.median > 0 and t.difference is not None and t.difference < SMOOTH for t in timings[:2])
    assert "no digits" in timings[2].note


def test_a_model_in_a_folder_is_measured_or_refused(tmp_path):
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    onnx.save(dense(mlp(3, 4, 2), None), good)
    bad.write_bytes(b"no model")
    measured, refused = measure_model(str(good), 0.0), measure_model(str(bad), 0.0)
    assert measured.ratio is not None
    assert measured.ratio > 1
    assert refused.why
    assert refused.ratio is None


# --- declarations ----------------------------------------------------------------------------------


def test_tasks_and_systems_have_names_that_tell_them_apart():
    assert len({task.name for task in TASKS}) == len(TASKS)
    assert all(name in SYSTEMS for task in TASKS for name in (*task.also, *task.without))
    static = next(task for task in TASKS if task.also)
    assert {s.name for s in of(static, list(SYSTEMS.values()))} >= set(static.also)
    assert in_words(TASKS[0]) == "1-3-1, Jacobian, 1 sample"


def test_figures_have_units_of_their_size():
    assert [duration(s) for s in (2.5, 0.0123, 4.56e-6)] == ["2.50 s", "12.3 ms", "4.56 µs"]
    assert [size(n) for n in (12, 3_400, 5.6e9)] == ["12 B", "3.4 kB", "5.6 GB"]
    assert [ratio(r) for r in (0.514, 12.6)] == ["0.51", "13"]
