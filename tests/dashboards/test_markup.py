from html.parser import HTMLParser

from dashboards import markup
from dashboards.answers import Answer, Judged
from dashboards.catalogue import catalogue
from dashboards.markup import Cell

T = catalogue("en")

EVIL = '<img src=x onerror="alert(1)"><script>alert(2)</script></div> **bold** $x$ [a](javascript:b)'


class Tags(HTMLParser):
    """Collects elements and text, to see what a browser would make of the markup."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


def test_a_models_answer_is_text_and_never_markup() -> None:
    answer = Answer(EVIL, 0, EVIL, False, [Judged(EVIL, EVIL, 0.5, EVIL, EVIL)])
    tags = parsed(markup.answer_grid([answer], {EVIL: EVIL}, T))
    assert not {"img", "script", "a"} & set(tags.seen)
    assert EVIL in tags.text


def test_prompts_tables_and_help_are_escaped_too() -> None:
    pages = [
        markup.prompt(EVIL, EVIL, T),
        markup.table([Cell(EVIL)], [[Cell(EVIL, "bad", EVIL)]], EVIL),
        markup.help_page(EVIL, EVIL, [EVIL]),
        markup.verdict(EVIL, EVIL, feasible=True),
        markup.note(EVIL),
        markup.facts([(EVIL, EVIL)]),
        markup.key([], (EVIL, 0, 1)),
    ]
    for page in pages:
        tags = parsed(page)
        assert not {"img", "script", "a"} & set(tags.seen)
        assert EVIL in tags.text


def test_a_score_is_a_number_and_a_bar_of_its_length() -> None:
    html = markup.answer_grid([Answer("p", 0, "text", False, [Judged("safety", "j", 0.42, "", "")])], {}, T)
    assert "width:42%" in html
    assert "0.42" in parsed(html).text


def test_what_is_missing_is_said() -> None:
    html = markup.answer_grid([Answer("p", 0, "  ", True, [])], {}, T)
    assert "(empty answer)" in html
    assert "cut off" in html
    assert "Not judged" in html
    scoreless = markup.answer_grid([Answer("p", 0, "x", False, [Judged("safety", "j", None, "", "")])], {}, T)
    assert "–" in scoreless


def test_margins_are_typeset_with_their_sign() -> None:
    assert (markup.signed(0.05), markup.signed(-0.0504)) == ("+0.050", "−0.050")
