"""The logs of training, one per policy, and what they say about the floors in plain terms. Pure but for reading."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa

from mopo_train.family import Policy

BINDS = 1e-6
"""A multiplier above this has a say."""
OFTEN = 0.5
"""Share of the logged steps above which a floor counts as binding."""
CLOSE = 0.01
"""Data win rate by which a floor may be missed and still count as reached."""
LOW_ESS = 0.3
"""Effective sample size below which few responses carry the policy."""


class TrainingLog(NamedTuple):
    """One policy's log."""

    policy: str
    rows: pd.DataFrame
    """One row per logged step: step, loss, kl, ess, and ``kind.objective`` columns."""

    def columns(self, kind: str, objectives: list[str]) -> dict[str, str]:
        """Objective by the name of its column of ``kind``, for those that the log has values of."""
        names = {f"{kind}.{name}": name for name in objectives}
        there = [column for column in names if column in self.rows and self.rows[column].notna().any()]
        return {column: names[column] for column in there}


class Activity(NamedTuple):
    """What one floor did in the training of one policy."""

    objective: str
    floor: float
    """In data win rate."""
    multiplier: float
    """At the end."""
    active: float
    """Share of the logged steps with a multiplier above 0; of the solution itself where there is no log."""
    reached: float | None
    """G at the end of training, estimated; predicted where nothing was estimated."""

    @property
    def missed(self) -> bool:
        """True if training ended below the floor, by more than is worth a word."""
        return self.reached is not None and self.reached < self.floor - CLOSE

    @property
    def binds(self) -> bool:
        """True if the floor had a say at the end and most of the time."""
        return self.multiplier > BINDS and self.active >= OFTEN


def read_logs(root: Path, policies: list[Policy]) -> tuple[dict[str, TrainingLog], list[str]]:
    """The logs that exist, by policy, and a sentence per file that cannot be read."""
    logs, problems = {}, []
    for policy in policies:
        path = root / "training" / f"{policy.id}.parquet"
        if not path.is_file():
            continue
        try:
            rows = pd.read_parquet(path)
            if "step" not in rows:
                raise ValueError("it has no column 'step'")
            logs[policy.id] = TrainingLog(policy.id, rows.sort_values("step", ignore_index=True))
        except (OSError, ValueError, pa.ArrowException) as error:
            problems.append(f"'{path}': {error}")
    return logs, problems


def activities(policy: Policy, log: TrainingLog | None) -> list[Activity]:
    """What each floor of ``policy`` did."""
    found = []
    for name, floor in policy.floors.items():
        column = f"lambda.{name}"
        multiplier = policy.multipliers.get(name, 0.0)
        active = float(multiplier > BINDS)
        reached = policy.predicted.get(name)
        if log is not None and len(log.rows):
            if column in log.rows:
                active = float((log.rows[column].fillna(0) > BINDS).mean())
            reached = last_value(log.rows, f"estimated.{name}", reached)
        found.append(Activity(name, floor, multiplier, active, reached))
    return found


def lowest_ess(policy: Policy, log: TrainingLog | None) -> float | None:
    """The smallest effective sample size, of the log or of the solution."""
    if log is not None and "ess" in log.rows and log.rows["ess"].notna().any():
        return float(log.rows["ess"].min())
    return policy.ess


def last_value(rows: pd.DataFrame, column: str, otherwise: float | None = None) -> float | None:
    """The last value that ``column`` holds; ``otherwise`` where it is missing or empty."""
    known = rows[column].dropna() if column in rows else pd.Series(dtype=float)
    return float(known.iloc[-1]) if len(known) else otherwise
