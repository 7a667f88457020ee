"""MATLAB networks: every fixture computes what GNU Octave recorded of it, and has the derivatives of its complex
step.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from scipy.io import savemat

import onnxgrad
from fixtures import make_matlab
from fixtures.make_matlab import FUNCTIONS, SAVED, edited, inputs_of
from fixtures.matlab.networks import Network
from fixtures.matlab.saved import as_object, saved
from fixtures.matlab.text import Style, text_of
from onnxgrad.errors import DisconnectedWarning, ModelReadError
from onnxgrad.importers.matlab import convert
from tests.importers import matlab_by_hand

FOLDER = Path(make_matlab.__file__).parent / "matlab"
RECORDED = dict(np.load(FOLDER / "recorded.npz"))
#: Settings are written with 15 digits, of which a subtraction may lose two; everything else is rounding.
NEAR = 1e-12

NETWORKS = {name: net for name, (net, _) in FUNCTIONS.items()} | {"edited": FUNCTIONS["static"][0]}
FILES = [f"{name}.m" for name in NETWORKS] + [f"{name}.mat" for name in SAVED] + ["static_struct.mat"]


def network_of(file: str) -> str:
    return Path(file).stem.removesuffix("_struct")


def recorded(name: str, net: Network) -> dict[str, np.ndarray]:
    return {key: RECORDED[f"{name}/{key}"] for key in inputs_of(net)}


def assert_near(found: np.ndarray, expected: np.ndarray, near: float = NEAR) -> None:
    """Compare, relative to the largest element."""
    assert found.shape == expected.shape
    assert abs(found - expected).max(initial=0) <= near * abs(expected).max(initial=0)


@pytest.mark.parametrize("file", FILES)
def test_as_recorded(file: str) -> None:
    name = network_of(file)
    net = NETWORKS[name]
    given = recorded(name, net)
    f = onnxgrad.load(FOLDER / file)
    assert [port.name for port in f.inputs] == list(given)
    assert [port.name for port in f.outputs] == [f"y{o}" for o in range(1, len(net.outputs) + 1)]
    assert all(port.dtype == np.float64 for port in (*f.inputs, *f.outputs))
    values = f(given)
    values = values if isinstance(values, dict) else {"y1": values}
    for output, value in values.items():
        expected = RECORDED[f"{name}/{output}"]
        assert_near(value, expected if given else expected[:1])
        for x in given:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", DisconnectedWarning
                )  # the current values, where only earlier ones count
                jacobian = f.jacobian(given, of=output, wrt=x)
            assert_near(jacobian, RECORDED[f"{name}/jac_{output}_{x}"])


@pytest.mark.parametrize("name", NETWORKS)
def test_octave_and_numpy_agree(name: str) -> None:
    """What was recorded is what the network computes by hand: two programs that know nothing of each other."""
    net = NETWORKS[name]
    given = recorded(name, net)
    for output, value in matlab_by_hand.evaluate(net, given, make_matlab.SAMPLES).items():
        assert_near(value, RECORDED[f"{name}/{output}"])
    for (output, x), jacobian in matlab_by_hand.jacobians(net, given, make_matlab.SAMPLES).items():
        assert_near(jacobian, RECORDED[f"{name}/jac_{output}_{x}"])


def test_the_recorded_derivatives_are_no_zeros() -> None:
    """Steps and what only earlier values reach apart, every Jacobian has something to compare."""
    for key, value in RECORDED.items():
        name, _, what = key.partition("/jac_")
        if not what or name in ("hardlim", "hardlims", "competitive", "constant_with_input"):
            continue
        late = name.startswith(("late", "narx")) and "_x" in what and "_xi" not in what
        assert (abs(value).max() == 0) == late, key


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_fixtures_are_those_of_the_script(name: str) -> None:
    text = (FOLDER / f"{name}.m").read_text(encoding="utf-8")
    assert text == text_of(name, *FUNCTIONS[name])


def test_the_edited_fixture_is_that_of_the_script() -> None:
    content = (FOLDER / "edited.m").read_bytes()
    assert content == edited(text_of("edited", *FUNCTIONS["static"]))
    assert b"\r\n" in content
    with pytest.raises(UnicodeDecodeError):
        content.decode("utf-8")


@pytest.mark.parametrize(
    "file", ["static.m", "static.mat", "narx_closed.m", "pattern.m", "competitive.mat", "constant.m"]
)
def test_float32(file: str) -> None:
    name = network_of(file)
    given = recorded(name, NETWORKS[name])
    model = convert(FOLDER / file, dtype="float32")
    kinds = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}
    value = onnxgrad.load(model)(given)
    assert value.dtype == np.float32
    expected = RECORDED[f"{name}/y1"]
    assert_near(value, expected if given else expected[:1], 1e-4)  # inputs of thousands lose four digits in float32


def test_the_graph_is_the_one_that_one_would_write() -> None:
    graph = convert(FOLDER / "static.m").graph
    operators = [node.op_type for node in graph.node if node.op_type != "Constant"]
    assert operators == "Sub Mul Add Gemm Tanh Gemm Sub Div Add".split()
    assert graph.name == "static"
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    net = NETWORKS["static"]
    for weight in net.weights:
        np.testing.assert_array_equal(weights[weight.name], weight.matrix)  # 20 digits say all
    for i, layer in enumerate(net.layers, 1):
        np.testing.assert_array_equal(weights[f"b{i}"], layer.bias)


def test_values_inside_have_their_names() -> None:
    f = onnxgrad.load(FOLDER / "static.m")
    x = RECORDED["static/x1"]
    chain = f.jacobian(x, of="y1", wrt="a1") @ f.jacobian(x, of="a1", wrt="xp1") @ f.jacobian(x, of="xp1", wrt="x1")
    np.testing.assert_allclose(chain, f.jacobian(x), rtol=1e-12)


def test_by_weights() -> None:
    """Derivatives by weights have the shape that the weights have in MATLAB."""
    for file in ("static.m", "static.mat"):
        f = onnxgrad.load(FOLDER / file)
        assert f.jacobian(RECORDED["static/x1"], wrt="LW2_1").shape == (4, 2, 2, 4)
        assert f.jacobian(RECORDED["static/x1"], wrt="b1").shape == (4, 2, 4)


def test_one_row_and_none() -> None:
    f = onnxgrad.load(FOLDER / "narx_closed_cell.m")
    given = recorded("narx_closed_cell", NETWORKS["narx_closed_cell"])
    np.testing.assert_allclose(f({k: v[:1] for k, v in given.items()}), f(given)[:1], rtol=1e-14)
    assert f({k: v[:0] for k, v in given.items()}).shape == (0, 1)


def test_both_forms_of_a_network_agree() -> None:
    """The function with matrices, that with cell arrays, and the saved network."""
    for name in ("delays", "late", "narx_open", "narx_closed", "looped", "two_inputs", "two_outputs"):
        given = recorded(name, NETWORKS[name])
        a, b, c = (onnxgrad.load(FOLDER / file)(given) for file in (f"{name}.m", f"{name}_cell.m", f"{name}.mat"))
        for y in a if isinstance(a, dict) else ():
            assert_near(b[y], a[y])
        if not isinstance(a, dict):
            assert_near(b, a)
            assert_near(c, a)


def test_a_rewritten_function_is_the_same(tmp_path: Path) -> None:
    """Comments, blanks, breaks, the name of the file, and helper functions in another order change nothing."""
    text = text_of("static", *FUNCTIONS["static"])
    main, helpers = text.split("% ===== MODULE FUNCTIONS ========")
    functions = [part for part in helpers.split("\n\n") if part.strip()]
    changed = (
        "%{\na comment of several lines: x = [1 2\n%}\n"
        + main.replace("% Layer 1\n", "").replace(" = ", "=").replace(",", " , ").replace("%#ok<*RPMT0>", "%#codegen")
        + "\n\n".join(reversed(functions))
    )
    (tmp_path / "another name.M").write_text(changed)
    x = RECORDED["static/x1"]
    np.testing.assert_array_equal(onnxgrad.load(tmp_path / "another name.M")(x), onnxgrad.load(FOLDER / "static.m")(x))


#: Lines of a function, and what people make of them without a change of what it computes.
REWRITTEN = {
    "the formula instead of the call": (
        "a1 = tansig_apply(repmat(b1,1,Q) + IW1_1*xp1);",
        "a1 = 2./(1+exp(-2*(IW1_1*xp1 + b1)))-1;",
    ),
    "a function of MATLAB": ("tansig_apply(repmat(b1,1,Q) + IW1_1*xp1);", "tanh(IW1_1*xp1 + repmat(b1,1,Q));"),
    "one of the toolbox": ("tansig_apply(repmat(b1,1,Q) + IW1_1*xp1);", "tansig(IW1_1*xp1 + repmat(b1,1,Q));"),
    "scaling in place": (
        "xp1 = mapminmax_apply(x1,x1_step1);",
        "xp1 = bsxfun(@plus,(x1 - repmat(x1_step1.xoffset,1,Q)).*x1_step1.gain,x1_step1.ymin);",
    ),
    "steps": ("a2 = repmat(b2,1,Q) + LW2_1*a1;", "n2 = LW2_1*a1;\nn2 = n2 + repmat(b2,1,Q);\na2 = n2;"),
    "two lines": ("a2 = repmat(b2,1,Q) + LW2_1*a1;", "a2 = repmat(b2,1,Q) + ... the bias\n   LW2_1*a1;"),
    "a loop": ("Q = size(x1,2); % samples", "Q = size(x1,2);\nk = 0; for i = 1:3, k = k + i; end"),
    "a condition": ("Q = size(x1,2); % samples", "if nargin < 1, error('no input'); else; Q = size(x1,2); end"),
    "a class": ("Q = size(x1,2); % samples", "assert(isa(x1,'double'));\nQ = size(x1,2);"),
    "a size that the header tells": (
        "Q = size(x1,2); % samples",
        "Q = size(x1,2);\nif size(x1,1) ~= 3\n error('three rows')\nend",
    ),
    "one sample at a time": ("Q = size(x1,2); % samples", "x1 = x1(:);\nQ = 1;"),
    "both sizes": ("Q = size(x1,2); % samples", "[R,Q] = size(x1);"),
    "both sizes as a row": ("Q = size(x1,2); % samples", "s = size(x1); Q = s(2);"),
    "words": ("Q = size(x1,2); % samples", "Q = size(x1,2);\ndisp('simulating'); fprintf('%d\\n', nnz(x1));"),
    "a return": ("y1 = mapminmax_reverse(a2,y1_step1);", "y1 = mapminmax_reverse(a2,y1_step1);\nreturn\ny1 = 0*y1;"),
    "settings at once": (
        "% Layer 1\n\nb1".replace("\n\n", "\n"),
        "x1_step1 = struct('xoffset',x1_step1.xoffset,'gain',x1_step1.gain,'ymin',x1_step1.ymin);\nb1",
    ),
    "functions of their own": (
        "% ===== MODULE FUNCTIONS ========",
        "function show(x)\nwhile any(x)\n switch x(end)\n case 1\n  hold on\n otherwise\n"
        "  try, x = eval(y{end}); catch e\n  end\n end\n x = x - 1;\nend\nfigure; plot(x, 'r'), grid on\nend",
    ),
    "halves": ("LW2_1*a1;", "[LW2_1(:,1:2), LW2_1(:,3:end)]*[a1(1:2,:); a1([3 4],:)];"),
}


@pytest.mark.parametrize("what", REWRITTEN)
def test_rewritten_lines(tmp_path: Path, what: str) -> None:
    text = text_of("static", *FUNCTIONS["static"])
    old, new = REWRITTEN[what]
    assert text.count(old) == 1
    (tmp_path / "net.m").write_text(text.replace(old, new))
    f, x = onnxgrad.load(tmp_path / "net.m"), RECORDED["static/x1"]
    assert_near(f(x), RECORDED["static/y1"])
    assert_near(f.jacobian(x), RECORDED["static/jac_y1_x1"])


def changed(tmp_path: Path, *changes: tuple[str, str]) -> Callable[..., Any]:
    text = text_of("static", *FUNCTIONS["static"])
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (tmp_path / "net.m").write_text(text)
    return onnxgrad.load(tmp_path / "net.m")


@pytest.mark.parametrize(
    "line", ["if nargin > 5, hold on, end", "if nargin > 5, grid on; title a; end", "if 0\nhold on\nend"]
)
def test_what_is_skipped_ends_where_it_ends(tmp_path: Path, line: str) -> None:
    """What comes behind a statement that is not understood, and not followed, is followed."""
    last = "y1 = mapminmax_reverse(a2,y1_step1);"
    f = changed(tmp_path, (last, f"{last}\n{line}\ny1 = 2*y1;"))
    assert_near(f(RECORDED["static/x1"]), 2 * RECORDED["static/y1"])


def test_powers_and_logarithms(tmp_path: Path) -> None:
    """What people put before and behind a network: data on a logarithmic scale, and powers."""
    f = changed(
        tmp_path,
        ("xp1 = mapminmax_apply(x1,x1_step1);", "xp1 = mapminmax_apply(log10(x1.^2 + 1),x1_step1);"),
        ("y1 = mapminmax_reverse(a2,y1_step1);", "y1 = 10.^(mapminmax_reverse(a2,y1_step1)/10) + log2(2 + a2.^2);"),
    )
    plain = changed(tmp_path)
    inner = changed(tmp_path, ("y1 = mapminmax_reverse(a2,y1_step1);", "y1 = a2;"))
    x = RECORDED["static/x1"]
    u, slope = np.log10(x**2 + 1), 2 * x / (x**2 + 1) / np.log(10)
    y, a = plain(u), inner(u)
    assert_near(f(x), 10 ** (y / 10) + np.log2(2 + a**2))
    by_y, by_a = 10 ** (y / 10) * np.log(10) / 10, 2 * a / (2 + a**2) / np.log(2)
    expected = by_y[:, :, None] * plain.jacobian(u) + by_a[:, :, None] * inner.jacobian(u)
    assert_near(f.jacobian(x), expected * slope[:, None, :])


def test_inputs_without_numbers(tmp_path: Path) -> None:
    """Arguments of other names are inputs of their own, whose sizes need not agree."""
    first = ("[y1] = static(x1)", "[y1] = static(u,v)")
    f = changed(tmp_path, first, ("Q = size(x1,2);", "x1 = [u(1:2,:); v]; Q = size(x1,2);"))
    assert [(port.name, port.shape) for port in f.inputs] == [("u", ("N", 2)), ("v", ("N", 1))]
    x = RECORDED["static/x1"]
    assert_near(f({"u": x[:, :2], "v": x[:, 2:]}), RECORDED["static/y1"])
    f = changed(tmp_path, ("[y1] = static(x1)", "[y1] = static(p,q,r)"), ("Q = size", "x1 = [r;p;q]; Q = size"))
    assert_near(f(p=x[:, 1:2], q=x[:, 2:], r=x[:, :1]), RECORDED["static/y1"])
    with pytest.raises(ModelReadError, match="sizes of the vectors that are joined cannot be told"):
        changed(tmp_path, first, ("Q = size(x1,2);", "x1 = [u;v]; Q = size(x1,2);"))


def test_a_closed_loop_without_inputs(tmp_path: Path) -> None:
    """A network that feeds itself has a cell array of no inputs, which is none of the model."""
    text = text_of("looped_cell", *FUNCTIONS["looped_cell"])
    for old, new in (
        (r"%   x1 = 2xQ matrix, input #1", "%   X = 0xTS cell, 0 inputs over TS timesteps"),
        (r"(?m)^x1_step1.*\n|^    Xp1 = .*\n|^IW1_1 = .*\n", ""),
        (r" \+ IW1_1\*Xp1", ""),
    ):
        text, count = re.subn(old, new, text)
        assert count
    (tmp_path / "net.m").write_text(text)
    f, whole = onnxgrad.load(tmp_path / "net.m"), onnxgrad.load(FOLDER / "looped_cell.m")
    assert [port.name for port in f.inputs] == ["ai2"]
    given = recorded("looped_cell", NETWORKS["looped_cell"])
    offset, gain = (np.ravel(NETWORKS["looped_cell"].inputs[0].steps[0].settings[s]) for s in ("xoffset", "gain"))
    given["x1"] = np.tile(offset + 1 / gain, (len(given["ai2"]), 1))  # scaled to zero
    assert_near(f(given["ai2"]), whole(given))
    assert_near(f.jacobian(given["ai2"]), whole.jacobian(given, of="y1", wrt="ai2"))


def test_rows_without_a_transpose(tmp_path: Path) -> None:
    """Samples as rows, multiplied from the left."""
    text = text_of("static", *FUNCTIONS["static"])
    for old, new in {
        "Q = size(x1,2)": "Q = size(x1,1)",
        "xp1 = mapminmax_apply(x1,x1_step1);": "xp1 = mapminmax_apply(x1',x1_step1)';",
        "repmat(b1,1,Q) + IW1_1*xp1": "repmat(b1',Q,1) + xp1*IW1_1'",
        "repmat(b2,1,Q) + LW2_1*a1": "a1*LW2_1' + b2'",
        "y1 = mapminmax_reverse(a2,y1_step1);": "y1 = mapminmax_reverse(a2.',y1_step1).';",
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "net.m").write_text(text)
    f, x = onnxgrad.load(tmp_path / "net.m"), RECORDED["static/x1"]
    assert_near(f(x), RECORDED["static/y1"])
    assert_near(f.jacobian(x), RECORDED["static/jac_y1_x1"])


def test_rows_that_are_removed() -> None:
    """A removed row is a zero column; the number of rows stands in the header, or in the settings."""
    for name in ("pattern", "pattern_old"):
        f = onnxgrad.load(FOLDER / f"{name}.m")
        assert f.inputs[0].shape == ("N", 5)
        jacobian = f.jacobian(RECORDED[f"{name}/x1"])
        assert (jacobian[:, :, [1, 4]] == 0).all()
        assert (abs(jacobian[:, :, [0, 2, 3]]).max(axis=(0, 1)) > 0).all()


def test_rows_that_are_removed_and_no_header(tmp_path: Path) -> None:
    """Without the header, the function takes as many rows as it uses."""
    lines = (FOLDER / "pattern.m").read_text().split("\n")
    (tmp_path / "net.m").write_text("\n".join(line for line in lines if not line.startswith("%")))
    assert onnxgrad.load(tmp_path / "net.m").inputs[0].shape == ("N", 4)


def test_long_lines(tmp_path: Path) -> None:
    """Matrices of a hundred thousand numbers are read at once."""
    net = FUNCTIONS["static"][0]
    rng = np.random.default_rng(0)
    net = Network(net.inputs, net.layers, [net.weights[0], net.weights[1]], net.outputs)
    text = text_of("net", net, Style())
    wide = rng.normal(size=(400, 250))
    rows = ";".join(" ".join(f"{v:.20g}" for v in row) for row in wide)
    (tmp_path / "net.m").write_text(text.replace("% Layer 1\n", f"% Layer 1\nIW9_9 = [{rows}];\n", 1))
    assert onnxgrad.load(tmp_path / "net.m").inputs[0].shape == ("N", 3)


def test_a_saved_object_and_its_fields_are_the_same() -> None:
    assert as_object(saved(NETWORKS["static"])).classname == "network"
    a, b = (onnxgrad.load(FOLDER / file) for file in ("static.mat", "static_struct.mat"))
    x = RECORDED["static/x1"]
    np.testing.assert_array_equal(a(x), b(x))


def test_time_series_with_samples_as_rows(tmp_path: Path) -> None:
    """The same with all arguments transposed, in both forms; layer states at once by cellfun."""
    matrix = text_of("net", *FUNCTIONS["narx_closed"])
    cell = text_of("net", *FUNCTIONS["narx_closed_cell"])
    cases = {
        "narx_closed": (
            matrix,
            ("TS = size(x1,2);", "x1 = x1'; xi1 = xi1'; ai2 = ai2'; TS = size(x1,2);"),
            ("% Final delay states", "y1 = y1';"),
        ),
        "narx_closed_cell": (
            cell,
            ("size(X{1},2)", "size(X{1},1)"),
            ("Xd1{ts} = map", "Xi{1,ts} = Xi{1,ts}'; Xd1{ts} = map"),
            ("Xd1{xdts} = map", "X{1,ts} = X{1,ts}'; Xd1{xdts} = map"),
            ("Y{1,ts} = mapminmax_reverse(Ad2{adts},y1_step1);", "Y{1,ts} = mapminmax_reverse(Ad2{adts},y1_step1)';"),
            ("Ad1 = [Ai(1,:)", "Ad1 = [cellfun(@transpose,Ai(1,:),'UniformOutput',false)"),
            ("Ad2 = [Ai(2,:)", "Ad2 = [cellfun(@transpose,Ai(2,:),'UniformOutput',false)"),
        ),
    }
    for name, (text, *changes) in cases.items():
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (tmp_path / "net.m").write_text(text)
        f, given = onnxgrad.load(tmp_path / "net.m"), recorded(name, NETWORKS[name])
        assert_near(f(given), RECORDED[f"{name}/y1"])
        assert_near(f.jacobian(given, of="y1", wrt="ai2"), RECORDED[f"{name}/jac_y1_ai2"])


def test_a_constant_network_in_cell_form(tmp_path: Path) -> None:
    text = text_of("net", FUNCTIONS["constant_with_input"][0], Style(cell=True))
    (tmp_path / "net.m").write_text(text)
    f = onnxgrad.load(tmp_path / "net.m")
    x = RECORDED["constant_with_input/x1"]
    assert f.inputs[0].shape == ("N", 2)
    assert_near(f(x), RECORDED["constant_with_input/y1"])
    with pytest.warns(DisconnectedWarning):
        assert (f.jacobian(x) == 0).all()


def test_processing_that_changes_nothing(tmp_path: Path) -> None:
    """As in networks of `newff`: fixunknowns where nothing was unknown, and constant rows where there were none."""
    fields = saved(NETWORKS["static"])
    source = fields["inputs"][0, 0]
    steps = np.empty((1, 3), dtype=object)
    steps[0, :] = ["fixunknowns", "removeconstantrows", "mapminmax"]
    settings = np.empty((1, 3), dtype=object)
    settings[0, :] = [
        {"name": "fixunknowns", "xrows": 3, "yrows": 3, "unknown": np.zeros((0, 0)), "no_change": 0},
        {"name": "removeconstantrows", "no_change": 1},
        source["processSettings"][0, 0],
    ]
    source["processFcns"], source["processSettings"] = steps, settings
    savemat(tmp_path / "net.mat", {"net": as_object(fields)})
    f, x = onnxgrad.load(tmp_path / "net.mat"), RECORDED["static/x1"]
    assert_near(f(x), RECORDED["static/y1"])
    assert_near(f.jacobian(x), RECORDED["static/jac_y1_x1"])
