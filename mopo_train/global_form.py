"""The paper's Eq. 3 with one normaliser for the whole data set, for comparison with the per-prompt form.

    rho(y|x) = exp(s_lambda(x, y) / tau) / E_{x, y ~ pi_ref} exp(s_lambda / tau)

averages to 1 over all prompts, not for each. It may meet a floor by weighing the prompts whose labels agree, which no
policy can do: a policy answers every prompt. So what it predicts is not attained, and `Solution.attained` says what
policies with the same scores attain, which are normalised for each prompt. Floors are plain: the paper's robust form
reweights the very pairs that this form is free to choose.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mopo_train.dual import attained_by, solve_task
from mopo_train.errors import FloorError
from mopo_train.family import check_floors
from mopo_train.robust import Radius
from mopo_train.solution import Solution, Task, check_problem, describe
from mopo_train.tilting import Problem, make_problem
from mopo_train.winrates import WinRates


def solve_global(
    rates: WinRates, *, primary: str, floors: Mapping[str, float], tau: float, epsilon: Radius = None
) -> Solution:
    """`dual.solve` in the global form. ``epsilon`` may be None or 0. Raises FloorError and DataError as it does.

    A prompt without a label on an objective counts as parity.
    """
    check_floors(floors, list(rates.objectives))
    task = _task(rates, primary, list(floors), tau, epsilon)
    return _with_attained(task, solve_task(task, floors))


def tilt_global(
    rates: WinRates, *, primary: str, multipliers: Mapping[str, float], tau: float, epsilon: Radius = None
) -> Solution:
    """`dual.tilt` in the global form: its floors are the values that the form predicts."""
    task = _task(rates, primary, list(multipliers), tau, epsilon)
    solution = _with_attained(task, attained_by(task, np.array(list(multipliers.values())), multipliers))
    floors = {name: solution.predicted[name] for name in multipliers}
    return solution._replace(floors=floors, nearest_floors=dict(floors))


def global_problem(rates: WinRates, primary: str, constrained: Sequence[str], tau: float) -> Problem:
    """All responses as those of one prompt."""
    columns = [rates.column(name) for name in constrained]
    return Problem(
        base=np.ascontiguousarray(rates.rates[:, rates.column(primary)]),
        rates=np.ascontiguousarray(rates.rates[:, columns].T),
        labelled=np.ones((len(columns), 1), dtype=bool),
        mass=rates.mass / rates.prompts,
        starts=np.array([0, rates.responses]),
        prompt_of=np.zeros(rates.responses, dtype=np.int64),
        tau=tau,
    )


def _task(rates: WinRates, primary: str, constrained: Sequence[str], tau: float, epsilon: Radius) -> Task:
    if isinstance(epsilon, int | float) and epsilon != 0:
        raise FloorError(
            f"epsilon = {epsilon}: the global form has plain floors only; leave epsilon out, or normalise by prompt."
        )
    radius = check_problem(rates, primary, constrained, tau, 0.0)
    return Task(rates, global_problem(rates, primary, constrained, tau), radius, primary)


def _with_attained(task: Task, solution: Solution) -> Solution:
    """``solution`` with the form's own predictions, and what policies with the same scores attain."""
    rates = task.rates
    claimed = (solution.ratio * rates.mass) @ rates.rates / rates.prompts  # (K,)
    predicted = dict(zip(rates.objectives, claimed.tolist(), strict=True))
    each = make_problem(rates, task.primary, [], task.problem.tau)
    policies = describe(Task(rates, each, task.radius, task.primary), np.zeros(0), {}, score=solution.score)
    return solution._replace(predicted=predicted, predicted_low=predicted, attained=policies.predicted)
