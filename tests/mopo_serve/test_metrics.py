import json
import logging
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mopo_serve.logs import JsonFormatter, RequestLog
from mopo_serve.trail import open_trail
from tests.mopo_serve.stub import CHAT, MESSAGES, Kept, StubEngine, calling, gateway_before, listening

pytestmark = pytest.mark.anyio
ASK = {"model": "mopo/careful", "messages": MESSAGES}
DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana.json"
COUNT = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'


async def test_the_dashboard_asks_for_metrics_that_there_are(tmp_path: Path) -> None:
    engine = StubEngine()
    engine.chunks.insert(-1, COUNT)
    trail = open_trail(str(tmp_path / "audit.db"), None, None)
    async with listening(engine) as url, gateway_before(url) as gateway, calling(gateway) as client:
        trail.follow(gateway.deployment, gateway.access, gateway.metrics.registry)
        await client.post(CHAT, json=ASK | {"stream": True})
        await client.post(CHAT, json=ASK | {"model": "mopo/impossible"})
        gateway.metrics.retried("engine-0")
        text = (await client.get("/metrics")).text
    trail.store.close()
    samples = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for each in panel["targets"] for name in re.findall(r"mopo_\w+", each["expr"])}
    assert asked and asked <= samples
    assert 'mopo_tokens_total{kind="completion",policy="policy-02",profile="careful"} 5.0' in text
    assert 'mopo_stage_seconds_count{stage="engine"} 1.0' in text
    assert 'mopo_engine_up{engine="engine-0"} 1.0' in text
    assert 'mopo_version_share{version="test@0123456789ab"} 1.0' in text


async def test_a_request_is_one_line_of_json_without_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    async with listening(StubEngine()) as url, gateway_before(url, kept=kept) as gateway, calling(gateway) as client:
        secret = ASK | {"messages": [{"role": "user", "content": "SECRET"}], "user": "ann"}
        await client.post(CHAT, json=secret, headers={"x-request-id": "mine", "authorization": "Bearer HIDDEN"})
    with caplog.at_level(logging.INFO, "mopo_serve.requests"):
        RequestLog().record(kept.decisions[0])
    (record,) = caplog.records
    text = JsonFormatter().format(record)
    line = json.loads(text)
    assert (line["message"], line["request_id"], line["status"], line["policy"]) == (
        "request",
        "mine",
        200,
        "policy-02",
    )
    assert not {"SECRET", "HIDDEN", "ann"} & set(re.findall(r"\w+", text))


async def test_text_is_in_a_decision_only_if_that_is_switched_on() -> None:
    for keeps in (False, True):
        kept = Kept()
        async with listening(StubEngine()) as url, gateway_before(url, kept=kept) as gateway:
            gateway.completions.keeps_text = keeps
            async with calling(gateway) as client:
                await client.post(CHAT, json=ASK)
                await client.post(CHAT, json=ASK | {"stream": True})
        texts = [decision.text for decision in kept.decisions]
        if not keeps:
            assert texts == [None, None]
            continue
        whole, streamed = (json.loads(text or "") for text in texts)
        assert whole["prompt"] == streamed["prompt"] == MESSAGES
        assert "as the engine says" in whole["answer"] and "word1" in streamed["answer"]


def test_an_exception_is_one_line_of_json_too() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed %s", ("so",), (ValueError, error, None))
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert json.loads(text)["message"] == "failed so" and "two" in json.loads(text)["exception"]
