from hypothesis import given
from hypothesis import strategies as st

from mopo_train.text_stream import TextStream


def decode(tokens: list[int]) -> str:
    """One token per byte of UTF-8, like a byte-level tokenizer without merges."""
    return bytes(tokens).decode("utf-8", errors="replace")


def pieces(text: str, *stop: str) -> tuple[list[str], TextStream]:
    stream = TextStream(decode, stop)
    found = []
    for byte in text.encode():
        found.append(stream.push(byte))
        if stream.stopped:
            return found, stream
    return [*found, stream.finish()], stream


def test_a_character_of_several_bytes_appears_when_its_last_byte_comes() -> None:
    assert pieces("aé€😀")[0] == ["a", "", "é", "", "", "€", "", "", "", "😀", ""]


def test_bytes_of_a_character_that_never_completes_are_shown_at_the_end() -> None:
    stream = TextStream(decode)
    assert [stream.push(byte) for byte in "é".encode()[:1]] == [""]
    assert stream.finish() == "\ufffd"


def test_the_answer_ends_before_the_stop_string_even_across_tokens() -> None:
    found, stream = pieces("one END two", "END")
    assert stream.stopped
    assert "".join(found) == "one "


def test_what_could_start_a_stop_string_is_held_until_it_cannot() -> None:
    assert pieces("a<b<e", "<end>")[0] == ["a", "", "<b", "", "", "<e"]


def test_the_first_stop_string_to_appear_counts() -> None:
    assert "".join(pieces("x, y. z", ".", ",")[0]) == "x"


@given(st.text(max_size=40))
def test_joined_pieces_equal_the_decoded_whole(text: str) -> None:
    assert "".join(pieces(text)[0]) == text


@given(st.text(alphabet="ab😀", max_size=30), st.text(alphabet="ab😀", min_size=1, max_size=4))
def test_a_stop_string_cuts_like_partition(text: str, stop: str) -> None:
    assert "".join(pieces(text, stop)[0]) == text.partition(stop)[0]
