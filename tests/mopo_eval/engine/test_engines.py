"""Every engine keeps the same contract: the stock OpenAI client against the engine, transformers as the truth."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from mopo_eval.engine import Engine, open_engine
from mopo_train.family import read_family
from tests.tiny_family import POLICIES, greedy_answer, reference_tokens, token_log_probabilities

QUESTIONS = ["Hello there", "What is known about iron?", "Why?"]
TOKENS = 24


@pytest.fixture(params=["embedded_engine", pytest.param("vllm_engine", marks=pytest.mark.vllm)])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def client(engine: Engine) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def expected(tiny_family: Path) -> dict[tuple[str, str], str]:
    """Greedy answers by transformers' own ``generate``, one prompt at a time, per policy and question."""
    keys = [(policy, question) for policy in POLICIES for question in QUESTIONS]
    return {key: greedy_answer(tiny_family, key[0], chat(key[1]), TOKENS) for key in keys}


def chat(question: str) -> list[Any]:
    return [{"role": "user", "content": question}]


def ask(client: openai.OpenAI, policy: str, question: str, **options: Any) -> Any:
    return client.chat.completions.create(model=policy, messages=chat(question), max_tokens=TOKENS, **options)


def test_its_models_are_exactly_the_policies(client: openai.OpenAI) -> None:
    assert sorted(model.id for model in client.models.list()) == POLICIES[1:] + POLICIES[:1]


def test_greedy_answers_equal_those_of_transformers_when_all_are_asked_at_once(
    client: openai.OpenAI, expected: dict[tuple[str, str], str]
) -> None:
    with ThreadPoolExecutor(len(expected)) as pool:
        found = pool.map(lambda key: ask(client, *key, temperature=0).choices[0].message.content, expected)
        assert dict(zip(expected, found, strict=True)) == expected
    assert len({expected[policy, QUESTIONS[0]] for policy in POLICIES}) == len(POLICIES)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_stream_joins_to_the_same_answer_and_ends_with_the_usage(
    policy: str, client: openai.OpenAI, expected: dict[tuple[str, str], str]
) -> None:
    options: dict[str, Any] = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = ask(client, policy, QUESTIONS[0], **options)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == expected[policy, QUESTIONS[0]]
    assert len([text for text in texts if text]) > TOKENS / 2  # it came bit by bit
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.usage.completion_tokens == TOKENS


def test_usage_counts_the_prompt_in_the_chat_template_and_the_answer(client: openai.OpenAI) -> None:
    usage = ask(client, "policy-00", "abcd", temperature=0).usage
    assert usage.prompt_tokens == 1 + 4 + 1 + 1  # <user>, four bytes, <end>, <assistant>
    assert usage.completion_tokens == TOKENS
    assert usage.total_tokens == 7 + TOKENS


def test_a_stop_string_is_left_out_and_named_as_the_reason(
    client: openai.OpenAI, expected: dict[tuple[str, str], str]
) -> None:
    whole = expected["policy-02", QUESTIONS[1]]
    stop = whole[9:11]
    for options in ({"stop": stop}, {"stop": [stop, "never said"]}):
        choice = ask(client, "policy-02", QUESTIONS[1], temperature=0, **options).choices[0]
        assert (choice.message.content, choice.finish_reason) == (whole.partition(stop)[0], "stop")


def test_a_seed_repeats_several_different_choices(client: openai.OpenAI) -> None:
    first, again, other = (
        [choice.message.content for choice in ask(client, "policy-00", "Hello", n=3, seed=seed).choices]
        for seed in (1, 1, 2)
    )
    assert len(set(first)) == 3
    assert first == again
    assert first != other


def test_plain_completions_continue_the_text(client: openai.OpenAI, tiny_family: Path) -> None:
    answer = client.completions.create(model="reference", prompt="Hello", max_tokens=8, temperature=0)
    assert answer.choices[0].text == greedy_answer(tiny_family, "reference", "Hello", 8)
    assert answer.usage is not None and answer.usage.prompt_tokens == 5


def test_log_probabilities_agree_with_the_choice(client: openai.OpenAI) -> None:
    choice = ask(client, "policy-00", "Hello", temperature=0, logprobs=True, top_logprobs=2).choices[0]
    entries = choice.logprobs.content
    assert "".join(entry.token for entry in entries) == choice.message.content
    assert all(entry.logprob == entry.top_logprobs[0].logprob for entry in entries)  # greedy takes the best
    assert all(entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob for entry in entries)


def test_echo_gives_the_log_probabilities_of_prompts(client: openai.OpenAI, tiny_family: Path) -> None:
    texts = ["Q: Is iron a metal?\nA: yes", "Q: Why?\nA: nobody knows"]
    tokens = [reference_tokens(tiny_family, text) for text in texts]
    for policy in POLICIES[:2]:
        answer = client.completions.create(  # all at once: vLLM on a CPU must not fall over them
            model=policy, prompt=tokens * 4, max_tokens=0, echo=True, logprobs=1, temperature=0
        )
        for choice, text, ids in zip(answer.choices, texts * 4, tokens * 4, strict=True):
            assert choice.text == text
            assert choice.logprobs is not None and choice.logprobs.token_logprobs is not None
            assert choice.logprobs.token_logprobs[0] is None
            assert choice.logprobs.token_logprobs[1:] == pytest.approx(
                token_log_probabilities(tiny_family, policy, ids), abs=2e-3
            )
    more = client.completions.create(model="reference", prompt="Hello", max_tokens=2, echo=True, temperature=0)
    assert more.choices[0].text == "Hello" + greedy_answer(tiny_family, "reference", "Hello", 2)
    both = client.completions.create(
        model="reference", prompt="Hello", max_tokens=2, echo=True, logprobs=1, temperature=0
    )
    assert both.choices[0].logprobs is not None and len(both.choices[0].logprobs.tokens or []) == 7


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"n": 0},
        {"top_p": 1.5},
        {"max_completion_tokens": 100_000},
        {"logprobs": True, "top_logprobs": 99},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="policy-00", messages=chat("Hello"), **options)


def test_an_unknown_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, "policy-99", "Hello")


def test_it_can_be_attached_to_by_url_and_is_left_running(engine: Engine, tiny_family: Path) -> None:
    family = read_family(tiny_family)
    for url in (engine.url, f"{engine.url}/", f"{engine.url}/v1"):
        with open_engine(url, tiny_family, family) as attached:
            assert attached == Engine(engine.url, "attached", None)
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none") as client:
        assert ask(client, "reference", "Hello").choices[0].finish_reason == "length"
