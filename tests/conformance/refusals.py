"""What is refused among ONNX's own test cases, and why: all of it, so that nothing is refused in silence."""

from __future__ import annotations

import re

#: Operators without a rule.
WITHOUT_RULE = {
    "Attention",
    "Bernoulli",
    "CausalConvWithState",
    "DFT",
    "DeformConv",
    "DequantizeLinear",
    "Det",
    "DynamicQuantizeLinear",
    "If",
    "LinearAttention",
    "Loop",
    "MelWeightMatrix",
    "NegativeLogLikelihoodLoss",
    "OptionalGetElement",
    "RoiAlign",
    "RotaryEmbedding",
    "STFT",
    "Scan",
    "SoftmaxCrossEntropyLoss",
    "SwiGLU",
    "ai.onnx.preview.training::Adagrad",
    "ai.onnx.preview.training::Adam",
    "ai.onnx.preview.training::Momentum",
    "ai.onnx.preview::FlexAttention",
}

#: Operators with a rule that refuses some of their cases: the reason, as a pattern.
REASONS = {
    "Col2Im": r"the size of its blocks is not known before run time",
    "Dropout": r"it is in training mode: its output is random|no derivative with respect to input 1",
    "GRU": r"its number of steps is not fixed",
    "LSTM": r"its number of steps is not fixed",
    "RNN": r"its number of steps is not fixed",
    "Resize": r"no derivative with respect to input [12]",
    "Scan": r"cannot be brought from an older opset",
}

_OBSTACLE = re.compile(r"- ([\w:.]+)(?: \(version \d+\))?, node .*?: (.*)")


def explained(detail: str) -> set[str]:
    """Return which entries of the tables explain a refusal.

    Raises:
        AssertionError: if a part of it is not explained.
    """
    found = set()
    for operator, why in _OBSTACLE.findall(detail) or [("", detail)]:
        if "there is no rule for this operator" in why:
            assert operator in WITHOUT_RULE, f"{operator} has no rule, and is not in the table"
            found.add(operator)
        elif "the type or rank of" not in why:  # that is lost behind an operator of which nothing is known
            names = [name for name in REASONS if operator in ("", name) and re.search(REASONS[name], why)]
            assert names, f"a refusal that is not in the table: {operator}: {why}"
            found.update(names)
    assert found, f"a refusal that nothing in the table explains: {detail}"
    return found
