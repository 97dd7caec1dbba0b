import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopo_serve.openai_errors import ApiError
from mopo_serve.requests import SEARCHED, engine_request, parse_body, request_id, take_model, take_profile

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def refused(raw: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        body = parse_body(raw)
        take_model(body)
        take_profile(body)
        engine_request(body)
    assert caught.value.status == 400
    return caught.value


@given(
    st.dictionaries(
        st.text().filter(lambda name: not name.startswith("stream")) | st.sampled_from(["messages", "prompt"]),
        json_values,
        max_size=5,
    )
)
def test_the_engine_gets_what_the_client_sent_but_for_the_model(body: dict[str, Any]) -> None:
    withheld = {"objective_profile", "cache_salt", "priority"}
    parsed = parse_body(json.dumps(body | {"model": "mopo/x", "cache_salt": "s", "priority": 1}).encode())
    sent = json.loads(engine_request(parsed).body("policy-00"))
    assert sent == {name: value for name, value in body.items() if name not in withheld} | {"model": "policy-00"}


def engine_gets(**body: Any) -> tuple[dict[str, Any], bool]:
    """What is sent on of ``body``, and whether a count of tokens is hidden from the client."""
    request = engine_request({"model": "mopo/x", **body})
    return json.loads(request.body("p")), request.hides_usage


@pytest.mark.parametrize("value", [1, 0, 1.0, "true", "off", "", [], {}])
@pytest.mark.parametrize("field", ["stream", "stream_options.include_usage"])
def test_what_an_engine_might_take_for_true_is_no_way_to_stream_uncounted(field: str, value: object) -> None:
    body = {"stream": value} if field == "stream" else {"stream": True, "stream_options": {"include_usage": value}}
    with pytest.raises(ApiError) as caught:
        engine_gets(**body)
    assert (caught.value.status, caught.value.param) == (400, field)


def test_a_stream_is_asked_to_count_its_tokens_whatever_else_it_is_asked() -> None:
    counted = {"include_usage": True}
    assert engine_gets(stream=True) == ({"model": "p", "stream": True, "stream_options": counted}, True)
    asked = {"include_usage": True, "continuous_usage_stats": True}
    assert engine_gets(stream=True, stream_options=asked)[1] is False
    assert engine_gets(stream=True, stream_options=asked)[0]["stream_options"] == asked
    sent, hides = engine_gets(stream=True, stream_options={"include_usage": False, "other": 1})
    assert (sent["stream_options"], hides) == ({"include_usage": True, "other": 1}, True)
    assert engine_gets(stream=False) == ({"model": "p", "stream": False}, False)
    assert engine_gets(stream=True, stream_options="nonsense")[0]["stream_options"] == "nonsense"


def test_the_prompt_is_kept_as_it_is_sent() -> None:
    messages = [{"role": "user", "content": "Hello é"}]
    assert json.loads(engine_request({"model": "m", "messages": messages, "n": 1}).prompt) == messages
    assert engine_request({"model": "m", "prompt": "Hi"}).prompt == b'"Hi"'
    assert engine_request({"model": "m"}).prompt == b""


@settings(max_examples=200)
@given(st.binary(max_size=40))
def test_bytes_that_are_no_json_object_are_refused(raw: bytes) -> None:
    try:
        expected = isinstance(json.loads(raw.decode()), dict)
    except ValueError:
        expected = False
    if expected:
        assert isinstance(parse_body(raw), dict)
    else:
        with pytest.raises(ApiError) as caught:
            parse_body(raw)
        assert caught.value.status == 400


@pytest.mark.parametrize(
    ("raw", "param", "said"),
    [
        (b"", None, "not JSON"),
        (b"{", None, "not JSON"),
        (b"\xff", None, "not UTF-8"),
        ('{"model": "mopo"}'.encode("utf-16"), None, "not UTF-8"),
        (b"[]", None, "an array"),
        (b"null", None, "null"),
        (b"[" * 100_000, None, "nested too deeply"),
        (b'{"model": "m", "x": ' + b'{"a":' * 100_000, None, "nested too deeply"),
        (b'{"model": "m", "n": ' + b"9" * 5000 + b"}", None, "not JSON"),
        (b"{}", "model", "is missing"),
        (b'{"model": null}', "model", "null"),
        (b'{"model": 3}', "model", "a number"),
        (b'{"model": "m", "temperature": NaN}', "temperature", "finite"),
        (b'{"model": "m", "logit_bias": {"5": -1e999}}', "logit_bias.5", "finite"),
        (
            b'{"model": "m", "messages": [{"content": "ok"}, {"content": "\\ud800"}]}',
            "messages[1].content",
            "surrogate",
        ),
        (b'{"model": "m", "metadata": {"\\udfff": 1}}', "metadata", "surrogate"),
        (b'{"model": "m", "\\udfff": 1}', None, "surrogate"),
        (b'{"model": "m", "x": [' + b"[]," * SEARCHED + b"NaN]}", None, "finite"),  # not searched to the end
    ],
)
def test_a_malformed_body_is_refused_with_the_field_and_the_cause(raw: bytes, param: str | None, said: str) -> None:
    error = refused(raw)
    assert error.param == param
    assert said in error.message


@pytest.mark.parametrize(
    ("profile", "param"),
    [
        ('{"floors": {"safety": NaN}}', "objective_profile.floors.safety"),
        ('{"floors": {"safety": 1.01}}', "objective_profile.floors.safety"),
        ('{"floors": {"safety": -0.1}}', "objective_profile.floors.safety"),
        ('{"floors": {"safety": "0.5"}}', "objective_profile.floors.safety"),
        ('{"floors": {"safety": true}}', "objective_profile.floors.safety"),
        ('{"floors": {"safety": null}}', "objective_profile.floors.safety"),
        ('{"floors": {"Safety!": 0.5}}', "objective_profile.floors.Safety!"),
        ('{"floors": [0.5]}', "objective_profile.floors"),
        ('{"floor": {"safety": 0.5}}', "objective_profile.floor"),
        ('{"\\ud800": 1}', "objective_profile"),
        ('{"primary": 3}', "objective_profile.primary"),
        ('{"selection": "both"}', "objective_profile.selection"),
        ('{"on_infeasible": "A B"}', "objective_profile.on_infeasible"),
        ('{"on_infeasible": []}', "objective_profile.on_infeasible"),
        ('"careful"', "objective_profile"),
        (json.dumps({"floors": {f"k{number}": 0.5 for number in range(10_000)}}), "objective_profile"),
        ("[]", "objective_profile"),
    ],
)
def test_a_wrong_objective_profile_is_refused_by_field(profile: str, param: str) -> None:
    assert refused(f'{{"model": "m", "objective_profile": {profile}}}'.encode()).param == param


@pytest.mark.parametrize(
    "fields",
    [
        '"objective_profile": {"floors": {"safety": 0.99, "safety": 0.1}}',
        '"objective_profile": {"floors": {"safety": 0.99, "saf\\u0065ty": 0.1}}',
        '"objective_profile": {"floors": {"safety": 0.99}, "floors": {}}',
        '"objective_profile": {"floors": {"safety": 0.99}}, "objective_profile": null',
        '"objective\\u005fprofile": {"floors": {"safety": 0.99, "safety": 0.1}}',
    ],
)
def test_a_floor_that_a_second_one_of_its_name_would_replace_is_refused(fields: str) -> None:
    error = refused(f'{{"model": "m", {fields}}}'.encode())
    assert error.param == "objective_profile"
    assert "is given twice" in error.message


def test_an_absent_objective_profile_is_none() -> None:
    assert take_profile({}) is None
    assert take_profile({"objective_profile": None}) is None


@pytest.mark.parametrize("given_id", [b"abc-123", b"01:2_3.4", b"x" * 128])
def test_a_sane_request_id_is_kept(given_id: bytes) -> None:
    assert request_id([(b"host", b"h"), (b"x-request-id", given_id)]) == given_id


@pytest.mark.parametrize("given_id", [b"", b"x" * 129, b"a b", b"a\r\nset-cookie: x", b"\xc3\xa9", b"a\n"])
def test_any_other_request_id_is_replaced(given_id: bytes) -> None:
    made = [request_id([(b"x-request-id", given_id)]) for _ in range(600)]
    assert len(set(made)) == 600
    assert all(re.fullmatch(rb"req-[0-9a-f]{24}", each) for each in made)
