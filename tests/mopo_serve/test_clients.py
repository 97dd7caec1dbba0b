"""Clients that people really use (``tests.clients``), against vLLM behind the gateway with keys."""

import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from mopo_eval.engine import Engine
from mopo_serve.key_file import create_key
from tests.clients import program
from tests.mopo_serve.test_end_to_end import Served, serving

pytestmark = pytest.mark.vllm
SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}

CHANGED = ("policy-00", "policy-02")


class Keyed:
    """A running gateway and a key for it."""

    def __init__(self, served: Served, key: str, root: Path) -> None:
        self.url, self.key, self.root = served.url, key, root

    def run(self, name: str, command: list[str], place: Path, **variables: str) -> str:
        """Stdout of ``command`` of the environment ``name``, run in ``place``; skips where that is not there."""
        found = program(name, command[0])
        own = {"U": f"{self.url}/v1", "K": self.key, "OPENAI_API_KEY": self.key, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [str(found), *command[1:]], capture_output=True, text=True, timeout=600, check=False, cwd=place,
            env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **own, **variables},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def keyed(tiny_family: Path, vllm_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    _, text = create_key(path, "app", pin=True)
    with serving(tiny_family, "--engine", vllm_engine.url, "--keys", str(path)) as running:
        yield Keyed(running, text, tiny_family)


def test_the_openai_client_has_structured_output_log_probabilities_and_counts(keyed: Keyed) -> None:
    with OpenAI(base_url=f"{keyed.url}/v1", api_key=keyed.key, max_retries=0) as client:
        hello: Any = [{"role": "user", "content": "Hello"}]
        form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        answer = client.chat.completions.create(
            model="mopo/careful", messages=hello, max_tokens=60, n=2, logprobs=True, top_logprobs=2,
            response_format=form,
        )  # fmt: skip
        assert len(answer.choices) == 2
        assert isinstance(json.loads(answer.choices[0].message.content or "")["yes"], bool)
        assert answer.choices[0].logprobs is not None
        chunks = client.chat.completions.create(
            model="mopo/careful", messages=hello, max_tokens=5, stream=True, stream_options={"include_usage": True}
        )
        assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [5]
        silent = client.chat.completions.create(model="mopo/careful", messages=hello, max_tokens=5, stream=True)
        assert all(chunk.usage is None and chunk.choices for chunk in silent)
        scored = client.completions.create(model="mopo/careful", prompt="Hi there", max_tokens=1, echo=True, logprobs=1)
        assert scored.choices[0].logprobs is not None
    with OpenAI(base_url=f"{keyed.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_the_openai_client_calls_tools_whole_and_in_a_stream(keyed: Keyed) -> None:
    function = {"name": "note", "parameters": SCHEMA | {"additionalProperties": False}, "strict": True}
    ask: Any = {
        "model": "mopo/careful", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 300,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "note"}},
    }  # fmt: skip
    with OpenAI(base_url=f"{keyed.url}/v1", api_key=keyed.key, max_retries=0) as client:
        (call,) = client.chat.completions.create(**ask).choices[0].message.tool_calls or []
        assert call.type == "function" and call.function.name == "note"
        assert isinstance(json.loads(call.function.arguments)["yes"], bool)
        parts = [
            chunk.choices[0].delta.tool_calls or [] for chunk in client.chat.completions.create(**ask, stream=True)
        ]
    said = "".join(part.function.arguments or "" for part in itertools.chain(*parts) if part.function)
    assert isinstance(json.loads(said)["yes"], bool)


def test_vllm_takes_a_changed_adapter_while_it_serves(tiny_family: Path, vllm_engine: Engine, tmp_path: Path) -> None:
    root, keys = tmp_path / "family", tmp_path / "keys.json"
    shutil.copytree(tiny_family, root)
    (_, app), (_, ops) = create_key(keys, "app", pin=True), create_key(keys, "ops", admin=True, profiles=[])
    ask: Any = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 20}
    one, other = (root / "policies" / name / "adapter_model.safetensors" for name in CHANGED)

    def answers(client: OpenAI) -> list[str | None]:
        models = [f"mopo/policy/{name}" for name in CHANGED]
        return [client.chat.completions.create(model=model, **ask).choices[0].message.content for model in models]

    def reload(url: str) -> None:
        told = httpx.post(f"{url}/admin/reload", headers={"authorization": f"Bearer {ops}"}, timeout=60)
        assert told.status_code == 200, told.text

    def loaded() -> list[str]:
        listed = httpx.get(f"{vllm_engine.url}/v1/models").json()["data"]
        return [model["id"] for model in listed if model["root"].startswith(str(root.resolve()))]

    with serving(root, "--engine", vllm_engine.url, "--keys", str(keys), "--audit", "none") as running:
        with OpenAI(base_url=f"{running.url}/v1", api_key=app, max_retries=0) as client:
            first, second = answers(client)
            assert first != second
            weights = one.read_bytes()
            one.write_bytes(other.read_bytes())
            reload(running.url)
            assert answers(client) == [second, second]
            assert [name.partition("@")[0] for name in loaded()] == [CHANGED[0]]
    with serving(root, "--engine", vllm_engine.url, "--keys", str(keys), "--audit", "none") as running:
        with OpenAI(base_url=f"{running.url}/v1", api_key=app, max_retries=0) as client:
            assert answers(client) == [second, second]  # the policy's id still stands for the old one there
            (changed,) = loaded()
            one.write_bytes(weights)
            reload(running.url)
            assert answers(client) == [first, second]
            deadline = time.monotonic() + 20
            while changed in loaded():
                assert time.monotonic() < deadline


LITELLM = """
import os, litellm
ask = dict(model="openai/mopo/careful", api_base=os.environ["U"], api_key=os.environ["K"], max_tokens=5,
           messages=[{"role": "user", "content": "Hello"}], temperature=0)
whole = litellm.completion(**ask).choices[0].message.content
parts = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(stream=True, **ask)]
assert whole and "".join(parts) == whole, (whole, parts)
try:
    litellm.completion(**ask | {"api_key": "wrong"})
except litellm.AuthenticationError:
    print("right")
"""
LANGCHAIN = """
import os
from langchain_openai import ChatOpenAI
chat = ChatOpenAI(model="mopo/careful", base_url=os.environ["U"], api_key=os.environ["K"], max_tokens=5, temperature=0,
                  extra_body={"objective_profile": {"floors": {"safety": 0.5}}})
whole = chat.invoke("Hello")
assert whole.content and whole.usage_metadata["output_tokens"] == 5, whole
assert "".join(chunk.content for chunk in chat.stream("Hello")) == whole.content
print("right")
"""
INSPECT = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

@task
def hello():
    samples = [Sample(input="Hello", target="a"), Sample(input="Bye", target="b")]
    return Task(dataset=samples, solver=generate(), scorer=includes())
"""
MULTIPLE_CHOICE = """
task: tiny
dataset_path: json
dataset_kwargs: {data_files: DATA}
test_split: train
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""
GENERATE = """
task: tiny_chat
dataset_path: json
dataset_kwargs: {data_files: DATA}
test_split: train
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {max_gen_toks: 5, until: []}
metric_list: [{metric: exact_match}]
"""


@pytest.mark.parametrize(("name", "script"), [("litellm", LITELLM), ("langchain", LANGCHAIN)])
def test_a_library_asks_whole_and_in_a_stream(keyed: Keyed, tmp_path: Path, name: str, script: str) -> None:
    assert "right" in keyed.run(name, ["python", "-c", script], tmp_path)


def test_inspect_runs_a_task(keyed: Keyed, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(INSPECT)
    arguments = [
        "eval",
        "hello.py",
        "--model",
        "openai-api/mopo/mopo/careful",
        "--log-dir",
        f"{tmp_path}/logs",
    ]
    keyed.run(
        "inspect", ["inspect", *arguments, "--display", "plain", "--log-format", "json", "--max-tokens", "5"],
        tmp_path,
        MOPO_API_KEY=keyed.key, MOPO_BASE_URL=f"{keyed.url}/v1",
    )  # fmt: skip
    (log,) = (tmp_path / "logs").glob("*.json")
    assert json.loads(log.read_text())["status"] == "success"


@pytest.mark.parametrize(("kind", "task"), [("completions", MULTIPLE_CHOICE), ("chat-completions", GENERATE)])
def test_lm_eval_scores_choices_and_generates(keyed: Keyed, tmp_path: Path, kind: str, task: str) -> None:
    rows = [{"question": "Is the river wide?", "answer": "yes"}, {"question": "Is the sea dry?", "answer": "no"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "task.yaml").write_text(task.replace("DATA", str(tmp_path / "rows.json")))
    name = "tiny" if kind == "completions" else "tiny_chat"
    route = kind.replace("-", "/")
    model = f"model=mopo/careful,base_url={keyed.url}/v1/{route},tokenizer={keyed.root}/base,tokenized_requests=False"
    chat = ["--apply_chat_template"] if kind != "completions" else []
    keyed.run(
        "lm_eval",
        ["lm_eval", "--model", f"local-{kind}", "--model_args", model, "--tasks", name, "--include_path", str(tmp_path),
         "--output_path", f"{tmp_path}/out", *chat],
        tmp_path,
    )  # fmt: skip
    (result,) = (tmp_path / "out").rglob("results_*.json")
    assert name in json.loads(result.read_text())["results"]
