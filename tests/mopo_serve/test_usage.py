import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mopo_serve.usage import LONGEST_EVENT, EventStream, Tokens, tokens_of

COUNT = {"prompt_tokens": 7, "total_tokens": 12, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}


def event(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


DELTA = event({"choices": [{"index": 0, "delta": {"content": 'say "usage": {"prompt_tokens": 99}'}}]})
LAST = event({"choices": [], "usage": COUNT})
DONE = b"data: [DONE]\n\n"
fragments = st.lists(st.integers(1, 60), max_size=40)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """``data`` in pieces of ``sizes``, and the rest."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [piece for piece in [*pieces, data] if piece]


def through(pieces: list[bytes], hides_usage: bool) -> tuple[bytes, Tokens]:
    events = EventStream(hides_usage=hides_usage)
    out = b"".join([events.feed(piece) for piece in pieces])
    return out + events.rest(), events.tokens


@given(fragments)
def test_a_count_that_was_not_asked_for_is_taken_out_however_the_bytes_come(sizes: list[int]) -> None:
    for before in ([DELTA], [DELTA, DELTA], []):
        stream = b"".join([*before, LAST, DONE])
        assert through(cut(stream, sizes), True) == (b"".join([*before, DONE]), Tokens(7, 5))


@given(fragments)
def test_a_count_that_was_asked_for_stays(sizes: list[int]) -> None:
    stream = DELTA + LAST + DONE
    out, _ = through(cut(stream, sizes), False)
    assert out == stream


def test_a_count_that_was_asked_for_is_read() -> None:
    assert through([DELTA, LAST, DONE], False)[1] == Tokens(7, 5)
    assert through([DELTA, LAST[:-30], LAST[-30:], DONE], False)[1] == Tokens(7, 5)
    assert through([DELTA + LAST + DONE], False)[1] == Tokens(7, 5)


@given(st.lists(st.binary(max_size=40), max_size=10), st.booleans())
def test_what_is_no_count_comes_through_byte_for_byte(pieces: list[bytes], hides_usage: bool) -> None:
    assert through(pieces, hides_usage)[0] == b"".join(pieces)


def test_every_whole_event_goes_on_at_once() -> None:
    events = EventStream(hides_usage=True)
    assert events.feed(DELTA + DELTA[:10]) == DELTA
    assert events.feed(DELTA[10:]) == DELTA
    assert events.feed(DELTA) == DELTA


def test_streams_with_other_line_ends_are_not_held_back() -> None:
    events = EventStream(hides_usage=True)
    windows = DELTA.replace(b"\n", b"\r\n")
    assert events.feed(windows) == windows
    assert events.feed(windows) == windows


def test_an_event_without_end_is_not_kept_for_ever() -> None:
    events = EventStream(hides_usage=True)
    assert events.feed(b"data: " + b"x" * LONGEST_EVENT) != b""
    counting = EventStream(hides_usage=False)
    counting.feed(b'"usage"' + b"x" * LONGEST_EVENT)
    assert counting._held == b""


def test_a_chunk_with_text_and_a_count_is_not_dropped() -> None:
    both = event({"choices": [{"delta": {"content": "x"}}], "usage": COUNT})
    assert through([both, DONE], True) == (both + DONE, Tokens(7, 5))
    null = event({"choices": [], "usage": None})
    assert through([null, DONE], True) == (null + DONE, Tokens())


def test_counts_of_an_answer() -> None:
    answer = {"choices": [{"message": {"content": '"usage": {"prompt_tokens": 1000}'}}], "usage": COUNT}
    assert tokens_of(json.dumps(answer).encode()) == Tokens(7, 5)
    assert tokens_of(json.dumps(answer, separators=(",", ":")).encode()) == Tokens(7, 5)
    assert tokens_of(b'{"choices": []}') == Tokens()
    assert tokens_of(b'{"usage": null}') == Tokens()
    assert tokens_of(b'{"usage": {"prompt_tokens": 1' + b"0" * 5000) == Tokens()


@given(st.text())
def test_no_text_is_taken_for_a_count(text: str) -> None:
    for content in (text, f'"usage":{{"prompt_tokens":9,"completion_tokens":9}}{text}'):
        assert tokens_of(json.dumps({"choices": [{"message": {"content": content}}]}).encode()) == Tokens()
