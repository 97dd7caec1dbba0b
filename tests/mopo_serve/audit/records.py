"""Decisions as a gateway would record them."""

from mopo_serve.audit.schema import DECISIONS
from mopo_serve.audit.store import AuditStore, decision_row
from mopo_serve.decisions import Decision


def decision(number: int = 0, **changes: object) -> Decision:
    made = Decision(
        request_id=f"req-{number}",
        time=1_700_000_000.25 + number,
        key="key-1",
        user="",
        conversation=f"c{number % 3}",
        profile="balanced",
        floors={"safety": 0.9, "factuality": 0.1 + 0.2},
        policy="policy-01",
        share=1.0,
        family="family@0123456789ab",
        engine="vllm-0",
        status=200,
        seconds=0.1 + number / 7,
        first_token_seconds=None,
        prompt_tokens=12,
        completion_tokens=30,
        prompt_sha256="ab" * 32,
        reason="policy-01 is the only policy that holds every floor",
    )
    return made._replace(**changes)  # type: ignore[arg-type]


def append(store: AuditStore, decisions: list[Decision], writer: str = "w", first: int = 1) -> None:
    store.append(DECISIONS, [decision_row(made, writer, first + index) for index, made in enumerate(decisions)])
