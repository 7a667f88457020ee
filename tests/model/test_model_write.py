"""Writing: whole or not at all, whatever the size, and also over the file that is being read."""

import os

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from model_helpers import assert_same, floats, model_of, run
from onnx import helper

from onnxgrad.errors import ModelWriteError
from onnxgrad.model import write as writing
from onnxgrad.model.normalize import normalize
from onnxgrad.model.read import read
from onnxgrad.model.write import to_proto, write, write_all_or_nothing

X, W, SMALL = floats(2, 30), floats(30, 40, seed=1), floats(40, seed=2)
TEXT = np.array(["a long text " * 200], dtype=object)


def proto():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "small"], ["y"]),
        helper.make_node("Identity", ["text"], ["z"]),
    ]
    outputs = [helper.make_tensor_value_info("y", 1, [2, 40]), helper.make_tensor_value_info("z", 8, [1])]
    return model_of(nodes, {"x": X}, outputs, weights={"w": W, "small": SMALL, "text": TEXT})


def results(path):
    session = ort.InferenceSession(path)
    return session.run(None, {"x": X})


EXPECTED = ort.InferenceSession(proto().SerializeToString()).run(None, {"x": X})


def check(path):
    for got, expected in zip(results(path), EXPECTED, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_model_in_one_file(tmp_path):
    write(read(proto()), tmp_path / "m.onnx")
    check(tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_weights_in_a_file_of_their_own(tmp_path):
    write(read(proto()), str(tmp_path / "m.onnx"), external_data="w.bin")
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "w.bin"]
    check(tmp_path / "m.onnx")
    assert (tmp_path / "w.bin").stat().st_size == W.nbytes
    tensors = {t.name: t for t in onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer}
    assert {name: t.data_location for name, t in tensors.items()} == {"w": 1, "small": 0, "text": 0}


def test_many_weights_go_outside_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_EXTERNAL_FROM", 1000)
    write(read(proto()), tmp_path / "m.onnx")
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    check(tmp_path / "m.onnx")


def test_weights_that_lie_outside_come_along(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write(read(proto()), tmp_path / "a" / "m.onnx", external_data="w.bin")
    model = read(tmp_path / "a" / "m.onnx")
    write(model, tmp_path / "b" / "whole.onnx")
    write(model, tmp_path / "b" / "m.onnx", external_data="v.bin")
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    check(tmp_path / "b" / "whole.onnx")
    check(tmp_path / "b" / "m.onnx")


def test_weights_lie_beside_a_link_to_the_model(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "real.onnx").write_text("old")
    (tmp_path / "m.onnx").symlink_to("elsewhere/real.onnx")
    model = read(proto())
    write(model, tmp_path / "m.onnx", external_data="w.bin")
    assert (tmp_path / "m.onnx").is_symlink()
    assert_same(run(to_proto(read(tmp_path / "m.onnx")), {"x": X}), run(proto(), {"x": X}))


def test_weights_in_subgraphs_and_shared_ones(tmp_path):
    shared = ir.tensor(W, name="shared")
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["t"])], "then", [], [helper.make_tensor_value_info("t", 1, None)]
    )
    other = helper.make_graph(
        [helper.make_node("MatMul", ["x", "v"], ["e"])], "else", [], [helper.make_tensor_value_info("e", 1, None)]
    )
    for graph, name in ((then, "w"), (other, "v")):
        graph.initializer.append(onnx.numpy_helper.from_array(W, name))
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    model = ir.from_proto(model_of([node], {"x": X, "c": np.array(True)}, ["y"]))
    for graph in model.graph.subgraphs():
        next(iter(graph.initializers.values())).const_value = shared
    write(model, tmp_path / "m.onnx", external_data="w.bin")
    assert (tmp_path / "w.bin").stat().st_size == W.nbytes
    for c in (True, False):
        feeds = {"x": X, "c": np.array(c)}
        assert_same(run(to_proto(read(tmp_path / "m.onnx")), feeds), run(to_proto(model), feeds))


@pytest.mark.parametrize("looked_at", [False, True], ids=["not yet mapped", "mapped"])
def test_over_the_files_that_are_being_read(looked_at, tmp_path):
    path = tmp_path / "m.onnx"
    write(read(proto()), path, external_data="w.bin")
    other = read(path)
    model = normalize(read(path))
    weights = model.graph.initializers["w"]
    if looked_at:
        weights.const_value.numpy()
    model.graph.register_initializer(ir.Value(name="more", const_value=ir.tensor(W + 1, name="more")))
    model.graph.initializers.pop("w")
    model.graph.register_initializer(weights)  # now it comes second in the file
    for _ in range(2):
        write(model, path, external_data="w.bin")
        check(path)
        np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), W)
    assert_same(run(to_proto(model), {"x": X}), run(proto(), {"x": X}))
    write(model, path)
    check(path)
    stale = other.graph.initializers["w"].const_value
    assert stale.offset == 0  # another reader still has the old place in mind, as with any file that changes
    assert model.graph.initializers["w"].const_value.offset != 0


def test_over_a_file_with_small_tensors_and_those_of_attributes(tmp_path):
    """Only large initializers are put outside; what else lay in the file that is replaced must come along, too."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    constant = helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(SMALL[:3], "c"))
    model = model_of([*nodes, constant], {"x": X}, ["y", "c"], weights={"b": SMALL, "w": W})
    path, feeds = tmp_path / "m.onnx", {"x": X}
    expected = run(model, feeds)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0, convert_attribute=True)
    again = read(path)
    for _ in range(2):
        write(again, path, external_data="w.bin")
        assert_same(run(to_proto(again), feeds), expected)
        assert_same(run(to_proto(read(path)), feeds), expected)


def test_tensors_that_clones_share_do_not_go_wrong_silently(tmp_path):
    path = tmp_path / "m.onnx"
    write(read(proto()), path, external_data="w.bin")
    model = read(path)
    clone = model.clone()
    write(model, path, external_data="w.bin")
    with pytest.raises(ValueError, match="invalid"):
        clone.graph.initializers["w"].const_value.numpy()


def test_the_source_of_a_write_stays_as_it_is(tmp_path):
    model = read(proto())
    before = to_proto(model).SerializeToString()
    write(model, tmp_path / "m.onnx", external_data="w.bin")
    assert to_proto(model).SerializeToString() == before


def test_a_proto_is_complete_in_itself(tmp_path):
    write(read(proto()), tmp_path / "m.onnx", external_data="w.bin")
    whole = to_proto(read(tmp_path / "m.onnx"))
    (tmp_path / "w.bin").unlink()
    assert_same(run(whole, {"x": X}), run(proto(), {"x": X}))


def test_an_output_has_at_least_its_declared_type():
    written = to_proto(normalize(read(proto())))
    assert written.graph.output[0] == proto().graph.output[0]
    onnx.checker.check_model(written)


def test_a_proto_above_two_gigabytes_is_refused(monkeypatch):
    monkeypatch.setattr(writing, "_PROTOBUF_LIMIT", 1000)
    with pytest.raises(ModelWriteError, match="write it to a file instead"):
        to_proto(read(proto()))


# --- what cannot be written, and leaves nothing behind -------------------------------------


def refused(folder, path, message, **options):
    before = sorted(os.listdir(folder))
    with pytest.raises(ModelWriteError, match=message):
        write(read(proto()), path, **options)
    assert sorted(os.listdir(folder)) == before


def test_bad_targets(tmp_path):
    refused(tmp_path, tmp_path / "none" / "m.onnx", "there is no folder .* create it first")
    refused(tmp_path, tmp_path, "is a folder")
    (tmp_path / "m.onnx").write_text("old")
    refused(tmp_path, tmp_path / "m.onnx", "exists; give another path", overwrite=False)
    refused(tmp_path, tmp_path / "m.onnx" / "m.onnx", "there is no folder")
    refused(tmp_path, tmp_path / "n.onnx", "is not the name of another file", external_data="../w.bin")
    refused(tmp_path, tmp_path / "n.onnx", "is not the name of another file", external_data="n.onnx")
    refused(tmp_path, tmp_path / "n.onnx", "exists", external_data="m.onnx", overwrite=False)
    refused(tmp_path, "/dev/null", "device or pipe")
    assert (tmp_path / "m.onnx").read_text() == "old"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    refused(tmp_path, tmp_path / "m.onnx", "Permission denied; check the permissions")


@pytest.mark.parametrize("external_data", [None, "w.bin"])
@pytest.mark.parametrize("failing", ["replace", "write"])
def test_a_failure_half_way(failing, external_data, tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_text("old")

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    if failing == "replace":
        monkeypatch.setattr(os, "replace", full)
    else:
        monkeypatch.setattr(writing.Path, "write_bytes", full)
    refused(tmp_path, tmp_path / "m.onnx", "No space left on device; check", external_data=external_data)
    assert (tmp_path / "m.onnx").read_text() == "old"


# --- the means for any file -------------------------------------------------------------------


def test_any_file_appears_whole(tmp_path):
    path = tmp_path / "table.npz"
    with write_all_or_nothing(path) as temporary:
        assert temporary.suffix == ".npz"
        assert temporary.parent == tmp_path
        np.savez(temporary, a=X)
        assert not path.exists()
    np.testing.assert_array_equal(np.load(path)["a"], X)
    assert os.listdir(tmp_path) == ["table.npz"]


def test_any_file_appears_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write_half():
        with write_all_or_nothing(path) as temporary:
            temporary.write_text("half")
            raise KeyError("the writer's own error")

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(ModelWriteError, match="No such file"), write_all_or_nothing(tmp_path / "t.csv"):
        pass


def test_permissions_and_links_are_kept(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "real.txt").chmod(0o640)
    (tmp_path / "link.txt").symlink_to("real.txt")
    with write_all_or_nothing(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    assert (tmp_path / "real.txt").stat().st_mode & 0o777 == 0o640
