"""Reading: every kind of source, nothing given changes, and bad input fails with what, where and what to do."""

import os
import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from model_helpers import assert_same, floats, model_of, run, value_info
from onnx import helper

from onnxgrad.errors import ModelReadError
from onnxgrad.model.normalize import normalize
from onnxgrad.model.read import read
from onnxgrad.model.write import to_proto

X, W = floats(2, 3), floats(3, 4, seed=1)


def small(**options):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="mm"),
        helper.make_node("Relu", ["h"], ["y"], name="act"),
    ]
    return model_of(nodes, {"x": X}, ["y"], weights={"w": W}, **options)


def with_external_data(folder, location="weights.bin", write=True):
    """Save `small` in a folder, with its weights in a file; return its path."""
    proto = small()
    tensor = proto.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 8, "length": len(data)}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    if write:
        (folder / location).write_bytes(b"8 before" + data)
    return path


# --- what is accepted ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["str", "path", "bytes", "proto", "ir", "json", "textproto"])
def test_every_kind_of_source(kind, tmp_path):
    proto = small()
    path = tmp_path / f"model.{kind if kind in ('json', 'textproto') else 'onnx'}"
    onnx.save(proto, path)
    source = {"str": str(path), "bytes": path.read_bytes(), "proto": proto, "ir": ir.from_proto(proto)}.get(kind, path)
    assert_same(run(to_proto(read(source)), {"x": X}), run(proto, {"x": X}))


def test_a_given_proto_stays_as_it_is():
    proto = small()
    before = proto.SerializeToString()
    model = normalize(read(proto))
    model.graph.initializers["w"].name = "renamed"
    to_proto(model)
    assert proto.SerializeToString() == before


def test_a_given_ir_model_stays_as_it_is_and_lends_its_weights():
    constant = helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(W, "inner"))
    proto = small()
    proto.graph.node.insert(0, constant)
    source = ir.from_proto(proto)
    source.graph.initializers["w"].const_value = ir.tensor(W, name="w")
    before = ir.to_proto(source).SerializeToString()
    model = normalize(read(source))
    weights = model.graph.initializers["w"]
    weights.name = "renamed"
    to_proto(model)
    assert np.shares_memory(weights.const_value.numpy(), W)
    assert source.graph.initializers["w"].const_value.name == "w"
    assert ir.to_proto(source).SerializeToString() == before


def test_strings_in_a_given_ir_model():
    strings = np.array(["a", "bö"], dtype=object)
    node = helper.make_node("Identity", ["s"], ["y"])
    source = ir.from_proto(model_of([node], [], [helper.make_tensor_value_info("y", 8, [2])], weights={"s": strings}))
    assert_same(run(to_proto(read(source)), {}), [strings])


def test_external_data_is_mapped_not_read(tmp_path, monkeypatch):
    path = with_external_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = read("model.onnx")
    monkeypatch.chdir("/")  # the folder was that of the reading
    for m in (model, read(model)):
        tensor = m.graph.initializers["w"].const_value
        assert isinstance(tensor, ir.ExternalTensor)
        np.testing.assert_array_equal(tensor.numpy(), W)
    assert_same(run(to_proto(model), {"x": X}), run(small(), {"x": X}))
    assert_same(run(to_proto(read(path)), {"x": X}), run(small(), {"x": X}))


def test_external_data_of_an_ir_model_is_found_from_anywhere(tmp_path, monkeypatch):
    with_external_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = read(ir.load("model.onnx"))
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), W)


def test_models_above_two_gigabytes_are_opened_without_reading_them(tmp_path):
    rows = 700_000_000
    proto = model_of([helper.make_node("Gather", ["w", "i"], ["y"])], {"i": np.array([0])}, ["y"])
    tensor = proto.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=[rows])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="big.bin")
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with open(tmp_path / "big.bin", "wb") as file:
        file.truncate(4 * rows)  # takes no space on the disk
    model = normalize(read(tmp_path / "model.onnx"))
    assert model.graph.initializers["w"].const_value.nbytes == 2_800_000_000


def test_a_link_inside_of_the_folder_is_followed(tmp_path):
    path = with_external_data(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (tmp_path / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    assert_same(run(to_proto(read(path)), {"x": X}), run(small(), {"x": X}))


def test_nodes_in_any_order():
    proto = small()
    unsorted = onnx.ModelProto()
    unsorted.CopyFrom(proto)
    del unsorted.graph.node[:]
    unsorted.graph.node.extend(reversed(proto.graph.node))
    model = read(unsorted)
    assert [node.name for node in model.graph] == ["mm", "act"]


def test_a_subgraph_may_use_what_comes_later_outside():
    then = helper.make_graph([helper.make_node("Neg", ["h"], ["t"])], "then", [], [value_info("t")])
    other = helper.make_graph([helper.make_node("Identity", ["h"], ["e"])], "else", [], [value_info("e")])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other, name="if"),
        helper.make_node("Relu", ["x"], ["h"], name="act"),
    ]
    model = read(model_of(nodes, {"x": X, "c": np.array(True)}, ["y"]))
    assert [node.name for node in model.graph] == ["act", "if"]
    assert_same(run(to_proto(model), {"x": X, "c": np.array(True)}), [-np.maximum(X, 0)])


def test_initializers_may_be_inputs():
    proto = small(ir_version=3)
    proto.graph.input.append(value_info("w", W))
    assert [value.name for value in read(proto).graph.inputs] == ["x", "w"]


@pytest.mark.parametrize(
    ("imports", "ir_version", "expected"),
    [
        ([("", 11), ("ai.onnx", 13)], 8, 13),  # of two the last counts, as in onnxruntime
        ([("ai.onnx", 13), ("", 11)], 8, 11),
        ([("", 13), ("", 11)], 8, 11),
        ([("ai.onnx", 12)], 8, 12),
        ([("ai.onnx.ml", 2)], 8, 18),
        ([], 2, 1),
    ],
)
def test_incomplete_and_doubled_imports(imports, ir_version, expected):
    proto = small(ir_version=ir_version)
    del proto.opset_import[:]
    for domain, version in imports:
        proto.opset_import.add(domain=domain, version=version)
    model = read(proto)
    assert model.opset_imports[""] == expected
    assert "ai.onnx" not in model.opset_imports


@pytest.mark.parametrize(("opset", "expected"), [(8, 3), (11, 6), (18, 8), (21, 10)])
def test_a_missing_ir_version_is_that_of_the_opset(opset, expected):
    proto = small(opset=opset)
    proto.ClearField("ir_version")
    assert read(proto).ir_version == expected


def test_maps_come_through():
    labels = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[1, 5, 7])
    kind = helper.make_map_type_proto(onnx.TensorProto.INT64, helper.make_tensor_type_proto(1, []))
    output = helper.make_value_info("y", helper.make_sequence_type_proto(kind))
    inner = helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[1, 5, 7])
    proto = model_of([inner, labels], {"x": X}, [output], imports=[("ai.onnx.ml", 1)])
    proto.graph.value_info.add(name="z").type.CopyFrom(output.type)
    before = proto.SerializeToString()
    for model in (read(proto), read(read(proto)), normalize(read(proto))):
        written = to_proto(model)
        assert written.graph.output[0] == output
        assert_same(run(written, {"x": X}), run(proto, {"x": X}))
    assert proto.SerializeToString() == before


# --- what is refused -------------------------------------------------------------------------


def refused(source, *parts):
    with pytest.raises(ModelReadError) as error:
        read(source)
    for part in parts:
        assert part in str(error.value)
    assert "; " in str(error.value)  # what; what to do


PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@pytest.mark.parametrize(
    "content",
    [
        PNG,
        b"",
        b"just some text\n",
        b"import numpy\n",
        b"<!DOCTYPE html><html>",
        b"{}",
        b"\x00" * 64,
        b":\x00",
        b"ORTM" * 8,
    ],
)
def test_what_is_no_model(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refused(path, str(path), "is not an ONNX model")
    refused(content, "the given bytes is not an ONNX model")


def test_damaged_text_forms(tmp_path):
    for name in ("m.json", "m.textproto"):
        (tmp_path / name).write_text("{ nonsense")
        refused(tmp_path / name, "is not an ONNX model")


def test_what_is_no_source_at_all():
    refused(3, "object of type int", "give a path")
    refused(None, "object of type NoneType")


def test_a_file_that_git_left_elsewhere(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n")
    refused(path, "git lfs pull")


def test_no_file(tmp_path):
    refused(tmp_path / "none.onnx", "none.onnx", "there is no such file")
    refused(tmp_path, "is a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(small().SerializeToString())
    path.chmod(0)
    refused(path, "Permission denied", "permissions")


def test_a_file_cut_off_anywhere():
    content = small().SerializeToString()
    for length in range(len(content)):
        with pytest.raises(ModelReadError):
            read(content[:length])


def test_a_model_without_a_graph():
    proto = small()
    proto.ClearField("graph")
    refused(proto, "the given ModelProto is not an ONNX model", "it has no graph")


def test_a_model_without_outputs():
    proto = small()
    del proto.graph.output[:]
    refused(proto, "has no outputs")


def test_versions_that_the_installed_onnx_does_not_know():
    refused(small(opset=onnx.defs.onnx_opset_version() + 1), "install a newer onnx")
    refused(small(opset=-1), "version -1")
    refused(small(ir_version=onnx.IR_VERSION + 1), "IR version", "install a newer onnx")


def test_no_imports_in_a_file_that_should_have_them():
    proto = small()
    del proto.opset_import[:]
    refused(proto, "which operator set it uses", "truncated")


def edited(edit):
    proto = small()
    edit(proto.graph)
    return proto


def _add_function(graph, *outputs):
    proto = model_of(graph.node, list(graph.input), [], weights=None)
    proto.graph.CopyFrom(graph)
    nodes = [helper.make_node("Neg", ["a"], ["b"])]
    proto.functions.append(helper.make_function("f", "F", ["a"], outputs, nodes, [helper.make_opsetid("", 18)]))
    return proto


DAMAGES = {
    "undefined input": (
        lambda g: g.node[1].input.__setitem__(0, "nowhere"),
        ["node 'act' (Relu) uses 'nowhere', which nothing in the model defines"],
    ),
    "undefined output": (lambda g: g.output.add(name="nowhere"), ["returns 'nowhere', which nothing in that graph"]),
    "two nodes": (lambda g: g.node[1].output.__setitem__(0, "h"), ["'h' is defined 2 times in graph 'graph'"]),
    "node and input": (lambda g: g.node[1].output.__setitem__(0, "x"), ["'x' is defined 2 times"]),
    "node and weights": (lambda g: g.node[1].output.__setitem__(0, "w"), ["'w' is defined 2 times"]),
    "two inputs": (lambda g: g.input.add(name="x"), ["'x' is defined 2 times"]),
    "two weights": (lambda g: g.initializer.append(g.initializer[0]), ["'w' is defined 2 times"]),
    "cycle": (lambda g: g.node[0].input.__setitem__(0, "y"), ["graph 'graph' depend on each other in a cycle"]),
    "short weights": (
        lambda g: setattr(g.initializer[0], "raw_data", b"1234"),
        ["weights 'w' have 4 bytes", "FLOAT[3, 4] take 48"],
    ),
    "empty weights": (lambda g: g.initializer[0].ClearField("raw_data"), ["weights 'w' have 0 bytes"]),
    "untyped weights": (lambda g: g.initializer[0].ClearField("data_type"), ["weights 'w' have no element type"]),
    "unknown type": (lambda g: setattr(g.initializer[0], "data_type", 999), ["cannot be represented", "999"]),
    "untyped attribute": (
        lambda g: g.node[0].attribute.add(name="old", i=1),
        ["attribute 'old' of node 'mm' (MatMul) has no type"],
    ),
    "sparse weights": (
        lambda g: g.sparse_initializer.add().values.__setattr__("name", "s"),
        ["weights 's' are sparse"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model(damage, tmp_path):
    edit, parts = DAMAGES[damage]
    proto = edited(edit)
    refused(proto, "the given ModelProto: ", *parts)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    refused(path, str(path), *parts)


def test_a_branch_that_returns_what_it_did_not_make():
    then = helper.make_graph([], "then", [], [value_info("x")])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [], [value_info("e")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    proto = model_of([node], {"x": X, "c": np.array(True)}, ["y"])
    refused(proto, "graph 'then' returns 'x'", "put an Identity node between")


def test_a_damaged_subgraph_or_function():
    then = helper.make_graph([helper.make_node("Neg", ["nowhere"], ["t"], name="neg")], "then", [], [value_info("t")])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [], [value_info("e")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    refused(model_of([node], {"x": X, "c": np.array(True)}, ["y"]), "node 'neg' (Neg) uses 'nowhere'")
    refused(_add_function(small().graph, "nowhere"), "graph 'F' returns 'nowhere'")
    read(_add_function(small().graph, "b"))


def test_an_ir_model_with_a_loose_end():
    source = ir.from_proto(small())
    source.graph[1].replace_input_with(0, ir.Value(name="loose"))
    refused(source, "the given ir.Model: node 'act' (Relu) uses 'loose'")


def test_an_ir_model_with_nodes_out_of_order():
    source = ir.from_proto(small())
    first = source.graph[0]
    source.graph.remove(first)
    source.graph.append(first)
    refused(source, "cannot be copied", "model.graph.sort()")


# --- external data ---------------------------------------------------------------------------


def test_external_data_that_is_missing(tmp_path):
    path = with_external_data(tmp_path)
    (tmp_path / "weights.bin").unlink()
    refused(path, str(path), "'w'", "'weights.bin'", "no such file", "copy it there")
    (tmp_path / "weights.bin").mkdir()
    refused(path, "no such file")


def test_external_data_that_is_cut_off(tmp_path):
    path = with_external_data(tmp_path)
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes()[:-1])
    refused(path, "bytes 8 to 56", "has only 55 bytes")


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../outside.bin", "a/../../outside.bin", r"C:\w.bin", r"..\w.bin", ""]
)
def test_external_data_outside_of_the_folder(location, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(64))
    refused(with_external_data(folder, location, write=False), "not a path inside of the model's folder")


def test_external_data_behind_a_link_that_leads_out(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    path = with_external_data(folder)
    (folder / "weights.bin").rename(tmp_path / "outside.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "outside.bin")
    refused(path, "a link that leads out of the model's folder", "put a copy of the file in its place")
    (folder / "weights.bin").unlink()
    os.link(tmp_path / "outside.bin", folder / "weights.bin")
    refused(path, "several hard links", "put a copy of the file in its place")


def test_external_data_of_another_size_than_its_shape(tmp_path):
    path = with_external_data(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].dims[0] = 2
    path.write_bytes(proto.SerializeToString())
    refused(path, "48 bytes", "FLOAT[2, 4] take 32")


def test_external_data_of_what_has_no_folder(tmp_path, monkeypatch):
    path = with_external_data(tmp_path)
    monkeypatch.chdir(tmp_path)  # not even then: it would be a guess
    proto = onnx.load(path, load_external_data=False)
    refused(proto, "'weights.bin'", "give the path of the model file")
    refused(path.read_bytes(), "'weights.bin'", "give the path of the model file")
    assert_same(run(to_proto(read(onnx.load(path))), {"x": X}), run(small(), {"x": X}))


def test_external_data_in_functions_and_attributes_is_checked(tmp_path):
    path = with_external_data(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    weights = proto.graph.initializer.pop()
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weights))
    path.write_bytes(proto.SerializeToString())
    assert_same(run(to_proto(read(path)), {"x": X}), run(small(), {"x": X}))
    (tmp_path / "weights.bin").unlink()
    refused(path, "no such file")


def test_messages_are_one_paragraph():
    for edit, _ in DAMAGES.values():
        with pytest.raises(ModelReadError) as error:
            read(edited(edit))
        assert re.fullmatch(r"[^\n]{20,400}", str(error.value))
