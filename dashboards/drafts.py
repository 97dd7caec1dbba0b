"""The certificate of a draft: floors that somebody is moving, so nothing is registered and the scores are read once."""

from pathlib import Path
from typing import NamedTuple

from mopo_eval.certificate import Certificate, Evidence, Question, certify
from mopo_eval.estimates import ScoreTable
from mopo_eval.evaluation import RunSummary, read_summary
from mopo_eval.profiles import Floors, ThresholdProfile
from mopo_eval.scores import read_scores
from mopo_eval.selection import effective_floors
from mopo_train.errors import FamilyError
from mopo_train.family import PolicyFamily


class Measured(NamedTuple):
    """One evaluation, read."""

    summary: RunSummary
    table: ScoreTable


def read_measured(directory: Path) -> Measured:
    """The evaluation in ``directory``. Raises FamilyError."""
    summary = read_summary(directory / "run.json")
    return Measured(summary, read_scores(directory, summary).table)


def certify_draft(
    family: PolicyFamily, measured: Measured, profile: ThresholdProfile, organisation: Floors
) -> Certificate:
    """Which policies are shown to hold the draft's floors, at the simultaneous level (`mopo_eval.certificate`).

    It carries no digests: it is for looking at, ``mopo-eval certify`` makes those to keep. Raises FamilyError for a
    floor on an objective that was not measured.
    """
    summary, floors = measured.summary, effective_floors(organisation, profile.floors)
    if missing := sorted({floor.partition(".")[0] for floor in floors} - set(summary.judges)):
        raise FamilyError(f"run {summary.run} did not measure {', '.join(missing)}.")
    why = "a draft: its floors may have been chosen after seeing the scores"
    question = Question(None, profile.primary, floors, summary.confidence, why, registered=False)
    evidence = Evidence(
        run=summary.run,
        prompts=summary.prompts,
        judges=summary.judges,
        family_sha256="",
        run_sha256="",
        judgements_sha256="",
    )
    planned = {policy.id: policy.predicted for policy in family.policies if policy.id in measured.table.policies}
    return certify(question, measured.table, planned, evidence, created_at="", package_version="")
