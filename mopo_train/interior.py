"""Placeholder: robust floors are still solved with the plain multipliers."""


from mopo_train.tilting import Problem
from mopo_train.winrates import FloatArray


def solve_robust(problem: Problem, bounds: FloatArray, radius: FloatArray, start: FloatArray) -> FloatArray | None:
    """Stub."""
    return start


def tilt_robust(problem: Problem, multipliers: FloatArray, radius: FloatArray) -> FloatArray:
    """Stub."""
    return multipliers
