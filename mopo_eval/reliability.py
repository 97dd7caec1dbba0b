"""How far a judge that was fitted on this machine is to be trusted, measured on what it was not fitted to."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from mopo_train.family import UnitScore

if TYPE_CHECKING:
    from mopo_eval.judges.case import Judge


class Reliability(BaseModel):
    """Of a fitted judge, on held-out data: beside every number that it gives."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    accuracy: UnitScore
    """Share of held-out cases that it decides as their label does."""
    low: UnitScore
    high: UnitScore
    """95 % interval of the accuracy, clustered by prompt."""
    ece: UnitScore
    """Expected calibration error of its probabilities."""
    n: int
    """Held-out cases."""
    unit: str
    """What a case is: pairs, claims."""
    chance: UnitScore
    """Accuracy of always saying what is commonest."""

    @property
    def brief(self) -> str:
        """In few words, for the head of a column."""
        return f"fitted judge, right {self.accuracy:.2f} held out, calibration error {self.ece:.2f}"

    @property
    def sentence(self) -> str:
        """In words."""
        return (
            f"held-out accuracy {self.accuracy:.3f} [{self.low:.3f}, {self.high:.3f}] (chance {self.chance:.2f}), "
            f"calibration error {self.ece:.3f}, {self.n} {self.unit}"
        )


@runtime_checkable
class Fitted(Protocol):
    """A judge that was fitted on this machine."""

    def reliability(self) -> Reliability:
        """Measured on held-out data. Raises JudgeError."""


def column(objective: str, known: Mapping[str, Reliability]) -> str:
    """The head of a column of numbers on ``objective``: with what is ``known`` of its judge."""
    return objective if objective not in known else f"{objective} ({known[objective].brief})"


def sentences(known: Mapping[str, Reliability]) -> list[str]:
    """What is ``known`` of the fitted judge of each objective, for below numbers."""
    return [f"{objective}: judged by a model fitted to data: {each.sentence}" for objective, each in known.items()]


def as_json(known: Mapping[str, Reliability]) -> dict[str, Any]:
    """The field ``reliability`` of a document with numbers of fitted judges; nothing where there are none."""
    told = {objective: each.model_dump() for objective, each in known.items()}
    return {"reliability": told} if told else {}


def reliabilities(judges: Mapping[str, "Judge"]) -> dict[str, Reliability]:
    """Of every judge that was fitted here, by objective."""
    return {objective: judge.reliability() for objective, judge in judges.items() if isinstance(judge, Fitted)}
