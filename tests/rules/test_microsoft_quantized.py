"""Products with quantized weights: values against onnxruntime, derivatives against differences in float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import onnxgrad
from tests.expressions import check_exact, check_expression
from tests.harness import Case, Runner, make_model

rng = np.random.default_rng(3)
ROWS, K, N, BLOCK = 3, 40, 5, 16  # the last block of a row is not full
BLOCKS = -(-K // BLOCK)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def ms(op: str, inputs: list[np.ndarray | None], label: str = "", **attrs: Any) -> Case:
    options = {name: attrs.pop(name) for name in ("fixed", "fed", "dynamic") if name in attrs}
    return Case(op, inputs, attrs, **{"domain": "com.microsoft", "label": label, **options})


def numbers(*shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape, dtype=np.uint8)


def product(label: str, bits: int, more: list[np.ndarray | None] = [], **options: Any) -> Case:  # noqa: B006
    inputs = [a(2, ROWS, K), numbers(N, BLOCKS, BLOCK * bits // 8), 0.1 * a(N, BLOCKS), *more]
    return ms("MatMulNBits", inputs, f"{bits}-{label}", K=K, N=N, bits=bits, block_size=BLOCK, **options)


def zeros(bits: int) -> np.ndarray:
    return numbers(N, -(-BLOCKS * bits // 8))


PRODUCTS = [
    *(product("plain", bits) for bits in (2, 4, 8)),
    *(product("zeros", bits, [zeros(bits)]) for bits in (2, 4, 8)),
    product("float-zeros", 4, [2 + 3 * a(N, BLOCKS)], fixed=[2, 3]),
    product("bias", 4, [None, None, a(N)], fixed=[2]),
    product("fed", 4, [zeros(4)], fed=[1, 3]),
    product("groups", 4, [None, rng.integers(0, BLOCKS, K).astype(np.int32)]),
]


@pytest.mark.parametrize("case", PRODUCTS, ids=lambda case: case.name)
def test_matmul(case: Case) -> None:
    """Its derivative, too, by scales and floating-point zero points where the kernel takes them as inputs."""
    check_expression(case, values=1e-5, names=[ROWS])
    check_exact(case)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_those_of_the_standard(bits: int) -> None:
    """The derivative is the matrix of weights, unpacked here by hand: bit by bit, lowest first."""
    case = product("", bits, [zeros(bits)], fixed=[2])
    _, codes, scales, zero_points = (np.asarray(x) for x in case.inputs)
    weights = (_by_hand(codes, bits) - _by_hand(zero_points, bits)[:, :BLOCKS, None]) * scales[..., None]
    weights = weights.reshape(N, -1)[:, :K]
    jacobian = onnxgrad.jacobian(make_model(case, np.float32), "y0", "x0")
    x = a(2, ROWS, K).astype(np.float32)
    found = Runner(jacobian, only_runtime=True)({"x0": x})["jac_y0_x0"]
    np.testing.assert_allclose(found[1, 2, :, 1, 2], weights, atol=1e-5)
    assert not found[1, 2, :, 1, 1].any()


def _by_hand(codes: np.ndarray, bits: int) -> np.ndarray:
    each = np.unpackbits(codes, axis=-1, bitorder="little")
    each = each.reshape(*codes.shape[:-1], -1, bits).astype(int)
    return each @ (1 << np.arange(bits))


def test_low_accuracy_is_differentiated_as_the_exact_product() -> None:
    """With accuracy_level=4 the kernel rounds A to 8 bits, in steps that have no derivative."""
    model = make_model(product("", 4, fixed=[2], accuracy_level=4), np.float32)
    exact = make_model(Case(**{**vars(product("", 4, fixed=[2])), "inputs": PRODUCTS[1].inputs}), np.float32)
    del model.graph.initializer[:]
    model.graph.initializer.extend(exact.graph.initializer)
    x, ct = a(2, ROWS, K).astype(np.float32), a(2, ROWS, N).astype(np.float32)
    found = [
        Runner(onnxgrad.vjp(m, "y0", "x0"), only_runtime=True)({"x0": x, "adj_y0": ct})["adj_x0"]
        for m in (model, exact)
    ]
    np.testing.assert_array_equal(*found)


def bnb(label: str, k: int, n: int, **attrs: Any) -> Case:
    inputs = [a(ROWS, k), numbers((n * k + 1) // 2), np.abs(a(-(-n * k // BLOCK)))]
    return ms("MatMulBnb4", inputs, label, K=k, N=n, block_size=BLOCK, fixed=[2], **attrs)


FOUR_BITS = [
    bnb("nf4", 32, 6, quant_type=1),
    bnb("fp4", 32, 6, quant_type=0),
    bnb("part-of-a-block", 15, 5, quant_type=1),
]


@pytest.mark.parametrize("case", FOUR_BITS, ids=lambda case: case.name)
def test_four_bits(case: Case) -> None:
    check_expression(case, values=1e-5, names=[ROWS])
    check_exact(Case(**{**vars(case), "fixed": ()}))  # by scales, too


# --- tables ----------------------------------------------------------------------------------------------

places = np.array([[1, 0, 3], [-1, 2, 2]])
TABLES = [
    *(
        ms("GatherBlockQuantized", [numbers(6, 32 * bits // 8), places, a(6, 2)], f"{bits}", bits=bits, block_size=16)
        for bits in (2, 4, 8)
    ),
    ms("GatherBlockQuantized", [numbers(6, 16), places, a(6, 2), numbers(6, 1)], "zeros", bits=4, block_size=16),
    ms("GatherBlockQuantized", [numbers(6, 20), places, a(6, 3)], "part-of-a-block", bits=4, block_size=16),
    ms("GatherBlockQuantized", [numbers(4, 3, 16), places % 4, a(4, 3, 1)], "rank-3", bits=4, block_size=32,
       quantize_axis=2),
    ms("GatherBlockQuantized", [numbers(6, 16), np.array([0, 9, -7, 5]), a(6, 2)], "outside", bits=4, block_size=16,
       fed=[1]),
]  # fmt: skip


@pytest.mark.parametrize("case", TABLES, ids=lambda case: case.name)
def test_table(case: Case) -> None:
    check_expression(case, values=1e-5, names=[])
    check_exact(case)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("gather", [0, 1])
def test_table_of_integers_of_four_bits(signed: bool, gather: int) -> None:
    kind = onnx.TensorProto.INT4 if signed else onnx.TensorProto.UINT4
    low = -8 if signed else 0
    codes, offset = rng.integers(low, low + 16, (5, 32)), rng.integers(low, low + 16, (5, 2))
    named = ml_dtypes.int4 if signed else ml_dtypes.uint4
    data = [helper.make_tensor(n, kind, v.shape, v.astype(named)) for n, v in (("d", codes), ("z", offset))]
    data.append(numpy_helper.from_array(np.array([2, 0, 4]), "i"))
    attrs = {"gather_axis": gather, "quantize_axis": 1, "block_size": 16}
    node = helper.make_node("GatherBlockQuantized", ["d", "i", "s", "z"], ["y"], domain="com.microsoft", **attrs)
    scales = helper.make_tensor_value_info("s", 1, [5, 2])
    graph = helper.make_graph([node], "g", [scales], [onnx.ValueInfoProto(name="y")], data)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    s = a(5, 2).astype(np.float32)
    expected = np.take((codes - np.repeat(offset, 16, axis=1)) * np.repeat(s, 16, axis=1), [2, 0, 4], axis=gather)
    found = Runner(onnxgrad.jvp(model, "y", "s"), only_runtime=True)({"s": s, "fwd_s": s})
    np.testing.assert_allclose(found["y"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["fwd_y"], expected, rtol=1e-6)  # it is linear in the scales
    model.opset_import[0].version = 20
    with pytest.raises(onnxgrad.NotDifferentiableError, match="before opset 21"):
        onnxgrad.jvp(model, "y", "s")


def test_language_model() -> None:
    """A table in front, products behind, as exporters write them: the gradient by the embedding is right."""
    table, width, hidden = numbers(10, 8), 16, 32
    up, down = (
        (numbers(n, k // 16, 8), (0.05 * a(n, k // 16)).astype(np.float32)) for n, k in ((hidden, width), (6, hidden))
    )
    weights = {
        "t": table,
        "ts": (0.1 * a(10, 1)).astype(np.float32),
        "u": up[0],
        "us": up[1],
        "d": down[0],
        "ds": down[1],
    }
    own = {"domain": "com.microsoft"}
    nodes = [
        helper.make_node("GatherBlockQuantized", ["t", "ids", "ts"], ["e"], bits=4, block_size=16, **own),
        helper.make_node("MatMulNBits", ["e", "u", "us"], ["h"], K=width, N=hidden, bits=4, block_size=16, **own),
        helper.make_node("QuickGelu", ["h"], ["g"], **own),
        helper.make_node("MatMulNBits", ["g", "d", "ds"], ["y"], K=hidden, N=6, bits=4, block_size=16, **own),
    ]
    ids = helper.make_tensor_value_info("ids", 7, ["batch", "length"])
    graph = helper.make_graph(nodes, "g", [ids], [onnx.ValueInfoProto(name="y")],
                              [numpy_helper.from_array(w, n) for n, w in weights.items()])  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(onnxgrad.vjp(model, "y", ["e", "ts"]).SerializeToString())
    feeds = {"ids": rng.integers(0, 10, (2, 3))}
    ct = a(2, 3, 6).astype(np.float32)
    y, by_embedding, by_scales = session.run(["y", "adj_e", "adj_ts"], {**feeds, "adj_y": ct})

    def dense(q: np.ndarray, s: np.ndarray) -> np.ndarray:
        return ((_by_hand(q, 4) - 8) * s[..., None].astype(float)).reshape(len(q), -1)

    rows = (_by_hand(table, 4) - 8)[feeds["ids"]]
    e = rows * weights["ts"][feeds["ids"]].astype(float)
    h = e @ dense(*up).T
    sigmoid = 1 / (1 + np.exp(-1.702 * h))
    np.testing.assert_allclose(y, (h * sigmoid) @ dense(*down).T, atol=1e-4)
    back = ((ct @ dense(*down)) * (sigmoid + 1.702 * h * sigmoid * (1 - sigmoid))) @ dense(*up)
    np.testing.assert_allclose(by_embedding, back, atol=1e-4)
    expected = np.zeros((10, 1))
    np.add.at(expected, feeds["ids"], (back * rows).sum(-1, keepdims=True))
    np.testing.assert_allclose(by_scales, expected, atol=1e-3)


REFUSED = [
    (product("", 4, weight_prepacked=1), "packed for one kind of device"),
    (ms("MatMulNBits", [a(2, K), numbers(0, BLOCKS, 8), a(N, BLOCKS)], K=K, N=N, block_size=BLOCK), "left out"),
    (ms("MatMulNBits", [a(2, 32), numbers(N, 2, 6), a(N, 2)], K=32, N=N, bits=3, block_size=16), "of 3 bits"),
    (product("", 4, [zeros(4), np.zeros(K, np.int32)]), "beside groups"),
    (bnb("", 32, 32, quant_type=1, transB=0), "reads behind"),
    (ms("MatMulFpQ4", [a(2, 32), numbers(80), np.array([32, 4])]), "private packing"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "match"), REFUSED, ids=lambda v: v.op if isinstance(v, Case) else v.split()[-1])
def test_refusal(case: Case, match: str) -> None:
    with pytest.raises(onnxgrad.NotDifferentiableError, match=match):
        onnxgrad.vjp(make_model(case, np.float32), of="y0", wrt="x0")
