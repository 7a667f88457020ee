"""Estimators that there is no formula for: encoders of texts, and whatever else skl2onnx converts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrad.errors import ModelReadError
from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.sklearn import outputs, preprocessing
from onnxgrad.importers.sklearn.emitter import Columns, Emitter, Given, Unsupported
from onnxgrad.lowering import working_form
from onnxgrad.model.opsets import WORKING_OPSET
from onnxgrad.model.read import read

#: Version of ai.onnx.ml for what skl2onnx writes: the first with trees in float64.
_ML = 3
#: The methods that are the second output of skl2onnx's models, behind labels; others are the first.
_SECOND = ("predict_proba", "decision_function")
#: What nothing can be done about: which, why, and what to do instead.
_REASONS = (
    (
        "NMF MiniBatchNMF LatentDirichletAllocation",
        "its codes come from iterations that run anew for each sample",
        "use PCA, TruncatedSVD or another projection, or take the codes as given and convert what comes after",
    ),
    (
        "KNeighborsTransformer RadiusNeighborsTransformer NearestNeighbors",
        "it gives a sparse graph of neighbors, not features",
        "put the estimator of neighbors that comes after it on the features themselves",
    ),
    (
        "LocallyLinearEmbedding",
        "it solves a system of equations for each sample, for which ONNX has no operator",
        "use Isomap, KernelPCA or PCA",
    ),
    (
        "CountVectorizer TfidfVectorizer HashingVectorizer FeatureHasher DictVectorizer TfidfTransformer",
        "it makes sparse counts of texts or dictionaries, which have no derivative",
        "convert the steps behind it, and load them with some rows of its result, made dense, as the sample",
    ),
    (
        "LabelBinarizer LabelEncoder MultiLabelBinarizer", "it takes labels, not features", "leave it out of the model",
    ),
    (
        "PatchExtractor", "it cuts images into pieces, and is no function of rows of features", "cut them beforehand",
    ),
)  # fmt: skip


def hopeless(estimator: Any) -> Unsupported | None:
    """Return why an estimator can be written by no means, if so."""
    kind = type(estimator)
    for names, why, remedy in _REASONS:
        if kind.__name__ in names.split() and kind.__module__.split(".")[0] == "sklearn":
            return Unsupported(why, remedy)
    return None


def leaf(g: Emitter, estimator: Any, method: str, x: Given) -> Any:
    """Emit what a method gives that there is no formula of its own for.

    Raises:
        Unsupported: if it cannot be written.
    """
    name = type(estimator).__name__
    ours = type(estimator).__module__.split(".")[0] == "sklearn"
    if outputs.follows(estimator, method):
        return outputs.derived(method)(g, estimator, x)
    refusal = hopeless(estimator)
    if refusal is not None:
        raise refusal
    if ours and method == "transform" and name in preprocessing.ENCODERS and preprocessing.encodes(estimator, x):
        return preprocessing.ENCODERS[name](g, estimator, x)
    if not hasattr(estimator, "fit"):
        raise Unsupported("it is no estimator", "give an object of scikit-learn")
    if method == "predict_log_proba":
        return outputs.derived(method)(g, estimator, x)
    if method == "index":
        if hasattr(estimator, "predict_proba"):
            return g.largest(leaf(g, estimator, "predict_proba", x))
        raise Unsupported(
            f"the classes that a {name} decides for cannot be counted", "use a classifier with probabilities"
        )
    if method not in ("predict", "predict_proba", "decision_function", "transform"):
        raise Unsupported(f"there is no formula for its {method}", "ask for another method, or convert another step")
    return _converted(g, estimator, method, x)


def _converted(g: Emitter, estimator: Any, method: str, x: Given) -> Tensor:
    """Put in what skl2onnx makes of an estimator; in float32 where onnxruntime does not run it in float64."""
    single = _joined(g, x)
    dtype = single.dtype
    try:
        proto = _convert(estimator, method, single)
        narrow = dtype == ir.DataType.DOUBLE and not _runs(proto, single)
    except Unsupported:  # some of its converters know float32 only
        narrow = dtype == ir.DataType.DOUBLE
        if not narrow:
            raise
    if narrow:
        proto, dtype = _convert(estimator, method, single, ir.DataType.FLOAT), ir.DataType.FLOAT
        g.narrow.append(type(estimator).__name__)
    g.borrowed.append(type(estimator).__name__)
    model = working_form(read(proto))
    found = g.graft(model, g.op.cast(single, dtype) if dtype != single.dtype else single)
    second = method in _SECOND and len(found) > 1
    result = found[1 if second else 0]
    if result is None:
        raise Unsupported(f"skl2onnx makes a model of it that gives no tensor for {method}", "convert the other steps")
    if result.rank == 2 and isinstance(result.shape[1], int):  # nothing is inferred of the rows of some operators
        g.op.retype(result, (single.shape[0], result.shape[1]))
    if result.is_float:
        result = g.op.cast(result, g.dtype)
        return g.op.unsqueeze(result, [1]) if result.rank == 1 else result
    return result


def _joined(g: Emitter, x: Any) -> Tensor:
    if not isinstance(x, Columns):
        return x  # type: ignore[no-any-return]
    kinds = {column.dtype for column in x.values()}
    if len(kinds) == 1:
        return g.join(list(x.values()))
    if ir.DataType.STRING in kinds:
        raise Unsupported("it takes columns of texts and of numbers at once", "give it columns of one kind")
    return g.numbers(x)


def _convert(estimator: Any, method: str, x: Tensor, dtype: ir.DataType | None = None) -> onnx.ModelProto:
    """Return skl2onnx's model of an estimator, with one input.

    Raises:
        ModelReadError: if it is not installed.
        Unsupported: if it does not convert it, with its words.
    """
    try:
        import skl2onnx
        from skl2onnx.common import data_types as types
    except ImportError as error:
        raise ModelReadError(
            f"a {type(estimator).__name__} is converted to ONNX by skl2onnx, which is not installed; "
            "install it with: pip install 'onnxgrad[sklearn]'"
        ) from error
    kinds = {
        ir.DataType.DOUBLE: types.DoubleTensorType, ir.DataType.FLOAT: types.FloatTensorType,
        ir.DataType.INT64: types.Int64TensorType, ir.DataType.BOOL: types.BooleanTensorType,
        ir.DataType.STRING: types.StringTensorType,
    }  # fmt: skip
    options: dict[str, Any] = {"zipmap": False} if hasattr(estimator, "predict_proba") else {}
    if method == "decision_function" and hasattr(estimator, "classes_"):
        options["raw_scores"] = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of skl2onnx are for those who write converters
            return skl2onnx.convert_sklearn(  # type: ignore[no-any-return]
                estimator,
                initial_types=[("x", kinds[dtype or x.dtype]([None, x.shape[1]]))],
                options={id(estimator): options} if options else None,
                target_opset={"": WORKING_OPSET, "ai.onnx.ml": _ML},
            )
    except Exception as error:  # it has many kinds, and lets through what its converters raise
        raise Unsupported(
            f"skl2onnx cannot convert it: {_words(error)}", "replace it, or convert the other steps without it"
        ) from error


def _words(error: Exception) -> str:
    """Return what matters of what skl2onnx says."""
    words = " ".join(str(error).split()) or type(error).__name__
    if words.startswith("Unable to find a shape calculator"):
        return "it has no converter for it"
    return words[:300]


def _runs(proto: onnx.ModelProto, x: Tensor) -> bool:
    """Whether onnxruntime runs a model on zeros."""
    from onnxgrad.errors import OnnxgradError
    from onnxgrad.runtime.function import load

    try:
        load(proto.SerializeToString())(np.zeros((2, int(x.shape[1]))))
    except OnnxgradError:
        return False
    return True
