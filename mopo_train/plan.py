"""The plan: what a front will look like, from the data alone, before any model is trained.

Turns solutions of the dual into the document that ``plan --json`` prints and ``plan.json`` holds, and says how far
it can be trusted. Every value is a data win rate. Pictures are drawn in `picture`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from mopo_train.console import say
from mopo_train.costs import steps
from mopo_train.dual import Solution, attainable, infeasible_message
from mopo_train.errors import FamilyError
from mopo_train.family import check_problem_names, write_whole
from mopo_train.formulation import Formulation, Variant, propose_points, solve_floors
from mopo_train.front import Normaliser
from mopo_train.optimism import with_bounds
from mopo_train.preference_model.planning import (
    TRUSTED_COMPARISONS,
    advice,
    expected_seconds,
    fit_view,
    fits_by_itself,
    tell_cost,
)
from mopo_train.preference_model.settings import FitSettings
from mopo_train.robust import radii, radius_of
from mopo_train.winrates import WinRates, comparisons_per_response, win_rates

if TYPE_CHECKING:
    from mopo_train.preference_model.view import ModelView
    from mopo_train.preferences import PreferenceData

Source = Literal["labels", "preference-model"]
"""Where win rates come from."""

LOW_ESS = 0.03
"""Warn where a point keeps less than this share of the way from one response per prompt to all of them."""


class PlanRequest(NamedTuple):
    """What to plan for. Without ``floors``, ``policies`` points of the front."""

    primary: str | None = None
    """None: the first objective of the data."""
    policies: int = 6
    floors: Mapping[str, float] = {}
    tau: float = 0.15
    epsilon: float | None = None
    """KL radius of the robust floors; None: by ``confidence`` and the number of prompts."""
    confidence: float = 0.95
    variant: Variant = "lagrangian"
    normaliser: Normaliser = "prompt"
    independent_labels: bool = False
    """Whoever labelled erred on one objective without regard to the others (`optimism`): sharper lower bounds."""
    source: Source = "labels"
    cross_fit: bool | None = None
    """Show beside the labels' values those of a preference model; None: where labels are few and it takes seconds."""
    encoder: str | None = None
    """Of the preference model: a directory or hub name; None: a small one from scratch."""


class Plan(NamedTuple):
    """A plan and what to say about it."""

    document: dict[str, Any]
    """The object of ``plan --json``."""
    warnings: list[str]


def make_plan(data: "PreferenceData", request: PlanRequest) -> Plan:
    """The proposed points of the predicted front, or the one point for the floors asked for.

    Infeasible floors are no error: the point says so and the warnings name the nearest feasible ones. Raises
    FloorError and DataError as `dual.solve`.
    """
    compared = {name: count.mean for name, count in comparisons_per_response(data).items()}
    form = Formulation(
        request.primary or data.objectives[0],
        request.tau,
        radius_of(request.epsilon, request.confidence),
        request.variant,
        request.normaliser,
    )
    check_problem_names(form.primary, request.floors, list(data.objectives))  # not after minutes of fitting
    view = _view(data, request, compared)
    if view is not None and request.source == "preference-model":
        rates, points = view.rates, model_points(view, request, form)
    else:
        rates = win_rates(data)
        solved = solve_floors(rates, request.floors, form) if request.floors else None
        points = [solved] if solved else propose_points(rates, request.policies, form)
        points = with_bounds(data, rates, points, form.tau, form.epsilon, independent=request.independent_labels)
    document = plan_document(rates, points, form)
    document |= {
        "confidence": request.confidence,
        "pairs": len(data.weight),
        "comparisons_per_response": compared,
        "source": request.source,
    }
    warnings = _point_warnings(rates, points, document["attainable"])
    if view is not None:
        document["preference_model"] = {"encoder": request.encoder, "objectives": view.document()}
    if view is not None and request.source == "labels":
        learnt = {name: view.learnt(name) for name in data.objectives}
        document["preference_model"]["believe"] = advice(learnt, compared)
        document["points"] = [
            described | {"cross_fitted": view.values(point)}
            for described, point in zip(document["points"], points, strict=True)
        ]
    warnings += _label_warnings(rates, compared, document.get("preference_model"), request.source)
    if not request.floors and len(points) < request.policies:
        warnings.insert(0, few_points(len(points)))
    return Plan(document | {"warnings": warnings}, warnings)


def model_points(view: "ModelView", request: PlanRequest, form: Formulation) -> list[Solution]:
    """The points by a preference model's win rates; the floors of proposed ones are what the labels bear out."""
    if request.floors:
        return [view.solve(request.floors, form)]
    points = view.bounded(propose_points(view.rates, request.policies, form), form.epsilon)
    held = [{name: point.bound[name] for name in point.floors} for point in points]
    return [point._replace(floors=low, nearest_floors=low) for point, low in zip(points, held, strict=True)]


def _view(data: "PreferenceData", request: PlanRequest, compared: Mapping[str, float]) -> "ModelView | None":
    settings = FitSettings(encoder=request.encoder)
    asked = request.source == "preference-model" or request.cross_fit
    if not asked and not (request.cross_fit is None and fits_by_itself(data, compared, settings)):
        return None
    if asked:
        tell_cost(data, settings)
    else:
        seconds = max(1, round(expected_seconds(data, settings)))
        say(
            "labels are few, so a preference model is fitted to show its values beside theirs: about "
            f"{seconds} s the first time; --no-cross-fit leaves it out"
        )
    view: ModelView = fit_view(data, settings)
    return view


def plan_document(rates: WinRates, points: Sequence[Solution], form: Formulation) -> dict[str, Any]:
    """The ``plan --json`` object for points that were solved in the same ``form``."""
    epsilon = 0.0 if form.normaliser == "global" else form.epsilon
    radius = radii(rates.labelled.sum(axis=0), epsilon)
    return {
        "objectives": list(rates.objectives),
        "primary": form.primary,
        "unit": "data win rate",
        "tau": form.tau,
        "variant": form.variant,
        "normaliser": form.normaliser,
        "epsilon": dict(zip(rates.objectives, radius.tolist(), strict=True)),
        "attainable": attainable(rates, epsilon),
        "points": [_point(point) for point in points],
        "steps": [step._asdict() for step in steps(points)],
        "prompts": rates.prompts,
        "responses": rates.responses,
    }


def few_points(found: int) -> str:
    """Why fewer points came back than were asked for."""
    if found == 1:
        return (
            "the objectives agree: what is best for the primary is best for the others too, so floors will not bind "
            "and there is one point, not a front."
        )
    return f"the front has only {found} distinct points."


def _point(point: Solution) -> dict[str, Any]:
    """The fields of one point; an infeasible one also names the floors that its values belong to."""
    fields = ("floors", "multipliers", "predicted", "predicted_low", "bound", "kl", "ess", "feasible")
    described = {name: getattr(point, name) for name in fields}
    if point.attained:
        described["attained"] = point.attained
    if point.feasible:
        return described
    return described | {"nearest_floors": point.nearest_floors, "conflict": list(point.conflict)}


def _point_warnings(rates: WinRates, points: Sequence[Solution], largest: Mapping[str, float]) -> list[str]:
    warnings = [infeasible_message(point, largest) for point in points if not point.feasible]
    if any(point.attained for point in points):
        gap = max(value - point.attained[name] for point in points for name, value in point.predicted.items())
        warnings.append(
            "the global normaliser meets floors by weighing prompts, which no policy can: policies attain up to "
            f"{gap:.2f} less than it predicts (columns 'attained'). Plan with --normaliser prompt."
        )
    least = float((1.0 / np.diff(rates.starts)).mean())  # one response per prompt
    low = [index for index, point in enumerate(points) if least < 1 and point.ess < least + LOW_ESS * (1 - least)]
    if low:
        named = ", ".join(str(index) for index in low)
        warnings.append(
            f"the effective sample size of point {named} is near {least:.2f}, one response per prompt: "
            "policies there copy single answers. A larger tau keeps more of the reference."
        )
    return warnings


def _label_warnings(
    rates: WinRates, compared: Mapping[str, float], model: Mapping[str, Any] | None, source: Source
) -> list[str]:
    warnings = []
    few = [f"{name} {mean:.1f}" for name, mean in compared.items() if mean < TRUSTED_COMPARISONS]
    if few and source == "labels":
        believe = (
            f"a preference model that never saw the prompts that it values says what is left. {model['believe']}"
            if model is not None
            else "believe the lower bounds, which hold whatever the noise and are wide for want of labels, and what "
            "'mopo-eval run' measures. --cross-fit shows beside them what a preference model expects."
        )
        warnings.append(
            f"comparisons per response: {', '.join(few)} (below {TRUSTED_COMPARISONS}). The noise of so few labels "
            f"counts as quality here, so predictions are optimistic: {believe}"
        )
    alone = int((np.diff(rates.starts) == 1).sum())
    if alone:
        warnings.append(f"{alone} of {rates.prompts} prompts have a single distinct response: nothing to choose there.")
    return warnings


def check_out(out: Path) -> None:
    """Raise FamilyError where a plan would replace the one that a family was trained for."""
    if any((out / name).exists() for name in ("family.json", "run.json")):
        raise FamilyError(f"'{out}' holds a family, whose plan.json says what it was trained for; give another --out.")


def write_plan(out: Path, document: Mapping[str, Any]) -> None:
    """Write ``out``/plan.html and ``out``/plan.json, each by rename; the JSON last."""
    import json

    from mopo_train.picture import plan_page

    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "plan.html", plan_page(document))
    write_whole(out / "plan.json", json.dumps(document, allow_nan=False, indent=2) + "\n")


def plan_table(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows for a terminal."""
    names = document["objectives"]
    held = [name for name in names if any(name in point["floors"] for point in document["points"])]
    shown = {"predicted": "", "cross_fitted": " cross-fitted", "bound": " bound"}
    fields = [field for field in shown if field in document["points"][0]]
    columns = ["point", *(f"floor {name}" for name in held)]
    columns += [f"{name}{shown[field]}" for field in fields for name in names]
    if any("attained" in point for point in document["points"]):
        fields.append("attained")
        columns += [f"{name} attained" for name in names]
    columns += [*(f"λ {name}" for name in held), "KL nats", "ESS"]
    rows = []
    for index, point in enumerate(document["points"]):
        cells = [point["floors"][name] for name in held]
        cells += [point[field][name] for field in fields for name in names]
        cells += [*(point["multipliers"][name] for name in held), point["kl"], point["ess"]]
        label = str(index) if point["feasible"] else f"{index} infeasible"
        rows.append([label, *(f"{cell:.3f}" for cell in cells)])
    if held:  # a bound on floors: predictions may be above
        largest = [f"{document['attainable'][name]:.3f}" for name in held]
        rows.append(["attainable", *largest, *[""] * (len(columns) - 1 - len(held))])
    return columns, rows
