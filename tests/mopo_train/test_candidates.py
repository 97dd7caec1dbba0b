import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mopo_train.candidates import SampleSettings, write_candidates
from mopo_train.errors import DataError, EngineError
from mopo_train.preferences import PreferenceData, read_preferences
from tests.comparisons import row, write_rows

FEW = SampleSettings(per_prompt=3, max_tokens=6)


@pytest.fixture
def data(tmp_path: Path) -> PreferenceData:
    return read_preferences([write_rows(tmp_path / "data.jsonl", [row(f"Question {i}?") for i in range(25)])])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_reference_answers_every_prompt_and_a_killed_run_continues(
    data: PreferenceData, tiny_family: Path, tmp_path: Path
) -> None:
    model = str(tiny_family / "base")
    whole = tmp_path / "whole.jsonl"
    written = write_candidates(data, whole, FEW, model=model)
    rows = read(whole)
    assert written == len(rows) and 50 <= written <= 75  # answers without text are left out
    assert {each["prompt"] for each in rows} == {f"Question {i}?" for i in range(25)}
    assert len({each["response"] for each in rows}) > 25
    with pytest.raises(DataError, match="is there already"):
        write_candidates(data, whole, FEW, model=model)

    cut = tmp_path / "cut.jsonl"
    partial = tmp_path / "cut.jsonl.partial"
    _cut_after(12, data, partial, model)
    write_candidates(data, cut, FEW, model=model)
    found = read(cut)
    assert [each["prompt"] for each in found[:12]] == [f"Question {i}?" for i in range(12)]
    assert {each["response"] for each in found[:12]} == {"kept from before"}
    assert {each["prompt"] for each in found[12:]} == {f"Question {i}?" for i in range(12, 25)}
    assert not partial.exists()


def _cut_after(prompts: int, data: PreferenceData, partial: Path, model: str) -> None:
    """What a run leaves that was killed in the middle of a line."""
    identity = json.dumps([FEW._asdict(), model, None, data.summary.sha256])
    lines = [json.dumps({"prompt": f"Question {i}?", "responses": ["kept from before"]}) for i in range(prompts)]
    partial.write_text("\n".join([identity, *lines, '{"prompt": "Quest']), encoding="utf-8")


def test_other_settings_begin_again(data: PreferenceData, tiny_family: Path, tmp_path: Path) -> None:
    model = str(tiny_family / "base")
    _cut_after(25, data, tmp_path / "new.jsonl.partial", model)
    write_candidates(data, tmp_path / "new.jsonl", FEW._replace(seed=1), model=model)
    assert not any(each["response"] == "kept from before" for each in read(tmp_path / "new.jsonl"))


class _Server(BaseHTTPRequestHandler):
    """Chat completions: answers that repeat what was asked for; 503 for every question about 13."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = asked["messages"][-1]["content"]
        status = 503 if "13" in text else 200
        choices = [{"message": {"content": f"{asked['model']} {text} {turn}"}} for turn in range(asked["n"])]
        body = json.dumps({"choices": choices} if status == 200 else {"error": {"message": "too busy"}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}/v1"
        serving.shutdown()
        thread.join()


def test_a_server_answers_in_the_order_of_the_prompts(server: str, tmp_path: Path) -> None:
    rows = [row(f"Item {chr(97 + i)}?") for i in range(20)]
    data = read_preferences([write_rows(tmp_path / "data.jsonl", rows)])
    write_candidates(data, tmp_path / "out.jsonl", FEW, model="ref", engine=server)
    told = [each["response"] for each in read(tmp_path / "out.jsonl")]
    assert told == [f"ref Item {chr(97 + i)}? {turn}" for i in range(20) for turn in range(3)]


def test_a_server_that_fails_leaves_what_was_answered(data: PreferenceData, server: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="too busy"):
        write_candidates(data, tmp_path / "out.jsonl", FEW, model="ref", engine=server)
    kept = (tmp_path / "out.jsonl.partial").read_text(encoding="utf-8").splitlines()
    assert len(kept) == 1 + 13  # the first thirteen, in order
    assert not (tmp_path / "out.jsonl").exists()
