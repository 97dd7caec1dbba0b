import json
import os
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopo_train.errors import DataError
from mopo_train.preferences import PreferenceData, read_preferences
from mopo_train.rows import to_json
from tests.comparisons import Row, row, write_rows


def read(tmp_path: Path, *rows: Row, **options: Any) -> PreferenceData:
    return read_preferences([write_rows(tmp_path / "pairs.jsonl", rows)], **options)


def texts(data: PreferenceData) -> list[tuple[str, str, str]]:
    """Prompt and responses of every row, through the indices."""
    return [
        (to_json(data.messages(int(x))), data.response(int(a)), data.response(int(b)))
        for x, a, b in zip(data.prompt, data.first, data.second, strict=True)
    ]


def structure(data: PreferenceData) -> dict[tuple[str, str], list[list[float | None]]]:
    """What win rates are made of: per response, the labels in its favour with their weights, in no order."""
    found: dict[tuple[str, str], list[list[float | None]]] = defaultdict(list)
    for (prompt, a, b), labels, weight in zip(texts(data), data.labels, data.weight, strict=True):
        for text, sides in ((a, labels), (b, 1 - labels)):
            found[prompt, text].append([None if np.isnan(side) else round(float(side), 9) for side in sides] + [weight])
    return {key: sorted(value, key=str) for key, value in found.items()}


def test_rows_become_indices_labels_and_texts(tmp_path: Path) -> None:
    data = read(
        tmp_path,
        row("q1", "x", "y", {"helpfulness": 1, "safety": 0.25}),
        row("q2", "x", "z", {"safety": None, "helpfulness": 0.5}, weight=2.5),
        row("q1", "w", "x", {"factuality": 0}),
    )
    assert data.objectives == ("helpfulness", "safety", "factuality")
    nan = np.nan
    np.testing.assert_array_equal(data.labels, [[1, 0.25, nan], [0.5, nan, nan], [nan, nan, 0]])
    assert data.weight.tolist() == [1, 2.5, 1]
    assert data.prompt.tolist() == [0, 1, 0]
    assert data.response_prompt.tolist() == [0, 0, 0, 1, 1]  # x, y, w answer q1; another x, and z, answer q2
    assert (data.first.tolist(), data.second.tolist()) == ([0, 3, 2], [1, 4, 0])
    assert [data.response(index) for index in range(5)] == ["x", "y", "w", "x", "z"]
    assert data.messages(1) == [{"role": "user", "content": "q2"}]
    assert data.compared().tolist() == [[0, 1], [0, 2], [3, 4]]
    assert data.summary.model_dump(exclude={"sha256"}) == {
        "source": [str(tmp_path / "pairs.jsonl")],
        "pairs": 3,
        "prompts": 2,
        "labelled": {"helpfulness": 2, "safety": 1, "factuality": 1},
    }


def test_a_pair_compared_twice_in_either_order_is_one_compared_pair(tmp_path: Path) -> None:
    data = read(tmp_path, row("q", "x", "y"), row("q", "y", "x"))
    assert data.compared().tolist() == [[0, 1]]
    assert (data.first.tolist(), data.second.tolist()) == ([0, 1], [1, 0])


def test_a_text_prompt_is_the_same_prompt_as_its_one_user_message(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "q"}]
    data = read(tmp_path, row("q", "x", "y"), row(messages, "x", "z"), row("q ", "x", "z"))
    assert data.prompt.tolist() == [0, 0, 1]  # and text counts character by character
    assert data.first.tolist() == [0, 0, 3]


def test_conversations_keep_their_roles(tmp_path: Path) -> None:
    said = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Why?")]
    messages = [{"role": role, "content": content} for role, content in said]
    data = read(tmp_path, row(messages, "x", "y"), row(messages[1:], "x", "y"), row("Why?", "x", "y"))
    assert data.messages(0) == messages
    assert data.messages(1) == messages[1:]
    assert len(data.group) == 3


def test_sources_that_label_different_objectives_are_joined_by_text(tmp_path: Path) -> None:
    helpful = write_rows(tmp_path / "helpful.jsonl", [row("q", "x", "y", {"helpfulness": 1})])
    safe = write_rows(
        tmp_path / "safe.jsonl.gz", [row("q", "y", "x", {"safety": 1}), row("r", "x", "y", {"safety": 0})]
    )
    data = read_preferences([helpful, str(safe)])
    assert data.objectives == ("helpfulness", "safety")
    assert data.prompt.tolist() == [0, 0, 1]
    assert (data.first.tolist(), data.second.tolist()) == ([0, 1, 2], [1, 0, 3])
    assert data.response(3) == "y"
    assert data.summary.source == [str(helpful), str(safe)]


def test_prompts_share_a_split_group_through_chains_of_group_values(tmp_path: Path) -> None:
    data = read(
        tmp_path,
        row("q0", group="one"),
        row("q1", group="one"),
        row("q1", "x", "y", group="two"),
        row("q2", group="two"),
        row("q3", group=3),
        row("q4"),
        row("q5", group="3"),
        row("q6", group=""),
        row("q7", group=None),
    )
    group = data.group.tolist()
    assert group[0] == group[1] == group[2]
    assert group[3] == group[5]
    assert len({group[0], group[3], group[4], group[6], group[7]}) == 5


def test_without_groups_every_prompt_is_its_own(tmp_path: Path) -> None:
    assert read(tmp_path, row("q0"), row("q1"), row("q0", "x")).group.tolist() == [0, 1]


def test_rows_without_a_label_stay_among_those_that_have_one(tmp_path: Path) -> None:
    data = read(tmp_path, row("q0", labels={}), row("q1"), {k: v for k, v in row("q2").items() if k != "preferences"})
    assert np.isnan(data.labels[[0, 2]]).all()
    assert data.summary.pairs == 3


def test_identical_responses_are_left_out_and_counted(tmp_path: Path) -> None:
    data = read(tmp_path, row("q0", "x", "x"), row("q1"), row("q2", "y", "y"))
    assert data.summary.pairs == 1
    assert data.skipped == {"identical responses": 2}
    assert data.notes() == ["left out 2 rows: identical responses"]


def test_only_identical_responses_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no usable comparison, only rows with identical responses \(1\)"):
        read(tmp_path, row("q0", "x", "x"))


def test_objectives_select_and_order(tmp_path: Path) -> None:
    data = read(tmp_path, row(labels={"a": 1, "b": 0, "c": 0.5}), objectives=["c", "a"])
    assert data.objectives == ("c", "a")
    assert data.labels.tolist() == [[0.5, 1]]
    assert next(data.comparisons()).preferences == {"c": 0.5, "a": 1}


def test_unknown_objective_names_those_that_are_labelled(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"objective 'honesty' is labelled nowhere in .*; labelled are: helpfulness, safety"
    ):
        read(tmp_path, row(), objectives=["safety", "honesty"])


def test_one_objective_is_not_enough_and_the_message_says_how_to_join(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 objective only \(safety\), but MOPO trades at least 2.*DATA may be given"):
        read(tmp_path, row(labels={"safety": 1}))
    assert read(tmp_path, row(labels={"safety": 1}), at_least=1).objectives == ("safety",)


def test_no_label_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row carries a label"):
        read(tmp_path, row(labels={"safety": None}), row("q", labels={}))


def test_labels_in_columns_of_their_own_are_said_not_to_be_read(tmp_path: Path) -> None:
    flat = {"prompt": "q", "response_a": "a", "response_b": "b", "weight": 2, "helpfulness": 1, "safety": 0.5}
    with pytest.raises(DataError, match=r"Numbers in columns of their own \(helpfulness, safety\) are not read"):
        read(tmp_path, flat)


def test_no_source_is_an_error() -> None:
    with pytest.raises(DataError, match="no preference data was named"):
        read_preferences([])


def test_parquet_and_json_lines_hold_the_same_data(tmp_path: Path) -> None:
    rows = [
        row("q0", labels={"helpfulness": 1.0, "safety": None}, weight=2.0, group="g", annotator="ann"),
        row("q1", labels={"helpfulness": None, "safety": 0.5}, weight=None, group=None, annotator=None),
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "pairs.parquet")
    lines, parquet = read(tmp_path, *rows), read_preferences([tmp_path / "pairs.parquet"])
    assert texts(parquet) == texts(lines)
    np.testing.assert_array_equal(parquet.labels, lines.labels)
    assert parquet.summary.sha256 == lines.summary.sha256
    assert list(parquet.comparisons()) == list(lines.comparisons())


def test_more_rows_than_one_batch_keep_their_order(tmp_path: Path) -> None:
    data = read(tmp_path, *(row(f"q{index // 2}", f"a{index}", f"b{index}") for index in range(2500)))
    assert data.prompt.tolist() == [index // 2 for index in range(2500)]
    assert data.response(int(data.first[1999])) == "a1999"
    assert data.response(int(data.second[2499])) == "b2499"
    assert [item.response_a for item in data.comparisons()] == [f"a{index}" for index in range(2500)]
    assert (np.diff(data.response_prompt) >= 0).all()


def test_two_processes_that_convert_one_file_at_once_agree(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", [row(f"q{index}") for index in range(3000)])
    code = (
        "import sys; from mopo_train.preferences import read_preferences as r; print(r([sys.argv[1]]).summary.sha256)"
    )
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-W", "error", "-c", code, str(path)]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(answers) == 1
    assert len(list((tmp_path / "cache" / "mopo").iterdir())) == 1


def test_importing_the_reader_is_light() -> None:
    code = (
        "import sys, mopo_train.preferences, mopo_train.split; sys.exit(bool({'torch', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", [row("q", group="g")])
    code = (
        "import sys; from mopo_train.preferences import read_preferences as r; r([sys.argv[1]]).messages(0); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    lambda value: bool(value.strip())
)
prompts = st.one_of(
    text,
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), text), max_size=2).flatmap(
        lambda said: text.map(
            lambda last: [{"role": role, "content": content} for role, content in [*said, ("user", last)]]
        )
    ),
)
labels = st.dictionaries(
    st.sampled_from(["helpfulness", "safety", "zeal"]), st.none() | st.floats(0, 1, allow_subnormal=False), max_size=3
)
many_rows = st.lists(
    st.builds(
        row,
        prompts,
        text,
        text,
        labels,
        weight=st.none() | st.floats(0.1, 10),
        group=st.none() | st.integers(0, 3) | text,
        annotator=st.none() | text,
    ),
    max_size=8,
).map(lambda rows: [*rows, row("the last", "x", "y", {"safety": 0.5})])


@settings(max_examples=40, deadline=None)
@given(many_rows)
def test_reading_what_was_written_gives_the_same_arrays(rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as root:
        first = read(Path(root), *rows, at_least=1)
        again = read_preferences(
            [write_rows(Path(root) / "again.jsonl.gz", [item.canonical() for item in first.comparisons()])], at_least=1
        )
    assert again.objectives == first.objectives
    for name in ("labels", "weight", "prompt", "first", "second", "response_prompt", "group", "prompt_key"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name), err_msg=name)
    assert again.summary.sha256 == first.summary.sha256
    assert texts(again) == texts(first)
    assert list(again.comparisons()) == list(first.comparisons())


@settings(max_examples=40, deadline=None)
@given(many_rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_of_responses_changes_no_win_rate(rows: list[Row], order: random.Random) -> None:
    turned = [dict(item) for item in rows]
    for item in turned:
        if order.random() < 0.5:
            item["response_a"], item["response_b"] = item["response_b"], item["response_a"]
            item["preferences"] = {k: None if v is None else 1 - v for k, v in item["preferences"].items()}
    order.shuffle(turned)
    with tempfile.TemporaryDirectory() as root:
        first = read(Path(root), *rows, at_least=1)
        second = read(Path(root), *turned, at_least=1)
    assert second.objectives == first.objectives
    assert structure(second) == structure(first)
    groups = [
        {frozenset(to_json(data.messages(int(x))) for x in np.flatnonzero(data.group == g)) for g in data.group}
        for data in (first, second)
    ]
    assert groups[0] == groups[1]


@pytest.mark.data
def test_the_real_safety_data_agrees_with_counting_its_rows(real_data: Path) -> None:
    path = real_data / "pku_saferlhf_train.jsonl.gz"
    rows = [json.loads(line) for line in pd.read_csv(path, sep="\0", header=None, quoting=3)[0]]
    rows = [item for item in rows if item["response_0"].strip() and item["response_1"].strip()]
    data = read_preferences([path])
    assert data.summary.pairs == len(rows) == 3693
    assert data.skipped == {"an empty response": 2}
    assert data.labels[:, 0].tolist() == [1 - item["better_response_id"] for item in rows]
    assert data.labels[:, 1].tolist() == [1 - item["safer_response_id"] for item in rows]
    expected = [(item["prompt"], item["response_0"], item["response_1"]) for item in rows]
    assert [(json.loads(x)[0]["content"], a, b) for x, a, b in texts(data)] == expected
    assert data.summary.prompts == len({item[0] for item in expected})
    assert len(data.response_prompt) == len({pair for x, a, b in expected for pair in ((x, a), (x, b))})
