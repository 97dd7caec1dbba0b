"""Certifying a family from its files, and checking a certificate against itself and against the family."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from mopo_eval.certificate import Certificate, Evidence, Question, alike, certify, problems
from mopo_eval.evaluation import RunSummary, read_summary
from mopo_eval.profiles import Floors, ThresholdProfile
from mopo_eval.registration import FILE, Registration, read_registration
from mopo_eval.scorecards import read_scorecards
from mopo_eval.scores import read_scores
from mopo_eval.selection import effective_floors
from mopo_train import __version__
from mopo_train.errors import FamilyError, MopoError
from mopo_train.family import PolicyFamily, first_problem, write_whole

STATED = "stated by whoever made this certificate"
"""How the registration of floors begins that nobody can check here."""


class Request(NamedTuple):
    """What to certify of a family."""

    profile: ThresholdProfile
    name: str | None
    """Of the profile in profiles.yaml; None for floors that were given otherwise."""
    organisation: Floors
    run: str | None = None
    """Evaluation to use; None: that of the scorecards."""
    elsewhere: str | None = None
    """Where the floors were registered before the evaluation, if not in profiles.yaml; somebody's word."""


def certify_family(root: Path, family: PolicyFamily, request: Request) -> Certificate:
    """The certificate that is asked for, of the family in ``root``.

    Raises FamilyError where nothing was measured, or not the objectives that are asked for.
    """
    profile = request.profile
    directory, summary = _measured(root, family, request.run)
    floors = effective_floors(request.organisation, profile.floors)
    wanted = {floor.partition(".")[0] for floor in floors} | {profile.primary}
    if missing := sorted(wanted - set(summary.judges)):
        raise FamilyError(f"run {summary.run} did not measure {', '.join(missing)}; give it a judge and measure again.")
    registered, why = registration_of(read_registration(directory), request, floors)
    question = Question(request.name, profile.primary, floors, summary.confidence, why, registered, summary.counted)
    planned = {policy.id: policy.predicted for policy in family.policies}
    if set(planned) != set(summary.policies):
        raise FamilyError(f"run {summary.run} measured other policies than the family has; measure again.")
    return certify(
        question,
        read_scores(directory, summary).table,
        planned,
        _evidence(root, directory, summary),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        package_version=__version__,
    )


def registration_of(registration: Registration | None, request: Request, floors: Floors) -> tuple[bool, str]:
    """Whether the effective ``floors`` stood before the run was scored, and how that is known or why it is not."""
    name = request.name
    if request.elsewhere:
        return True, f"{STATED}: {request.elsewhere}"
    if registration is None:
        return False, f"the run has no {FILE}: it was made before floors were registered"
    if name is None:
        return (
            False,
            "floors given on the command line are not registered; put them into profiles.yaml before measuring",
        )
    before = registration.profiles
    if name not in before.profiles:
        return False, f"profiles.yaml had no profile '{name}' when the run began"
    stood = effective_floors(before.organisation.floors, before.profiles[name].floors)
    if stood != floors or before.profiles[name].primary != request.profile.primary:
        return False, f"profile '{name}' was another one when the run began"
    if registration.seen:
        return False, f"an earlier run had scored some of the same prompts: {', '.join(registration.seen)}"
    return True, f"profile '{name}' stood in profiles.yaml at {registration.registered_at}, before the run began"


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write it by rename."""
    write_whole(path, certificate.model_dump_json(indent=1) + "\n")


def read_certificate(path: Path) -> Certificate:
    """The certificate at ``path``. Raises FamilyError where there is none, or something else."""
    if not path.is_file():
        raise FamilyError(f"no certificate at '{path}'; make one with 'mopo-eval certify FAMILY --profile P'.")
    try:
        return Certificate.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise FamilyError(f"'{path}' is not a certificate: {first_problem(error)}.") from error


def verify(certificate: Certificate, root: Path | None, family: PolicyFamily | None) -> list[str]:
    """What is wrong with ``certificate``: with itself, and where a family is given, with the files it rests on."""
    found = problems(certificate)
    if root is None or family is None:
        return found
    directory, stated = root / "evaluation" / certificate.evidence.run, certificate.evidence
    try:
        summary = read_summary(directory / "run.json")
        actual = _evidence(root, directory, summary)
        table = read_scores(directory, summary).table
    except MopoError as error:
        return [*found, f"the evidence cannot be read: {str(error).rstrip('.')}"]
    for name in Evidence.model_fields:
        if (value := getattr(actual, name)) != getattr(stated, name):
            found.append(f"evidence: {name} is {value}, the certificate says {getattr(stated, name)}")
    question = Question(
        certificate.profile,
        certificate.primary,
        certificate.floors,
        certificate.confidence,
        certificate.registration,
        certificate.method == "fixed-sequence",
        summary.counted,
    )
    found += _registration_problems(certificate, directory)
    planned = {policy.id: policy.predicted for policy in family.policies}
    try:
        again = certify(question, table, planned, stated, created_at="", package_version="")
    except (ValueError, KeyError) as error:
        return [*found, f"the floors cannot be tested again: {error}"]
    ours, theirs = (
        {policy.policy: policy.model_dump(mode="json") for policy in each.policies} for each in (certificate, again)
    )
    for policy in ours.keys() | theirs.keys():
        if not alike(ours.get(policy), theirs.get(policy)):
            found.append(f"{policy}: the family's files give other tests")
    return found


def _registration_problems(certificate: Certificate, directory: Path) -> list[str]:
    """Whether floors that count as registered were, by the run's own record; somebody's word cannot be checked."""
    if certificate.method != "fixed-sequence" or certificate.registration.startswith(STATED):
        return []
    profile = ThresholdProfile(primary=certificate.primary, floors=certificate.floors)
    request = Request(profile, certificate.profile, {})
    try:
        registered, why = registration_of(read_registration(directory), request, certificate.floors)
    except MopoError as error:
        registered, why = False, str(error)
    return [] if registered else [f"its floors do not count as registered: {why.rstrip('.')}"]


def _measured(root: Path, family: PolicyFamily, run: str | None) -> tuple[Path, RunSummary]:
    """The run called ``run``, or the one that the scorecards are of. Raises FamilyError."""
    if run is None:
        cards = read_scorecards(root, family)
        if not cards:
            raise FamilyError(f"no policy of '{root}' was measured; measure them with 'mopo-eval run {root}'.")
        run = next(iter(cards.values())).run
    directory = root / "evaluation" / run
    return directory, read_summary(directory / "run.json")


def _evidence(root: Path, directory: Path, summary: RunSummary) -> Evidence:
    return Evidence(
        run=summary.run,
        prompts=summary.prompts,
        judges=summary.judges,
        family_sha256=_sha256(root / "family.json"),
        run_sha256=_sha256(directory / "run.json"),
        judgements_sha256=_sha256(directory / "judgements.parquet"),
        reliability=summary.reliability,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
