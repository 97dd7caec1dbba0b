import pytest

from mopo_eval.plain_text import one_line, shortened, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode, 漢字, مرحبا, 👍", "plain, ünïcode, 漢字, مرحبا, 👍"),
        ("a\n\tb", "a\n\tb"),
        ("a\r\nb\rc", "a\nb<U+000D>c"),
        ("user\u202egnp.exe\u202c", "user<U+202E>gnp.exe<U+202C>"),
        ("\u2066isolate\u2069 \u200f \u200b", "<U+2066>isolate<U+2069> <U+200F> <U+200B>"),
        ("\x00\x1b[31m", "<U+0000><U+001B>[31m"),
        ("tag\U000e0041", "tag<U+E0041>"),
        ("half \ud800", "half <U+D800>"),
        ("line\u2028paragraph\u2029", "line<U+2028>paragraph<U+2029>"),
        ("👩\u200d🔬 می\u200cخواهم", "👩\u200d🔬 می\u200cخواهم"),  # joiners belong to the word
    ],
)
def test_what_acts_unseen_is_written_out_and_nothing_else(text: str, shown: str) -> None:
    assert visible(text) == shown
    shown.encode()  # can be written to a file


def test_long_text_says_how_long_it_is() -> None:
    assert shortened("a" * 1200, 10) == "aaaaaaaaaa … (1,200 characters)"
    assert shortened("short", 5) == "short"
    assert one_line("two\n  lines", 100) == "two lines"
    assert one_line("two\n  lines", 3) == "two … (9 characters)"
