"""What is no neural network in PMML, or has something that is not supported, is refused: with the file, the line, the
element, and what to do.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnxgrad.importers.pmml.document import EXPORT
from tests.importers.pmml_text import (
    INPUT,
    LAST,
    NETWORK,
    OUTPUT,
    RADIAL,
    TEXT,
    model,
    output,
    refusal,
    replaced,
)

#: Text of a file; what the message says; what the line has that it names.
FILES: dict[str, tuple[str, str, str]] = {
    # the file
    "nothing": ("", "this is no XML (no element found)", ""),
    "no XML": ("net = newff(x, y);\n", "this is no XML (syntax error)", "net = newff"),
    "a binary file": ("\0\1\2", "this is no XML", ""),
    "cut off": (TEXT[: TEXT.index('from="1" weight="-0.5"')], "cut off (unclosed token): the <Neuron> of", "<Con"),
    "cut off behind a layer": (
        TEXT[: TEXT.index(LAST)],
        "cut off (no element found): the <NeuralNetwork> of line 20",
        "",
    ),
    "damaged": (replaced("</Targets>", "</Target>"), "the file is damaged (mismatched tag)", "</Target>"),
    "an entity": (
        TEXT.replace("<PMML", '<!DOCTYPE PMML [<!ENTITY a "aaa">]>\n<PMML', 1),
        "the entity 'a' is declared",
        "<!ENTITY",
    ),
    "an external entity": (
        TEXT.replace("<PMML", '<!DOCTYPE PMML [<!ENTITY a SYSTEM "file:///etc/hostname">]>\n<PMML', 1),
        "the entity 'a' is declared",
        "<!ENTITY",
    ),
    "a deep nest": (
        replaced(INPUT, '<Apply function="exp">' * 120 + '<FieldRef field="x"/>' + "</Apply>" * 120),
        "more than 100 deep",
        "<Apply",
    ),
    # the document
    "no PMML": ("<net><layers/></net>", "its root is <net>", "<net>"),
    "another namespace": (
        TEXT.replace("www.dmg.org/PMML-4_4", "example.org/PMML"),
        "is not that of a version",
        "<PMML",
    ),
    "an old version": (replaced("PMML-4_4", "PMML-2_1", 'version="4.4"', 'version="2.1"'), "of version 2.1", "<PMML"),
    "no version": ("<PMML><Header/></PMML>", "its version is not stated", "<PMML>"),
    "no model": (re.sub(r"(?s)<NeuralNetwork.*</NeuralNetwork>", "", TEXT), "there is no model in it", "<PMML"),
    "a tree": (model("TreeModel"), "the model is a <TreeModel>, and only <NeuralNetwork>", "<TreeModel"),
    "several segments": (model("MiningModel"), "the model is a <MiningModel>", "<MiningModel"),
    "no fields": (re.sub(r"(?s)<DataDictionary.*</DataDictionary>", "", TEXT), "no <DataDictionary>", "<PMML"),
    "a network of clusters": (
        replaced('"regression"', '"clustering"'),
        "'clustering' is not supported",
        "<NeuralNetwork",
    ),
    "an unknown purpose": (replaced('"regression"', '"regresion"'), "did you mean 'regression'?", "<NeuralNetwork"),
    "not to be used": (replaced('modelName="net"', 'isScorable="false"'), "isScorable", "<NeuralNetwork"),
    # fields
    "no schema": (re.sub(r"(?s)<MiningSchema.*</MiningSchema>", "", TEXT), "no <MiningSchema>", NETWORK),
    "two schemas": (replaced("<Targets>", "<MiningSchema/><Targets>"), "several <MiningSchema>", "<MiningSchema/>"),
    "no inputs": (re.sub(r'<MiningField name="(x|color)"/>', "", TEXT), "no active field", "<MiningSchema>"),
    "an unknown field": (
        replaced('<MiningField name="x"/>', '<MiningField name="z"/>'),
        "'z' is no field of",
        'name="z"',
    ),
    "a field twice": (
        replaced('<MiningField name="x"/>', '<MiningField name="color"/>'),
        "listed twice",
        'name="color"/>',
    ),
    "a field without a name": (
        replaced('<DataField name="x"', '<DataField name=""'),
        "its name is empty",
        "<DataField",
    ),
    "a field declared twice": (
        replaced('<DataField name="color"', '<DataField name="x"'),
        "'x' is given twice; the first time in line 5",
        "<DataF",
    ),
    "an unknown usage": (replaced('"supplementary"', '"used"'), "usageType='used' is not known", 'usageType="used"'),
    "an unknown type": (
        TEXT.replace('dataType="double"', 'dataType="complex"', 1),
        "dataType='complex' is not known",
        'dataType="complex"',
    ),
    "an unknown kind": (
        TEXT.replace('optype="continuous"', 'optype="nominal"', 1),
        "optype='nominal' is not known",
        'optype="nominal"',
    ),
    "outliers without bounds": (
        replaced('<MiningField name="x"/>', '<MiningField name="x" outliers="asExtremeValues"/>'),
        "neither lowValue nor highValue",
        "outliers=",
    ),
    "bounds that are swapped": (
        replaced(
            '<MiningField name="x"/>', '<MiningField name="x" outliers="asMissingValues" lowValue="1" highValue="0"/>'
        ),
        "lowValue is above highValue",
        "outliers=",
    ),
    "an unknown treatment": (
        replaced('<MiningField name="x"/>', '<MiningField name="x" outliers="asExtreme"/>'),
        "did you mean 'asExtremeValues'?",
        "outliers=",
    ),
    "a replacement that is no number": (
        replaced('<MiningField name="x"/>', '<MiningField name="x" missingValueReplacement="none"/>'),
        "missingValueReplacement is 'none', which is no finite number",
        "missingValueReplacement",
    ),
    "an interval of nothing": (
        TEXT.replace(
            'dataType="double"/>',
            'dataType="double"><Interval closure="openOpen" leftMargin="2" rightMargin="1"/></DataField>',
            1,
        ),
        "leftMargin is above rightMargin",
        "<Interval",
    ),
    # expressions
    "a field that is not there": (replaced('field="color" v', 'field="colour" v'), "did you mean 'color'?", "colour"),
    "a field that is no input": (
        replaced('field="color" value', 'field="extra" value'),
        "'extra' is used, and it is a field with usageType=",
        INPUT[:13],
    ),
    "the target as an input": (replaced('field="color" value', 'field="y" value'), "usageType='target'", INPUT[:13]),
    "a field that is nowhere in the schema": (
        replaced('field="color" value', 'field="kind" value'),
        "no active field of the <MiningSchema>",
        INPUT[:13],
    ),
    "a circle": (replaced('<FieldRef field="x"/>', '<FieldRef field="scaled"/>'), "scaled → scaled", "<FieldRef"),
    "a function that calls itself": (
        replaced(
            '<Apply function="*"><Constant>2</Constant><FieldRef field="of"/></Apply>',
            '<Apply function="twice"><FieldRef field="of"/></Apply>',
        ),
        "calls itself",
        '<FieldRef field="of"/>',
    ),
    "no expression": (replaced(INPUT, ""), "there are 0 expressions in it", "<DerivedField"),
    "two expressions": (replaced(INPUT, INPUT + INPUT), "there are 2 expressions in it", INPUT),
    "an aggregate": (
        replaced(INPUT, '<Aggregate field="x" function="sum"/>'),
        "<Aggregate> is not supported",
        "<Aggreg",
    ),
    "an unknown function": (
        replaced('function="twice"', 'function="thrice"'),
        "'thrice' is not supported; supported are twice",
        "thrice",
    ),
    "a function of texts": (replaced('function="twice"', 'function="uppercase"'), "'uppercase' is not", "uppercase"),
    "too few arguments": (replaced('function="twice"', 'function="pow"'), "takes 2 arguments, and there are 1", "pow"),
    "too many arguments": (
        replaced('<FieldRef field="x"/>', '<FieldRef field="x"/><Constant>1</Constant>'),
        "'twice' takes 1 argument",
        "twice",
    ),
    "too many arguments of a built-in function": (
        replaced("<Constant>2</Constant>", "<Constant>2</Constant><Constant>2</Constant>"),
        "takes 2 arguments, and there",
        '<Apply function="*">',
    ),
    "a function that is in float32 only": (
        replaced('function="twice"', 'function="erf"'),
        "in float32 only; import the model in float32",
        "erf",
    ),
    "a text in arithmetic": (
        replaced('<FieldRef field="x"/>', '<FieldRef field="color"/>'),
        "the texts of 'color'",
        "",
    ),
    "a constant text in arithmetic": (
        replaced("<Constant>2</Constant>", "<Constant>two</Constant>"),
        "the text 'two' stand",
        '<Apply function="*">',
    ),
    "a constant that is no number": (
        replaced("<Constant>2</Constant>", '<Constant dataType="double">two</Constant>'),
        "is 'two', which",
        "<Constant",
    ),
    "a normalized text": (
        replaced('field="scaled"', 'field="color"'),
        "stand where a number should",
        "<NormContinuous",
    ),
    "one point": (replaced('<LinearNorm orig="10" norm="1"/>', ""), "there are 1 <LinearNorm>", "<NormContinuous"),
    "points that do not ascend": (replaced('orig="10"', 'orig="0"'), "orig do not ascend", "<NormContinuous"),
    "a point that is no number": (
        replaced('orig="10"', 'orig="ten"'),
        "'orig' is 'ten', which is no finite",
        "<LinearNorm",
    ),
    "a point at infinity": (replaced('orig="10"', 'orig="INF"'), "'orig' is 'INF', which is no finite", "<LinearNorm"),
    "a thermometer": (replaced(INPUT, INPUT[:-2] + ' method="thermometer"/>'), "method='thermometer'", "thermometer"),
    "a table of two columns": (
        replaced(
            INPUT,
            '<MapValues outputColumn="o"><FieldColumnPair field="x" column="a"/>'
            '<FieldColumnPair field="color" column="b"/><InlineTable/></MapValues>',
        ),
        "a table of 2 columns",
        "<MapValues",
    ),
    "a table somewhere else": (
        replaced(
            INPUT, '<MapValues outputColumn="o"><FieldColumnPair field="x" column="a"/><TableLocator/></MapValues>'
        ),
        "there is no <InlineTable>",
        "<MapValues",
    ),
    "a table with a hole": (
        replaced(
            INPUT,
            '<MapValues outputColumn="o"><FieldColumnPair field="x" column="a"/>'
            "<InlineTable><row><a>1</a></row></InlineTable></MapValues>",
        ),
        "the row has no 'o'",
        "<row>",
    ),
    "no bins": (replaced(INPUT, '<Discretize field="x"/>'), "no <DiscretizeBin>", "<Discretize"),
    # the network
    "no input neurons": (
        re.sub(r"(?s)<NeuralInput id.*</NeuralInput>", "", TEXT),
        "there is no <NeuralInput> in it",
        "<NeuralInputs",
    ),
    "no layers": (re.sub(r"(?s)<NeuralLayer.*</NeuralLayer>", "", TEXT), "there is no <NeuralLayer>", NETWORK),
    "no neurons": (re.sub(r"(?s)<Neuron id=\"4\".*?</Neuron>", "", TEXT), "there is no <Neuron> in it", LAST),
    "a missing input neuron": (
        replaced('numberOfInputs="2"', 'numberOfInputs="3"'),
        "says 3, and there are 2",
        "<NeuralIn",
    ),
    "a missing neuron": (
        replaced('numberOfNeurons="2"', 'numberOfNeurons="4"'),
        "says 4, and there are 2",
        "<NeuralLayer",
    ),
    "a missing layer": (replaced('modelName="net"', 'numberOfLayers="5"'), "says 5, and there are 2", "<NeuralNetwork"),
    "a missing output": (
        replaced('numberOfOutputs="1"', 'numberOfOutputs="2"'),
        "says 2, and there are 1",
        "<NeuralOut",
    ),
    "an id twice": (replaced('<Neuron id="3">', '<Neuron id="2">'), "the id '2' occurs twice", '<Neuron id="2">'),
    "an id that is missing": (replaced('<Neuron id="3">', "<Neuron>"), "the attribute 'id' is missing", "<Neuron>"),
    "a neuron that is not there": (
        replaced('<Con from="2" weight="2"/>', '<Con from="7" weight="2"/>'),
        "comes from '7', and there is no input",
        "<Con",
    ),
    "a neuron of the same layer": (
        replaced('<Con from="1" weight="0.25"/>', '<Con from="2" weight="0.25"/>'),
        "in the same layer: the network is",
        "<Con",
    ),
    "a neuron of a later layer": (
        replaced('<Con from="1" weight="0.25"/>', '<Con from="4" weight="0.25"/>'),
        "in a later layer: the network is",
        "<Con",
    ),
    "a neuron without connections": (
        replaced('<Con from="1" weight="0.25"/>', ""),
        "no connection leads",
        '<Neuron id="3">',
    ),
    "a connection twice": (
        replaced('<Con from="1" weight="-0.5"/>', '<Con from="0" weight="-0.5"/>'),
        "a second connection from '0'",
        "<Con",
    ),
    "a weight that is no number": (
        replaced('weight="1.5"', 'weight="1,5"'),
        "'weight' is '1,5', which is no",
        'from="0"',
    ),
    "a weight that is NaN": (replaced('weight="1.5"', 'weight="NaN"'), "'weight' is 'NaN', which is no", 'from="0"'),
    "a weight that is missing": (replaced(' weight="1.5"', ""), "the attribute 'weight' is missing", '<Con from="0"/>'),
    "a bias that is no number": (replaced('bias="0.5"', 'bias=""'), "'bias' is '', which is no", "<Neuron"),
    "an unknown activation": (replaced('"identity"', '"swish"'), "'swish' is not known; known are logistic", '"swish"'),
    "an activation in other letters": (replaced('"identity"', '"gauss"'), "did you mean 'Gauss'?", '"gauss"'),
    "no activation": (replaced(' activationFunction="tanh"', ""), "'activationFunction' is missing", "<NeuralNetwork"),
    "an unknown normalization": (
        replaced(LAST, LAST[:-1] + ' normalizationMethod="max">'),
        "normalizationMethod='max'",
        "normalizationMethod",
    ),
    "no threshold": (replaced('"identity"', '"threshold"'), "the attribute 'threshold' is missing", NETWORK),
    "no width": (replaced(LAST, RADIAL), "the attribute 'width' is missing", NETWORK),
    "no width at all": (
        replaced(LAST, RADIAL[:-1] + ' width="0">'),
        "the width of a neuron with radialBasis is 0",
        "width",
    ),
    "a negative altitude": (
        replaced(LAST, RADIAL[:-1] + ' width="1" altitude="-1">'),
        "the altitude of a neuron with radialBasis is -1",
        "width",
    ),
    # outputs
    "no outputs": (re.sub(r"(?s)<NeuralOutputs.*</NeuralOutputs>", "", TEXT), "there is no <NeuralOutput>", NETWORK),
    "an output that is no neuron": (
        replaced('outputNeuron="4"', 'outputNeuron="5"'),
        "no neuron with the id '5'",
        "<NeuralO",
    ),
    "an output that cannot be inverted": (
        output('<Apply function="exp"><FieldRef field="y"/></Apply>'),
        "a <Apply> of the target, of which the inverse",
        "<Apply",
    ),
    "an output that is flat": (
        replaced('orig="100" norm="1"', 'orig="100" norm="-1"'),
        "cannot be inverted",
        OUTPUT[:20],
    ),
    "an output that is no field": (output('<FieldRef field="z"/>'), "the target 'z' is no field", "<FieldRef"),
    "an output that is an input": (
        output('<FieldRef field="x"/>'),
        "'x' is an output and an active field",
        "<FieldRef",
    ),
    "a category as a number": (output('<FieldRef field="kind"/>'), "the target 'kind' is categorical", "<FieldRef"),
    "a category of a regression": (
        output('<NormDiscrete field="kind" value="a"/>'),
        "the model is a regression",
        '<NormDiscrete field="kind"',
    ),
    "an unknown target": (replaced('<Target field="y"', '<Target field="z"'), "the target 'z' is no field", "<Target "),
    "bounds of a target that are swapped": (
        replaced('rescaleFactor="2"', 'min="2" max="1"'),
        "min is above max",
        "<Target ",
    ),
    "an unknown rounding": (replaced('rescaleFactor="2"', 'castInteger="up"'), "castInteger='up'", "<Target "),
}


@pytest.mark.parametrize("what", FILES)
def test_files(tmp_path: Path, what: str) -> None:
    text, says, line_text = FILES[what]
    path = tmp_path / "net.pmml"
    message = refusal(path, text)
    assert message.startswith(f"{str(path)!r}, line ")
    assert says in message
    line = int(re.search(r"line (\d+)", message)[1])  # type: ignore[index]
    lines = text.split("\n")
    assert line_text in lines[line - 1]
    assert EXPORT in message or "; " in message  # the remedy


def test_two_values_of_one_target(tmp_path: Path) -> None:
    field = '<DerivedField optype="continuous" dataType="double">{}</DerivedField>'
    one = f'<NeuralOutput outputNeuron="4">{field}</NeuralOutput>'
    start, end = TEXT.index('<NeuralOutputs numberOfOutputs="1">'), TEXT.index("</NeuralOutputs>")
    a, b, number = '<NormDiscrete field="kind" value="a"/>', '<NormDiscrete field="kind" value="b"/>', OUTPUT
    cases = {
        (number, number): "several values for the target 'y'",
        (a, a): "several neurons for one category of 'kind'",
        (a, '<FieldRef field="kind"/>'): "both a number and one of several categories",
    }
    for expressions, says in cases.items():
        outputs = "<NeuralOutputs>" + "".join(map(one.format, expressions))
        text = (TEXT[:start] + outputs + TEXT[end:]).replace(
            'functionName="regression"', 'functionName="classification"'
        )
        assert says in refusal(tmp_path / "net.pmml", text)
    outputs = "<NeuralOutputs>" + "".join(map(one.format, (a, b, number)))
    text = (TEXT[:start] + outputs + TEXT[end:]).replace("regression", "mixed").replace('<Target field="y"', "<Target")
    assert "it does not say for which field it is: 'kind', 'y'" in refusal(tmp_path / "net.pmml", text)
