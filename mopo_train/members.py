"""The members of a family as family.json has them: the reference, trained and interpolated policies."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopo_train import __version__
from mopo_train.dual import Solution
from mopo_train.family import INTERPOLATED, REFERENCE, Between, Policy, PolicyFamily, between_id
from mopo_train.neighbours import neighbours
from mopo_train.policy.interpolation import interpolate_adapters
from mopo_train.policy.workspace import Workspace
from mopo_train.preferences import PreferenceData

if TYPE_CHECKING:
    from mopo_train.run import RunConfig


def policy_id(index: int) -> str:
    """Name of a trained policy: its place along the front."""
    return f"policy-{index:02d}"


def trained(config: "RunConfig", points: Sequence[Solution]) -> list[Policy]:
    """A member for each of ``points``."""
    return [member(policy_id(index), config.method, point) for index, point in enumerate(points)]


def member(name: str, kind: str, point: Solution) -> Policy:
    """The trained policy ``name``, which follows ``point``."""
    return Policy(
        id=name,
        kind=kind,
        adapter=f"policies/{name}",
        floors=point.floors,
        multipliers=point.multipliers,
        predicted=point.predicted,
        predicted_low=point.predicted_low,
        bound=point.bound,
        ess=point.ess,
    )


def interpolated(config: "RunConfig", root: Path, points: Sequence[Solution]) -> list[Policy]:
    """Write ``config.interpolate`` adapters between each two neighbours of ``points``, where they are not yet."""
    made = []
    for one, other in neighbours([point.multipliers for point in points]):
        first, second = policy_id(one), policy_id(other)
        for part in range(1, config.interpolate + 1):
            share = part / (config.interpolate + 1)
            name = between_id(first, share) + ("" if other == one + 1 else f"-{other:02d}")
            whole, partial = root / "policies" / name, root / ".work" / name
            if not whole.is_dir():
                interpolate_adapters(root / "policies" / first, root / "policies" / second, share, partial)
                partial.rename(whole)
            between = Between(first=first, second=second, share=share)
            made.append(Policy(id=name, kind=INTERPOLATED, adapter=f"policies/{name}", between=between))
    return made


def describe(
    primary: str, config: Mapping[str, Any], workspace: Workspace, data: PreferenceData, members: Sequence[Policy]
) -> PolicyFamily:
    """What ``family.json`` says of a family with the reference and ``members``, in this order."""
    parity = dict.fromkeys(data.objectives, 0.5)
    first = Policy(id=REFERENCE, kind=REFERENCE, adapter=None, predicted=parity, predicted_low=parity, ess=1.0)
    return PolicyFamily(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        package_version=__version__,
        base_model=workspace.base_name,
        objectives=list(data.objectives),
        primary=primary,
        data=data.summary,
        config=dict(config),
        policies=[first, *members],
    )
