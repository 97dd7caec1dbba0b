"""Which form of the problem is solved: the Lagrangian or the log barrier, normalised for each prompt or over all."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from mopo_train.barrier import solve_barrier
from mopo_train.dual import Solution, solve
from mopo_train.errors import FloorError
from mopo_train.front import Normaliser, propose
from mopo_train.global_form import solve_global
from mopo_train.robust import Radius
from mopo_train.winrates import WinRates

Variant = Literal["lagrangian", "log-barrier"]


class Formulation(NamedTuple):
    """Everything that decides a solution besides win rates and floors."""

    primary: str
    tau: float
    epsilon: Radius = None
    """KL radius of the robust floors; None: by the number of prompts."""
    variant: Variant = "lagrangian"
    normaliser: Normaliser = "prompt"


def solve_floors(rates: WinRates, floors: Mapping[str, float], form: Formulation) -> Solution:
    """The point for ``floors``. Raises FloorError, DataError as `dual.solve`, and for forms that do not go together."""
    _check(form)
    solver = solve
    if form.variant == "log-barrier":
        solver = solve_barrier
    elif form.normaliser == "global":
        solver = solve_global
    return solver(rates, primary=form.primary, floors=floors, tau=form.tau, epsilon=form.epsilon)


def propose_points(rates: WinRates, policies: int, form: Formulation) -> list[Solution]:
    """At most ``policies`` points spread over the front (`front.propose`); with the barrier, for the same floors."""
    _check(form)
    points = propose(
        rates,
        primary=form.primary,
        policies=policies,
        tau=form.tau,
        epsilon=form.epsilon,
        normaliser=form.normaliser,
    )
    return [solve_floors(rates, point.floors, form) for point in points] if form.variant == "log-barrier" else points


def _check(form: Formulation) -> None:
    if form.variant == "log-barrier" and form.normaliser == "global":
        raise FloorError("the log barrier is normalised for each prompt; give --variant or --normaliser, not both.")
