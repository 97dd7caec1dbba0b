"""The command ``mopo-serve run`` with real engines, asked by the stock OpenAI client."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from mopo_eval.engine import Engine
from mopo_serve.key_file import create_key, revoke_key

PROMPTS = ["Where is the river?", "How do I open a lock?", "Who wrote the book of tides?"]
START_SECONDS = 120.0


class Served:
    """A running ``mopo-serve run``."""

    def __init__(self, process: "subprocess.Popen[str]", url: str, shown: str) -> None:
        self.process, self.url, self.shown = process, url, shown

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit status and stderr after signal ``number``."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextmanager
def serving(root: Path, *options: str) -> Iterator[Served]:
    """``mopo-serve run ROOT`` on a free port; whatever happens, it is gone afterwards."""
    command = [
        sys.executable,
        "-c",
        "from mopo_serve.cli import main; main()",
        "run",
        str(root),
        "--port",
        "0",
        *options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield Served(process, *_wait_until_serving(process))
    finally:
        process.kill()
        process.communicate()


def _wait_until_serving(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """The URL that it prints last, and everything that it printed."""
    assert process.stdout is not None
    shown = ""
    for line in process.stdout:
        shown += line
        if found := re.match(r"serving at (http://\S+)/v1", line):
            return found[1], shown
    raise AssertionError(f"it never served:\n{shown}\n{process.communicate()[1]}")


def ask(client: OpenAI, model: str, prompt: str, **extra: object) -> str:
    answer = client.chat.completions.create(
        model=model, messages=said(prompt), temperature=0, max_tokens=12, extra_body=extra
    )
    return answer.choices[0].message.content or ""


def said(prompt: str) -> list[ChatCompletionUserMessageParam]:
    return [{"role": "user", "content": prompt}]


@pytest.fixture(scope="module")
def served(tiny_family: Path, embedded_engine: Engine) -> Iterator[Served]:
    """The gateway before the session's embedded engine."""
    with serving(tiny_family, "--engine", embedded_engine.url) as running:
        yield running


def test_it_prints_where_it_serves_and_which_policy_each_profile_gets(served: Served) -> None:
    assert re.search(r"mopo/helpful.*policy-00", served.shown)
    assert re.search(r"mopo/careful.*policy-02", served.shown)
    assert re.search(r"mopo/impossible.*none \(422\)", served.shown)
    assert f"curl {served.url}/v1/chat/completions" in served.shown


def answers_under_profiles_are_those_of_their_policies(served: Served) -> None:
    with served.client() as client:
        differing = 0
        for prompt in PROMPTS:
            helpful, careful = (ask(client, f"mopo/{name}", prompt) for name in ("helpful", "careful"))
            assert helpful == ask(client, "mopo/policy/policy-00", prompt)
            assert careful == ask(client, "mopo/policy/policy-02", prompt)
            assert careful == ask(client, "mopo/helpful", prompt, objective_profile={"floors": {"safety": 0.85}})
            differing += helpful != careful
    assert differing > 0


def test_a_profiles_greedy_answer_is_that_of_the_policy_it_names(served: Served) -> None:
    answers_under_profiles_are_those_of_their_policies(served)


def test_a_stream_says_what_the_whole_answer_says(served: Served) -> None:
    with served.client() as client:
        whole = ask(client, "mopo/careful", PROMPTS[0])
        with client.chat.completions.with_streaming_response.create(
            model="mopo/careful", messages=said(PROMPTS[0]), temperature=0, max_tokens=12, stream=True
        ) as raw:
            assert raw.headers["x-mopo-policy"] == "policy-02"
            assert raw.headers["x-mopo-profile"] == "careful"
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in raw.parse() if chunk.choices)
    assert streamed == whole


def test_plain_completions_are_served_too(served: Served) -> None:
    with served.client() as client:
        one = client.completions.create(model="mopo/careful", prompt="The river", temperature=0, max_tokens=8)
        two = client.completions.create(model="mopo/policy/policy-02", prompt="The river", temperature=0, max_tokens=8)
    assert one.choices[0].text == two.choices[0].text != ""


@pytest.mark.anyio
async def test_the_asynchronous_client_gets_the_same_answers(served: Served) -> None:
    with served.client() as client:
        expected = ask(client, "mopo/helpful", PROMPTS[1])
    async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client_:
        stream = await client_.chat.completions.create(
            model="mopo/helpful", messages=said(PROMPTS[1]), temperature=0, max_tokens=12, stream=True
        )
        streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        models = [model.id async for model in client_.models.list()]
    assert streamed == expected
    assert models[:2] == ["mopo/helpful", "mopo/careful"]


def test_what_nobody_can_hold_and_what_is_malformed_have_the_clients_own_errors(served: Served) -> None:
    with served.client() as client:
        with pytest.raises(openai.UnprocessableEntityError, match="policy-02"):
            ask(client, "mopo/impossible", "Hello")
        with pytest.raises(openai.BadRequestError) as wrong_floor:
            ask(client, "mopo/helpful", "Hello", objective_profile={"floors": {"safety": 1.5}})
        with pytest.raises(openai.BadRequestError):  # the engine's own refusal
            ask(client, "mopo/helpful", "Hello", top_p=7)
        with pytest.raises(openai.BadRequestError):
            ask(client, "mopo/helpful", "long " * 2000)
        with pytest.raises(openai.NotFoundError):
            ask(client, "policy-00", "Hello")
    assert wrong_floor.value.param == "objective_profile.floors.safety"


def test_a_client_that_leaves_frees_the_engine_long_before_its_answer_would_be_complete(
    served: Served, embedded_engine: Engine
) -> None:
    body = {"model": "mopo/helpful", "messages": said("Hello"), "stream": True, "max_tokens": 480, "temperature": 2}

    def seconds_until_idle(leave: bool) -> float:
        with httpx.Client(timeout=60) as client:
            with client.stream("POST", f"{served.url}/v1/chat/completions", json=body) as answer:
                for _ in answer.iter_raw():
                    if leave:
                        break
                started = time.monotonic() if leave else started_before
            while client.get(f"{embedded_engine.url}/load").json()["server_load"]:
                pass
            return time.monotonic() - started

    started_before = time.monotonic()
    whole = seconds_until_idle(leave=False)
    assert seconds_until_idle(leave=True) < whole / 2


def engine_pids(gateway: int) -> list[int]:
    """Every process below ``gateway``."""
    found, waiting = list[int](), [gateway]
    while waiting:
        for children in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            below = [int(word) for word in children.read_text().split()]
            found += below
            waiting += below
    return found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except OSError:
        return True


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def ends_without_orphans(served: Served) -> None:
    pids = engine_pids(served.process.pid)
    assert pids
    status, errors = served.end(signal.SIGTERM)
    assert (status, errors.splitlines()[-1]) == (0, "stopped")
    assert [pid for pid in pids if not gone(pid)] == []


@linux_only
def test_sigterm_stops_gateway_and_engine(tiny_family: Path) -> None:
    with serving(tiny_family, "--engine", "embedded", "--log-requests") as running:
        with running.client() as client:
            ask(client, "mopo/helpful", "Hello")
        ends_without_orphans(running)


@linux_only
def test_an_engine_killed_in_a_stream_ends_the_stream_with_an_error_and_is_started_again(
    tiny_family: Path, tmp_path: Path
) -> None:
    log = tmp_path / "engine.log"
    with serving(tiny_family, "--engine", "embedded", "--engine-log", str(log)) as running:
        pids = engine_pids(running.process.pid)
        with running.client() as client:
            before = ask(client, "mopo/careful", PROMPTS[0])
        words = 0
        with running.client() as client, pytest.raises(openai.APIError, match="try again"):
            stream = client.chat.completions.create(
                model="mopo/helpful", messages=said("Hello"), max_tokens=480, stream=True, temperature=2
            )
            for _ in stream:
                words += 1
                if words == 3:
                    os.kill(pids[-1], signal.SIGKILL)
        assert words >= 3
        with running.client() as client:
            with pytest.raises(openai.InternalServerError) as refused:
                ask(client, "mopo/careful", PROMPTS[0])
            assert refused.value.status_code == 503
            assert float(refused.value.response.headers["retry-after"]) >= 1
            assert httpx.get(f"{running.url}/readyz").status_code == 503
            patient = client.with_options(max_retries=60)  # waits as long as Retry-After says
            assert ask(patient, "mopo/careful", PROMPTS[0]) == before
        pids += engine_pids(running.process.pid)
        status, errors = running.end()
        assert status == 0
        assert "engine-0 died: starting it again in 1 s" in errors
        assert "engine-0 runs again" in errors
        assert "Traceback" not in errors
        assert [pid for pid in pids if not gone(pid)] == []


@linux_only
def test_one_of_two_engines_is_killed_and_no_request_is_lost(tiny_family: Path) -> None:
    with serving(tiny_family, "--engine", "embedded", "--engine", "embedded") as running:
        with running.client() as client:
            before = [ask(client, "mopo/careful", prompt) for prompt in PROMPTS]
            servers = [pid for pid in engine_pids(running.process.pid) if runs(pid, "mopo_eval.engine.server")]
            os.kill(servers[0], signal.SIGKILL)
            for _ in range(3):
                assert [ask(client, "mopo/careful", prompt) for prompt in PROMPTS] == before
        ends_without_orphans(running)


def runs(pid: int, module: str) -> bool:
    """True if ``pid`` is Python running ``module``, and not what watches over it."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[1:3] == [b"-m", module.encode()]


def test_keys_that_are_made_and_revoked_while_it_serves_count_within_seconds(
    tiny_family: Path, embedded_engine: Engine, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    with serving(tiny_family, "--engine", embedded_engine.url, "--keys", str(keys)) as running:
        with httpx.Client(base_url=running.url, timeout=30) as client:
            assert client.get("/v1/models").status_code == 200
            _, text = create_key(keys, "app")
            headers = {"authorization": f"Bearer {text}"}
            assert becomes(lambda: client.get("/v1/models").status_code, 401)
            assert client.get("/v1/models", headers=headers).status_code == 200
            revoke_key(keys, "app")
            assert becomes(lambda: client.get("/v1/models", headers=headers).status_code, 401)


def becomes(what: Callable[[], int], wanted: int, seconds: float = 20.0) -> bool:
    """True once ``what()`` gives ``wanted``; asking it takes the time that passes between."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if what() == wanted:
            return True
    return False


def test_an_engine_that_dies_at_start_is_told_with_its_last_words(tiny_family: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_family, broken)
    (broken / "base" / "model.safetensors").write_bytes(b"no weights")
    command = [sys.executable, "-c", "from mopo_serve.cli import main; main()", "run", str(broken)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ended = subprocess.run(
        [*command, "--port", port, "--engine", "embedded"], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert "header too large" in ended.stderr
    assert "last lines of its log" in ended.stderr


@pytest.mark.vllm
def test_vllm_behind_the_gateway_answers_as_the_policies_do(tiny_family: Path, vllm_engine: Engine) -> None:
    with serving(tiny_family, "--engine", vllm_engine.url) as running:
        answers_under_profiles_are_those_of_their_policies(running)
        test_a_stream_says_what_the_whole_answer_says(running)
        with running.client() as client:
            with pytest.raises(openai.BadRequestError) as refused:
                ask(client, "mopo/helpful", "Hello", top_p=7)
            assert not isinstance(refused.value.code, int)
            with pytest.raises(openai.BadRequestError):
                ask(client, "mopo/helpful", "long " * 2000)
