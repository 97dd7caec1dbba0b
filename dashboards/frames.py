"""A family directory as pandas frames: scores, policies and fronts.

Two units, never in one frame: judge scores and win rates against ``reference`` are measured
(scorecards); data win rates are planned (``plan.json``, ``family.json``). Single answers are read in
``answers``, decisions under floors are in ``floors``. Imports neither torch nor streamlit.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import moocore
import numpy as np
import pandas as pd

from dashboards.fronts import ExactFront, Plan, front_path, read_exact_front, read_plan
from mopo_eval.front import measured_front
from mopo_eval.profiles import ProfileFile, read_profiles
from mopo_eval.reliability import Reliability
from mopo_eval.scorecards import Scorecard, read_scorecards, reliability_of
from mopo_train.errors import MopoError
from mopo_train.family import REFERENCE, PolicyFamily, read_family

Unit = Literal["judge score", "win rate"]
Stamp = tuple[tuple[str, int, int], ...]
STATISTICS = ["mean", "low", "high", "certified_low"]


class FamilyView(NamedTuple):
    """Everything small that a family directory holds."""

    root: Path
    family: PolicyFamily
    cards: dict[str, Scorecard | None]
    """Scorecard per policy, in the family's order; None where it was not measured."""
    profiles: ProfileFile
    plan: Plan | None
    exact: ExactFront | None
    """The true front, where the data came from a sandbox."""
    problems: list[str]
    """Optional files that could not be read, one sentence each."""
    profiles_sha256: str | None
    """Of the file that ``profiles`` were read from; None where there is none."""

    @property
    def measured(self) -> list[Scorecard]:
        """The scorecards that exist."""
        return [card for card in self.cards.values() if card is not None]

    @property
    def unmeasured(self) -> list[str]:
        """Policies without a scorecard."""
        return [policy for policy, card in self.cards.items() if card is None]


def open_family(root: Path) -> FamilyView:
    """Read the family in ``root``.

    Raises FamilyNotFound or FamilyError for a family or scorecard that is missing or damaged. Damaged
    optional files (profiles, plan, exact front) become ``problems`` instead: the rest stays readable.
    """
    family = read_family(root)
    cards = read_scorecards(root, family)
    problems: list[str] = []
    profiles, plan, exact = ProfileFile(), None, None
    sha256 = file_sha256(root / "profiles.yaml")  # before it is read: of a file that changes now, the digest is old
    if sha256 is not None:
        try:
            profiles = read_profiles(root / "profiles.yaml", family.objectives, (p.id for p in family.policies))
        except MopoError as error:
            problems.append(str(error))
    try:
        plan = read_plan(root, family)
    except MopoError as error:
        problems.append(str(error))
    try:
        exact = read_exact_front(root, family)
    except MopoError as error:
        problems.append(str(error))
    every = {policy.id: cards.get(policy.id) for policy in family.policies}
    return FamilyView(root, family, every, profiles, plan, exact, problems, sha256)


def stamp(root: Path) -> Stamp:
    """Path, modification time (ns) and size of every file that ``open_family`` reads; equal means unchanged."""
    paths = [root / name for name in ("family.json", "plan.json", "profiles.yaml")]
    paths += sorted((root / "scorecards").glob("*.json"))
    if (exact := front_path(root)) is not None:
        paths.append(exact)
    return tuple(state for path in paths if (state := file_state(path)) is not None)


def file_state(path: Path) -> tuple[str, int, int] | None:
    """Path, modification time (ns) and size of one file; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return str(path), state.st_mtime_ns, state.st_size


def file_sha256(path: Path) -> str | None:
    """Digest of a file's bytes; None where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def scores(view: FamilyView, unit: Unit = "judge score") -> pd.DataFrame:
    """Measured scores, one row per policy and objective, in the family's order.

    Columns: policy, kind, objective, mean, low, high, certified_low, n, judge, dominated. ``win rate`` is
    against the reference on the same prompts. Policies and objectives without a measurement have no row.
    """
    dominated = dominated_policies(view)
    rows = []
    for policy in view.family.policies:
        card = view.cards[policy.id]
        for objective in view.family.objectives:
            score = card.objectives.get(objective) if card else None
            if score is None:
                continue
            value = score if unit == "judge score" else score.win_rate
            rows.append(
                {"policy": policy.id, "kind": policy.kind, "objective": objective}
                | {name: getattr(value, name) for name in [*STATISTICS, "n"]}
                | {"judge": score.judge, "dominated": policy.id in dominated}
            )
    columns = ["policy", "kind", "objective", *STATISTICS, "n", "judge", "dominated"]
    return pd.DataFrame(rows, columns=columns)


def dominated_policies(view: FamilyView) -> set[str]:
    """Policies that another one beats on some objective's mean score and trails on none.

    Only policies measured on every objective that the family was measured on are compared.
    """
    known = measured_objectives(view)
    cards = [card for card in view.measured if set(known) <= set(card.objectives)]
    if not cards or not known:
        return set()
    return {card.policy for card in cards} - set(measured_front(cards).policies)


def fitted_judges(view: FamilyView) -> dict[str, Reliability]:
    """What is known of the judges that were fitted on the measuring machine, by objective in the family's order."""
    found = reliability_of(view.measured)
    return {name: found[name] for name in view.family.objectives if name in found}


def measured_objectives(view: FamilyView) -> list[str]:
    """Objectives that at least one policy was measured on, in the family's order."""
    return [name for name in view.family.objectives if any(name in card.objectives for card in view.measured)]


def score_table(view: FamilyView) -> pd.DataFrame:
    """Measured scores, one row per policy, for people and for download.

    Columns: policy, kind, dominated, then ``<objective> <statistic> (judge score)`` and
    ``<objective> <statistic> (win rate vs reference)``.
    """
    dominated = dominated_policies(view)
    rows = []
    for policy in view.family.policies:
        card = view.cards[policy.id]
        if card is None:
            continue
        row: dict[str, object] = {"policy": policy.id, "kind": policy.kind, "dominated": policy.id in dominated}
        for objective in measured_objectives(view):
            score = card.objectives.get(objective)
            for words in ("judge score", "win rate vs reference"):
                value = score.win_rate if score and words != "judge score" else score
                for statistic in STATISTICS:
                    row[f"{objective} {statistic} ({words})"] = getattr(value, statistic, None)
        rows.append(row)
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["policy", "kind", "dominated"])


def planned(view: FamilyView) -> pd.DataFrame:
    """What each policy was trained for, in data win rate: one row per policy.

    Columns: policy, kind, ess, then per objective ``<objective> floor``, ``multiplier``, ``predicted`` and
    ``predicted_low``; NaN where the family records nothing.
    """
    rows = []
    for policy in view.family.policies:
        row: dict[str, object] = {"policy": policy.id, "kind": policy.kind, "ess": policy.ess}
        for name in view.family.objectives:
            row[f"{name} floor"] = policy.floors.get(name)
            row[f"{name} multiplier"] = policy.multipliers.get(name)
            row[f"{name} predicted"] = policy.predicted.get(name)
            row[f"{name} predicted_low"] = policy.predicted_low.get(name)
        rows.append(row)
    table = pd.DataFrame(rows)
    numbers = [name for name in table.columns if name not in ("policy", "kind")]
    table[numbers] = table[numbers].astype(float)
    return table


def has_plan(view: FamilyView) -> bool:
    """True if the family records predicted values for a trained policy."""
    return any(policy.predicted for policy in view.family.policies if policy.id != REFERENCE)


def exact_line(view: FamilyView, x: str, y: str, kind: Literal["scores", "win_rates"]) -> pd.DataFrame | None:
    """The true front in the plane of two objectives: columns x and y, by rising x; None where it is not known."""
    if view.exact is None:
        return None
    return best_pairs([getattr(point, kind) for point in view.exact.points], x, y)


def planned_line(view: FamilyView, x: str, y: str) -> pd.DataFrame | None:
    """The predicted front in the plane of two objectives, in data win rate; None without a plan."""
    if view.plan is None:
        return None
    return best_pairs([point.predicted for point in view.plan.points if point.feasible], x, y)


def best_pairs(points: Sequence[Mapping[str, float]], x: str, y: str) -> pd.DataFrame | None:
    """The points that no other beats on ``x`` and ``y`` alone, by rising x; None if none has both."""
    pairs = np.array([[point[x], point[y]] for point in points if x in point and y in point])  # (points, 2)
    if not pairs.size:
        return None
    pairs = np.unique(pairs[moocore.is_nondominated(pairs, maximise=True)], axis=0)
    return pd.DataFrame(pairs, columns=["x", "y"])
