"""Train a family of policies along the Pareto front from pairwise preferences (MOPO, arXiv 2505.10892)."""

__version__ = "0.1.0"
