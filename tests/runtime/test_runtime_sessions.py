"""Where models come from, how sessions are made, and what onnxruntime refuses."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper
from runtime_models import SAME, Net, model, value

import onnxgrad
from onnxgrad.errors import ModelReadError, RunError
from onnxgrad.runtime import program, session, sources
from onnxgrad.runtime.sources import Imported, register_importer

NET = Net(4, 6, 3)
X = np.random.default_rng(3).normal(size=(5, 4))


def check(f: onnxgrad.Function) -> None:
    np.testing.assert_allclose(f(X), NET(X), **SAME)
    np.testing.assert_allclose(f.jacobian(X), NET.jacobian(X), **SAME)


# --- sources --------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(NET.proto, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def path_with_weights_beside(tmp_path: Path) -> Path:
    path = tmp_path / "beside.onnx"
    onnx.save(onnx.load_from_string(NET.bytes), path, save_as_external_data=True, location="w.data", size_threshold=0)
    return path


@pytest.mark.parametrize("form", ["path", "text", "bytes", "bytearray", "proto", "ir"])
def test_sources(form: str, path: Path) -> None:
    given: dict[str, Any] = {
        "path": path,
        "text": str(path),
        "bytes": NET.bytes,
        "bytearray": bytearray(NET.bytes),
        "proto": NET.proto,
        "ir": ir.from_proto(NET.proto),
    }
    check(onnxgrad.load(given[form]))


def test_a_file_in_text_form(tmp_path: Path) -> None:
    onnx.save(NET.proto, tmp_path / "net.textproto")
    check(onnxgrad.load(tmp_path / "net.textproto"))


def test_a_file_may_go_once_it_is_loaded(path: Path) -> None:
    f = onnxgrad.load(path)
    path.unlink()
    check(f)
    check(pickle.loads(pickle.dumps(f)))


def test_weights_in_other_files_stay_there(path_with_weights_beside: Path) -> None:
    f = onnxgrad.load(path_with_weights_beside)
    check(f)
    data = pickle.dumps(f)
    assert len(data) < 1000
    check(pickle.loads(data))


def test_a_large_file_is_not_held_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SNAPSHOT_BYTES", 100)
    f = onnxgrad.load(path)
    check(f)
    assert f._origin.file == os.fspath(path)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_models_too_large_for_protobuf(
    where: str, path_with_weights_beside: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(session, "_SERIALIZED_LIMIT", 100)
    monkeypatch.setattr("tempfile.tempdir", os.fspath(tmp_path))
    f = onnxgrad.load(ir.from_proto(NET.proto) if where == "memory" else path_with_weights_beside)
    check(f)
    assert not list(tmp_path.glob("onnxgrad-*"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (3.5, "a float is no model that can be loaded; give the path"),
        ("nowhere.onnx", "there is no such file"),
        (b"junk", "is not an ONNX model"),
        (None, "a NoneType is no model"),
    ],
)
def test_no_sources(source: Any, words: str) -> None:
    with pytest.raises(ModelReadError, match=words):
        onnxgrad.load(source)


def test_a_sample_is_for_what_is_converted() -> None:
    with pytest.raises(ModelReadError, match="a sample is of use only"):
        onnxgrad.load(NET.bytes, sample=X)


def test_importers_enter_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_IMPORTERS", [])
    register_importer(lambda source: isinstance(source, Net), lambda net, sample: Imported(net.proto, tuple("dcba")))
    f = onnxgrad.load(NET, sample=X)
    check(f)
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("dcba"))
    np.testing.assert_array_equal(f(frame[list("abcd")]), f(X))
    check(pickle.loads(pickle.dumps(f)))
    with pytest.raises(onnxgrad.FeedError, match="'d' is not a column"):
        f(frame[["a", "b"]])


# --- processes and threads ------------------------------------------------------------------------


def _jacobian(f: onnxgrad.Function, x: np.ndarray) -> np.ndarray:
    return f.jacobian(x)  # type: ignore[no-any-return]


def test_a_function_runs_in_another_process() -> None:
    f = onnxgrad.load(NET.proto, threads=1, session_options={"session.intra_op.allow_spinning": 0})
    f.jacobian(X)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        np.testing.assert_allclose(pool.submit(_jacobian, f, X).result(), NET.jacobian(X), **SAME)


def test_a_function_is_safe_from_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    make = program.open_model
    monkeypatch.setattr(program, "open_model", lambda *args: made.append(args) or make(*args))
    f = onnxgrad.load(NET.bytes, threads=1)
    ask = [f.jacobian, f.value_and_jacobian, lambda x: f.gradient(x, index=1), f] * 20
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda call: call(X), ask))
    assert len(made) == 3
    for i in range(0, len(results), 4):
        jacobian, (values, again), gradient, plain = results[i : i + 4]
        np.testing.assert_allclose(jacobian, NET.jacobian(X), **SAME)
        np.testing.assert_allclose(again, jacobian, **SAME)
        np.testing.assert_allclose(gradient, jacobian[:, 1], **SAME)
        np.testing.assert_allclose(values, plain, **SAME)


# --- settings -------------------------------------------------------------------------------------


def _made_by_a_function() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 3
    return options


@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        ({"threads": 2}, 2),
        ({"session_options": {"intra_op_num_threads": 4, "session.intra_op.allow_spinning": "0"}}, 4),
        ({"session_options": {"inter_op_num_threads": 1}, "threads": 2}, 2),
        ({"session_options": _made_by_a_function}, 3),
        ({"session_options": _made_by_a_function()}, 3),
        ({"providers": ["CPUExecutionProvider"]}, 0),
        ({"providers": [("CPUExecutionProvider", {})]}, 0),
    ],
)
def test_settings_reach_the_session(settings: dict[str, Any], threads: int) -> None:
    f = onnxgrad.load(NET.bytes, **settings)
    check(f)
    assert f._plain is not None
    made = f._plain._session._session
    assert made.get_session_options().intra_op_num_threads == threads
    assert made.get_providers() == ["CPUExecutionProvider"]


def test_session_options_themselves_cannot_be_pickled() -> None:
    f = onnxgrad.load(NET.bytes, session_options=ort.SessionOptions())
    with pytest.raises(TypeError, match="as a dictionary, or as a function"):
        pickle.dumps(f)
    check(pickle.loads(pickle.dumps(onnxgrad.load(NET.bytes, session_options=_made_by_a_function))))


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"providers": ["TurboExecutionProvider"]}, RunError, "has no 'TurboExecutionProvider' here, only .*CPU"),
        ({"threads": 0}, ValueError, "threads=0"),
        ({"session_options": {"treads": 1}}, ValueError, "no attribute 'treads'"),
        ({"session_options": ort.SessionOptions(), "threads": 1}, ValueError, "both given"),
    ],
)
def test_settings_that_do_not_work(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        onnxgrad.load(NET.bytes, **settings)


# --- what onnxruntime refuses ---------------------------------------------------------------------


def bad(node: onnx.NodeProto, dtype: type = np.float32, opset: int = 20, domain: str = "") -> onnx.ModelProto:
    node.name = "culprit"
    node.domain = domain
    proto = model([node], [value("x", ["N", 3], dtype)], [value("y", ["N", 3], dtype)], opset=opset)
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


REFUSED = [
    (bad(helper.make_node("Foo", ["x"], ["y"]), domain="my"), r"refuses the model.*my:Foo.*register the library"),
    (bad(helper.make_node("Erf", ["x"], ["y"]), np.float64), r"refuses the model at node 'culprit' \(Erf\): .*float32"),
    (bad(helper.make_node("MatMul", ["x", "x"], ["y"])), r"failed at node 'culprit' \(MatMul\): .*dimension mismatch"),
    (bad(helper.make_node("Tanh", ["x", "x"], ["y"])), r"refuses the model at node 'culprit'.*: .*Tanh"),
]


@pytest.mark.parametrize(("proto", "words"), REFUSED, ids=["unknown", "no kernel", "at run time", "invalid"])
def test_refusals_have_its_words_and_the_node(
    proto: onnx.ModelProto, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    f = onnxgrad.load(proto)
    with pytest.raises(RunError, match=words):
        f(np.ones((2, 3)))
    assert capfd.readouterr() == ("", "")


def test_types_that_onnxruntime_does_not_hand_to_python() -> None:
    import ml_dtypes

    nodes = [helper.make_node("Cast", ["x"], ["f"], to=1), helper.make_node("Cast", ["f"], ["y"], to=16)]
    kind = onnx.TensorProto.BFLOAT16
    x, y = (helper.make_tensor_value_info(name, kind, ["N", 3]) for name in "xy")
    f = onnxgrad.load(model(nodes, [x], [y]))
    assert f.inputs[0].dtype == ml_dtypes.bfloat16
    with pytest.raises(RunError, match=r"no such arrays in Python .*put Cast nodes"):
        f(np.ones((2, 3)))


def test_a_derivative_without_kernel_names_the_node_too() -> None:
    f = onnxgrad.load(bad(helper.make_node("Softplus", ["x"], ["y"]), np.float64))
    with pytest.raises(RunError, match=r"at node .*\(Softplus\)"):
        f.value_and_jacobian(np.ones((2, 3)))


def test_what_reading_puts_in_order_is_run() -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(NET.proto)
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    check(onnxgrad.load(proto))
    proto.opset_import[0].domain = "com.example.unused"  # that of the standard operators is missing
    check(onnxgrad.load(proto))


def test_initializers_that_are_inputs_too_need_not_be_fed() -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(NET.proto)
    proto.graph.input.append(value("b0", [6]))
    f = onnxgrad.load(proto)
    assert [port.name for port in f.inputs] == ["x"]
    check(f)


def test_sequences_are_handed_through() -> None:
    nodes = [helper.make_node("SequenceConstruct", ["x", "x"], ["s"]), helper.make_node("Neg", ["x"], ["y"])]
    sequence = helper.make_tensor_sequence_value_info("s", onnx.TensorProto.DOUBLE, None)
    f = onnxgrad.load(model(nodes, [value("x", ["N", 4])], [sequence, value("y", ["N", 4])]))
    found = f(X)
    np.testing.assert_array_equal(found["s"][1], X)
    values, jacobian = f.value_and_jacobian(X)
    np.testing.assert_array_equal(values["s"][0], X)
    np.testing.assert_array_equal(jacobian, np.broadcast_to(-np.eye(4), (5, 4, 4)))
    back = model([helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0)], [sequence], [value("y", ["N", 4])])
    np.testing.assert_array_equal(onnxgrad.load(back)([X, X]), np.concatenate([X, X]))


def test_a_kernel_that_finds_out_late_that_it_lacks_a_type() -> None:
    """LSTM in float64: the session is made, and the run fails."""
    body = """<ir_version: 9, opset_import: ["" : 18]>
        g (double[N,1,2] x, double[1,4,2] w, double[1,4,1] r) => (double[N,1,1,1] y) {
            y = LSTM<hidden_size = 1>(x, w, r)
        }"""
    f = onnxgrad.load(onnx.parser.parse_model(body))
    with pytest.raises(RunError, match=r"\(LSTM\).*no kernel of this operator .* use the model in float32"):
        f(np.zeros((3, 1, 2)), np.zeros((1, 4, 2)), np.zeros((1, 4, 1)))
