"""Neural networks in PMML, the XML format in which SPSS, STATISTICA, R, KNIME and others write models.

The model is read by the public specification of PMML 4.4 (Data Mining Group, dmg.org/pmml/v4-4); versions from 3.0 on
differ from it in nothing that is used here. Normalization is inside the graph, so derivatives come at the scale of the
data.
"""

from __future__ import annotations

import os

import onnx

from onnxgrad.importers.files import DType, checked_dtype, checked_path
from onnxgrad.importers.pmml import model


def convert(path: str | os.PathLike[str], variable: str | None = None, dtype: DType = "float64") -> onnx.ModelProto:
    """Return the neural network in a file as an ONNX model.

    Each active field becomes an input of shape (N, 1), with the name of the field: continuous ones as numbers of
    `dtype`, in which NaN is a missing value, categorical ones as texts, int64, or flags, as they are declared. Each
    target becomes an output with its name: (N, 1) for a continuous one, (N, categories) for a categorical one, with
    what the network gives for each category, in the order of the file (and of a list in the metadata of the model, by
    ``"categories:NAME"``). Weights are called ``W2_1`` (those of layer 2 for layer 1; layer 0 are the inputs) and
    ``b2``, the results of layers ``layer1``, ``layer2``, ….

    Args:
        path: a file with a PMML document (.pmml, .xml).
        variable: the modelName of the network that is meant; None: the only model in the file.
        dtype: the type of the model's numbers.

    Raises:
        ModelReadError: if there is no neural network in the file, or it has something that is not supported.
    """
    numbers = checked_dtype(dtype)
    return model.read(checked_path(path), variable, numbers)


__all__ = ["convert"]
