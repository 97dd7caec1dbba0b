import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mopo_train.cli import main
from mopo_train.errors import DataError
from mopo_train.preferences import PreferenceData, read_preferences
from mopo_train.rows import to_json
from mopo_train.split import held_out, nearly_on_both_sides, with_near_duplicates, write_split
from tests.comparisons import Row, row, write_rows


def read(tmp_path: Path, rows: Iterable[Row]) -> PreferenceData:
    return read_preferences([write_rows(tmp_path / "pairs.jsonl", rows)])


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names(data: PreferenceData, held: np.ndarray[Any, np.dtype[np.bool_]]) -> set[str]:
    return {to_json(data.messages(int(prompt))) for prompt in np.flatnonzero(held)}


MANY = [
    row(f"q{index % 50}", f"x{index}", group=f"g{index % 50 // 2}" if index % 50 < 20 else None) for index in range(150)
]
"""50 prompts with three rows each; the first 20 in groups of two."""


def test_the_share_is_of_prompts_and_exact_where_groups_allow(tmp_path: Path) -> None:
    assert held_out(read(tmp_path, [row(f"q{index}") for index in range(50)]), 0.3, seed=0).sum() == 15


def test_prompts_of_one_group_stay_together(tmp_path: Path) -> None:
    data = read(tmp_path, MANY)
    for seed in range(20):
        held = held_out(data, 0.4, seed)
        assert held[:20:2].tolist() == held[1:20:2].tolist()
        assert 19 <= held.sum() <= 20


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_rows(tmp_path: Path) -> None:
    data, turned = read(tmp_path, MANY), read(tmp_path, MANY[::-1])
    chosen = [names(data, held_out(data, 0.2, seed)) for seed in range(5)]
    assert chosen == [names(turned, held_out(turned, 0.2, seed)) for seed in range(5)]
    assert len({frozenset(prompts) for prompts in chosen}) == 5


def test_a_group_larger_than_the_share_is_trained_on(tmp_path: Path) -> None:
    data = read(tmp_path, [row(f"q{index}", group="g" if index < 8 else None) for index in range(10)])
    for seed in range(10):
        assert np.flatnonzero(held_out(data, 0.2, seed)).tolist() == [8, 9]


def test_where_no_group_fits_the_smallest_is_held_out(tmp_path: Path) -> None:
    data = read(tmp_path, [row(f"q{index}", group="a" if index < 6 else "b") for index in range(10)])
    assert np.flatnonzero(held_out(data, 0.1, seed=0)).tolist() == [6, 7, 8, 9]


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_outside_of_zero_and_one(tmp_path: Path, share: float) -> None:
    with pytest.raises(DataError, match=r"expected a number between 0 and 1"):
        held_out(read(tmp_path, MANY), share, seed=0)


def test_one_group_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 2 prompts are in one split group"):
        held_out(read(tmp_path, [row("q0", group="g"), row("q1", group="g")]), 0.5, seed=0)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30), st.floats(0.01, 0.99), st.integers(0, 100))
def test_every_split_divides_groups_and_leaves_both_sides_something(groups: list[int], share: float, seed: int) -> None:
    if len(set(groups)) == 1:
        groups = [*groups, groups[0] + 1]
    data = PromptsOnly(groups)
    held = held_out(data, share, seed)  # type: ignore[arg-type]
    assert held.any()
    assert not {g for g, h in zip(groups, held, strict=True) if h} & {
        g for g, h in zip(groups, held, strict=True) if not h
    }
    smallest = min(groups.count(group) for group in groups)
    assert held.sum() <= max(smallest, round(share * len(groups)))
    assert not held.all()


class PromptsOnly:
    """What ``held_out`` looks at."""

    def __init__(self, groups: list[int]) -> None:
        self.group = np.array(groups)
        self.prompt_key = np.arange(2 * len(groups), dtype=np.uint64).reshape(-1, 2)


def test_the_files_hold_every_row_once_and_the_distinct_held_out_prompts(tmp_path: Path) -> None:
    data = read(
        tmp_path, [*MANY, row([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], weight=2)]
    )
    held = held_out(data, 0.3, seed=1)
    held[-1] = True
    done = write_split(data, tmp_path / "out", held)
    train, heldout, prompts = (lines(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "heldout", "prompts"))
    assert (done.train_rows, done.heldout_rows) == (len(train), len(heldout))
    assert (done.heldout_prompts, done.train_prompts) == (len(prompts), 51 - len(prompts))
    assert sorted(map(to_json, train + heldout)) == sorted(to_json(item.canonical()) for item in data.comparisons())
    assert [item["prompt"] for item in prompts] == list(
        {to_json(item["prompt"]): item["prompt"] for item in heldout}.values()
    )
    assert not {to_json(item["prompt"]) for item in train} & {to_json(item["prompt"]) for item in prompts}
    assert all(set(item) == {"id", "prompt", "category"} for item in prompts)
    assert len({item["id"] for item in prompts}) == len(prompts)
    assert prompts[-1]["prompt"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert heldout[-1]["weight"] == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "heldout.jsonl",
        "prompts.jsonl",
        "train.jsonl",
    ]
    assert read_preferences([tmp_path / "out"]).summary.pairs == len(train)


def split(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["split", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_splits_the_same_way_twice_and_does_not_overwrite(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", [*MANY, row("q0", "same", "same")])
    status, out, err = split(data, "--out", tmp_path / "a", "--share", "0.2", "--seed", "3")
    assert (status, out) == (0, "")
    assert "left out 1 row: identical responses" in err
    assert "rows on 40 prompts to train on (train.jsonl)" in err
    assert split(data, "--out", tmp_path / "b", "--share", "0.2", "--seed", "3")[0] == 0
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab"]
    assert files[0] == files[1]

    status, _, err = split(data, "--out", tmp_path / "a", "--seed", "4")
    assert status == 1
    assert "already holds train.jsonl, heldout.jsonl, prompts.jsonl; give another directory, or --force" in err
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == files[0]
    assert split(data, "--out", tmp_path / "a", "--seed", "4", "--force")[0] == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} != files[0]


def test_the_command_names_a_label_and_is_content_with_one_objective(tmp_path: Path) -> None:
    pairs = [{"prompt": f"q{index}", "chosen": "x", "rejected": "y"} for index in range(10)]
    data = write_rows(tmp_path / "pairs.jsonl", pairs)
    assert split(data, "--out", tmp_path / "out", "--objective", "safety")[0] == 0
    assert {to_json(item["preferences"]) for item in lines(tmp_path / "out" / "train.jsonl")} == {'{"safety": 1.0}'}


def test_the_command_ends_with_one_for_data_that_cannot_be_used_and_two_for_usage(tmp_path: Path) -> None:
    status, out, err = split(tmp_path / "none.jsonl", "--out", tmp_path / "out")
    assert (status, out, "no file or directory" in err, "Traceback" in err) == (1, "", True, False)
    assert not (tmp_path / "out").exists()
    assert split("--out", tmp_path / "out")[0] == 2


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", MANY)
    status, _, err = split(data, "--out", data)
    assert status == 1
    assert "cannot write the split to" in err


NEAR = [
    row(f"please say how device {index // 2} of shop {index // 2} gets warm air {index // 2} times a day {end}")
    for index, end in enumerate(["outside", "inside"] * 20)
]
"""20 pairs of prompts that differ in the last word, so that 14 of 16 pairs of words are the same."""


def test_near_duplicates_stay_on_one_side_where_that_is_asked_for(tmp_path: Path) -> None:
    data = read(tmp_path, NEAR)
    assert any(nearly_on_both_sides(data, held_out(data, 0.2, seed)) for seed in range(5))
    together = with_near_duplicates(data)
    for seed in range(5):
        held = held_out(together, 0.2, seed)
        assert (held[::2] == held[1::2]).all() and held.sum() == 8
        assert nearly_on_both_sides(data, held) == 0


def test_near_duplicates_join_groups_and_leave_the_others(tmp_path: Path) -> None:
    rows = [NEAR[0] | {"group": "a"}, row("q1", group="a"), NEAR[1] | {"group": "b"}, row("q2", group="b"), row("q3")]
    group = with_near_duplicates(read(tmp_path, rows)).group
    assert len(set(group[:4])) == 1 and group[4] != group[0]


def test_the_command_warns_of_near_duplicates_on_both_sides(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", NEAR)
    told = []
    for choice in ("apart", "together"):
        arguments = ["split", str(path), "--out", str(tmp_path / choice), "--share", "0.2", "--near-duplicates", choice]
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        told.append("nearly repeat a prompt to train on" in result.stderr)
    assert told == [True, False]
