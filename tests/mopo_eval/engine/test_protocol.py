from typing import Any

import pytest

from mopo_eval.engine.protocol import ChatRequest, CompletionRequest, RequestError, parse_request

MODELS = ["reference", "policy-00"]
HELLO = {"model": "policy-00", "messages": [{"role": "user", "content": "Hello"}]}


def refusal(body: Any, form: type[ChatRequest] | type[CompletionRequest] = ChatRequest) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_request(body, form, MODELS)
    return caught.value


def test_fields_left_out_or_null_mean_openais_defaults() -> None:
    request = parse_request({**HELLO, "temperature": None, "stop": None}, ChatRequest, MODELS)
    assert (request.temperature, request.top_p, request.n, request.stops, request.stream) == (1.0, 1.0, 1, (), False)


def test_the_text_parts_of_a_message_are_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    request = parse_request({**HELLO, "messages": [{"role": "user", "content": parts}]}, ChatRequest, MODELS)
    assert request.messages[0].plain() == {"role": "user", "content": "one\ntwo"}


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("ab", ["ab"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]]), ([], [])],
)
def test_a_prompt_may_be_text_or_tokens_one_or_several(prompt: Any, prompts: list[Any]) -> None:
    request = parse_request({"model": "reference", "prompt": prompt}, CompletionRequest, MODELS)
    assert request.prompts == prompts


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"model": None}, "model"),
    ],
)
def test_a_field_out_of_range_or_of_another_type_is_400_and_named(change: dict[str, Any], param: str) -> None:
    error = refusal({**HELLO, **change})
    assert (error.status, error.param) == (400, param)
    assert param in str(error)


@pytest.mark.parametrize(
    "change",
    [{"presence_penalty": 0.5}, {"top_k": 5}, {"tools": [{"type": "function"}]}, {"invented": 1}, {"echo": True}],
)
def test_a_field_that_would_change_the_answer_and_is_not_supported_is_refused(change: dict[str, Any]) -> None:
    error = refusal({**HELLO, **change})
    assert (error.status, error.param, error.code) == (400, *change, "unsupported_parameter")


@pytest.mark.parametrize(
    ("change", "param"), [({"max_tokens": 0}, "max_tokens"), ({"echo": True, "stream": True}, "echo")]
)
def test_echo_takes_no_stream_and_only_echo_takes_no_tokens(change: dict[str, Any], param: str) -> None:
    body = {"model": "policy-00", "prompt": "Hello", **change}
    with pytest.raises(RequestError) as caught:
        parse_request(body, CompletionRequest, MODELS)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert parse_request(
        {"model": "policy-00", "prompt": "Hello", "echo": True, "max_tokens": 0}, CompletionRequest, MODELS
    )


@pytest.mark.parametrize("change", [{"presence_penalty": 0}, {"tools": []}, {"user": "me"}, {"invented": None}])
def test_a_field_that_asks_for_nothing_else_is_accepted(change: dict[str, Any]) -> None:
    assert parse_request({**HELLO, **change}, ChatRequest, MODELS).model == "policy-00"


@pytest.mark.parametrize("body", [None, [], "text", 3])
def test_a_body_that_is_no_object_is_400(body: Any) -> None:
    assert refusal(body).status == 400


def test_an_unknown_model_is_404_in_openais_shape() -> None:
    error = refusal({**HELLO, "model": "policy-99"})
    assert error.status == 404
    assert error.body() == {
        "error": {
            "message": "the model 'policy-99' does not exist; there are reference, policy-00",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
