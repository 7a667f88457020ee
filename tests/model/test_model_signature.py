"""Signatures: names, kinds, types and shapes of inputs and outputs."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from model_helpers import floats, model_of, value_info
from onnx import TensorProto, helper

from onnxgrad.model.normalize import normalize
from onnxgrad.model.read import read
from onnxgrad.model.signature import Port, Signature, signature

IDENTITY = helper.make_node("Identity", ["x"], ["y"])


def test_a_signature_has_inputs_without_initializers_in_order():
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, None])
    b = helper.make_tensor_value_info("b", TensorProto.INT64, None)
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, [])
    proto = model_of([IDENTITY], [b, x, value_info("w", floats(2))], [y, "x"], weights={"w": floats(2)})
    f32, f64, i64 = np.dtype("float32"), np.dtype("float64"), np.dtype("int64")
    expected = Signature(
        (Port("b", "tensor", i64, None), Port("x", "tensor", f32, ("N", 3, None))),
        (Port("y", "tensor", f64, ()), Port("x", "tensor", f32, ("N", 3, None))),
    )
    assert signature(read(proto)) == expected
    assert signature(normalize(read(proto))) == expected  # without a type, the output has its declared one


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
        (TensorProto.BOOL, np.bool_),
        (TensorProto.STRING, np.object_),
        (TensorProto.UINT8, np.uint8),
        (TensorProto.COMPLEX64, np.complex64),
    ],
)
def test_element_types(element, dtype):
    x = helper.make_tensor_value_info("x", element, [2])
    port = signature(read(model_of([IDENTITY], [x], ["y"]))).inputs[0]
    assert port.dtype == np.dtype(dtype)


TENSOR = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
MAP = helper.make_map_type_proto(TensorProto.INT64, TENSOR)


@pytest.mark.parametrize(
    ("type_proto", "kind", "dtype"),
    [
        (helper.make_sequence_type_proto(TENSOR), "sequence", np.dtype("float32")),
        (helper.make_optional_type_proto(TENSOR), "optional", np.dtype("float32")),
        (helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [2]), "sparse tensor", np.dtype("float32")),
        (MAP, "map", None),
        (helper.make_sequence_type_proto(MAP), "sequence", None),
        (helper.make_optional_type_proto(MAP), "optional", None),
        (onnx.TypeProto(), "unknown", None),
    ],
)
def test_kinds(type_proto, kind, dtype):
    port = signature(read(model_of([IDENTITY], [helper.make_value_info("x", type_proto)], ["y"]))).inputs[0]
    assert port == Port("x", kind, dtype, (2,) if kind == "sparse tensor" else None)
