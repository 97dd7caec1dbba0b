"""One policy of a measured family and all that is known of it, gathered for its model card."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from mopo_eval.breakdown import CategoryScore, by_category
from mopo_eval.gate import Verdict, decide
from mopo_eval.profiles import ProfileFile
from mopo_eval.results import RunResults
from mopo_eval.scorecards import Scorecard
from mopo_train.errors import FamilyError
from mopo_train.family import Policy, PolicyFamily, first_problem

WEIGHTS = ("*.safetensors", "*.bin")


class TrainingRecord(BaseModel):
    """What a card tells of the family's ``run.json``, which training leaves."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    model: str
    """The reference model, as given."""
    model_fingerprint: str


class Subject(NamedTuple):
    """One policy and all that is known of it."""

    family: PolicyFamily
    policy: Policy
    results: RunResults
    verdicts: Sequence[Verdict]
    """Of every profile of the family."""
    categories: Sequence[CategoryScore]
    """Of this policy."""
    hashes: Mapping[str, str]
    """SHA-256 per file of weights or settings, by its path in the family."""
    training: TrainingRecord | None
    license: str | None

    @property
    def place(self) -> int:
        """Its row in the run's table."""
        return list(self.results.table.policies).index(self.policy.id)

    @property
    def card(self) -> Scorecard:
        """Its scores."""
        return self.results.cards[self.policy.id]


def subjects(
    root: Path,
    family: PolicyFamily,
    results: RunResults,
    profiles: ProfileFile,
    *,
    policy: str | None = None,
    license: str | None = None,
) -> list[Subject]:
    """``policy``, or every policy that the run measured. Raises FamilyError for one that is unknown or unmeasured."""
    wanted = [family.policy(policy)] if policy else [each for each in family.policies if each.id in results.cards]
    if policy and policy not in results.cards:
        raise FamilyError(f"'{policy}' was not measured in run {results.summary.run}; run 'mopo-eval run {root}'.")
    known = {each.id: results.cards.get(each.id) for each in family.policies}
    verdicts = [decide(name, each, known, profiles.organisation.floors) for name, each in profiles.profiles.items()]
    categories, training, base = by_category(results), _training(root), _base_hashes(root, family)
    return [
        Subject(
            family,
            each,
            results,
            verdicts,
            [score for score in categories if score.policy == each.id],
            _adapter_hashes(root, each) | base,
            training,
            license,
        )
        for each in wanted
    ]


def _training(root: Path) -> TrainingRecord | None:
    path = root / "run.json"
    try:
        return TrainingRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise FamilyError(f"'{path}' is not a record of training: {first_problem(error)}; restore it.") from error


def _adapter_hashes(root: Path, policy: Policy) -> dict[str, str]:
    if policy.adapter is None:
        return {}
    return _digests(root, sorted((root / policy.adapter).glob("adapter_*")))


def _base_hashes(root: Path, family: PolicyFamily) -> dict[str, str]:
    """Of the base model's weights, where they lie in the family: a base that is elsewhere may be another by now."""
    base = root / family.base_model
    if not base.is_relative_to(root):
        return {}
    return _digests(root, sorted(path for pattern in WEIGHTS for path in base.glob(pattern)))


def _digests(root: Path, files: Sequence[Path]) -> dict[str, str]:
    found = {}
    for path in files:
        with path.open("rb") as opened:
            found[path.relative_to(root).as_posix()] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found
