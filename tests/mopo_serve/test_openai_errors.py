import json

import pytest

from mopo_serve.openai_errors import ApiError, engine_error, shown

ADDRESS = "127.0.0.1:4711"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"message": "bad n", "type": "Bad", "param": "n", "code": 400}}, ("bad n", "n", None)),
        (400, {"object": "error", "message": "old style", "param": None, "code": 400}, ("old style", None, None)),
        (400, {"error": {"message": "long", "param": 7, "code": "context_length_exceeded"}},
         ("long", None, "context_length_exceeded")),
        (400, {"error": "just text"}, ("just text", None, None)),
        (422, {"detail": [{"loc": ["body", "n"]}]}, ('[{"loc": ["body", "n"]}]', None, None)),
    ],
)  # fmt: skip
def test_an_engines_refusal_is_told_in_openais_shape(
    status: int, body: object, expected: tuple[str, str | None, str | None]
) -> None:
    error = engine_error(status, json.dumps(body).encode(), address=ADDRESS)
    assert error.status == 400  # 422 means an infeasible profile here
    assert (error.message, error.param, error.code) == expected
    assert set(json.loads(error.body())["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b"null", b"[" * 100_000])
def test_an_engines_refusal_without_words_has_a_message(body: bytes) -> None:
    assert "400" in engine_error(400, body, address=ADDRESS).message


@pytest.mark.parametrize(
    ("engine", "here"), [(401, 503), (403, 503), (404, 503), (405, 503), (500, 502), (501, 502), (302, 502), (504, 504)]
)
def test_what_is_not_the_clients_fault_is_not_told_as_such(engine: int, here: int) -> None:
    error = engine_error(engine, b'{"error": {"message": "secret path"}}', address=ADDRESS)
    assert error.status == here
    assert b"secret" not in error.body()
    assert json.loads(error.body())["error"]["type"] == "server_error"


def test_the_engines_address_is_not_told() -> None:
    error = engine_error(
        400, json.dumps({"error": {"message": f"http://{ADDRESS}/v1 says no"}}).encode(), address=ADDRESS
    )
    assert ADDRESS not in error.message
    assert "says no" in error.message


def test_an_overloaded_engine_says_when_to_come_back() -> None:
    assert dict(engine_error(503, b"", address=ADDRESS).headers())[b"retry-after"] == b"1"
    assert dict(engine_error(429, b"", address=ADDRESS, retry_after="7").headers())[b"retry-after"] == b"7"


def test_text_that_is_no_unicode_is_escaped_and_long_text_is_cut() -> None:
    error = json.loads(ApiError(400, "\ud800" + "x" * 10_000, param="y" * 1000).body())["error"]
    assert error["message"].startswith("\\ud800xxx")
    assert len(error["message"]) < 2100
    assert len(error["param"]) == 200
    assert shown("a" * 1000 + "\n") == "'" + "a" * 97 + "...'"
