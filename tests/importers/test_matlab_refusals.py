"""What is no network, or is outside of what genFunction writes, is refused: with the line, its text, and what to do."""

from __future__ import annotations

import builtins
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

import onnxgrad
from fixtures.make_matlab import FUNCTIONS
from fixtures.matlab.networks import Network
from fixtures.matlab.saved import as_object, saved
from fixtures.matlab.text import text_of
from onnxgrad.errors import ModelReadError
from onnxgrad.importers.matlab import convert

STATIC = text_of("static", *FUNCTIONS["static"])
CLOSED = text_of("closed", *FUNCTIONS["narx_closed_cell"])
Q = "Q = size(x1,2); % samples"


def replaced(old: str, new: str, text: str = STATIC) -> str:
    assert old in text, old
    return text.replace(old, new)


def without_first(name: str) -> str:
    """The matrix of a name without its first number."""
    found = re.sub(rf"({re.escape(name)} = \[)[^ ;]+[ ;]", r"\1", STATIC)
    assert found != STATIC
    return found


def given(name: str, value: str) -> str:
    found = re.sub(rf"{re.escape(name)} = [^\n]*;", f"{name} = {value};", STATIC)
    assert found != STATIC
    return found


#: Text of a file; what the message says; the text of the line that it names.
FILES: dict[str, tuple[str, str, str]] = {
    "a script": ("x = 1:10;\nplot(x)\n", "no file that MATLAB's genFunction wrote", "x = 1:10;"),
    "Objective-C": ("#import <A.h>\n@interface A\n", "no file that MATLAB's genFunction wrote", "#import <A.h>"),
    "nothing": ("", "no file that MATLAB's genFunction wrote", ""),
    "another function": ("function y = f(x)\ny = x;\nend\n", "genFunction(net,'name')", "function y = f(x)"),
    "a class": ("classdef A\nfunction f()\nb1 = 1;\nend\nend\n", "'classdef'", "classdef A"),
    "a caller": ("function z = g(x)\nz = 2*static(x);\nend\n" + STATIC, "'static' in line 4", "function z = g(x)"),
    "cut in a matrix": (STATIC[: STATIC.index("IW1_1") + 40], "the '[' is never closed", "IW1_1 = ["),
    "cut in a call": (STATIC[: STATIC.index("+ IW1_1")], "the '(' is never closed", "a1 = tansig_apply("),
    "cut behind the constants": (STATIC[: STATIC.index("% ===== SIM")], "'y1', which it gives no value", "function"),
    "cut before the functions": (STATIC[: STATIC.index("% ===== MOD")], "'mapminmax_apply' is called and not", "xp1 ="),
    "cut in a function": (STATIC[: STATIC.index("x = bsxfun(@rdivide")], "it was changed, or is cut off", "function x"),
    "a short row": (re.sub(r"(IW1_1 = \[\S+) \S+ ", r"\1 ", STATIC), "a row of 3 elements below one of 2", "IW1_1 = ["),
    "a short bias": (without_first("b1"), "sizes do not fit: 3 elements stand where 4 should", "a1 = tansig_apply"),
    "one bias": (given("b1", "0.5"), "sizes do not fit: 1 elements stand where 4 should", "a1 = tansig_apply"),
    "one weight": (given("IW1_1", "0.5"), "sizes do not fit: 1 elements stand where 3 should", "a1 = tansig_apply"),
    "short scaling": (without_first("x1_step1.gain"), "sizes do not fit: 2 elements", "xp1 = mapminmax_apply"),
    "a long output": (given("y1_step1.xoffset", "[1;2;3]"), "3 elements stand where 2", "y1 = mapminmax_reverse"),
    "other weights": (given("LW2_1", "[1 2 3;4 5 6]"), "sizes do not fit: 3 elements stand where 4", "a2 = repmat(b2"),
    "a missing setting": (replaced("x1_step1.ymin = -1;", ""), "the setting 'ymin' is missing", "xp1 = mapminmax"),
    "a missing weight": (re.sub("LW2_1 = .*", "", STATIC), "'LW2_1' is unknown", "a2 = repmat(b2"),
    "a transfer function": (STATIC.replace("tansig", "foosig"), "'foosig_apply' is unknown; known are", "a1 = foosig"),
    "a processing function": (STATIC.replace("mapminmax_a", "mapfoo_a"), "'mapfoo_apply' is unknown", "xp1 = mapfoo"),
    "a function that is another": (
        replaced("a = 2 ./ (1 + exp(-2*n)) - 1;", "a = max(0,n);"), "'tansig_apply' does not compute", "function a = "
    ),
    "scaling that is other": (
        replaced("@minus,x,settings.xoffset", "@plus,x,settings.xoffset"), "'mapminmax_apply' does not", "function y = "
    ),
    "no number": (given("x1_step1.ymin", "-1e"), "'1e' is no real number", "x1_step1.ymin = -1e"),
    "a strange character": (given("x1_step1.ymin", "-1$"), "the character '$'", "x1_step1.ymin = -1$"),
    "a loop without an end": (replaced(Q, "while true\nend"), "'while' does not occur", "while true"),
    "a long loop": (replaced(Q, "for i = 1:1000000, Q = i; end"), "too many steps", "for i = "),
    "a huge matrix": (replaced(Q, "Q = zeros(1000000,1000000);"), "1e+12 elements", "Q = zeros("),
    "evaluation": (replaced(Q, "eval('Q = 1;')"), "'eval' is unknown", "eval('Q = 1;')"),
    "an output file": (replaced(Q, "fopen('x');"), "'fopen' is unknown", "fopen('x');"),
    "an average over samples": (replaced(Q, "Q = 1; x1 = x1 - mean(x1,2);"), "'mean' is not known on", "Q = 1; x1 = "),
    "the number of samples": (replaced(Q, Q[:15] + "; x1 = x1/Q;"), "samples or time steps enters", "Q = size"),
    "one of both sizes": (
        replaced(Q, "[R,Q] = size(x1); x1 = x1/R;", STATIC.replace("%   x1 = 3xQ matrix, input #1", "%")),
        "samples or time steps enters",
        "[R,Q] = size",
    ),
    "a choice by the samples": (replaced(Q, "if size(x1,2) > 1, Q = 2; end"), "depends on the number of", "if size"),
    "a choice by the inputs": (replaced(Q, "if x1 > 0, Q = 2; end"), "'>' is applied to what depends", "if x1 > 0"),
    "a sample of its own": (replaced(Q, "Q = 1; x1 = x1(1);"), "such a part of a variable", "Q = 1; x1 = x1(1);"),
    "a product of inputs": (replaced(Q, "Q = 1; x1 = x1*x1;"), "multiplied, as a matrix", "Q = 1; x1 = x1*x1;"),
    "a row too many": (replaced(Q, Q[:15] + "; x1 = x1(4,:);"), "sizes do not fit", "xp1 = mapminmax_apply"),
    "nesting": (given("x1_step1.ymin", "(" * 5000 + "1" + ")" * 5000), "nested too deeply", "function [y1]"),
    "an open string": (given("x1_step1.ymin", "'1"), "is never closed", "x1_step1.ymin = '1;"),
    "a bracket too many": (given("x1_step1.ymin", "1]"), "the ']' closes nothing", "x1_step1.ymin = 1];"),
    "a missing argument": (replaced("repmat(b1,1,Q)", "repmat(b1,1,)"), "should be an argument", "a1 = tansig"),
    "a result without a value": (
        replaced("function a = tansig_apply", "function b = tansig_apply"),
        "'tansig_apply' returns 'b', which it gives no value",
        "function b = tansig_apply",
    ),
    "an output that is not computed": (
        replaced("y1 = mapminmax_reverse(a2,y1_step1);", "y1 = zeros(2,Q);"),
        "'y1' depends on no input",
        "function [y1]",
    ),
    "a block of arguments": (
        replaced("% ===== NEURAL", "arguments\nx1 (3,:) double\nend\n% ===== NEURAL"),
        "a block of 'arguments'",
        "arguments",
    ),
    "an end that is a word": (
        replaced(Q, "if nargin > 5, hold end\nQ = 1;"), "the end of a statement, and there is 'end'", "if nargin"
    ),
    "a branch that is followed": (replaced(Q, "switch 1\n case 1\n Q = 1;\nend"), "'switch' does not", "switch 1"),
    "an error": (replaced(Q, "if size(x1,1) ~= 4, error('bad size'); end"), "with an error: bad size", "if size"),
    "two statements": (given("x1_step1.ymin", "1 2"), "there should be the end of a statement", "x1_step1.ymin = 1 2;"),
    "other delays": (replaced("LW1_2*tapdelay2", "LW1_2*tapdelay1", CLOSED), "sizes do not fit", "Ad1{adts} = "),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_functions(tmp_path: Path, what: str) -> None:
    text, says, line_text = FILES[what]
    path = tmp_path / "net.m"
    path.write_text(text)
    with pytest.raises(ModelReadError) as caught:
        onnxgrad.load(path)
    message = str(caught.value)
    assert message.startswith(f"{str(path)!r}, line ")
    assert says in message
    line = int(re.search(r"line (\d+)", message)[1])  # type: ignore[index]
    shown = message.split("\n  line ")[1]
    assert shown.startswith(f"{line}: {line_text}")
    assert (text.split("\n")[line - 1] if text else "").strip().startswith(shown.split(": ", 1)[1].rstrip(" …"))
    assert len(message) < 1200


@pytest.mark.parametrize("length", range(0, len(STATIC), 97))
def test_no_cut_makes_another_network(tmp_path: Path, length: int) -> None:
    """A file that ends too early is refused, wherever; or nothing but blanks and the last words are missing."""
    path = tmp_path / "net.m"
    path.write_text(STATIC[:length])
    try:
        f = onnxgrad.load(path)
    except ModelReadError:
        return
    assert len(STATIC) - length < 10
    x = np.ones((1, 3))
    np.testing.assert_array_equal(f(x), onnxgrad.load(_written(tmp_path / "whole.m", STATIC))(x))


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# --- .mat files -----------------------------------------------------------------------------------


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def opaque(name: str, class_name: str) -> bytes:
    """An object of one of MATLAB's newer classes, as far as others can read it."""
    one = element(6, struct.pack("<II", 6, 0)) + element(5, struct.pack("<ii", 1, 1)) + element(1, b"")
    one = element(14, one + element(9, struct.pack("<d", 1.0)))
    strings = (element(1, text.encode()) for text in (name, "MCOS", class_name))
    return element(14, element(6, struct.pack("<II", 17, 0)) + b"".join(strings) + one)


def net(change: Callable[[dict[str, Any]], Any] | None = None, name: str = "static") -> Any:
    fields = saved(FUNCTIONS[name][0])
    if change is not None:
        change(fields)
    return as_object(fields)


def put(field: str, value: Any, *path: Any) -> Callable[[dict[str, Any]], Any]:
    """A change of a field of a network, which lies in a cell of another field, or deeper."""

    def change(fields: dict[str, Any]) -> None:
        holder: Any = fields
        for step in path:
            holder = holder[step]
        holder[field] = value

    return change


def cut(field: str, *path: Any) -> Callable[[dict[str, Any]], Any]:
    def change(fields: dict[str, Any]) -> None:
        holder: Any = fields
        for step in path:
            holder = holder[step]
        del holder[field]

    return change


def row(*values: Any) -> np.ndarray:
    found = np.empty((1, len(values)), dtype=object)
    found[0, :] = values
    return found


def looped_at_once(fields: dict[str, Any]) -> None:
    fields["layerConnect"][0, 1] = 1
    fields["layerWeights"][0, 1] = {"delays": 0, "weightFcn": "dotprod"}
    fields["LW"][0, 1] = np.ones((4, 2))


def recoding(fields: dict[str, Any]) -> None:
    described = fields["inputs"][0, 0]
    described["processFcns"] = row("fixunknowns", "mapminmax")
    described["processSettings"] = row(
        {"name": "fixunknowns", "xrows": 3, "yrows": 4, "unknown": 1.0}, described["processSettings"][0, 0]
    )


#: What is changed in a saved network, and what the message says.
SAVED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "transfer function": (put("transferFcn", "foosig", "layers", (0, 0)), "layer 1 has the transfer function 'foosig'"),
    "net input function": (put("netInputFcn", "foo", "layers", (1, 0)), "layer 2 has the net input function 'foo'"),
    "weight function": (put("weightFcn", "linkdist", "inputWeights", (0, 0)), "have the weight function 'linkdist'"),
    "processing function": (
        put("processFcns", row("lvqoutputs"), "outputs", (0, 1)), "output 1 has the processing function 'lvqoutputs'"
    ),
    "settings that are missing": (
        put("processSettings", row(), "inputs", (0, 0)), "input 1 has 1 processing functions, and settings for 0"
    ),
    "a setting that is missing": (
        put("processSettings", row({"name": "mapminmax"}), "inputs", (0, 0)), "input 1: the setting 'xoffset'"
    ),
    "weights that do not fit": (put("LW", row()), "the weights LW{2,1} are empty"),
    "other weights": (lambda f: put((1, 0), np.ones((2, 3)), "LW")(f), "layer 2: sizes do not fit: 3 elements stand"),
    "a short bias": (lambda f: put((0, 0), np.ones((3, 1)), "b")(f), "layer 1: sizes do not fit: 3 elements stand"),
    "no bias": (lambda f: put((0, 0), np.ones((0, 0)), "b")(f), "the bias b{1} is empty"),
    "no output": (put("outputConnect", np.zeros((1, 2))), "the network has no output"),
    "a loop": (looped_at_once, "a loop of layers without a delay"),
    "unknown values": (recoding, "fixunknowns recodes rows"),
    "an early version": (cut("inputConnect"), "no field 'inputConnect'"),
    "a layer without a function": (cut("transferFcn", "layers", (0, 0)), "layer 1 has no field 'transferFcn'"),
}  # fmt: skip


@pytest.mark.parametrize("what", SAVED)
def test_saved_networks(tmp_path: Path, what: str) -> None:
    change, says = SAVED[what]
    path = tmp_path / "net.mat"
    savemat(path, {"net": net(change)})
    with pytest.raises(ModelReadError, match=re.escape(says)) as caught:
        onnxgrad.load(path)
    assert f"{str(path)!r}, variable 'net': " in str(caught.value)
    assert ";" in str(caught.value)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ModelReadError) as caught:
        onnxgrad.load(path, **options)
    return str(caught.value)


def test_no_network(tmp_path: Path) -> None:
    path = tmp_path / "data.mat"
    savemat(path, {"x": np.ones((3, 4)), "tr": {"gradient": np.ones(3)}, "names": np.array(["a", "b"])})
    message = refusal(path)
    for part in ("it has no network", "'x' (matrix of 3 x 4)", "'tr' (struct)", "'names' (char)", "'-v7'"):
        assert part in message
    assert "the variable 'x' is no network" in refusal(path, variable="x")
    assert "has no variable 'y'" in refusal(path, variable="y")
    savemat(path, {})
    assert "there is no variable at all" in refusal(path)


def test_several_networks(tmp_path: Path) -> None:
    path = tmp_path / "nets.mat"
    savemat(path, {"net": net(), "best": {"net": net(name="deep"), "error": 0.1}, "x": 1.0})
    message = refusal(path)
    assert "several networks: 'net', 'best.net'" in message
    assert "variable='net'" in message
    assert "--variable net" in message
    assert len(onnxgrad.load(path, variable="net").outputs) == 1
    assert onnxgrad.load(path, variable="best.net").inputs[0].shape == ("N", 3)
    assert "there is the network 'net' and the network 'best.net'" in refusal(path, variable="other")


def test_networks_in_cell_arrays_and_arrays_of_structs(tmp_path: Path) -> None:
    """As people keep the folds of a validation; elements are called as in MATLAB."""
    path = tmp_path / "nets.mat"
    folds = np.empty((1, 2), dtype=[("net", object), ("error", object)])
    folds["net"][0, :], folds["error"][0, :] = [net(), net(name="deep")], [0.1, 0.2]
    savemat(path, {"nets": row(net(), np.zeros((0, 0)), net(name="deep")), "folds": folds, "x": row(1.0, 2.0)})
    message = refusal(path)
    assert "several networks: 'nets{1}', 'nets{3}', 'folds(1).net', 'folds(2).net'" in message
    assert "--variable 'nets{1}'" in message
    assert len(convert(path, "nets{3}").graph.node) > len(convert(path, "nets{1}").graph.node)
    assert convert(path, "folds(2).net").graph.node == convert(path, "nets{3}").graph.node
    assert "has no variable 'nets{4}'" in refusal(path, variable="nets{4}")


def test_version_7_3(tmp_path: Path) -> None:
    path = tmp_path / "net.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n")
    assert "save('f.mat','net','-v7')" in refusal(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    assert "version 7.3" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4" + bytes(500), b"MATLAB 5.0 MAT-file".ljust(128) + bytes(7), bytes(90)]
)
def test_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.mat"
    path.write_bytes(content)
    assert "no .mat file, or is damaged or cut off" in refusal(path) or "it has no network" in refusal(path)


def test_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "net.mat"
    savemat(path, {"net": net()})
    whole = path.read_bytes()
    for length in range(200, len(whole) - 8, 997):
        path.write_bytes(whole[:length])
        assert "save" in refusal(path)


@pytest.mark.parametrize("class_name", ["SeriesNetwork", "DAGNetwork", "dlnetwork"])
def test_deep_learning(tmp_path: Path, class_name: str) -> None:
    path = tmp_path / "deep.mat"
    savemat(path, {"x": np.ones(3)})
    path.write_bytes(path.read_bytes() + opaque("best", class_name) + opaque("t", "table"))
    message = refusal(path)
    assert f"'best' is a deep-learning object of the class {class_name}" in message
    assert "exportONNXNetwork(best,'deep.onnx')" in message
    assert message == refusal(path, variable="best")
    assert "'t' is an object of the class table" in refusal(path, variable="t")


def test_a_network_beside_objects(tmp_path: Path) -> None:
    path = tmp_path / "all.mat"
    savemat(path, {"net": net()})
    path.write_bytes(path.read_bytes() + opaque("t", "table"))
    assert onnxgrad.load(path).inputs[0].shape == ("N", 3)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "net.mat"
    savemat(path, {"net": net()})
    found = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return found(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert "pip install 'onnxgrad[matlab]'" in refusal(path)


# --- arguments ------------------------------------------------------------------------------------


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "none.m")
    assert "there is no such file" in refusal(tmp_path / "none.mat")
    (tmp_path / "folder.m").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.m")


def test_arguments(tmp_path: Path) -> None:
    path = _written(tmp_path / "net.m", STATIC)
    assert "variable='net' is of use only with a .mat file" in refusal(path, variable="net")
    assert "a sample is of use only" in refusal(path, sample=np.ones((2, 3)))
    onnx_file = tmp_path / "net.onnx"
    onnx_file.write_bytes(convert(path).SerializeToString())
    assert "variable='net' is of use only with a file" in refusal(onnx_file, variable="net")
    with pytest.raises(ValueError, match="float16"):
        convert(path, dtype="float16")  # type: ignore[arg-type]


def test_a_network_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "net.mat"
    savemat(path, {"mein_Netz": net(), "x": np.ones(3)})
    assert isinstance(FUNCTIONS["static"][0], Network)
    assert convert(path).graph.name == "mein_Netz"
