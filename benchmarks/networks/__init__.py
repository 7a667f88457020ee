"""Networks, each written once for all systems: a function of operations, weights and an input."""

from benchmarks.networks.base import Network, Weights

__all__ = ["Network", "Weights"]
