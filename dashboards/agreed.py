"""What was saved and signed of a family's profiles, together, and what follows for a version. Pure decisions."""

from typing import NamedTuple

from dashboards.signoffs import Evidence, SignOff, changed, profile_sha256, unsigned
from dashboards.versions import PutInForce, Version
from mopo_eval.profiles import Organisation, ProfileFile, ThresholdProfile


class Standing(NamedTuple):
    """One sign-off, as things stand."""

    signoff: SignOff
    changed: list[str]
    """What is no longer what was signed; empty while it holds."""


class Agreed(NamedTuple):
    """What was saved and signed so far."""

    versions: list[Version]
    signoffs: list[SignOff]
    log: list[PutInForce]
    evidence: Evidence
    """Digests of family and evaluation; that of a profile is filled in where one is looked at."""
    current: ProfileFile
    """What is in force."""
    in_force: int | None
    """The version that says so; None where no version does."""

    @property
    def choices(self) -> dict[int, ProfileFile]:
        """What can be looked at: what is in force first (0 where no version says it), then versions, newest first."""
        found = {self.in_force or 0: self.current}
        return found | {version.number: version.profiles for version in reversed(self.versions)}

    def version(self, number: int) -> Version | None:
        """The version with a number; None for 0."""
        return next((version for version in self.versions if version.number == number), None)

    def standings(self, profiles: ProfileFile, name: str) -> list[Standing]:
        """Every sign-off of the profile called ``name``, held against the one in ``profiles``, latest first."""
        now = self.evidence._replace(profile=profile_sha256(profiles, name))
        mine = [entry for entry in self.signoffs if entry.profile == name]
        return [Standing(entry, changed(entry, now)) for entry in reversed(mine)]

    def removed(self, number: int) -> list[str]:
        """Profiles in force that a version does not have."""
        return [name for name in self.current.profiles if name not in self.choices[number].profiles]

    def missing(self, number: int) -> list[str]:
        """Profiles of a version, and those that it removes, that must be signed before it may be put in force.

        None for a version that was in force before, so that a rollback never waits for a signature.
        """
        if any(entry.version == number or entry.replaced == number for entry in self.log):
            return []
        return unsigned(self.choices[number], self.current, self.signoffs, self.evidence)


def with_profile(base: ProfileFile, name: str, profile: ThresholdProfile | None) -> ProfileFile:
    """``base`` with the profile called ``name`` set, or removed if None; floors of 0 are left out."""
    kept = {known: each for known, each in base.profiles.items() if known != name or profile is not None}
    if profile is not None:
        floors = {floor_name: floor for floor_name, floor in profile.floors.items() if floor > 0}
        kept[name] = profile.model_copy(update={"floors": floors})
    return base.model_copy(update={"profiles": kept})


def with_organisation(base: ProfileFile, floors: dict[str, float]) -> ProfileFile:
    """``base`` with other floors of the organisation; those of 0 are left out."""
    kept = {name: floor for name, floor in floors.items() if floor > 0}
    return base.model_copy(update={"organisation": Organisation(floors=kept)})
