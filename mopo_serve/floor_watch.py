"""Keeps policies that people saw below a floor from serving a profile, and says so.

Off unless a rule is given (``mopo-serve run --live-floors``). A suspended policy is one that no longer holds the
profile's floors: the next certified policy serves, or what ``on_infeasible`` says. Requests that pin a policy or name
no profile are still decided by certified bounds. Gateways on one store read the same judgements and agree.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from mopo_eval.selection import Selection
from mopo_serve.audit.schema import EVENTS
from mopo_serve.audit.store import AuditStore
from mopo_serve.deployment import Deployment, Version
from mopo_serve.evidence import Evidence, Finding, Promise, Rule, suspensions
from mopo_serve.routing import Routing

log = logging.getLogger("mopo_serve")


class FloorWatch:
    """Holds the live versions of a gateway against what people saw of them."""

    def __init__(self, store: AuditStore, deployment: Deployment, rule: Rule) -> None:
        self._store, self._deployment, self._rule = store, deployment, rule
        self._evidence: dict[str, Evidence] = {}

    def read(self) -> dict[str, dict[str, list[Finding]]]:
        """By family, what suspends which policies from which profile. Blocks. Raises StoreUnavailable."""
        found = {}
        for routing in [version.routing for version in self._versions()]:
            evidence = self._evidence.setdefault(routing.identity, Evidence(routing.identity))
            evidence.read(self._store)
            found[routing.identity] = suspensions(evidence, _promises(routing), self._rule)
        return found

    def apply(self, found: Mapping[str, Mapping[str, list[Finding]]]) -> list[dict[str, Any]]:
        """Suspend what ``read`` found, from now on; gives the events. Call it in the event loop."""
        events = []
        for version in self._versions():
            before, findings = version.routing, found.get(version.routing.identity)
            if findings is None:  # went live meanwhile
                continue
            wanted = {profile: frozenset(each.policy for each in missed) for profile, missed in findings.items()}
            if wanted != before.suspended:
                version.routing = dataclasses.replace(before, suspended=wanted)
                events += changes(before, version.routing, findings, self._rule)
        return events

    def carry(self, version: Version) -> None:
        """Suspend in ``version``, which is about to go live, what is known: a reload lets nobody back in meanwhile."""
        routing = version.routing
        if (evidence := self._evidence.get(routing.identity)) is None:
            return
        findings = suspensions(evidence, _promises(routing), self._rule)
        wanted = {profile: frozenset(each.policy for each in missed) for profile, missed in findings.items()}
        version.routing = dataclasses.replace(routing, suspended=wanted)

    def keep(self, events: list[dict[str, Any]]) -> None:
        """Store and log ``events``. Blocks. Raises StoreUnavailable."""
        for event in events:
            log.warning("profile '%s': %s %s", event["profile"], event["kind"], event["detail"])
        self._store.append_own(EVENTS, events)

    def _versions(self) -> Iterable[Version]:
        candidate = self._deployment.candidate
        return [self._deployment.stable] + ([] if candidate is None else [candidate])


def promise(selection: Selection) -> Promise:
    """What a profile promises. Components of a mixture that hold its floors on average alone are not held to them."""
    holding = [
        row.id
        for row in selection.policies
        if all(margin is not None and margin >= 0 for margin in row.margins.values())
    ]
    return Promise(selection.floors, holding)


def changes(before: Routing, after: Routing, findings: Mapping[str, list[Finding]], rule: Rule) -> list[dict[str, Any]]:
    """One row of ``EVENTS`` per profile whose suspended policies changed.

    ``fallback`` where another policy serves it now because of that, ``return`` where one does because a policy is back,
    ``suspension`` where nothing changes for callers.
    """
    events = []
    for profile in sorted(before.suspended.keys() | after.suspended.keys()):
        old, new = (routing.suspended.get(profile, frozenset()) for routing in (before, after))
        if old == new or profile not in after.profiles:
            continue
        was, now = before.selections[profile], after.selections[profile]
        kind = "suspension" if was.served == now.served else "fallback" if new - old else "return"
        detail = {
            "from": was.served,
            "to": now.served,
            "suspended": [_told(finding) for finding in findings.get(profile, [])],
            "returned": sorted(old - new),
            "rule": rule._asdict(),
        }
        events.append(
            {
                "time": time.time(),
                "kind": kind,
                "family": after.identity,
                "profile": profile,
                "detail": json.dumps(detail),
            }
        )
    return events


def _promises(routing: Routing) -> dict[str, Promise]:
    return {name: promise(selection) for name, selection in routing.selections.items()}


def _told(finding: Finding) -> dict[str, Any]:
    return {**finding._asdict(), "interval": finding.interval._asdict()}
