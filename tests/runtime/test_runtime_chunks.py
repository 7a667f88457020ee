"""Runs in parts: when that is right, that it gives what one run gives, and the bound of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper
from runtime_models import SAME, Array, Net, model, value, watched

import onnxgrad
from onnxgrad.augmentation import Augmentation
from onnxgrad.errors import MemoryBoundError
from onnxgrad.runtime import chunks, plain
from onnxgrad.runtime.chunks import even_parts
from onnxgrad.runtime.memory import Footprint, in_bytes, numbers
from onnxgrad.runtime.rows import find_split

RNG = np.random.default_rng(2)


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def built(nodes: list[onnx.NodeProto], rank: int = 2, weights: dict[str, Array] | None = None, **kwargs: Any) -> Any:
    """Return the model of some nodes from ``x``, of shape ``(N, 4, …)``, to ``y``, of any shape and type."""
    x = value("x", ["N", *[4] * (rank - 1)], kwargs.get("dtype", np.float32))
    y = onnx.helper.make_tensor_value_info("y", kwargs.get("of", onnx.TensorProto.FLOAT), None)
    return model(nodes, [x, *kwargs.get("more", [])], [y], weights)


@contextmanager
def small_parts(size: int) -> Iterator[None]:
    """Let parts be of so many bytes, and small inputs be looked into."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "MOST_BYTES", size)
        patch.setattr(plain, "_SMALL_INPUT", 0)
        yield


# --- the proof ------------------------------------------------------------------------------------

IMAGE = np.ones((2, 4, 3, 3), np.float32)
BRANCH = helper.make_graph([node("Neg", "x", "z")], "b", [], [value("z", ["N", 4], np.float32)])
INT = onnx.TensorProto.INT64


def _with_domain(proto: onnx.ModelProto, domain: str) -> onnx.ModelProto:
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


#: Whether rows may be run apart; each name says what the model does with them.
PROOFS: dict[str, tuple[Any, int]] = {
    "acts on each element": (built([node("Relu", "x")]), 0),
    "gives a constant the type of x": (
        built([node("CastLike", "c x", "k"), node("Mul", "x k")], weights={"c": np.array(2)}),
        0,
    ),
    "compares": (built([node("Greater", "x w", "m"), node("Where", "m x w")], weights={"w": np.float32(0)}), 0),
    "sums over features": (built([node("ReduceSum", "x a")], weights={"a": np.array([1])}), 0),
    "picks the largest feature": (built([node("ArgMax", "x", axis=1)], of=INT), 0),
    "convolves": (built([node("Conv", "x w")], 4, {"w": IMAGE}), 0),
    "pools": (built([node("MaxPool", "x", kernel_shape=[2])], 3), 0),
    "returns places in the whole batch": (built([node("MaxPool", "x", "p y", kernel_shape=[2])], 3, of=INT), False),
    "picks by places in the whole batch": (
        built([node("MaxPool", "x", "p i", kernel_shape=[2]), node("Reshape", "x f", "a"), node("Reshape", "i f", "b"),
               node("GatherElements", "a b", "g", axis=0), node("Reshape", "g r")], 3,
              {"f": np.array([-1]), "r": np.array([-1, 12])}), 0),
    "picks by places in another tensor": (
        built([node("MaxPool", "x", "p i", kernel_shape=[2]), node("Reshape", "p f", "a"), node("Reshape", "i f", "b"),
               node("GatherElements", "a b", "g", axis=0), node("Reshape", "g r")], 3,
              {"f": np.array([-1]), "r": np.array([-1, 12])}), False),
    "adds up places in the whole batch": (
        built([node("MaxPool", "x", "p i", kernel_shape=[2]), node("Add", "i i")], 3, of=INT), False),
    "puts samples last": (built([node("Transpose", "x")]), 1),
    "merges and splits axes": (
        built([node("Reshape", "x s", "r"), node("Tanh", "r", "t"), node("Reshape", "t b")], 3,
              {"s": np.array([-1, 4]), "b": np.array([-1, 16])}), 0),
    "reshapes by its own size": (
        built([node("Shape", "x", "n", end=1), node("Concat", "n k", "s", axis=0), node("Reshape", "x s")], 3,
              {"k": np.array([16])}), 0),
    "adds something for each sample": (
        built([node("Shape", "x", "s"), node("ConstantOfShape", "s", "c"), node("Add", "x c")]), 0),
    "spreads a row over the samples": (
        built([node("Shape", "x", "s"), node("Expand", "w s", "e"), node("Mul", "x e")],
              weights={"w": np.ones((1, 4), np.float32)}), 0),
    "looks words up": (built([node("Gather", "w x")], weights={"w": np.ones((9, 2), np.float32)}, dtype=np.int64), 0),
    "normalizes each row": (built([node("Softmax", "x", axis=1)]), 0),
    "normalizes the column": (built([node("Softmax", "x", axis=0)]), False),
    "sums over samples": (built([node("ReduceSum", "x a")], weights={"a": np.array([0])}), False),
    "accumulates over samples": (built([node("CumSum", "x a")], weights={"a": np.array(0)}), False),
    "divides by the number of samples": (
        built([node("Shape", "x", "n", end=1), node("Cast", "n", "f", to=1), node("Div", "x f")]), False),
    "numbers the samples": (
        built([node("Shape", "x", "n", end=1), node("Squeeze", "n", "k"), node("Range", "o k i", "r"),
               node("Cast", "r", "f", to=1), node("Unsqueeze", "f a", "u"), node("Mul", "x u")],
              weights={"o": np.array(0), "i": np.array(1), "a": np.array([1])}), False),
    "returns the number of samples": (built([node("Shape", "x")], of=INT), False),
    "returns the number of features": (
        model([node("Shape", "x", "s", start=1), node("Neg", "x", "y")], [value("x", ["N", 4])],
              [value("y", ["N", 4]), value("s", [1], np.int64)]), 0),
    "picks the largest sample": (
        built([node("ArgMax", "x", "i", axis=0, keepdims=0), node("Gather", "x i")]), False),
    "reverses the samples": (
        built([node("Slice", "x s e a t")], weights={"s": np.array([-1]), "e": np.array([-(2**31)]),
                                                      "a": np.array([0]), "t": np.array([-1])}), False),
    "drops samples": (built([node("NonZero", "x", "i"), node("GatherND", "w i")], weights={"w": IMAGE}), False),
    "multiplies samples with each other": (built([node("Transpose", "x", "t"), node("MatMul", "x t")]), False),
    "captures samples": (
        built([node("If", "c", then_branch=BRANCH, else_branch=BRANCH)], weights={"c": np.array(True)}), 0),
    "has as many features as samples": (
        model([node("Neg", "x")], [value("x", ["N", "N"])], [value("y", ["N", "N"])]), False),
    "has a fixed batch": (model([node("Neg", "x")], [value("x", [2, 3])], [value("y", [2, 3])]), False),
    "returns a constant": (
        model([node("Neg", "w")], [value("x", ["N", 4])], [value("y", [4])], {"w": np.ones(4)}), False),
    "runs what is not known": (
        _with_domain(built([node("Foo", "x", "z", domain="my"), node("Relu", "z")]), "my"), False),
    "adds what all samples share": (
        model([node("Add", "x c")], [value("x", ["N", 4]), value("c", [1, 4])], [value("y", ["N", 4])]), 0),
    "adds another number of rows": (
        model([node("Add", "x c")], [value("x", ["N", 4]), value("c", ["M", 4])], [value("y", ["N", 4])]), False),
    "adds another per sample": (
        model([node("Add", "x c")], [value("x", ["N", 4]), value("c", ["N", 1])], [value("y", ["N", 4])]), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", PROOFS)
def test_rows_are_split_where_they_are_proven_to_stay_apart(name: str) -> None:
    proto, expected = PROOFS[name]
    augmentation = Augmentation(proto)
    graph = augmentation.model.graph
    split = find_split(augmentation.op, graph.inputs, graph.outputs)
    if expected is False:
        assert split is None
        return
    assert split is not None
    assert split.outputs["y"] == expected
    f = onnxgrad.load(proto)
    feeds = {port.name: _some(port) for port in f.inputs}
    whole_run = _flat(f(feeds))
    with small_parts(2000), watched() as fed:
        found = _flat(onnxgrad.load(proto)(feeds))
    assert len(fed) > 1
    for array, whole in zip(found, whole_run, strict=True):
        np.testing.assert_array_equal(array, whole)


def _some(port: Any) -> Array:
    shape = [{"N": 400, "M": 1}.get(d, d) for d in port.shape]
    return RNG.normal(size=shape).astype(port.dtype) if port.dtype.kind == "f" else np.zeros(shape, port.dtype)


def _flat(result: Any) -> list[Array]:
    return list(result.values()) if isinstance(result, dict) else [result]


# --- derivatives in parts -------------------------------------------------------------------------

NET = Net(4, 6, 3)
X = RNG.normal(size=(50, 4))


@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        ("jacobian", (), {"mode": "reverse"}),
        ("jacobian", (), {"mode": "forward"}),
        ("jacobian", (), {"of": "h0"}),
        ("gradient", (), {"index": "max"}),
        ("hessian", (), {"index": 1}),
        ("value_and_jacobian", (), {}),
        ("value_and_gradient", (), {"index": 0}),
        ("vjp", (RNG.normal(size=(50, 3)),), {}),
        ("vjp", (RNG.normal(size=(7, 50, 3)),), {}),
        ("jvp", (RNG.normal(size=(50, 4)),), {}),
        ("jvp", (RNG.normal(size=(7, 50, 4)),), {}),
        ("hvp", (RNG.normal(size=(50, 4)),), {"index": 2}),
    ],
)
def test_derivatives_of_many_rows_are_found_in_parts(name: str, arguments: tuple[Array, ...], options: Any) -> None:
    whole = getattr(onnxgrad.load(NET.bytes), name)(X, *arguments, **options)
    with small_parts(4_000), watched() as fed:
        found = getattr(onnxgrad.load(NET.bytes), name)(X, *arguments, **options)
    assert len(fed) > 1
    assert sum(shapes["x"][0] for shapes in fed) == 50
    sizes = [shapes["x"][0] for shapes in fed]
    assert max(sizes) - min(sizes) <= 1
    for array, expected in zip(*(r if isinstance(r, tuple) else (r,) for r in (found, whole)), strict=True):
        np.testing.assert_allclose(array, expected, **SAME)


@pytest.mark.parametrize("name", ["jacobian", "gradient", "hessian"])
def test_derivatives_of_images_are_found_in_parts(name: str) -> None:
    """Pooling keeps positions that count through the whole batch, which must not tie the images together."""
    proto = model(
        [node("Conv", "x w", "c"), node("Tanh", "c", "t"),
         node("MaxPool", "t", "p", kernel_shape=[2, 2], strides=[2, 2]),
         node("Flatten", "p", "f"), node("MatMul", "f v", "m"), node("Sin", "m")],
        [value("x", ["N", 1, 6, 6], np.float32)],
        [value("y", ["N", 2], np.float32)],
        {"w": RNG.normal(size=(2, 1, 3, 3)).astype(np.float32), "v": RNG.normal(size=(8, 2)).astype(np.float32)},
    )  # fmt: skip
    images = RNG.normal(size=(9, 1, 6, 6)).astype(np.float32)
    options = {} if name == "jacobian" else {"index": 1}
    whole = getattr(onnxgrad.load(proto), name)(images, **options)
    with small_parts(1), watched() as fed:
        found = getattr(onnxgrad.load(proto), name)(images, **options)
    assert len(fed) == 9
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


def test_a_constant_for_so_many_rows_keeps_them_together() -> None:
    rows = RNG.normal(size=(50, 2))
    proto = model(
        [node("Gemm", "x w c")], [value("x", ["N", 4])], [value("y", ["N", 2])], {"w": np.ones((4, 2)), "c": rows}
    )
    f = onnxgrad.load(proto)
    with small_parts(100), watched() as fed:
        np.testing.assert_allclose(f(X), X.sum(1, keepdims=True) + rows, **SAME)
    *tried, last = [shapes["x"][0] for shapes in fed]
    assert tried
    assert max(tried) < last == 50
    with small_parts(400), watched() as fed:
        np.testing.assert_allclose(f.value_and_jacobian(X)[1], np.ones((50, 2, 4)), **SAME)
    *tried, last = [shapes["x"][0] for shapes in fed]
    assert tried
    assert max(tried) < last == 50


@pytest.mark.parametrize("node", ['Clip(x, low, "")', 'Pad(x, pads, "")'])
def test_absent_inputs_that_are_written_down(node: str) -> None:
    """As PyTorch's exporter on TorchScript writes what it leaves out: as an empty name at the end."""
    body = f"""<ir_version: 9, opset_import: ["" : 18]>
        g (double[N,3] x) => (double[N,M] y) <double low = {{0.1}}, int64[4] pads = {{0, 1, 0, 0}}> {{
        s = {node} y = Sin(s) }}"""
    x = RNG.normal(size=(20, 3))
    whole = onnxgrad.load(onnx.parser.parse_model(body)).jacobian(x)
    with small_parts(1), watched() as fed:
        found = onnxgrad.load(onnx.parser.parse_model(body)).jacobian(x)
    assert len(fed) == 20
    np.testing.assert_allclose(found, whole, **SAME)


def test_no_rows_are_run_as_one_row() -> None:
    """Otherwise onnxruntime 1.32 divides by zero, and ends the process, in this Einsum."""
    proto = model(
        [node("Einsum", "x w", equation="bij,jk->bik")],
        [value("x", ["N", 2, 4])],
        [value("y", ["N", 2, 3])],
        {"w": np.ones((4, 3))},
    )
    f = onnxgrad.load(proto)
    with watched() as fed:
        assert f(np.zeros((0, 2, 4))).shape == (0, 2, 3)
        assert f.jacobian(np.zeros((0, 2, 4))).shape == (0, 2, 3, 2, 4)
        assert f.vjp(np.zeros((0, 2, 4)), np.zeros((7, 0, 2, 3))).shape == (7, 0, 2, 4)
    assert [shapes["x"] for shapes in fed] == [(1, 2, 4)] * 3


def test_texts_of_no_rows() -> None:
    f = onnxgrad.load(
        model([node("Identity", "x")], [value("x", ["N", 1], np.object_)], [value("y", ["N", 1], np.object_)])
    )
    assert f(np.zeros((0, 1), object)).shape == (0, 1)


def test_what_mixes_rows_is_run_at_once() -> None:
    f = onnxgrad.load(NET.bytes)
    with small_parts(4_000), watched() as fed:
        full = f.jacobian(X, batched=False)
    assert [shapes["x"][0] for shapes in fed] == [50]
    np.testing.assert_allclose(np.einsum("nynx->nyx", full), NET.jacobian(X), **SAME)


# --- wide Jacobians -------------------------------------------------------------------------------

WIDE = Net(10, 200, 12)
ROWS = RNG.normal(size=(4, 10))


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("max_bytes", [8_000, 12_000])
def test_wide_jacobians_are_found_some_seeds_at_a_time(mode: str, max_bytes: int) -> None:
    """Those of a single row would take 16 kB of memory at once, and more."""
    f = onnxgrad.load(WIDE.bytes, max_bytes=max_bytes)
    with watched() as fed:
        found = f.jacobian(ROWS, mode=mode)
    np.testing.assert_allclose(found, WIDE.jacobian(ROWS), **SAME)
    seed = "adj_y" if mode == "reverse" else "fwd_x"
    assert all(shapes["x"][0] == 1 and shapes[seed][0] < 10 for shapes in fed)
    assert sum(shapes[seed][0] for shapes in fed) == len(ROWS) * (12 if mode == "reverse" else 10)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("batch", ["N", 4])
def test_wide_jacobians_in_full(mode: str, batch: int | str) -> None:
    net = Net(10, 200, 12, batch=batch)
    f = onnxgrad.load(net.bytes, max_bytes=40_000)
    with watched() as fed:
        found = f.jacobian(ROWS, mode=mode, batched=False)
    assert len(fed) > 1
    assert all(shapes["x"][0] == 4 for shapes in fed)
    np.testing.assert_allclose(found, np.einsum("nyx,nm->nymx", net.jacobian(ROWS), np.eye(4)), **SAME)


def test_wide_jacobians_with_values_and_of_several_tensors() -> None:
    f = onnxgrad.load(WIDE.bytes, max_bytes=20_000)
    one = ROWS[:1]
    values, found = f.value_and_jacobian(one)
    np.testing.assert_allclose(values, WIDE(one), **SAME)
    np.testing.assert_allclose(found, WIDE.jacobian(one), **SAME)
    with watched() as fed:
        found = f.jacobian(one, of=["y", "z1"])
    assert len(fed) > 2
    np.testing.assert_allclose(found["y"], found["z1"], **SAME)


def test_directions_are_taken_some_at_a_time() -> None:
    cts = RNG.normal(size=(20, 4, 12))
    with watched() as fed:
        found = onnxgrad.load(WIDE.bytes, max_bytes=12_000).vjp(ROWS, cts)
    assert len(fed) > 4
    assert all(shapes["x"][0] == 1 and shapes["adj_y"][0] < 20 for shapes in fed)
    np.testing.assert_allclose(found, np.einsum("sny,nyx->snx", cts, WIDE.jacobian(ROWS)), **SAME)


# --- the bound ------------------------------------------------------------------------------------


def test_a_result_beyond_the_bound_is_refused_before_anything_runs() -> None:
    f = onnxgrad.load(NET.bytes, max_bytes=4_000)
    with watched() as fed, pytest.raises(MemoryBoundError) as refusal:
        f.jacobian(X)
    assert not fed
    words = str(refusal.value)
    assert "the Jacobian would take 4.8 kB (of shape [50, 3, 4]), and max_bytes is 4 kB; " in words
    assert "feed fewer samples at a time, pass a larger max_bytes" in words
    with pytest.raises(MemoryBoundError, match=r"of shape \[50, 3, 50, 4\]"):
        f.jacobian(X, batched=False)
    assert f.jacobian(X[:20]).shape == (20, 3, 4)


def test_many_values_beyond_the_bound_are_refused_too() -> None:
    f = onnxgrad.load(NET.bytes, max_bytes=100_000)
    with (
        watched() as fed,
        pytest.raises(MemoryBoundError, match=r"the outputs would take 480 kB \(of shape \[20000, 3\]"),
    ):
        f(np.zeros((20_000, 4)))
    assert not fed


def test_the_least_part_of_the_work_beyond_the_bound_is_refused() -> None:
    f = onnxgrad.load(WIDE.bytes, max_bytes=1_000)
    with watched() as fed:
        for ask in (
            lambda: f.gradient(ROWS, index=0),
            lambda: f.jacobian(ROWS[:1]),
            lambda: f.vjp(ROWS, np.ones((4, 12))),
        ):
            with pytest.raises(
                MemoryBoundError, match=r"needs about \d.* kB of working memory at once; max_bytes is 1 kB"
            ):
                ask()
        f = onnxgrad.load(Net(10, 200, 12, batch=4).bytes, max_bytes=3_000)
        with pytest.raises(MemoryBoundError, match="not proven that its samples"):
            f.gradient(ROWS, index=0)
    assert not fed


def test_derivatives_in_a_loaded_file_are_under_the_bound_too() -> None:
    saved = onnxgrad.jacobian(Net(200, 300).proto)
    f = onnxgrad.load(saved, max_bytes=100_000)
    with pytest.raises(MemoryBoundError, match=r"\[1, 300, 200\]"):
        f(np.zeros((1, 200)))


@pytest.mark.parametrize("max_bytes", [0, -1])
def test_a_bound_of_nothing(max_bytes: int) -> None:
    with pytest.raises(ValueError, match="no number of bytes"):
        onnxgrad.load(NET.bytes, max_bytes=max_bytes)


# --- estimates ------------------------------------------------------------------------------------


def footprint(proto: onnx.ModelProto) -> Footprint:
    augmentation = Augmentation(proto)
    return Footprint(augmentation.op, augmentation.model.graph.inputs, augmentation.model.graph.outputs)


def test_memory_is_that_of_tensors_that_live_at_once() -> None:
    """``x (N, 4) -> a, b (N, 4) -> y = a @ bᵀ``: x and a; x, a and b; a, b and y; of 16 bytes per row each but y."""
    nodes = [node("Softmax", "x", "a"), node("Transpose", "x", "t"), node("MatMul", "a t", "y")]
    found = footprint(built(nodes))
    assert found.results({"N": 10}) == 10 * 10 * 4
    assert found.shapes({"N": 10}) == [(10, 10)]
    assert found.working({"N": 10}) == 2 * 160 + 400
    assert found.working({"N": 2}) == 3 * 32


def test_memory_of_what_is_done_in_place_or_is_a_view() -> None:
    """Each node needs its input and its output, but elementwise ones overwrite, and a reshape moves nothing."""
    chain = [node("Softmax", "x", "a"), node("Exp", "a", "b"), node("Reshape", "b s", "c"), node("Softmax", "c", "y")]
    assert footprint(built(chain, weights={"s": np.array([-1, 2])})).working({"N": 10}) == 320


def test_sizes_that_depend_on_the_data_are_guessed_for_work_and_left_out_of_results() -> None:
    found = footprint(built([node("NonZero", "x")], of=INT))
    assert found.results({"N": 10}) == 0
    assert found.working({"N": 10}) == 160 + 2 * 10 * 8


def test_numbers() -> None:
    sizes = {"N": 5, "M": 1, "a b": 7}
    assert numbers(("2*N+1", "broadcast(M,N)", "((N+1)//2)", "3*{a b}", 3), sizes) == (11, 5, 3, 21, 3)
    assert numbers(("N", "d1_"), sizes) is None


@pytest.mark.parametrize(("total", "most"), [(10, 3), (10, 10), (10, 99), (1, 1), (7, 2)])
def test_parts_cover_everything_evenly(total: int, most: int) -> None:
    parts = even_parts(total, most)
    lengths = [stop - start for start, stop in parts]
    assert [i for start, stop in parts for i in range(start, stop)] == list(range(total))
    assert max(lengths) <= most
    assert max(lengths) - min(lengths) <= 1
    assert len(parts) == -(-total // most)


def test_nothing_is_one_empty_part() -> None:
    assert even_parts(0, 5) == [(0, 0)]


def test_bytes_in_words() -> None:
    assert [in_bytes(n) for n in (12, 4_800, 2_500_000, 3_000_000_000)] == ["12 bytes", "4.8 kB", "2.5 MB", "3 GB"]
