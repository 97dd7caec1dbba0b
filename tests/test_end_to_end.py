"""The main job as its user does it: the commands, real vLLM, the stock OpenAI client. One small family, once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from openai import OpenAI

from mopo_eval.engine import Engine, open_engine, vllm_available
from mopo_eval.scorecards import read_scorecards
from mopo_train.family import read_family

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not vllm_available(), reason="vLLM is not installed"),
]
BIN = Path(sys.executable).parent


def mopo(*words: object) -> str:
    """Run a command as a user would; its standard output."""
    command = [str(BIN / str(words[0])), *(str(word) for word in words[1:])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sandbox, reference and a family of three policies, made by the commands."""
    out = tmp_path_factory.mktemp("runs")
    data = out / "data"
    mopo("mopo-train", "sandbox", "--out", data, "--seed", 7, "--prompts", 120, "--held-out", 24, "--texts", 3000)
    pairs = data / "preferences.jsonl"
    mopo("mopo-train", "reference", pairs, "--model", data / "base", "--out", out / "reference", "--steps", 20)
    mopo(
        *("mopo-train", "run", pairs, "--model", out / "reference", "--out", out / "family"),
        *("--primary", "helpfulness", "--policies", 3, "--steps", 30),
    )
    return out


@pytest.fixture(scope="module")
def engine(runs: Path) -> Iterator[Engine]:
    root = runs / "family"
    with open_engine("vllm", root, read_family(root), log=runs / "engine.log") as started:
        yield started


@pytest.fixture(scope="module")
def measured(runs: Path, engine: Engine) -> dict[str, Any]:
    """What ``mopo-eval run --json`` says of the family, which is measured by then."""
    data = runs / "data"
    files = ("--prompts", data / "prompts.jsonl", "--judges", data / "judges.yaml")
    options = ("--engine", engine.url, "--max-tokens", 64, "--json")
    result: dict[str, Any] = json.loads(mopo("mopo-eval", "run", runs / "family", *files, *options))
    return result


@pytest.fixture(scope="module")
def gateway(runs: Path, engine: Engine, measured: dict[str, Any]) -> Iterator[str]:
    """URL of ``mopo-serve run``."""
    command = [str(BIN / "mopo-serve"), "run", str(runs / "family"), "--engine", engine.url, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert server.stdout is not None
    try:
        line = next(line for line in server.stdout if line.startswith("serving at "))
        yield line.split()[2].removesuffix("/v1")
    finally:
        server.send_signal(signal.SIGTERM)
        server.stdout.read()
        assert server.wait(timeout=30) == 0
        server.stdout.close()


def test_every_policy_was_generated_by_vllm_and_measured(runs: Path, measured: dict[str, Any]) -> None:
    family = read_family(runs / "family")
    answers = pd.read_parquet(runs / "family" / "evaluation" / measured["run"] / "responses.parquet")
    assert measured["prompts"] == 24
    assert answers.groupby("policy").size().to_dict() == {policy.id: 24 for policy in family.policies}
    cards = read_scorecards(runs / "family", family)
    assert list(cards) == [policy.id for policy in family.policies]
    for card in cards.values():
        for score in card.objectives.values():
            assert score.certified_low <= score.low <= score.mean <= score.high


def test_the_means_of_a_scorecard_are_those_of_its_judgements(runs: Path, measured: dict[str, Any]) -> None:
    from mopo_train.sandbox.judges import factuality, helpfulness, safety

    judges = {"helpfulness": helpfulness, "safety": safety, "factuality": factuality}
    answers = pd.read_parquet(runs / "family" / "evaluation" / measured["run"] / "responses.parquet")
    cards = read_scorecards(runs / "family", read_family(runs / "family"))
    for policy, rows in answers.groupby("policy"):
        for objective, judge in judges.items():
            pairs = zip(rows["prompt"].astype(str), rows["response"].astype(str), strict=True)
            scores = [judge(prompt, response).score for prompt, response in pairs]
            assert cards[str(policy)].objectives[objective].mean == pytest.approx(sum(scores) / len(scores))


def test_a_profile_answers_greedily_as_the_policy_that_it_names(runs: Path, gateway: str) -> None:
    client = OpenAI(base_url=f"{gateway}/v1", api_key="none")
    rows = (runs / "data" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [json.loads(row)["prompt"] for row in rows]
    served = [model.id for model in client.models.list() if not model.id.startswith("mopo/policy/")]
    assert served
    family = read_family(runs / "family")

    def ask(model: str, prompt: str) -> tuple[str, str]:
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=48
        )
        return raw.headers["x-mopo-policy"], raw.parse().choices[0].message.content or ""

    answered = 0
    for model in served:
        selected = httpx.post(f"{gateway}/v1/profiles/resolve", json={"profile": model.removeprefix("mopo/")}).json()
        if selected["policy"] is None:
            continue
        answered += 1
        for prompt in prompts[:4]:
            policy, answer = ask(model, prompt)
            assert policy == selected["policy"]
            assert (policy, answer) == ask(f"mopo/policy/{policy}", prompt)
    assert answered
    answers = {
        tuple(ask(f"mopo/policy/{policy.id}", prompt)[1] for policy in family.policies) for prompt in prompts[:8]
    }
    assert any(len(set(row)) > 1 for row in answers)  # the policies differ on some prompt


def test_a_streamed_answer_is_the_whole_one(runs: Path, gateway: str) -> None:
    client = OpenAI(base_url=f"{gateway}/v1", api_key="none")
    row = (runs / "data" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()[0]
    request: dict[str, Any] = {
        "model": "mopo/policy/policy-00",
        "messages": [{"role": "user", "content": json.loads(row)["prompt"]}],
        "temperature": 0,
        "max_tokens": 48,
    }
    whole = client.chat.completions.create(**request).choices[0].message.content
    chunks = client.chat.completions.create(**request, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole


def test_measuring_again_asks_the_engine_nothing(runs: Path, engine: Engine, measured: dict[str, Any]) -> None:
    data = runs / "data"
    files = ("--prompts", data / "prompts.jsonl", "--judges", data / "judges.yaml")
    unreachable = "http://127.0.0.1:9"
    options = ("--engine", unreachable, "--max-tokens", 64, "--json")
    again = json.loads(mopo("mopo-eval", "run", runs / "family", *files, *options))
    assert (again["run"], again["answers"]) == (measured["run"], measured["answers"])
