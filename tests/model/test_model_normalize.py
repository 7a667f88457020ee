"""Normalizing: the working form is reached from whatever was written, and the results stay equal to the bit."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from model_helpers import assert_same, floats, model_of, run, value_info
from onnx import TensorProto, helper

from onnxgrad.errors import ModelReadError
from onnxgrad.model.normalize import Declared, normalize
from onnxgrad.model.read import read
from onnxgrad.model.write import to_proto

X = floats(2, 3)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def normalized(proto, feeds=None, keep=()):
    """Return the normalized model, after checking that it is one and computes the same."""
    model = normalize(read(proto), keep)
    check_form(model, keep)
    if feeds is not None:
        written = to_proto(model)
        assert [o.name for o in written.graph.output] == [o.name for o in proto.graph.output]
        assert_same(run(written, feeds), run(proto, feeds))
    return model


def check_form(model, keep=()):
    assert model.opset_imports[""] >= 18
    assert not {v for g in model.graphs() for v in g.inputs} & set(model.graph.initializers.values())
    assert set(model.functions) <= set(keep)
    names = [v.name for g in model.graphs() for n in g for v in n.outputs if v.name]
    names += [v.name for g in model.graphs() for v in {*g.inputs, *g.initializers.values()}]
    assert len(names) == len(set(names))
    nodes = [n.name for n in model.graph.all_nodes()]
    assert all(nodes)
    assert len(nodes) == len(set(nodes))
    done = set()
    for n in model.graph:
        assert all(v is None or v.producer() is None or v.producer() in done for v in n.inputs)
        done.add(n)


def types(model):
    return [n.op_type for n in model.graph]


# --- initializers, constants, names ----------------------------------------------------------


def test_initializers_are_no_inputs():
    proto = model_of([node("Add", "x w", "y")], {"x": X, "w": X[0]}, ["y"], opset=7, weights={"w": X[0]}, ir_version=3)
    model = normalized(proto, {"x": X})
    assert [v.name for v in model.graph.inputs] == ["x"]
    assert model.ir_version >= 8


def test_the_file_format_knows_initializers_that_are_no_inputs():
    proto = model_of(
        [node("Add", "x w", "y")], {"x": X, "w": X[0]}, [value_info("y", X)], weights={"w": X[0]}, ir_version=3
    )
    onnx.checker.check_model(to_proto(normalized(proto, {"x": X})))


def test_an_initializer_has_the_type_of_its_data():
    proto = model_of([node("Add", "x w", "y")], {"x": X}, ["y"], weights={"w": X[0]})
    proto.graph.value_info.append(helper.make_tensor_value_info("w", TensorProto.DOUBLE, ["wrong"]))
    weights = normalized(proto).graph.initializers["w"]
    assert (weights.dtype, list(weights.shape)) == (ir.DataType.FLOAT, [3])


CONSTANTS = {
    "value": onnx.numpy_helper.from_array(X),
    "value_float": 0.5,
    "value_floats": [0.5, 0.25],
    "value_int": 3,
    "value_ints": [3, -4],
    "value_string": "grün",
    "value_strings": ["a", "grün"],
}


@pytest.mark.parametrize("form", CONSTANTS)
def test_constants_become_initializers(form):
    nodes = [node("Constant", "", "c", **{form: CONSTANTS[form]}), node("Identity", "c", "y")]
    kind = TensorProto.STRING if "string" in form else TensorProto.INT64 if "int" in form else TensorProto.FLOAT
    proto = model_of(nodes, [], [helper.make_tensor_value_info("y", kind, None)], opset=13)
    model = normalized(proto, {})
    assert types(model) == ["Identity"]
    assert list(model.graph.initializers) == ["c"]


def test_empty_lists_of_constants():
    nodes = [
        node("Constant", "", "c", value=onnx.numpy_helper.from_array(np.zeros(0, np.float32))),
        node("Neg", "c", "y"),
    ]
    assert types(normalized(model_of(nodes, [], ["y"]), {})) == ["Neg"]


def test_a_constant_that_is_an_output_stays():
    nodes = [node("Constant", "", "y", value_float=1.0), node("Add", "x y", "z")]
    assert types(normalized(model_of(nodes, {"x": X}, ["y", "z"]), {"x": X})) == ["Constant", "Add"]


def with_branches(then_nodes, else_nodes, before=(), after=(), outputs=("y",), opset=18, **options):
    then = helper.make_graph(then_nodes, "then", [], [value_info("t")])
    other = helper.make_graph(else_nodes, "else", [], [value_info("e")])
    nodes = [*before, node("If", "c", "y", then_branch=then, else_branch=other), *after]
    return model_of(nodes, {"x": X, "c": np.array(True)}, outputs, opset, **options)


@pytest.mark.parametrize("c", [True, False])
def test_constants_in_subgraphs_become_theirs(c):
    then = [node("Constant", "", "k", value_float=2.0), node("Mul", "x k", "t")]
    other = [node("Constant", "", "k", value_float=3.0), node("Mul", "x k", "e")]
    model = normalized(with_branches(then, other), {"x": X, "c": np.array(c)})
    assert not model.graph.initializers
    assert all(len(graph.initializers) == 1 for graph in model.graph.subgraphs())


@pytest.mark.parametrize("c", [True, False])
def test_names_are_unique_and_the_outer_ones_stand(c):
    then = [node("Neg", "x", "h"), node("Abs", "h", "t")]
    other = [node("Exp", "x", "t"), node("Abs", "t", "e")]
    proto = with_branches(then, other, after=[node("Relu", "x", "h"), node("Add", "h y", "z")], outputs=("z", "h"))
    model = normalized(proto, {"x": X, "c": np.array(c)})
    assert {v.name for n in model.graph for v in n.outputs} == {"y", "h", "z"}


def test_a_model_that_was_not_read_need_not_be_sorted():
    proto = model_of([node("Neg", "a", "y"), node("Abs", "x", "a")], {"x": X}, ["y"])
    assert types(normalize(ir.from_proto(proto))) == ["Abs", "Neg"]


def test_nodes_with_one_name_get_two():
    nodes = [node("Neg", "x", "a", name="n"), node("Abs", "a", "b", name="n_1"), node("Exp", "b", "y", name="n")]
    model = normalized(model_of(nodes, {"x": X}, ["y"]))
    assert [n.name for n in model.graph] == ["n", "n_1", "n_2"]


def test_nodes_get_names_from_their_operators():
    nodes = [node("Neg", "x", "a"), node("Neg", "a", "b"), node("Neg", "b", "y", name="Neg_1")]
    model = normalized(model_of(nodes, {"x": X}, ["y"]), {"x": X})
    assert [n.name for n in model.graph] == ["Neg", "Neg_2", "Neg_1"]


def test_values_of_a_model_built_in_memory_get_names():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2, 3]))
    first = ir.node("Neg", [x])
    second = ir.node("Neg", [first.outputs[0]])
    first.outputs[0].name = second.outputs[0].name = ""
    graph = ir.Graph([x], second.outputs, nodes=[first, second], opset_imports={"": 18})
    model = normalize(read(ir.Model(graph, ir_version=8)))
    check_form(model)
    assert_same(run(to_proto(model), {"x": X}), [X])


def test_optional_outputs_that_are_left_out_stay_out():
    weights = {"w": floats(1, 4, 3), "r": floats(1, 4, 4)}
    proto = model_of([helper.make_node("RNN", ["x", "w", "r"], ["", "y"], hidden_size=4)], {"x": X[:, None]}, ["y"],
                     opset=14, weights=weights)  # fmt: skip
    model = normalized(proto, {"x": X[:, None]})
    assert [v.name for v in model.graph[0].outputs] == ["", "y"]


def test_a_subgraph_that_was_written_for_an_older_opset():
    then = [node("Constant", "", "k", value=onnx.numpy_helper.from_array(X)), node("Softmax", "k", "t", axis=0)]
    other = [node("Unsqueeze", "x", "u", axes=[0]), node("Squeeze", "u", "e", axes=[0])]
    for c in (True, False):
        normalized(with_branches(then, other, opset=11), {"x": X, "c": np.array(c)})


# --- outputs ---------------------------------------------------------------------------------


def test_outputs_that_are_inputs_or_weights_or_come_twice():
    proto = model_of([node("Relu", "x", "y")], {"x": X}, ["y", "x", "w", "y"], weights={"w": X})
    model = normalized(proto, {"x": X})
    assert [v.name for v in model.graph.outputs] == ["y", "x", "w", "y"]
    assert [v.name for v in model.graph.inputs] == ["x"]


def test_nothing_is_removed_or_forgotten():
    nodes = [
        node("Relu", "x", "y", doc_string="on the node"),
        node("Neg", "x", "unused"),
        node("Abs", "unused", "more"),
    ]
    proto = model_of(nodes, {"x": X}, ["y"])
    proto.doc_string, proto.graph.doc_string = "on the model", "on the graph"
    proto.producer_name, proto.domain, proto.model_version = "someone", "some.where", 7
    proto.metadata_props.add(key="a", value="b")
    proto.graph.node[0].metadata_props.add(key="c", value="d")
    proto.graph.input[0].doc_string = "on the input"
    written = to_proto(normalized(proto, {"x": X}))
    assert [n.op_type for n in written.graph.node] == ["Relu", "Neg", "Abs"]
    assert written.graph.node[0].doc_string == "on the node"
    assert written.graph.input[0].doc_string == "on the input"
    assert (written.doc_string, written.graph.doc_string) == ("on the model", "on the graph")
    assert (written.producer_name, written.domain, written.model_version) == ("someone", "some.where", 7)
    assert [(p.key, p.value) for p in written.metadata_props] == [("a", "b")]
    assert [(p.key, p.value) for p in written.graph.node[0].metadata_props] == [("c", "d")]


# --- types and shapes ------------------------------------------------------------------------


def test_stale_types_are_forgotten_and_declared_ones_kept_aside():
    nodes = [node("Neg", "x", "a"), node("Mystery", "a", "b", domain="custom"), node("Neg", "b", "y")]
    wrong = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [9, 9, 9]) for name in "aby"]
    proto = model_of(nodes, {"x": X}, wrong[2:], imports=[("custom", 1)])
    proto.graph.value_info.extend(wrong[:2])
    model = normalized(proto)
    a, b, y = (n.outputs[0] for n in model.graph)
    assert (a.type, a.shape) == (None, None)
    assert (b.dtype, list(b.shape)) == (ir.DataType.DOUBLE, [9, 9, 9])
    assert (y.type, y.shape) == (None, None)
    assert y.meta["declared"] == Declared(ir.TensorType(ir.DataType.DOUBLE), ir.Shape([9, 9, 9]))
    type_, shape = y.meta["declared"]
    assert (type_.dtype, list(shape)) == (ir.DataType.DOUBLE, [9, 9, 9])


def test_a_stale_shape_does_not_mislead_lifting():
    proto = model_of([node("Relu", "x", "h"), node("Softmax", "h", "y")], {"x": floats(2, 3, 4)}, ["y"], opset=11)
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [6, 4]))
    normalized(proto, {"x": floats(2, 3, 4)})


def test_a_stale_shape_does_not_mislead_lifting_before_functions_are_inlined():
    nodes = [node("Relu", "x", "h"), node("Softmax", "h", "s"), call("Square", "s", ["y"])]
    x = floats(2, 3, 4)
    proto = model_of(nodes, {"x": x}, ["y"], opset=11, imports=[("local", 1)], functions=[SQUARE])
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [6, 4]))
    model = normalized(proto)
    expected = model_of([*nodes[:2], node("Mul", "s s", "y")], {"x": x}, ["y"], opset=11)
    assert_same(run(to_proto(model), {"x": x}), run(expected, {"x": x}))


def test_a_kept_function_keeps_what_is_declared_whatever_its_domain():
    key = ("", "Square", "")
    square = helper.make_function("", "Square", ["a"], ["b"], [node("Mul", "a a", "b")], [helper.make_opsetid("", 18)])
    proto = model_of([node("Square", "x", "y")], {"x": X}, [value_info("y", X)], functions=[square])
    assert list(normalized(proto, keep={key}).graph.outputs[0].shape) == [2, 3]


def test_names_of_sizes():
    unknown = ["", "?", "None", "unk", "-1", "dynamic", "*", "Unknown"]
    known = ["N", "batch", "unk__7", "seq_len", "N+1", "2*N"]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [*unknown, *known, -1, 3, 0, None])
    x.type.tensor_type.shape.dim[9].denotation = "DATA_BATCH"
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["?", "M", 2])
    model = normalized(model_of([node("Neg", "x", "y")], [x], [y]))
    shape = model.graph.inputs[0].shape
    assert [d if isinstance(d, int) else d.value for d in shape] == [None] * 8 + known + [None, 3, 0, None]
    assert shape.get_denotation(9) == "DATA_BATCH"
    assert model.graph.outputs[0].meta["declared"].shape == ir.Shape([None, "M", 2])


# --- functions -------------------------------------------------------------------------------


def function(name, inputs, outputs, nodes, opset=18, imports=(), **options):
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*i) for i in imports)]
    return helper.make_function("local", name, inputs.split(), outputs.split(), nodes, opsets, **options)


def calling(nodes, functions, outputs=("y",), opset=18, imports=()):
    return model_of(nodes, {"x": X}, outputs, opset, imports=[("local", 1), *imports], functions=functions)


def call(name, inputs, outputs, **attributes):
    return helper.make_node(name, inputs.split(), outputs, domain="local", **attributes)


SQUARE = function("Square", "a", "b", [node("Mul", "a a", "b")])
TWICE = function("Twice", "a", "c", [call("Square", "a", ["b"]), node("Add", "b b", "c")], imports=[("local", 1)])


def test_functions_are_inlined_and_unused_ones_removed():
    unused = function("Unused", "a", "b", [node("Neg", "a", "b")])
    nodes = [call("Twice", "x", ["h"]), call("Square", "h", ["g"]), call("Square", "g", ["y"])]
    proto = calling(nodes, [SQUARE, TWICE, unused], imports=[("nobody.uses", 3)])
    model = normalized(proto, {"x": X})
    assert types(model) == ["Mul", "Add", "Mul", "Mul"]
    assert set(model.opset_imports) == {""}


def test_what_is_declared_for_a_call_does_not_reach_into_the_body():
    proto = calling([call("Square", "x", ["h"]), call("Square", "h", ["y"])], [SQUARE])
    wrong = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["?", 9]) for name in "hy"]
    wrong[1].doc_string = "on the output"
    wrong[1].metadata_props.add(key="a", value="b")
    proto.graph.value_info.append(wrong[0])
    proto.graph.output[0].CopyFrom(wrong[1])
    model = normalized(proto)
    assert [(v.type, v.shape) for n in model.graph for v in n.outputs] == [(None, None)] * 2
    (output,) = model.graph.outputs
    assert output.meta["declared"] == Declared(ir.TensorType(ir.DataType.DOUBLE), ir.Shape([None, 9]))
    assert (output.doc_string, output.metadata_props) == ("on the output", {"a": "b"})


def test_functions_to_keep_are_kept_with_what_they_call_inlined():
    key = ("local", "Twice", "")
    proto = calling([call("Twice", "x", ["h"]), call("Square", "h", ["y"])], [SQUARE, TWICE])
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [2, 3]))
    model = normalized(proto, {"x": X}, keep={key})
    assert types(model) == ["Twice", "Mul"]
    assert [n.op_type for n in model.functions[key]] == ["Mul", "Add"]
    assert list(model.graph[0].outputs[0].shape) == [2, 3]


def test_a_function_that_returns_an_input_or_a_value_twice():
    odd = function("Odd", "a", "a b b", [node("Neg", "a", "b")])
    nodes = [call("Odd", "x", ["p", "q", "r"]), node("Sub", "p q", "y")]
    model = normalized(calling(nodes, [odd], outputs=("y", "p", "q", "r")))
    assert [v.name for v in model.graph.inputs] == ["x"]
    assert_same(run(to_proto(model), {"x": X}), [X + X, X, -X, -X])  # onnxruntime does not take the model as it is


def test_a_call_that_leaves_out_an_output():
    both = function("Both", "a", "b c", [node("Neg", "a", "b"), node("Abs", "a", "c")])
    first = normalized(calling([call("Both", "x", ["y"])], [both]))
    second = normalized(calling([call("Both", "x", ["", "y"])], [both]))
    assert_same(run(to_proto(first), {"x": X}), [-X])
    assert_same(run(to_proto(second), {"x": X}), [np.abs(X)])


def test_attributes_of_functions():
    body = node("LeakyRelu", "a", "b")
    body.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    default = helper.make_attribute("slope", 0.5)
    leaky = function("Leaky", "a", "b", [body], attribute_protos=[default])
    normalized(calling([call("Leaky", "x", ["h"]), call("Leaky", "h", ["y"], slope=0.25)], [leaky]), {"x": X})


def test_an_attribute_of_a_function_that_becomes_an_input():
    body = node("ReduceMean", "a", "b")
    body.attribute.add(name="axes", ref_attr_name="over", type=onnx.AttributeProto.INTS)
    mean = function("Mean", "a", "b", [body], opset=13, attributes=["over"])
    normalized(calling([call("Mean", "x", ["y"], over=[1])], [mean], opset=13), {"x": X})
    with pytest.raises(ModelReadError, match="'axes' is a parameter of the function around it"):
        normalize(read(calling([call("Mean", "x", ["y"], over=[1])], [mean], opset=17)))


@pytest.mark.parametrize(("inner", "outer"), [(11, 18), (11, 13), (18, 11), (18, 20), (20, 18), (18, 21)])
def test_functions_of_another_opset(inner, outer):
    axes = {"axes": [1]} if inner < 18 else {}
    body = [node("Identity", "a", "b"), node("ReduceMax", "b", "c", **axes), node("Pad", "c p", "d")]
    inside = function("Inside", "a p", "d", body, opset=inner)
    softmax = [call("Inside", "x p", ["h"]), node("Softmax", "h", "y")]
    proto = model_of(softmax, {"x": X}, ["y"], outer, {"p": np.array([0, 1, 1, 0])}, imports=[("local", 1)],
                     functions=[inside])  # fmt: skip
    model = normalize(read(proto))
    check_form(model)
    expected = model_of(
        [node("Identity", "x", "b"), node("ReduceMax", "b a", "c") if inner < 18 else node("ReduceMax", "b", "c"),
         node("Pad", "c p", "d"), node("Softmax", "d", "y", axis=1 if outer < 13 else -1)],
        {"x": X}, ["y"], 18, {"p": np.array([0, 1, 1, 0]), "a": np.array([1])},
    )  # fmt: skip
    assert_same(run(to_proto(model), {"x": X}), run(expected, {"x": X}))


DIFFERENT = {
    "DFT": (node("DFT", "a", "b", axis=1, name="it"), 18, 20),
    "GroupNormalization": (node("GroupNormalization", "a a a", "b", num_groups=1, name="it"), 18, 21),
    "AveragePool": (node("AveragePool", "a", "b", kernel_shape=[2], ceil_mode=1, name="it"), 18, 22),
    "MaxPool": (node("MaxPool", "a", "b", kernel_shape=[2], ceil_mode=1, name="it"), 18, 22),  # by description only
    "Gelu": (node("Gelu", "a", "b", name="it"), 18, 20),
}


@pytest.mark.parametrize("operator", DIFFERENT)
def test_an_operator_that_differs_between_a_function_and_the_graph_around_it(operator):
    it, inner, outer = DIFFERENT[operator]
    inside = function("Inside", "a", "b", [it], opset=inner)
    proto = calling([call("Inside", "x", ["y"])], [inside], opset=outer)
    message = rf"versions {inner} and {outer} of 'ai.onnx'.* {operator} \(node 'it'\) has changed"
    with pytest.raises(ModelReadError, match=message):
        normalize(read(proto))


def test_functions_that_call_each_other_in_a_circle():
    a = function("A", "a", "b", [call("B", "a", ["b"])], imports=[("local", 1)])
    b = function("B", "a", "b", [call("A", "a", ["b"])], imports=[("local", 1)])
    with pytest.raises(ModelReadError, match="cannot be inlined: Cyclic dependency"):
        normalize(read(calling([call("A", "x", ["y"])], [a, b])))


def test_a_function_inside_of_a_branch():
    then = [call("Twice", "x", ["t"])]
    other = [call("Square", "x", ["g"]), node("Neg", "g", "e")]
    for c in (True, False):
        proto = with_branches(then, other, before=[call("Square", "x", ["b"])], imports=[("local", 1)],
                              functions=[SQUARE, TWICE], outputs=("y", "b"))  # fmt: skip
        normalized(proto, {"x": X, "c": np.array(c)})


# --- loops -----------------------------------------------------------------------------------


def test_a_loop():
    body = helper.make_graph(
        [node("Identity", "go", "on"), node("Add", "s w", "t"), node("Mul", "t x", "u")], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         value_info("s", X)],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), value_info("t", X), value_info("u", X)],
    )  # fmt: skip
    weights = {"n": np.array(3), "c": np.array(True), "w": X[0]}
    for opset in (11, 13, 18):
        proto = model_of([node("Loop", "n c x", "y z", body=body)], {"x": X}, ["y", "z"], opset, weights)
        normalized(proto, {"x": X})
