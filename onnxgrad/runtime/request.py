"""What is asked of a model."""

from __future__ import annotations

from dataclasses import dataclass

from onnxgrad.augmentation import Augmentation, Batched, Index, Mode

#: Name of the size of the axis of seeds.
SEEDS = "onnxgrad_seeds"

#: How each kind of derivative is called in a message.
SPOKEN = {
    "jacobian": "Jacobian",
    "gradient": "gradient",
    "hessian": "Hessian",
    "vjp": "vector-Jacobian product",
    "jvp": "Jacobian-vector product",
    "hvp": "Hessian-vector product",
}


@dataclass(frozen=True)
class Request:
    """A derivative that is asked for.

    Attributes:
        kind: the derivative, by the name of its transform.
        of: what to differentiate; None: every floating-point output.
        wrt: what to differentiate by; None: every floating-point input.
        index: which element of a wider output.
        batched: whether per sample.
        mode: which way.
        seeds: whether directions have an axis of seeds in front.
        values: whether the model's own outputs are returned too.
        straight_through: whether gradients pass straight through the roundings of quantized operators.
    """

    kind: str
    of: tuple[str, ...] | None = None
    wrt: tuple[str, ...] | None = None
    index: Index = None
    batched: Batched = "auto"
    mode: Mode = "auto"
    seeds: bool = False
    values: bool = False
    straight_through: bool = False

    def add_to(self, augmentation: Augmentation) -> None:
        """Add the derivative to a model."""
        match self.kind:
            case "jacobian":
                augmentation.jacobian(self.of, self.wrt, self.batched, self.mode)
            case "vjp":
                augmentation.vjp(self.of, self.wrt, SEEDS if self.seeds else None)
            case "jvp":
                augmentation.jvp(self.of, self.wrt, SEEDS if self.seeds else None)
            case "gradient":
                augmentation.gradient(self.of, self.wrt, self.index, self.batched)
            case "hessian":
                augmentation.hessian(self.of, self.wrt, self.index, self.batched)
            case "hvp":
                augmentation.hvp(self.of, self.wrt, self.index, self.batched)
