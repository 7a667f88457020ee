"""Fitted estimators: each class of scikit-learn at least once, with the choices that change its formula."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import linear_model, preprocessing
from sklearn.base import is_classifier
from sklearn.experimental import enable_halving_search_cv, enable_iterative_imputer  # noqa: F401
from sklearn.utils import all_estimators

KINDS: dict[str, type] = dict(all_estimators())
rng = np.random.default_rng(4)
N, WIDTH = 60, 3
X = rng.normal(size=(N, WIDTH))
POSITIVE = rng.gamma(2.0, size=(N, WIDTH)) + 0.1
COUNTS = rng.poisson(2.0, size=(N, WIDTH)).astype(float)
CODES = rng.integers(0, 3, size=(N, WIDTH)).astype(float)
HOLES = np.where(rng.random(X.shape) < 0.1, np.nan, X)
LABELED: dict[str, Any] = {
    "X": X,
    "positive": POSITIVE,
    "counts": COUNTS,
    "codes": CODES,
    "holes": HOLES,
    "line": X[:, :1],
    "kernel": X @ X.T,
    "texts": ["one two", "two three", "three"] * 20,
    "labels": rng.integers(0, 3, N),
    "records": [{"a": 1.0, "b": 2.0}] * N,
    "sets": [("a", "b"), ("b", "c")] * 30,
}


def smooth(x: Any) -> Any:
    """Targets of regressors, positive."""
    x = np.nan_to_num(x)
    return 2 + np.sin(x[:, 0]) + 0.3 * np.tanh(x[:, -1]) + 0.1 * x[:, x.shape[1] // 2] ** 2


def classes(x: Any, n: int = 3) -> Any:
    """Targets of classifiers, that no class can be told by surely."""
    score = smooth(x) + 0.3 * np.random.default_rng(1).normal(size=len(x))
    return np.digitize(score, np.quantile(score, np.arange(1, n) / n))


@dataclass(frozen=True)
class Case:
    """One estimator, to be fitted.

    Attributes:
        kind: its class.
        arguments: what it is made with, as text for the table.
        make: makes it.
        data: what it is fitted on, by name.
        target: "numbers", "classes", "two", "several" (numbers), "labels" (several, that do not exclude each other).
        method: the method to look at; None: what says most.
        note: what it is fitted on, in words, for the table.
    """

    kind: str
    arguments: str
    make: Callable[[], Any]
    data: str = "X"
    target: str = ""
    method: str | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """What the table calls it."""
        method = f".{self.method}" if self.method else ""
        made = f"({self.arguments})" if self.arguments else ""
        return f"{self.kind}{made}{method}{self.note}"

    @property
    def kind_itself(self) -> type:
        """The class."""
        return KINDS[self.kind]

    def fit(self) -> tuple[Any, Any]:
        """Return it fitted, and what it was fitted on."""
        x = LABELED[self.data]
        estimator = self.make()
        if self.data in ("labels", "sets", "records", "texts"):
            return estimator.fit(x), x
        target = self.target or ("classes" if is_classifier(estimator) else "numbers")
        y = {
            "numbers": lambda: smooth(x),
            "classes": lambda: classes(x),
            "two": lambda: classes(x, 2),
            "several": lambda: np.stack([smooth(x), 2 + np.cos(np.nan_to_num(x)[:, 0])], 1),
            "labels": lambda: np.stack([classes(x, 2), classes(x[::-1], 2)], 1),
        }[target]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what was not iterated to the end, is deprecated, or is collinear
            return estimator.fit(x, y), x


Ridge, Logistic = linear_model.Ridge, linear_model.LogisticRegression
MEMBERS: dict[str, dict[str, Any]] = {
    "regressors": {"estimators": [("a", Ridge()), ("b", linear_model.PoissonRegressor())]},
    "classifiers": {"estimators": [("a", Logistic()), ("b", Logistic(C=0.1))]},
}
#: What a class cannot be made without, or is quicker with.
_NEEDED: dict[str, dict[str, Any]] = {
    "AdaBoostClassifier": {"n_estimators": 3},
    "AdaBoostRegressor": {"n_estimators": 3},
    "BaggingClassifier": {"estimator": Logistic(), "n_estimators": 3},
    "BaggingRegressor": {"estimator": linear_model.PoissonRegressor(), "n_estimators": 3},
    "BernoulliRBM": {"n_components": 4, "n_iter": 2},
    "CalibratedClassifierCV": {"estimator": Logistic(), "cv": 2},
    "ClassifierChain": {"estimator": Logistic(), "chain_method": "predict_proba"},
    "ColumnTransformer": {
        "transformers": [
            ("a", preprocessing.StandardScaler(), [2, 0]), ("b", preprocessing.PolynomialFeatures(), [1, 2])
        ]
    },
    "DictionaryLearning": {"max_iter": 3, "transform_algorithm": "threshold", "transform_alpha": 0.1},
    "ExtraTreesClassifier": {"n_estimators": 3},
    "ExtraTreesRegressor": {"n_estimators": 3},
    "FeatureUnion": {"transformer_list": [("a", preprocessing.StandardScaler()), ("b", preprocessing.Normalizer())]},
    "FixedThresholdClassifier": {"estimator": Logistic()},
    "FrozenEstimator": {"estimator": Ridge().fit(X, smooth(X))},
    "FunctionTransformer": {"func": np.exp, "inverse_func": np.log},
    "GaussianMixture": {"n_components": 2},
    "BayesianGaussianMixture": {"n_components": 2},
    "GaussianRandomProjection": {"n_components": 2, "random_state": 0},
    "GenericUnivariateSelect": {"param": 50},
    "GradientBoostingClassifier": {"n_estimators": 3},
    "GradientBoostingRegressor": {"n_estimators": 3},
    "GridSearchCV": {"estimator": Ridge(), "param_grid": {"alpha": [0.1, 1.0]}, "cv": 2},
    "HalvingGridSearchCV": {"estimator": Ridge(), "param_grid": {"alpha": [0.1, 1.0]}, "cv": 2},
    "HalvingRandomSearchCV": {"estimator": Ridge(), "param_distributions": {"alpha": [0.1, 1.0]}, "cv": 2},
    "HistGradientBoostingClassifier": {"max_iter": 3},
    "HistGradientBoostingRegressor": {"max_iter": 3},
    "IsolationForest": {"n_estimators": 3},
    "IsotonicRegression": {"out_of_bounds": "clip"},
    "IterativeImputer": {"max_iter": 2},
    "KBinsDiscretizer": {"n_bins": 3, "quantile_method": "averaged_inverted_cdf"},
    "KMeans": {"n_clusters": 3, "n_init": 1},
    "KernelPCA": {"kernel": "rbf", "n_components": 2},
    "LocalOutlierFactor": {"novelty": True, "n_neighbors": 5},
    "MLPClassifier": {"hidden_layer_sizes": (4,), "activation": "tanh", "max_iter": 10},
    "MLPRegressor": {"hidden_layer_sizes": (4,), "activation": "tanh", "max_iter": 10},
    "MiniBatchDictionaryLearning": {"max_iter": 2, "transform_algorithm": "threshold", "transform_alpha": 0.1},
    "MiniBatchKMeans": {"n_clusters": 3, "n_init": 1},
    "BisectingKMeans": {"n_clusters": 3, "n_init": 1},
    "MultiOutputClassifier": {"estimator": Logistic()},
    "MultiOutputRegressor": {"estimator": linear_model.PoissonRegressor()},
    "Nystroem": {"n_components": 5},
    "OneVsOneClassifier": {"estimator": Logistic()},
    "OneVsRestClassifier": {"estimator": Logistic()},
    "OutputCodeClassifier": {"estimator": Logistic()},
    "Pipeline": {
        "steps": [("a", preprocessing.StandardScaler()), ("b", preprocessing.PolynomialFeatures()), ("c", Ridge())]
    },
    "QuantileTransformer": {"n_quantiles": 20},
    "LogisticRegressionCV": {"Cs": 2, "cv": 2},
    "GraphicalLassoCV": {"alphas": 2, "cv": 2},
    "ElasticNetCV": {"alphas": 3, "cv": 2},
    "LassoCV": {"alphas": 3, "cv": 2},
    "MultiTaskLassoCV": {"alphas": 3, "cv": 2},
    "MultiTaskElasticNetCV": {"alphas": 3, "cv": 2},
    "HuberRegressor": {"max_iter": 20},
    "TheilSenRegressor": {"max_subpopulation": 20},
    "RFE": {"estimator": Logistic()},
    "RFECV": {"estimator": Logistic(), "cv": 2},
    "RadiusNeighborsClassifier": {"radius": 2.0, "weights": "distance", "outlier_label": 0},
    "RadiusNeighborsRegressor": {"radius": 2.0, "weights": "distance"},
    "KNeighborsClassifier": {"weights": "distance"},
    "KNeighborsRegressor": {"weights": "distance"},
    "RandomForestClassifier": {"n_estimators": 3},
    "RandomForestRegressor": {"n_estimators": 3},
    "RandomTreesEmbedding": {"n_estimators": 2, "max_depth": 2},
    "RandomizedSearchCV": {"estimator": Ridge(), "param_distributions": {"alpha": [0.1, 1.0]}, "cv": 2, "n_iter": 2},
    "RegressorChain": {"estimator": linear_model.PoissonRegressor()},
    "SelectFromModel": {"estimator": Ridge()},
    "SelectKBest": {"k": 2},
    "SelfTrainingClassifier": {"estimator": Logistic()},
    "SequentialFeatureSelector": {"estimator": Ridge(), "cv": 2, "n_features_to_select": 2},
    "SparseCoder": {"dictionary": np.eye(3)[:2] + 0.2, "transform_algorithm": "threshold", "transform_alpha": 0.1},
    "SparseRandomProjection": {"n_components": 2, "random_state": 0, "density": 0.9},
    "StackingClassifier": {**MEMBERS["classifiers"], "cv": 2, "passthrough": True},
    "StackingRegressor": {**MEMBERS["regressors"], "cv": 2},
    "TransformedTargetRegressor": {"regressor": Ridge(), "func": np.log, "inverse_func": np.exp},
    "TunedThresholdClassifierCV": {"estimator": Logistic(), "cv": 2},
    "VotingClassifier": {**MEMBERS["classifiers"], "voting": "soft", "weights": [1, 2]},
    "VotingRegressor": {**MEMBERS["regressors"], "weights": [1, 2]},
    "PowerTransformer": {"method": "yeo-johnson"},
    "Isomap": {"n_neighbors": 5},
    "LocallyLinearEmbedding": {"n_neighbors": 5},
    "TargetEncoder": {"target_type": "continuous", "cv": 2},
    "MiniBatchSparsePCA": {"max_iter": 2},
    "SparsePCA": {"max_iter": 2},
    "NMF": {"max_iter": 5},
    "MiniBatchNMF": {"max_iter": 5},
    "LatentDirichletAllocation": {"max_iter": 1},
    "MissingIndicator": {"features": "all"},
    **{name: {"alpha": 0.01} for name in "Lasso LassoLars MultiTaskLasso ElasticNet MultiTaskElasticNet".split()},
    "QuantileRegressor": {"alpha": 0.0},
    "GaussianProcessRegressor": {"alpha": 0.1},
    "OneHotEncoder": {"sparse_output": False, "handle_unknown": "ignore"},
    "OrdinalEncoder": {"handle_unknown": "use_encoded_value", "unknown_value": -1},
    "GammaRegressor": {"max_iter": 50},
    "PatchExtractor": {"patch_size": (2, 2)},
    "HashingVectorizer": {"n_features": 4},
    "FeatureHasher": {"n_features": 4},
}  # fmt: skip
_DATA = {
    **dict.fromkeys("AdditiveChi2Sampler NMF MiniBatchNMF SkewedChi2Sampler".split(), "positive"),
    **dict.fromkeys("ComplementNB MultinomialNB LatentDirichletAllocation".split(), "counts"),
    **dict.fromkeys("CategoricalNB OneHotEncoder OrdinalEncoder TargetEncoder".split(), "codes"),
    **dict.fromkeys("SimpleImputer KNNImputer IterativeImputer MissingIndicator".split(), "holes"),
    **dict.fromkeys("CountVectorizer TfidfVectorizer HashingVectorizer".split(), "texts"),
    **dict.fromkeys("LabelEncoder LabelBinarizer".split(), "labels"),
    **dict.fromkeys("DictVectorizer FeatureHasher".split(), "records"),
    "MultiLabelBinarizer": "sets",
    "KernelCenterer": "kernel",
    "IsotonicRegression": "line",
}
_TARGET = {
    **dict.fromkeys(
        "CCA PLSCanonical PLSRegression PLSSVD MultiOutputRegressor RegressorChain MultiTaskElasticNet "
        "MultiTaskElasticNetCV MultiTaskLasso MultiTaskLassoCV".split(),
        "several",
    ),
    **dict.fromkeys("ClassifierChain MultiOutputClassifier".split(), "labels"),
    **dict.fromkeys("FixedThresholdClassifier TunedThresholdClassifierCV".split(), "two"),
    **dict.fromkeys(
        "RFE RFECV SelectFdr SelectFpr SelectFwe SelectKBest SelectPercentile GenericUnivariateSelect "
        "NeighborhoodComponentsAnalysis".split(),
        "classes",
    ),
}


def _random(kind: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Fix what is drawn."""
    import inspect

    named = inspect.signature(kind).parameters
    return {"random_state": 0, **arguments} if "random_state" in named else arguments


def every_class() -> Iterator[Case]:
    """Yield one case for each public class of scikit-learn."""
    for name, kind in KINDS.items():
        needed = _NEEDED.get(name, {})
        arguments = _random(kind, needed)
        stated = ", ".join(f"{k}={' '.join(_spelled(v).split())}" for k, v in needed.items() if k != "random_state")
        yield Case(
            name, stated, lambda kind=kind, a=arguments: kind(**a), _DATA.get(name, "X"),
            _TARGET.get(name, ""),
        )  # fmt: skip


def _spelled(value: Any) -> str:
    return f"np.{value.__name__}" if isinstance(value, np.ufunc) else repr(value)
