"""Whether an audit store is what was written: every chain, from its first row to its head."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mopo_serve.audit.chain import Head, Problem, checked
from mopo_serve.audit.schema import TABLES, AuditError
from mopo_serve.audit.store import AuditStore

SHOWN = 100
"""Problems that are kept of each chain; an altered chain of a million rows has no use for more."""


class Verification(NamedTuple):
    """What was checked, and what is wrong."""

    heads: dict[str, Head]
    problems: list[Problem]
    more: int
    """Problems beyond the ``SHOWN`` first of each chain."""


def verify(store: AuditStore, known: Mapping[str, Head] | None = None) -> Verification:
    """Check every chain of ``store``, and that it passes through the ``known`` heads, which were kept elsewhere.

    Gateways may append meanwhile: each chain is read as of one moment. Raises StoreUnavailable.
    """
    heads: dict[str, Head] = {}
    problems: list[Problem] = []
    more = 0
    for name, table in TABLES.items():
        with store.snapshot(table) as (head, rows):
            heads[name] = head
            for index, problem in enumerate(checked(table, rows, head, (known or {}).get(name))):
                if index < SHOWN:
                    problems.append(problem)
                else:
                    more += 1
    return Verification(heads, problems, more)


def heads_document(heads: Mapping[str, Head]) -> dict[str, dict[str, int | str]]:
    """``heads`` as JSON: what ``verify --json`` prints and ``read_heads`` reads."""
    return {name: head._asdict() for name, head in heads.items()}


def read_heads(path: Path) -> dict[str, Head]:
    """The heads in a file that ``verify --json`` wrote. Raises AuditError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = {name: Head(int(head["seq"]), str(head["hash"])) for name, head in document["heads"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AuditError(
            f"'{path}' holds no heads; save the output of 'mopo-serve audit verify STORE --json'"
        ) from error
    for name, head in found.items():
        if name not in TABLES or head.seq < 0 or not re.fullmatch("[0-9a-f]{64}", head.hash):
            raise AuditError(f"'{path}' has a head of '{name}' that cannot be one; save the heads again")
    return found
