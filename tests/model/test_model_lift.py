"""Lifting: every change of an operator is reviewed, and each adapter keeps the results to the bit."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from model_helpers import assert_same, floats, model_of, one_node, run, value_info
from onnx import helper

from onnxgrad.errors import ModelReadError
from onnxgrad.model.lift import lift
from onnxgrad.model.lifting import ADAPTERS

# The changes up to opset 18 after which a node means what it did before: types were added, the description was
# clarified, or there is a new input or attribute whose absence means what held before.
# - OneHot 11 allows negative indices, which 9 left undefined. Clip 12 defines min > max.
# - ConvTranspose 11 corrects which side of SAME_UPPER gets the odd pixel; onnxruntime had it so all along.
# - GRU 3 corrects the spelling of a default.
UNCHANGED = """
    3, 14: GRU
    6, 9, 11, 13: Gemm
    7, 10, 11: AveragePool
    8, 10, 11, 12: MaxPool
    8, 12, 13: Max Min
    8, 13: Mean Sum
    9, 11, 12, 13: Constant
    9, 11, 13: Flatten
    9, 13: Cast Greater Less MatMul
    9, 16: PRelu
    10, 13: Dropout
    11: Compress Conv ConvTranspose Hardmax LogSoftmax MaxUnpool NonMaxSuppression OneHot ReduceSum Softmax
    11: Split Squeeze TopK Unsqueeze
    11, 12, 13: ArgMax ArgMin ReduceMax ReduceMin
    11, 13: Concat DepthToSpace Equal Gather ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean ReduceProd
    11, 13: ReduceSumSquare Slice
    11, 13, 16: If Loop
    11, 16: Scan
    11, 18: LpPool
    12, 13: Clip GatherND
    12, 13, 15: Pow
    13: Abs Ceil DequantizeLinear Erf Exp Expand Floor GatherElements IsNaN LRN Log MeanVarianceNormalization Mod
    13: Neg NegativeLogLikelihoodLoss NonZero QuantizeLinear Reciprocal Sigmoid Sign Size
    13: SoftmaxCrossEntropyLoss SpaceToDepth Sqrt Tanh Tile Transpose
    13, 14: Add Div Mul Relu Reshape Sub
    13, 14, 16: Identity
    13, 15: Shape
    13, 16, 18: ScatterElements ScatterND
    13, 18: Pad
    14: CumSum LSTM RNN
    15: BatchNormalization
    16: GreaterOrEqual LeakyRelu LessOrEqual Where
    18: OptionalGetElement OptionalHasElement Resize
"""


def test_every_change_up_to_opset_18_is_reviewed():
    versions = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= 18:
            versions[schema.name].add(schema.since_version)
    changes = {(op, version) for op, all_ in versions.items() for version in all_ - {min(all_)}}
    unchanged = set()
    for line in UNCHANGED.strip().splitlines():
        numbers, _, operators = line.partition(":")
        unchanged |= {(op, int(version)) for op in operators.split() for version in numbers.split(",")}
    assert not unchanged & ADAPTERS.keys()
    assert changes == unchanged | ADAPTERS.keys()


@dataclass
class Case:
    """One node of an older opset.

    Its results are those of onnxruntime; where that has no kernel for this version, those of `like` (a newer node that
    means the same, in onnxruntime) or `expected` (computed by hand).
    """

    op: str
    opset: int
    inputs: tuple
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    constants: tuple = ()
    like: "Case | None" = None
    expected: Any = None
    nodes: tuple = ()
    "Operators that the lifted model has besides constants, if that matters."

    def __str__(self):
        given = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.op}-{self.opset}({given})".replace(" ", "")

    def model(self):
        return one_node(self.op, self.opset, self.inputs, self.outputs, self.constants, **self.attributes)

    def results(self):
        if self.expected is not None:
            return [np.asarray(e) for e in self.expected]
        return run(*(self.like or self).model())


X, Y = floats(2, 3), floats(2, 3, seed=1)
IMAGE = floats(1, 2, 4, 6)
NCHW = floats(2, 3, 4, 5)
CUBE = floats(2, 3, 4)
SOMETIMES_HUGE = np.array([[-np.inf, -1e38, 0], [0.25, 3e38, np.inf]], dtype=np.float32)
I64 = np.int64

IN_PLACE_UNARY = (
    ("Abs", {}), ("Ceil", {}), ("Elu", {"alpha": 0.5}), ("Exp", {}), ("Floor", {}), ("HardSigmoid", {"alpha": 0.3}),
    ("LeakyRelu", {"alpha": 0.2}), ("Log", {}), ("Neg", {}), ("Reciprocal", {}), ("Relu", {}), ("Sigmoid", {}),
    ("Sqrt", {}), ("Tanh", {}),
)  # fmt: skip
IN_PLACE_VARIADIC = ("Max", "Mean", "Min", "Sum")
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare", "Sum")
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
BN = (floats(3, seed=2), floats(3, seed=3), floats(3, seed=4), np.abs(floats(3, seed=5)))
SELU = {"alpha": 1.6732, "gamma": 1.0507}


def _recurrent(op, opset, **attributes):
    gates = GATES[op]
    weights = (floats(1, gates * 4, 3, seed=1), floats(1, gates * 4, 4, seed=2), floats(1, gates * 8, seed=3))
    return Case(op, opset, (floats(5, 2, 3), *weights), {"hidden_size": 4, **attributes}, outputs=2)


CASES = [
    # --- arithmetic and activations
    *(
        Case(op, 1, (np.abs(X),), {**a, "consumed_inputs": [0]}, like=Case(op, 6, (np.abs(X),), a))
        for op, a in IN_PLACE_UNARY
    ),
    *(Case(op, 1, (X, Y), {"consumed_inputs": [0, 0]}, like=Case(op, 6, (X, Y))) for op in IN_PLACE_VARIADIC),
    *(Case(op, 6, (X, Y)) for op in IN_PLACE_VARIADIC),
    Case("Selu", 1, (X,), {"consumed_inputs": [0]}, like=Case("Selu", 6, (X,), SELU)),
    Case("Selu", 1, (X,), {"gamma": 2.0}, like=Case("Selu", 6, (X,), {**SELU, "gamma": 2.0})),
    Case("Selu", 6, (X,)),
    Case("Clip", 1, (SOMETIMES_HUGE,), {"min": -0.5}, expected=[np.maximum(SOMETIMES_HUGE, np.float32(-0.5))]),
    Case("Clip", 1, (SOMETIMES_HUGE,), {"max": 0.5}, expected=[np.minimum(SOMETIMES_HUGE, np.float32(0.5))]),
    Case("Clip", 6, (SOMETIMES_HUGE,), {"min": -0.5}),
    Case("Clip", 6, (SOMETIMES_HUGE,), {"min": -0.1, "max": 0.1}),
    Case("Clip", 6, (SOMETIMES_HUGE,), {"max": 0.1}, nodes=("Clip",)),
    Case("Clip", 6, (SOMETIMES_HUGE,)),
    Case("Clip", 11, (X, np.float32(-0.5), None)),
    *(
        Case(op, 6, (a, b), {"broadcast": 1, "axis": axis}, like=Case(op, 7, (a, b.reshape(shape))))
        for ops, a, bs in (
            (("Add", "Sub", "Mul", "Div", "Pow", "Greater", "Less"), np.abs(CUBE) + 1, np.abs(floats(12, seed=1))),
            (("Equal",), CUBE.astype(int), floats(12, seed=1).astype(int)),
            (("And", "Or", "Xor"), CUBE > 0, floats(12, seed=1) > 0),
        )
        for op in ops
        for b, axis, shape in (
            (bs[:2], 0, (2, 1, 1)),
            (bs[:3], 1, (1, 3, 1)),
            (bs[:3], -2, (1, 3, 1)),
            (bs[:4], 2, (4,)),
            (bs[:6].reshape(2, 3), 0, (2, 3, 1)),
            (bs.reshape(3, 4), 1, (3, 4)),
            (bs[0], 1, ()),
        )
    ),
    Case("Add", 6, (CUBE, floats(4)), {"broadcast": 1}, expected=[CUBE + floats(4)], nodes=("Add",)),
    *(
        Case(op, 1, (X, Y), {"consumed_inputs": [0, 0]}, like=Case(op, 7, (X, Y)), nodes=(op,))
        for op in ("Add", "Sub", "Mul", "Div")
    ),
    Case("PRelu", 6, (NCHW, BN[0]), expected=[np.where(NCHW < 0, NCHW * BN[0].reshape(3, 1, 1), NCHW)]),
    Case("PRelu", 6, (NCHW, BN[0][:1]), expected=[np.where(NCHW < 0, NCHW * BN[0][0], NCHW)]),
    Case("PRelu", 1, (X, BN[0]), {"consumed_inputs": [0]}, expected=[np.where(X < 0, X * BN[0], X)], nodes=("PRelu",)),
    Case("PRelu", 7, (NCHW, BN[0].reshape(3, 1, 1)), nodes=("PRelu",)),
    Case("Gemm", 6, (X, CUBE[0], floats(4)), {"broadcast": 1}, like=Case("Gemm", 7, (X, CUBE[0], floats(4)))),
    Case("Gemm", 7, (X, CUBE[0], floats(4)), {"alpha": 0.5}),
    Case("Cast", 1, (X,), {"to": "INT32"}, expected=[X.astype(np.int32)]),
    Case("Pow", 7, (np.abs(X), Y)),
    Case("Mod", 10, (np.array([-7, 7]), np.array([3, -3]))),
    # --- softmax
    *(
        Case(op, opset, (CUBE,), {} if axis is None else {"axis": axis}, nodes=nodes)
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for opset in (1, 11)
        for axis, nodes in (
            (None, ("Flatten", op, "Reshape", "Shape")),
            (0, ("Flatten", op, "Reshape", "Shape")),
            (1, ("Flatten", op, "Reshape", "Shape")),
            (2, (op,)),
            *([(-1, (op,)), (-2, ("Flatten", op, "Reshape", "Shape"))] if opset == 11 else []),
        )
    ),
    Case("Softmax", 1, (X,), nodes=("Softmax",)),
    Case("Softmax", 13, (CUBE,), {"axis": 1}, nodes=("Softmax",)),
    # --- normalization and the like
    Case("Dropout", 1, (X,), {"ratio": 0.3, "is_test": 1, "consumed_inputs": [0]}, expected=[X]),
    Case("Dropout", 6, (X,), {"ratio": 0.3}, expected=[X]),
    Case("Dropout", 7, (X,), {"ratio": 0.3}),
    Case("Dropout", 10, (X,)),
    Case("Dropout", 12, (X,)),
    Case(
        "BatchNormalization",
        1,
        (NCHW, *BN),
        {"is_test": 1, "spatial": 1, "consumed_inputs": [0, 0, 0, 1, 1]},
        like=Case("BatchNormalization", 7, (NCHW, *BN)),
    ),
    Case(
        "BatchNormalization",
        6,
        (NCHW, *BN),
        {"is_test": 1, "momentum": 0.5, "epsilon": 0.1},
        like=Case("BatchNormalization", 7, (NCHW, *BN), {"epsilon": 0.1}),
    ),
    Case("BatchNormalization", 7, (NCHW, *BN), {"spatial": 1}),
    Case("BatchNormalization", 9, (NCHW, *BN), {"momentum": 0.5}),
    Case("BatchNormalization", 14, (NCHW, *BN)),
    Case(
        "InstanceNormalization",
        1,
        (NCHW, *BN[:2]),
        {"consumed_inputs": [0]},
        like=Case("InstanceNormalization", 6, (NCHW, *BN[:2])),
    ),
    Case("LRN", 1, (NCHW,), {"size": 3}),
    Case("MeanVarianceNormalization", 9, (NCHW,)),
    # --- reduction
    *(
        Case(f"Reduce{name}", opset, (np.abs(CUBE),), attributes)
        for name in REDUCTIONS
        for opset in (1, 11, 13)
        if name != "Sum" or opset < 13
        for attributes in ({"axes": [1]}, {"axes": [0, 2], "keepdims": 0}, {}, {"keepdims": 0})
    ),
    Case("ReduceSum", 11, (CUBE,), {"axes": [-1]}),
    Case("ReduceSum", 13, (CUBE, np.array([-1]))),
    Case("ArgMax", 1, (CUBE,), {"axis": 1}),
    Case("ArgMin", 11, (np.zeros((2, 3), np.float32),), {"axis": 1}),
    # --- pooling and convolution
    Case(
        "LpPool",
        1,
        (NCHW,),
        {"kernel_shape": [2, 2], "p": 3.0},
        like=Case("LpPool", 2, (NCHW,), {"kernel_shape": [2, 2], "p": 3}),
    ),
    Case("LpPool", 2, (NCHW,), {"kernel_shape": [2, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]}),
    Case("LpPool", 11, (NCHW,), {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
    Case("GlobalLpPool", 1, (NCHW,), like=Case("GlobalLpPool", 2, (NCHW,))),
    *(
        Case(op, opset, (NCHW,), {"kernel_shape": [3, 2], **attributes})
        for op, opset in (*(("MaxPool", v) for v in (1, 8, 10, 11)), *(("AveragePool", v) for v in (7, 10, 11)))
        for attributes in ({}, {"strides": [2, 2], "pads": [1, 0, 1, 1]}, {"auto_pad": "SAME_LOWER"})
    ),
    Case("MaxPool", 8, (NCHW,), {"kernel_shape": [2, 2], "storage_order": 1}, outputs=2),
    Case("Conv", 1, (NCHW, floats(2, 3, 3, 3, seed=1)), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    *(
        Case("ConvTranspose", 1, (NCHW, floats(3, 2, 4, 4, seed=1)), {"strides": [3, 3], **attributes})
        for attributes in ({}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"output_shape": [11, 14]})
    ),
    # --- recurrence
    *(
        Case(c.op, 1, c.inputs, {**c.attributes, "output_sequence": 1}, outputs=2, like=c)
        for c in (_recurrent(op, 7) for op in GATES)
    ),
    *(_recurrent(op, 7, direction="reverse") for op in GATES),
    # --- reshaping, slicing, padding
    Case("Reshape", 1, (X,), {"shape": [3, -1]}),
    Case("Reshape", 5, (CUBE, np.array([0, -1]))),
    Case("Squeeze", 1, (floats(1, 3, 1),), {"axes": [0]}),
    Case("Squeeze", 11, (floats(1, 3, 1),), {"axes": [-1]}),
    Case("Squeeze", 11, (floats(1, 3, 1),)),
    Case("Unsqueeze", 1, (X,), {"axes": [0, 3]}),
    Case("Unsqueeze", 11, (X,), {"axes": [-1]}),
    Case("Flatten", 1, (CUBE,), {"axis": 2}),
    Case("Concat", 1, (CUBE, floats(2, 1, 4)), expected=[np.concatenate([CUBE, floats(2, 1, 4)], 1)]),
    Case("Concat", 4, (CUBE, floats(2, 1, 4)), {"axis": 1}),
    Case("Split", 1, (CUBE,), {"split": [1, 2], "axis": 1}, 2, expected=[CUBE[:, :1], CUBE[:, 1:]]),
    Case("Split", 1, (CUBE, np.array([1, 1], np.float32)), {}, 2, expected=[CUBE[:1], CUBE[1:]]),
    Case("Split", 2, (CUBE,), {"split": [1, 2], "axis": 1}, 2, nodes=("Split",)),
    Case("Split", 2, (CUBE,), {}, 2),
    Case("Split", 11, (CUBE,), {"axis": -1}, 2),
    Case("Split", 13, (CUBE,), {"axis": -1}, 2),
    Case("Split", 13, (CUBE, np.array([3, 1])), {"axis": -1}, 2),
    Case("Slice", 1, (CUBE,), {"starts": [1, -3], "ends": [9, -1], "axes": [1, 2]}),
    Case("Slice", 1, (CUBE,), {"starts": [0, 1], "ends": [1, 1000]}),
    Case("Slice", 10, (CUBE, np.array([2]), np.array([0]), np.array([2]), np.array([-1]))),
    Case(
        "Pad",
        1,
        (X,),
        {"paddings": [1, 0, 2, 1], "value": 3.0},
        like=Case("Pad", 2, (X,), {"pads": [1, 0, 2, 1], "value": 3.0}),
    ),
    Case("Pad", 2, (X,), {"pads": [1, 0, 2, 1]}),
    Case("Pad", 2, (X,), {"pads": [1, -1, 2, 1], "value": -2.5}, nodes=("Pad",)),
    Case("Pad", 2, (X.astype(np.float64),), {"pads": [1, 0, 2, 1], "value": 0.1}),
    Case("Pad", 2, (CUBE,), {"pads": [0, 1, 0, 0, 2, 1], "mode": "reflect"}),
    Case("Pad", 2, (X,), {"pads": [0, 1, 2, 0], "mode": "edge", "value": 1.0}),
    Case("Pad", 11, (X, np.array([1, 0, 2, 1]), np.float32(2))),
    Case("Tile", 1, (CUBE, np.float32(3), np.float32(1)), expected=[np.tile(CUBE, (1, 3, 1))]),
    Case("Tile", 6, (CUBE, np.array([1, 3, 2]))),
    Case("DepthToSpace", 1, (floats(1, 8, 2, 3),), {"blocksize": 2}),
    Case("Transpose", 1, (CUBE,), {"perm": [2, 0, 1]}),
    Case("Expand", 8, (X, np.array([2, 1, 1]))),
    # --- gathering and ordering
    Case("TopK", 1, (CUBE,), {"k": 2, "axis": 1}, 2),
    Case("TopK", 10, (CUBE, np.array([3])), {}, 2),
    Case("Gather", 1, (CUBE, np.array([[1, 0]])), {"axis": 1}),
    Case("GatherND", 11, (CUBE, np.array([[1, 2], [0, -1]]))),
    Case("Scatter", 9, (X, np.array([[0, 1, 0]]), floats(1, 3, seed=3))),
    Case("ScatterElements", 11, (X, np.array([[2], [0]]), floats(2, 1, seed=3)), {"axis": 1}),
    Case("ScatterND", 11, (X, np.array([[1]]), floats(1, 3, seed=3))),
    Case("OneHot", 9, (np.array([0, 2, 3, -1]), np.array([3]), np.array([0, 1], np.float32)), {"axis": 0}),
    Case(
        "NonMaxSuppression",
        10,
        (
            np.array([[[0, 0, 1, 1], [0, 0, 1, 0.9], [2, 2, 3, 3]]], np.float32),
            np.array([[[0.9, 0.8, 0.7]]], np.float32),
            np.array([9]),
            np.float32(0.5),
        ),
    ),
    Case(
        "RoiAlign",
        10,
        (IMAGE, np.array([[0, 0.5, 3, 3]], np.float32), np.array([0])),
        {"output_height": 2, "output_width": 3, "sampling_ratio": 2},
    ),
    Case("RoiAlign", 16, (IMAGE, np.array([[0, 0.5, 3, 3]], np.float32), np.array([0])), {"sampling_ratio": 2}),
    # --- resizing
    Case(
        "Upsample",
        1,
        (IMAGE,),
        {"height_scale": 2.0, "width_scale": 3.0},
        like=Case("Upsample", 7, (IMAGE,), {"scales": [1.0, 1.0, 2.0, 3.0]}),
    ),
    Case(
        "Upsample",
        1,
        (IMAGE,),
        {"height_scale": 2.0, "width_scale": 3.0, "mode": "bilinear"},
        like=Case("Upsample", 7, (IMAGE,), {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "linear"}),
    ),
    *(
        case
        for mode in ("nearest", "linear")
        for scales in ([1.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.5, 2.6], [1.0, 1.0, 1.0, 1.3])
        for case in (
            Case("Upsample", 7, (IMAGE,), {"scales": scales, "mode": mode}, nodes=("Resize",)),
            Case("Upsample", 9, (IMAGE, np.array(scales, np.float32)), {"mode": mode}, nodes=("Resize",)),
            Case(
                "Resize", 10, (IMAGE, np.array(scales, np.float32)), {"mode": mode}, constants=(1,), nodes=("Resize",)
            ),
        )
    ),
    *(
        Case("Resize", 10, (IMAGE, np.array(scales, np.float32)), {"mode": mode}, constants=constants)
        for mode in ("nearest", "linear")
        for scales in ([1.0, 1.0, 0.6, 0.8], [1.0, 1.0, 0.5, 2.0], [1.0, 1.0, 2.0, 0.7])
        for constants in ((1,), ())
    ),
    Case(
        "Resize",
        11,
        (IMAGE, np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)),
        {"mode": "cubic"},
        constants=(1,),
        nodes=("Resize",),
    ),
    Case(
        "Resize",
        11,
        (IMAGE, np.zeros(0, np.float32), np.zeros(0, np.float32), np.array([1, 2, 7, 5])),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        constants=(1, 2),
    ),
    Case(
        "Resize",
        11,
        (IMAGE, np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9], np.float32), np.array([1, 1, 2, 2], np.float32)),
        {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"},
    ),
    Case(
        "Resize", 13, (IMAGE, None, np.array([1, 1, 0.6, 2], np.float32)), {"mode": "nearest", "nearest_mode": "ceil"}
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_lifted_node_computes_the_same(case):
    model, feeds = case.model()
    lifted = ir.from_proto(model)
    assert lift(lifted)
    assert lifted.opset_imports[""] == 18
    assert lifted.ir_version >= 8
    proto = ir.to_proto(lifted)
    assert_same(run(proto, feeds), case.results())
    if case.nodes:
        assert sorted(n.op_type for n in proto.graph.node if n.op_type != "Constant") == sorted(case.nodes)


def test_each_adapter_has_a_case():
    tested = {(c.op, to) for c in CASES for op, to in ADAPTERS if op == c.op and c.opset < to}
    via_upsample = {("Upsample", 7), ("Upsample", 9), ("Upsample", 10)}
    apart = {("Scan", 9)}
    assert ADAPTERS.keys() - tested - via_upsample == apart


REFUSALS = {
    "training mode": [
        Case("BatchNormalization", 6, (NCHW, *BN)),
        Case("BatchNormalization", 7, (NCHW, *BN), outputs=5),
        Case("BatchNormalization", 9, (NCHW, *BN), outputs=5),
    ],
    "spatial is 0": [Case("BatchNormalization", 7, (NCHW, *(floats(3, 4, 5) for _ in range(4))), {"spatial": 0})],
    "its mask is used": [Case("Dropout", 10, (X,), outputs=2)],
    "its p is 2.5": [Case("GlobalLpPool", 1, (NCHW,), {"p": 2.5})],
    "operator of a newer opset": [Case("Gelu", 17, (X,))],
}


@pytest.mark.parametrize(("why", "case"), [(why, case) for why, cases in REFUSALS.items() for case in cases], ids=str)
def test_what_has_no_equal_is_refused(why, case):
    model = ir.from_proto(case.model()[0])
    with pytest.raises(ModelReadError, match=why) as error:
        lift(model)
    assert f"{case.op} of opset {case.opset}, node 'the_node'" in str(error.value)
    assert "export it again with opset 18" in str(error.value)


def batched_scan(lengths="", **attributes):
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "x"], ["t"]), helper.make_node("Mul", ["t", "x"], ["u"])],
        "body",
        [value_info("s", shape=[1]), value_info("x", shape=[1])],
        [value_info("t", shape=[1]), value_info("u", shape=[1])],
    )
    node = helper.make_node(
        "Scan", [lengths, "a", "b"], ["y", "z"], body=body, num_scan_inputs=1, name="scan", **attributes
    )
    feeds = {"a": floats(2, 1), "b": floats(2, 3, 1)}
    if lengths:
        feeds[lengths] = np.array([2, 3], np.int64)
    return model_of([node], feeds, ["y", "z"], opset=8), feeds


@pytest.mark.parametrize("attributes", [{}, {"directions": [1]}], ids=str)
def test_scan_over_a_batch(attributes):
    model, feeds = batched_scan(**attributes)
    lifted = ir.from_proto(model)
    lift(lifted)
    assert_same(run(ir.to_proto(lifted), feeds), run(model, feeds))


def test_scan_over_a_batch_of_sequences_of_different_lengths_is_refused():
    model, _ = batched_scan("n")
    with pytest.raises(ModelReadError, match="node 'scan': Scan of opset 8 takes the lengths of sequences"):
        lift(ir.from_proto(model))


def test_all_refusals_come_in_one_report():
    nodes = [
        helper.make_node("Dropout", ["x"], ["a", "m"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="fine"),
        helper.make_node("Dropout", ["b"], ["y", "n"], name="second"),
    ]
    model = ir.from_proto(model_of(nodes, {"x": X}, ["y", "m", "n"], opset=10))
    with pytest.raises(ModelReadError) as error:
        lift(model)
    assert "'first'" in str(error.value)
    assert "'second'" in str(error.value)
    assert "'fine'" not in str(error.value)


def test_legacy_broadcasting_needs_ranks():
    nodes = [
        helper.make_node("Mystery", ["x"], ["a"], domain="custom"),
        helper.make_node("Add", ["x", "a"], ["y"], broadcast=1, axis=0, name="add"),
    ]
    model = model_of(nodes, {"x": X}, ["y"], opset=6, imports=[("custom", 1)])
    with pytest.raises(ModelReadError, match="ranks are not known"):
        lift(ir.from_proto(model))


def test_bounds_of_an_unknown_type_are_cast():
    nodes = [
        helper.make_node("Mystery", ["x"], ["a"], domain="custom"),
        helper.make_node("Clip", ["a"], ["y"], min=0.0),
    ]
    model = ir.from_proto(model_of(nodes, {"x": X}, ["y"], opset=9, imports=[("custom", 1)]))
    assert lift(model)
    assert [node.op_type for node in model.graph] == ["Mystery", "Constant", "CastLike", "Clip"]


def test_a_model_of_the_working_opset_is_left_alone():
    for opset in (18, 21):
        proto = model_of([helper.make_node("Softmax", ["x"], ["y"], axis=0)], {"x": X}, ["y"], opset)
        model = ir.from_proto(proto)
        before = ir.to_proto(model).SerializeToString()
        assert not lift(model)
        assert ir.to_proto(model).SerializeToString() == before


def test_the_ir_version_is_one_that_knows_the_working_opset():
    model = ir.from_proto(model_of([helper.make_node("Neg", ["x"], ["y"])], {"x": X}, ["y"], opset=9, ir_version=4))
    lift(model)
    assert (model.opset_imports[""], model.ir_version) == (18, 8)


def test_a_resize_does_not_keep_empty_stand_ins():
    empty = np.zeros(0, np.float32)
    by_scales = one_node("Resize", 11, (IMAGE, empty, np.array([1, 1, 2, 2], np.float32)), constants=(1,))[0]
    by_sizes = one_node("Resize", 11, (IMAGE, empty, empty, np.array([1, 2, 7, 5])), constants=(1, 2))[0]
    for proto, expected in ((by_scales, ["x0", None, "x2"]), (by_sizes, ["x0", None, None, "x3"])):
        model = ir.from_proto(proto)
        lift(model)
        assert [value and value.name for value in model.graph[0].inputs] == expected


def test_an_operator_ahead_of_its_opset_is_taken_as_what_it_became():
    inputs = (CUBE, floats(4), floats(4, seed=1))
    early, feeds = one_node("LayerNormalization", 12, inputs)
    model = ir.from_proto(early)
    assert lift(model)
    assert_same(run(ir.to_proto(model), feeds), run(*one_node("LayerNormalization", 17, inputs)))


@pytest.mark.parametrize("attributes", [{}, {"coordinate_transformation_mode": "align_corners"}], ids=str)
def test_a_resize_in_the_newer_form_stays_in_it(attributes):
    attributes = {"mode": "linear", **attributes}
    inputs = (IMAGE, np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32))
    early, feeds = one_node("Resize", 10, inputs, **attributes)
    model = ir.from_proto(early)
    lift(model)
    assert_same(run(ir.to_proto(model), feeds), run(*one_node("Resize", 11, inputs, **attributes)))


def test_operators_that_nobody_knows_are_left_alone():
    node = helper.make_node("NobodyKnows", ["x"], ["y"], axes=[1], consumed_inputs=[0])
    model = ir.from_proto(model_of([node], {"x": X}, ["y"], opset=5))
    assert lift(model)
    (left,) = model.graph
    assert left.attributes["axes"].as_ints() == (1,)


def _branches(node, **given):
    then = helper.make_graph([node], "then", [], [value_info("t")])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [], [value_info("e")])
    return helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other, name="if"), given


def test_subgraphs_are_lifted_too():
    node, _ = _branches(helper.make_node("Softmax", ["x"], ["t"], axis=1))
    model = model_of([node], {"x": CUBE, "c": np.array(True)}, ["y"], opset=11)
    lifted = ir.from_proto(model)
    assert lift(lifted)
    for c in (True, False):
        feeds = {"x": CUBE, "c": np.array(c)}
        assert_same(run(ir.to_proto(lifted), feeds), run(model, feeds))


def test_ranks_inside_subgraphs_are_known():
    node, _ = _branches(helper.make_node("Softmax", ["x"], ["t"], axis=2))
    lifted = ir.from_proto(model_of([node], {"x": CUBE, "c": np.array(True)}, ["y"], opset=11))
    lift(lifted)
    assert {n.op_type for n in lifted.graph.all_nodes()} == {"If", "Softmax", "Identity"}


def test_functions_are_lifted_too():
    body = [helper.make_node("Squeeze", ["a"], ["b"], axes=[0]), helper.make_node("ReduceMean", ["b"], ["c"], axes=[0])]
    function = helper.make_function("local", "Both", ["a"], ["c"], body, [helper.make_opsetid("", 12)])
    node = helper.make_node("Both", ["x"], ["y"], domain="local")
    x = floats(1, 3, 2)
    model = model_of([node], {"x": x}, ["y"], opset=12, imports=[("local", 1)], functions=[function])
    lifted = ir.from_proto(model)
    assert lift(lifted)
    (function,) = lifted.functions.values()
    assert function.opset_imports[""] == 18
    assert_same(run(ir.to_proto(lifted), {"x": x}), run(model, {"x": x}))


def test_a_function_that_has_the_name_of_an_operator_is_itself():
    body = [helper.make_node("Neg", ["a"], ["b"])]
    function = helper.make_function("", "Softmax", ["a"], ["b"], body, [helper.make_opsetid("", 12)])
    proto = model_of([helper.make_node("Softmax", ["x"], ["y"])], {"x": CUBE}, ["y"], opset=12, functions=[function])
    model = ir.from_proto(proto)
    lift(model)
    assert [node.op_type for node in model.graph] == ["Softmax"]


def test_types_that_were_inferred_for_lifting_do_not_stay():
    model = ir.from_proto(model_of([helper.make_node("Softmax", ["x"], ["y"])], {"x": X}, ["y"], opset=12))
    lift(model)
    assert model.graph.outputs[0].shape is None


def test_new_nodes_are_named_after_the_one_they_serve():
    lifted = ir.from_proto(one_node("Softmax", 11, (CUBE,))[0])
    lift(lifted)
    assert [node.name for node in lifted.graph][-1] == "the_node"
    assert all(node.name.startswith("the_node/") for node in list(lifted.graph)[:-1])
    assert lifted.graph.outputs[0].name == "y0"
