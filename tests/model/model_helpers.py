"""What the tests of onnxgrad.model share: small models, a plain way to run them, and equality to the bit."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

ort.set_default_logger_severity(4)


def value_info(name, array=None, shape=None):
    if array is None:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
    array = np.asarray(array)
    dims = list(array.shape) if shape is None else shape
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), dims)


def model_of(nodes, inputs, outputs, opset=18, weights=None, ir_version=8, imports=(), functions=()):
    """Return a model; `inputs` are value infos or {name: example}, outputs are value infos or names, weights arrays."""
    if isinstance(inputs, dict):
        inputs = [value_info(name, array) for name, array in inputs.items()]
    outputs = [onnx.ValueInfoProto(name=o) if isinstance(o, str) else o for o in outputs]
    tensors = [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in (weights or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*i) for i in imports)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=list(functions))


def one_node(op, opset, inputs, outputs=1, constants=(), **attributes):
    """Return a model of one node and its feeds; inputs at the positions in `constants` become initializers."""
    names = ["" if array is None else f"x{i}" for i, array in enumerate(inputs)]
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], name="the_node", **attributes)
    given = {name: np.asarray(a) for name, a in zip(names, inputs, strict=True) if name}
    weights = {f"x{i}": given.pop(f"x{i}") for i in constants}
    return model_of([node], given, list(node.output), opset, weights), given


def run(model, feeds):
    """Run a model as it is written: onnxruntime without its optimizer."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def assert_same(actual, expected):
    """Check that two lists of results are equal to the bit."""
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        if isinstance(e, list | dict):
            assert a == e
            continue
        assert (a.dtype, a.shape) == (e.dtype, e.shape)
        np.testing.assert_array_equal(a, e)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
