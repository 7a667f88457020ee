"""Records of derivatives: written, read back, added to, and refused when damaged."""

import json

import pytest
from model_helpers import floats, model_of
from onnx import helper

from onnxgrad.errors import ModelReadError
from onnxgrad.model.metadata import KEY, Derivative, derivatives, record
from onnxgrad.model.read import read
from onnxgrad.model.write import to_proto, write

FIRST = Derivative("jacobian", "y", "x", "jac_y_x", batched=True, mode="forward")
SECOND = Derivative("hessian", "y", ("x", "größe"), "hess", zero="Floor is a step", index=(0, 2))
THIRD = Derivative("vjp", "y", "x", "adj_x", seed="adj_y", index="max")


def model():
    return read(model_of([helper.make_node("Neg", ["x"], ["y"])], {"x": floats(2)}, ["y"]))


def test_what_is_recorded_is_read_back_from_every_source(tmp_path):
    m = model()
    assert derivatives(m) == []
    record(m, [FIRST, SECOND])
    record(m, [THIRD])
    write(m, tmp_path / "m.onnx")
    for source in (m, to_proto(m), to_proto(m).SerializeToString(), tmp_path / "m.onnx"):
        assert derivatives(source) == [FIRST, SECOND, THIRD]


def test_other_metadata_stays():
    m = model()
    m.metadata_props["author"] = "someone"
    record(m, [FIRST])
    assert m.metadata_props["author"] == "someone"


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "3",
        "{}",
        '{"version": 1}',
        '{"version": 1, "derivatives": 3}',
        '{"version": 1, "derivatives": [3]}',
        '{"version": 1, "derivatives": [{}]}',
        '{"version": "1", "derivatives": []}',
        '{"version": 1, "derivatives": [{"kind": "vjp", "of": "y", "wrt": "x", "output": "o", "more": 1}]}',
        '{"version": 1, "derivatives": [{"kind": 1, "of": "y", "wrt": "x", "output": "o"}]}',
    ],
)
def test_damage_is_named(text):
    m = model()
    m.metadata_props[KEY] = text
    with pytest.raises(ModelReadError, match=r"metadata \(key 'onnxgrad'\) is damaged"):
        derivatives(m)
    with pytest.raises(ModelReadError, match="is damaged"):
        record(m, [FIRST])
    assert m.metadata_props[KEY] == text


def test_a_newer_format_is_named():
    m = model()
    m.metadata_props[KEY] = json.dumps({"version": 2, "derivatives": []})
    with pytest.raises(ModelReadError, match=r"newer onnxgrad .*; upgrade onnxgrad"):
        derivatives(m)
