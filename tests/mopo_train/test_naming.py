"""Names for labels that have none, and the choice of objectives."""

from pathlib import Path

import pytest

from mopo_train.errors import DataError
from mopo_train.preferences import PreferenceData, read_preferences
from tests.comparisons import row, write_rows

PAIR = {"prompt": "q", "chosen": "x", "rejected": "y"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files without names for their labels, one with, and one with scores."""
    for name in ("first", "second"):
        write_rows(tmp_path / f"{name}.jsonl", [PAIR])
    write_rows(tmp_path / "named.jsonl", [row("q", "x", "y")])
    write_rows(tmp_path / "scored.jsonl", [PAIR | {"score_chosen": 2, "score_rejected": 1}])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def labelled(data: PreferenceData) -> dict[str, int]:
    return data.summary.labelled


def test_a_name_before_the_path_names_the_label(here: Path) -> None:
    data = read_preferences(["helpfulness=first.jsonl", "safety=second.jsonl"])
    assert labelled(data) == {"helpfulness": 1, "safety": 1}
    assert len(data.response_prompt) == 2  # the same two answers


@pytest.mark.usefixtures("here")
def test_objectives_name_the_sources_in_order_or_all_at_once() -> None:
    sources = ["first.jsonl", "named.jsonl", "second.jsonl"]
    assert labelled(read_preferences(sources, objectives=["zeal", "tact"])) == {
        "helpfulness": 1,
        "safety": 1,
        "tact": 1,
        "zeal": 1,
    }
    assert labelled(read_preferences(sources, objectives=["safety"])) == {"helpfulness": 1, "safety": 3}


@pytest.mark.usefixtures("here")
def test_what_the_summary_records_can_be_read_again() -> None:
    first = read_preferences(["first.jsonl", "named.jsonl", "scored.jsonl"], objectives=["zeal", "tact"])
    assert first.summary.source == ["zeal=first.jsonl", "named.jsonl", "tact=scored.jsonl"]
    assert read_preferences(first.summary.source).summary == first.summary


@pytest.mark.usefixtures("here")
def test_a_usual_name_is_recorded_so_that_objectives_then_only_select() -> None:
    first = read_preferences(["scored.jsonl", "scored.jsonl", "named.jsonl"])
    assert first.summary.source == ["helpfulness=scored.jsonl", "helpfulness=scored.jsonl", "named.jsonl"]
    assert read_preferences(first.summary.source, objectives=first.objectives).summary == first.summary


@pytest.mark.usefixtures("here")
def test_texts_alone_need_no_names() -> None:
    data = read_preferences(["first.jsonl"], at_least=0)
    assert [data.response(index) for index in range(2)] == ["x", "y"]


@pytest.mark.usefixtures("here")
def test_scores_are_helpfulness_unless_named_and_objectives_then_select() -> None:
    assert labelled(read_preferences(["scored.jsonl", "named.jsonl"])) == {"helpfulness": 2, "safety": 1}
    assert labelled(read_preferences(["safety=scored.jsonl", "named.jsonl"])) == {"helpfulness": 1, "safety": 2}
    selected = read_preferences(["scored.jsonl", "named.jsonl"], objectives=["safety", "helpfulness"])
    assert selected.objectives == ("safety", "helpfulness")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("sources", "objectives", "pattern"),
    [
        (
            ["first.jsonl"],
            [],
            r"'first\.jsonl' .* TRL preference, .* write helpfulness=first\.jsonl \(.* --objective",
        ),
        (
            ["first.jsonl", "second.jsonl"],
            ["a", "b", "c"],
            r"3 objectives \(a, b, c\) for 2 sources .*; give one for all",
        ),
        (["safety=named.jsonl"], [], r"'named\.jsonl' is in the format MOPO, .* write it without 'safety='"),
        (["first.jsonl"], ["Be safe"], "'--objective': 'Be safe' cannot name an objective"),
        (["Safety=first.jsonl"], [], "'Safety=first.jsonl': 'Safety' cannot name an objective"),
        (["safety=none.jsonl"], [], r"no file or directory 'none\.jsonl'"),
    ],
)
def test_names_that_do_not_fit(sources: list[str], objectives: list[str], pattern: str) -> None:
    with pytest.raises(DataError, match=pattern):
        read_preferences(sources, objectives=objectives, at_least=1)


def test_a_file_whose_name_looks_like_a_named_source_is_read_as_that_file(here: Path) -> None:
    write_rows(here / "safety=pairs.jsonl", [row()])
    assert labelled(read_preferences(["safety=pairs.jsonl"])) == {"helpfulness": 1, "safety": 1}


def test_a_directory_of_unnamed_shards_takes_one_name(here: Path) -> None:
    (here / "shards").mkdir()
    for index in range(2):
        write_rows(here / "shards" / f"train-0000{index}-of-00002.jsonl", [PAIR | {"prompt": f"q{index}"}])
    assert labelled(read_preferences(["shards"], objectives=["safety"], at_least=1)) == {"safety": 2}
