"""A small document, and what is said of what is made of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import onnxgrad
from onnxgrad.errors import ModelReadError

#: A network that is fine.
TEXT = """\
<?xml version="1.0" encoding="UTF-8"?>
<PMML xmlns="http://www.dmg.org/PMML-4_4" version="4.4">
  <Header/>
  <DataDictionary>
    <DataField name="x" optype="continuous" dataType="double"/>
    <DataField name="color" optype="categorical" dataType="string"/>
    <DataField name="y" optype="continuous" dataType="double"/>
    <DataField name="kind" optype="categorical" dataType="string"/>
    <DataField name="extra" optype="continuous" dataType="double"/>
  </DataDictionary>
  <TransformationDictionary>
    <DefineFunction name="twice" optype="continuous">
      <ParameterField name="of"/>
      <Apply function="*"><Constant>2</Constant><FieldRef field="of"/></Apply>
    </DefineFunction>
    <DerivedField name="scaled" optype="continuous" dataType="double">
      <Apply function="twice"><FieldRef field="x"/></Apply>
    </DerivedField>
  </TransformationDictionary>
  <NeuralNetwork modelName="net" functionName="regression" activationFunction="tanh">
    <MiningSchema>
      <MiningField name="x"/>
      <MiningField name="color"/>
      <MiningField name="y" usageType="target"/>
      <MiningField name="extra" usageType="supplementary"/>
    </MiningSchema>
    <Targets>
      <Target field="y" rescaleFactor="2"/>
    </Targets>
    <NeuralInputs numberOfInputs="2">
      <NeuralInput id="0">
        <DerivedField optype="continuous" dataType="double">
          <NormContinuous field="scaled">
            <LinearNorm orig="0" norm="-1"/>
            <LinearNorm orig="10" norm="1"/>
          </NormContinuous>
        </DerivedField>
      </NeuralInput>
      <NeuralInput id="1">
        <DerivedField optype="continuous" dataType="double"><NormDiscrete field="color" value="red"/></DerivedField>
      </NeuralInput>
    </NeuralInputs>
    <NeuralLayer numberOfNeurons="2">
      <Neuron id="2" bias="0.5"><Con from="0" weight="1.5"/><Con from="1" weight="-0.5"/></Neuron>
      <Neuron id="3"><Con from="1" weight="0.25"/></Neuron>
    </NeuralLayer>
    <NeuralLayer activationFunction="identity">
      <Neuron id="4"><Con from="2" weight="2"/><Con from="3" weight="-0.75"/></Neuron>
    </NeuralLayer>
    <NeuralOutputs numberOfOutputs="1">
      <NeuralOutput outputNeuron="4">
        <DerivedField optype="continuous" dataType="double">
          <NormContinuous field="y"><LinearNorm orig="0" norm="-1"/><LinearNorm orig="100" norm="1"/></NormContinuous>
        </DerivedField>
      </NeuralOutput>
    </NeuralOutputs>
  </NeuralNetwork>
</PMML>
"""
INPUT = '<NormDiscrete field="color" value="red"/>'
OUTPUT = '<NormContinuous field="y"><LinearNorm orig="0" norm="-1"/><LinearNorm orig="100" norm="1"/></NormContinuous>'
NETWORK = '<NeuralNetwork modelName="net" functionName="regression" activationFunction="tanh">'
LAST = '<NeuralLayer activationFunction="identity">'
RADIAL = '<NeuralLayer activationFunction="radialBasis">'


def replaced(*pairs: str) -> str:
    text = TEXT
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def model(name: str) -> str:
    """Another model in the place of the network."""
    return re.sub(r"(?s)<NeuralNetwork.*</NeuralNetwork>", f'<{name} modelName="m" functionName="regression"/>', TEXT)


def output(expression: str, *pairs: str) -> str:
    return replaced(OUTPUT, expression, *pairs)


def refusal(path: Path, text: str | bytes, **arguments: str) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelReadError) as caught:
        onnxgrad.load(path, **arguments)
    return str(caught.value)
