"""Documents of PMML in whole: what is read however it is written, what is chosen, and that nothing else than a refusal
comes of what is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest

import onnxgrad
from onnxgrad.errors import ModelReadError
from onnxgrad.importers.pmml import convert
from tests.importers.pmml_text import INPUT, NETWORK, TEXT, refusal, replaced


def test_the_text_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "net.pmml"
    path.write_text(TEXT)
    assert repr(onnxgrad.load(path)) == "Function(x: float64[N, 1], color: object[N, 1] -> y: float64[N, 1])"


# --- anything left out ----------------------------------------------------------------------------


def outcome(path: Path, text: str) -> str:
    """ "refused", or "read"; any other end is an error of the reader."""
    path.write_text(text)
    try:
        onnx.checker.check_model(convert(path), full_check=True)
    except ModelReadError:
        return "refused"
    return "read"


def test_elements_and_attributes_that_are_left_out(tmp_path: Path) -> None:
    found = []
    for place, node in enumerate(ElementTree.fromstring(TEXT).iter()):
        for name in (*node.attrib, None):
            root = ElementTree.fromstring(TEXT)
            twin = list(root.iter())[place]
            if name is not None:
                del twin.attrib[name]
            elif place:
                (parent,) = [other for other in root.iter() if twin in list(other)]
                parent.remove(twin)
            found.append(outcome(tmp_path / "net.pmml", ElementTree.tostring(root, encoding="unicode")))
    assert found.count("refused") > 70
    assert found.count("read") > 15  # names of models, biases, counts, …


def test_files_that_are_cut_off_anywhere(tmp_path: Path) -> None:
    end = TEXT.index("</PMML>") + len("</PMML>")
    assert {outcome(tmp_path / "net.pmml", TEXT[:at]) for at in range(0, end, 23)} == {"refused"}


# --- several models -------------------------------------------------------------------------------


def several(*names: str, kind: str = "NeuralNetwork") -> str:
    start, end = TEXT.index(NETWORK), TEXT.index("</PMML>")
    body = TEXT[start:end].replace("NeuralNetwork", kind)
    networks = [body.replace('modelName="net"', f'modelName="{name}"' if name else "") for name in names]
    return TEXT[:start] + "".join(networks) + TEXT[end:]


def test_several_models(tmp_path: Path) -> None:
    path = tmp_path / "net.pmml"
    message = refusal(path, several("one", "two"))
    assert "several models: 'one' (<NeuralNetwork>), 'two' (<NeuralNetwork>)" in message
    assert "choose one: variable='one' (on the command line --variable one)" in message
    assert onnxgrad.load(path, variable="two").outputs[0].name == "y"
    message = refusal(path, several("one", "two"), variable="three")
    assert "no model with the modelName 'three'; there is 'one' (<NeuralNetwork>)" in message
    for names in (("one", "one"), ("one", "")):
        assert "remove the others" in refusal(path, several(*names))
    assert "several models" in refusal(path, several("one", "one"), variable="one")
    assert "the model is a <Other>" in refusal(path, several("one", kind="Other"), variable="one")


# --- paths and arguments --------------------------------------------------------------------------


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(ModelReadError, match="there is no such file"):
        onnxgrad.load(tmp_path / "none.pmml")
    (tmp_path / "folder.pmml").mkdir()
    with pytest.raises(ModelReadError, match="is a folder"):
        onnxgrad.load(tmp_path / "folder.pmml")


def test_a_long_chain(tmp_path: Path) -> None:
    """Each field is computed from the next one."""
    end = "</TransformationDictionary>"
    field = '<DerivedField name="d{}"><Apply function="exp"><FieldRef field="d{}"/></Apply></DerivedField>'
    chain = "".join(field.format(i, i + 1) for i in range(2000))
    text = replaced(end, chain + end, INPUT, '<FieldRef field="d0"/>')
    assert "in too long a chain" in refusal(tmp_path / "net.pmml", text)


def test_arguments(tmp_path: Path) -> None:
    path = tmp_path / "net.xml"  # by its root
    path.write_text(TEXT)
    assert onnxgrad.load(path).outputs[0].name == "y"
    with pytest.raises(ValueError, match="float16"):
        convert(path, dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(ModelReadError, match="a sample is of use only"):
        onnxgrad.load(path, sample=[[1.0]])
    path.write_text(replaced('weight="1.5"', 'weight="1e300"'))
    with pytest.raises(ModelReadError, match="beyond the range of float32, or quotients that are; import it in float6"):
        convert(path, dtype="float32")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(' xmlns="http://www.dmg.org/PMML-4_4"', ""),
        lambda text: text.replace("PMML-4_4", "PMML-3_0").replace('"4.4"', '"3.0"'),
        lambda text: text.replace("PMML-4_4", "PMML-4_2_1").replace(' version="4.4"', ""),
        lambda text: text.replace("<PMML xmlns=", "<p:PMML xmlns:p=").replace("</PMML", "</p:PMML").replace("<", "<p:")
        .replace("<p:/", "</p:").replace("<p:p:", "<p:").replace("</p:p:", "</p:").replace("<p:?", "<?"),
        lambda text: text.replace("<PMML", "<!DOCTYPE PMML>\n<PMML", 1),
        lambda text: text.replace("<Targets>", '<Extension name="a"><MiningSchema/></Extension><Targets>'),
        lambda text: text.replace("</NeuralNetwork>", "<ModelVerification/></NeuralNetwork>"),
        lambda text: text.replace('modelName="net"', 'numberOfLayers="3"'),
    ],
    ids=["no namespace", "3.0", "4.2.1", "a prefix", "a doctype", "an extension", "more elements", "another count"],
)  # fmt: skip
def test_what_is_fine_though(change: Callable[[str], str], tmp_path: Path) -> None:
    path = tmp_path / "net.pmml"
    text = change(TEXT)
    assert text != TEXT
    path.write_text(text)
    assert repr(onnxgrad.load(path)) == "Function(x: float64[N, 1], color: object[N, 1] -> y: float64[N, 1])"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "iso-8859-1", "windows-1252"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    text = TEXT.replace('"x"', '"größe"').replace(
        "UTF-8", "utf-16" if encoding == "utf-16" else encoding.replace("-sig", "")
    )
    path = tmp_path / "net.pmml"
    path.write_bytes(text.encode(encoding))
    assert onnxgrad.load(path).inputs[0].name == "größe"
