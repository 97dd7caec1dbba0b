"""The page: everything that the document says, nothing that a text could smuggle in, no network."""

from html import escape
from html.parser import HTMLParser
from pathlib import Path

from click.testing import CliRunner

from mopo_train.check.page import figures
from mopo_train.check.report import check
from mopo_train.cli import main
from mopo_train.preferences import read_preferences
from tests.comparisons import row, write_rows


class Sources(HTMLParser):
    """What the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_holds_verdict_problems_and_pictures_and_loads_nothing(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "<pairs>.jsonl", [row(), row("Other?", preferences={"helpfulness": 0})])
    page = tmp_path / "page.html"
    result = CliRunner().invoke(main, ["check", str(path), "--html", str(page)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert escape(result.stdout.strip().splitlines()[-1]) in text
    assert "&lt;pairs&gt;.jsonl" in text and "<pairs>" not in text
    assert text.count("<figure>") == 5 and "few-prompts" in text
    sources = Sources()
    sources.feed(text)
    assert sources.found == []


def test_pictures_show_the_counts_of_the_document(tmp_path: Path) -> None:
    rows = [row("Q", "a", "bb", {"safety": 1}), row("R", "a", "bb", {"safety": 0.5}), row("R", "a", "ccc", {})]
    document = check(read_preferences([write_rows(tmp_path / "rows.jsonl", rows)], at_least=1))
    drawn = list(figures(document))
    assert [(bar.name, list(bar.x)) for bar in drawn[0].data] == [
        ("a preferred", [1]),
        ("tie", [1]),
        ("b preferred", [0]),
        ("unlabelled", [1]),
    ]
    assert sum(drawn[-1].data[0].y) == document["responses"] == 5
