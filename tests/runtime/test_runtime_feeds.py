"""What may be fed: forms, types and shapes that are taken, and those that are refused with a remedy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from onnx import helper
from runtime_models import model, value

import onnxgrad
from onnxgrad.errors import FeedError

X = np.arange(6.0).reshape(2, 3)


def same(dtype: type, shape: list[int | str | None]) -> onnxgrad.Function:
    """Return the identity of one input ``x``."""
    return onnxgrad.load(
        model([helper.make_node("Identity", ["x"], ["y"])], [value("x", shape, dtype)], [value("y", shape, dtype)])
    )


def columns(*names: str, dtype: type = np.float32) -> onnxgrad.Function:
    """Return a function of one column for each name, ``(N, 1)``, which puts them side by side."""
    inputs = [value(name, ["N", 1], dtype) for name in names]
    return onnxgrad.load(
        model([helper.make_node("Concat", list(names), ["y"], axis=1)], inputs, [value("y", ["N", len(names)], dtype)])
    )


# --- types ----------------------------------------------------------------------------------------

TAKEN = [
    (np.float32, X, "float64 into float32"),
    (np.float32, X.astype(np.float16), "float16 into float32"),
    (np.float64, X.astype(np.float32), "float32 into float64"),
    (np.float32, X.astype(ml_dtypes.bfloat16), "bfloat16 into float32"),
    (np.float32, X.astype(np.int64), "integers into float32"),
    (np.float32, X > 2, "flags into float32"),
    (np.float32, X.tolist(), "a list"),
    (np.float32, X.astype(">f8"), "another byte order"),
    (np.float32, X[:, ::-1], "a view"),
    (np.float32, pd.DataFrame(X), "a data frame"),
    (np.float32, np.ma.MaskedArray(X), "a masked array without a mask"),
    (np.int64, X.astype(np.int32), "int32 into int64"),
    (np.int8, X.astype(np.int64), "int64 into int8, in its range"),
    (np.int64, X > 2, "flags into integers"),
    (np.bool_, X > 2, "flags"),
    (np.float16, X, "float64 into float16"),
]


@pytest.mark.parametrize(("dtype", "given", "_"), TAKEN, ids=[case[2] for case in TAKEN])
def test_taken(dtype: type, given: object, _: str) -> None:
    found = same(dtype, ["N", 3])(given)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.asarray(given).astype(dtype))


def test_numbers_and_rows_for_inputs_of_lower_rank() -> None:
    assert same(np.float32, [])(2).item() == 2
    assert same(np.float32, [])(np.float64(2.5)).item() == 2.5
    np.testing.assert_array_equal(same(np.float64, ["N"])([1, 2]), [1, 2])
    np.testing.assert_array_equal(same(np.float64, ["N"])(pd.Series([1, 2])), [1, 2])


def test_texts() -> None:
    f = same(np.object_, ["N", 1])
    assert f([["a"], ["b"]]).tolist() == [["a"], ["b"]]
    assert f(np.array([["a"], ["b"]])).tolist() == [["a"], ["b"]]
    assert f(pd.DataFrame({"x": ["a", "b"]})).tolist() == [["a"], ["b"]]
    with pytest.raises(FeedError, match="takes texts, and was given int64"):
        f([[1], [2]])
    with pytest.raises(FeedError, match="given None among them"):
        f([["a"], [None]])


REFUSED = [
    (np.int64, X, r"input 'x' takes int64, and was given float64; .*\.astype\('int64'\)"),
    (np.bool_, X.astype(np.int64), "takes bool, and was given int64"),
    (np.float32, X + 0j, "takes float32, and was given complex128"),
    (np.float32, np.array([["a", "b", "c"]]), "takes float32, and was given .*; convert it first"),
    (np.float32, [["a", 1, 2]], "takes float32, and was given"),
    (np.float32, np.array([[None, 1, 2]]), "was given None among others"),
    (np.float32, {1, 2}, "was given a set"),
    (np.float32, [[1, 2, 3], [4, 5]], "all rows must have the same length"),
    (np.float32, X.astype("datetime64[s]"), "takes float32, and was given datetime64"),
    (np.float32, np.full((1, 3), 1e300), r"numbers beyond its range \(up to 1e\+300\)"),
    (np.int8, np.full((1, 3), 300), "integers from 300 to 300, beyond its range"),
    (np.float32, np.ma.MaskedArray(X, X > 4), "masked in places"),
]


@pytest.mark.parametrize(("dtype", "given", "words"), REFUSED, ids=[words for _, _, words in REFUSED])
def test_refused(dtype: type, given: object, words: str) -> None:
    with pytest.raises(FeedError, match=words):
        same(dtype, ["N", 3])(given)


def test_infinities_are_no_overflow() -> None:
    assert np.isinf(same(np.float32, ["N"])(np.array([np.inf]))).all()
    assert np.isnan(same(np.float32, ["N"])(np.array([np.nan]))).all()


# --- shapes ---------------------------------------------------------------------------------------

SHAPES = [
    (["N", 3], (3,), r"takes float32 of shape \[N, 3\], and was given shape \[3\]; .*x\[None\]"),
    (["N", 1], (4,), r"x\.reshape\(-1, 1\)"),
    (["N", 3], (2, 4), r"with 4 instead of 3 on axis 1"),
    (["N"], (4, 1), r"x\[\.\.\., 0\]"),
    ([1, 3], (5, 3), "that many samples at a time and no other number"),
    (["N", None], (2, 3, 4), r"of shape \[N, \?\], and was given shape \[2, 3, 4\]; reshape it"),
]


@pytest.mark.parametrize(("shape", "given", "words"), SHAPES, ids=[str(case[:2]) for case in SHAPES])
def test_shapes_are_strict(shape: list[int | str | None], given: tuple[int, ...], words: str) -> None:
    with pytest.raises(FeedError, match=words):
        same(np.float32, shape)(np.ones(given, np.float32))


def test_a_derivative_needs_equal_sizes_where_the_model_names_them_alike() -> None:
    nodes = [helper.make_node("Mul", ["a", "b"], ["y"])]
    f = onnxgrad.load(model(nodes, [value("a", ["N", 2]), value("b", ["N", 2])], [value("y", ["N", 2])]))
    a, b = np.ones((1, 2)), np.ones((3, 2))
    np.testing.assert_array_equal(f(a, b), b)  # onnxruntime does not mind
    with pytest.raises(FeedError, match="the size 'N' is 1 in one input and 3 on axis 0 of 'b'"):
        f.jacobian(a, b)


# --- names ----------------------------------------------------------------------------------------


def test_names() -> None:
    f = columns("age", "height")
    age = height = np.ones((2, 1))
    with pytest.raises(FeedError, match="'hight' is not an input of the model; did you mean 'height'"):
        f(age=age, hight=height)
    with pytest.raises(FeedError, match=r"nothing is given for 1 input \('height'\)"):
        f(age)
    with pytest.raises(FeedError, match=r"nothing is given for 2 inputs \('age', 'height'\)"):
        f()
    with pytest.raises(FeedError, match=r"3 values are given, and there are 2 inputs"):
        f(age, height, age)
    with pytest.raises(FeedError, match="'age' is given twice"):
        f(age, age=age)


def test_directions() -> None:
    f = columns("age", "height", dtype=np.float64)
    age = height = ct = np.ones((2, 1))
    with pytest.raises(FeedError, match="there is no tangent; pass it behind the inputs, or as tangent="):
        f.jvp({"age": age, "height": height})
    with pytest.raises(FeedError, match=r"there are 2 directions \('age', 'height'\); pass them in a dictionary"):
        f.jvp(age, height, ct)
    with pytest.raises(FeedError, match="'aged' is not a tensor that is differentiated by; did you mean 'age'"):
        f.jvp(age, height, {"aged": ct})
    with pytest.raises(FeedError, match="with 3 instead of 2 on axis 1"):
        f.vjp(age, height, np.ones((2, 3)))
    with pytest.raises(FeedError, match="the size 'N' is 2 in one input and 5"):
        f.vjp(age, height, np.ones((5, 2)))
    with pytest.raises(FeedError, match="takes float64"):
        f.vjp(age, height, "up")


# --- data frames ----------------------------------------------------------------------------------

FRAME = pd.DataFrame({"height": [1.5, 1.75], "age": [30, 40], "name": ["Ada", "Bob"]})


def test_columns_go_to_inputs_by_name() -> None:
    f = columns("age", "height")
    np.testing.assert_array_equal(f(FRAME), [[30, 1.5], [40, 1.75]])
    np.testing.assert_array_equal(f(age=FRAME["age"], height=FRAME[["height"]]), f(FRAME))
    np.testing.assert_array_equal(f.jacobian(FRAME)["age"], [[[1], [0]]] * 2)
    np.testing.assert_array_equal(f.jvp(FRAME, FRAME), f(FRAME))
    np.testing.assert_array_equal(columns("age")(FRAME), [[30], [40]])
    with pytest.raises(FeedError, match="'hight' is not a column of the data frame; did you mean 'height'"):
        columns("age", "hight")(FRAME)
    with pytest.raises(FeedError, match=r"input 'name' takes float32, and was given .*; convert it first"):
        columns("age", "name")(FRAME)
    with pytest.raises(FeedError, match="several columns 'age'"):
        f(pd.concat([FRAME, FRAME], axis=1))


def test_columns_are_the_features_of_the_only_input() -> None:
    f = same(np.float32, ["N", 2])
    np.testing.assert_array_equal(f(FRAME[["age", "height"]]), [[30, 1.5], [40, 1.75]])
    with pytest.raises(FeedError, match="column 'name' takes float32, and was given"):
        f(FRAME[["age", "name"]])
    with pytest.raises(FeedError, match="with 3 instead of 2 on axis 1"):
        f(FRAME.assign(name=0))


def test_missing_values_are_nan() -> None:
    frame = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": pd.array([None, 2.5], "Float64"), "c": [True, False]})
    found = same(np.float32, ["N", 3])(frame)
    np.testing.assert_array_equal(found, [[1, np.nan, 1], [np.nan, 2.5, 0]])


def test_a_frame_fits_no_other_model() -> None:
    nodes = [helper.make_node("Concat", ["a", "b"], ["y"], axis=1)]
    f = onnxgrad.load(model(nodes, [value("a", ["N", 2]), value("b", ["N", 1])], [value("y", ["N", 3])]))
    with pytest.raises(FeedError, match=r"'a' takes float64 of shape \[N, 2\]; pass a dictionary"):
        f(FRAME)
    with pytest.raises(FeedError, match="a data frame has two axes"):
        same(np.float32, ["N", 3, 4])(FRAME)
