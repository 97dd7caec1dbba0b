"""Scorecards: the latest measured scores of each policy, one JSON file per policy.

Reads and writes them; how the numbers are made is in ``intervals`` and ``measure``.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from mopo_eval.reliability import Reliability
from mopo_train.errors import FamilyError
from mopo_train.family import ObjectiveName, PolicyFamily, PolicyId, UnitScore, first_problem, write_whole


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a later version may say more


class Estimate(_Model):
    """A mean over prompts with its uncertainty."""

    mean: UnitScore
    low: UnitScore
    """Lower end of the two-sided interval, clustered by prompt."""
    high: UnitScore
    certified_low: UnitScore
    """One-sided lower bound that holds for all policies and objectives of the family at once."""
    n: int = Field(ge=1)
    """Prompts measured."""


class ObjectiveScore(Estimate):
    """The judge's score on one objective."""

    judge: str
    """Dotted name or configuration name of the judge."""
    reliability: Reliability | None = None
    """Of a judge that was fitted to data on this machine, on held-out data: read it before the score."""
    win_rate: Estimate
    """Against ``reference`` on the same prompts, ties counted half."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A judge of another kind has no reliability: the field is absent then."""
        told: dict[str, Any] = plain(self)
        return {name: value for name, value in told.items() if name != "reliability" or value is not None}


class Scorecard(_Model):
    """The contents of ``scorecards/<policy>.json``."""

    policy: PolicyId
    run: str
    """Name of the evaluation under ``evaluation/`` that produced it."""
    confidence: float = Field(gt=0, lt=1)
    objectives: dict[ObjectiveName, ObjectiveScore]


def with_reliability(card: Scorecard, known: Mapping[str, Reliability]) -> Scorecard:
    """``card`` that says of each objective's judge what is ``known``."""
    scores = card.objectives.items()
    told = {name: score.model_copy(update={"reliability": known.get(name)}) for name, score in scores}
    return card.model_copy(update={"objectives": told})


def reliability_of(cards: Iterable[Scorecard]) -> dict[str, Reliability]:
    """What the ``cards`` say of judges that were fitted where the family was measured, by objective."""
    scores = ((name, score.reliability) for card in cards for name, score in card.objectives.items())
    return {name: known for name, known in scores if known is not None}


def read_scorecards(root: Path, family: PolicyFamily) -> dict[str, Scorecard]:
    """Scorecard per policy id in the family's order; policies that were not measured are absent.

    Raises FamilyError also for cards of different runs, whose certified bounds do not hold at once.
    """
    cards = {}
    for policy in family.policies:
        path = root / "scorecards" / f"{policy.id}.json"
        if not path.is_file():
            continue
        try:
            card = Scorecard.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise FamilyError(
                f"'{path}' is not a scorecard: {first_problem(error)}. "
                f"Measure the family again with 'mopo-eval run {root}'."
            ) from error
        if card.policy != policy.id or not set(card.objectives) <= set(family.objectives):
            raise FamilyError(
                f"'{path}' belongs to another policy or family; measure again with 'mopo-eval run {root}'."
            )
        cards[policy.id] = card
    if len(runs := {(card.run, card.confidence) for card in cards.values()}) > 1:
        told = ", ".join(f"{run} at {confidence:g}" for run, confidence in sorted(runs))
        raise FamilyError(
            f"the scorecards in '{root}' are of different runs or confidences ({told}), so that their certified bounds "
            f"do not hold together; measure again with 'mopo-eval run {root}'."
        )
    return cards


def write_scorecards(root: Path, cards: Sequence[Scorecard], withheld: Iterable[str] = ()) -> None:
    """Write every card, each by rename; no card is left of the policies ``withheld``."""
    for policy in withheld:
        (root / "scorecards" / f"{policy}.json").unlink(missing_ok=True)
    for card in cards:
        write_whole(root / "scorecards" / f"{card.policy}.json", card.model_dump_json(indent=2) + "\n")
