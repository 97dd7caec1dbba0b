"""Files that cannot be used: every message says where, what was found, and what to do."""

import gzip
import json
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mopo_train.errors import DataError
from mopo_train.preferences import read_preferences
from mopo_train.sources import HubRows, find
from tests.comparisons import Row, row, write_rows

GOOD = json.dumps(row()).encode()


def refused(path: Path | str, pattern: str) -> str:
    with pytest.raises(DataError, match=pattern) as caught:
        read_preferences([path])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refused_bytes(tmp_path: Path, content: bytes, pattern: str, name: str = "pairs.jsonl") -> str:
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name, pattern)
    assert str(tmp_path / name) in message
    return message


def refused_row(tmp_path: Path, bad: Row, pattern: str) -> None:
    """A good row, a blank line, then ``bad`` on line 3."""
    line = json.dumps(bad).encode()
    refused_bytes(tmp_path, GOOD + b"\n\n" + line + b"\n" + GOOD, r"pairs\.jsonl' line 3: .*" + pattern)


def test_a_missing_file_says_what_may_be_given(tmp_path: Path) -> None:
    refused(tmp_path / "none.jsonl", r"no file or directory '.*none\.jsonl'; expected JSON Lines .* Check the spelling")


@pytest.mark.parametrize("name", ["data/pairs", "none.jsonl", "./owner/data", "owner/data.parquet"])
def test_a_misspelt_path_is_not_looked_up_on_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    refused(name, "no file or directory")


def test_a_hub_name_without_connection_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused("nobody-at-all/no-data", r"no file 'nobody-at-all/no-data' here, and no data set .* hub .* HF_HUB_OFFLINE")


def test_the_hub_reader_takes_the_split_for_training_or_the_only_one(tmp_path: Path) -> None:
    for split in ("train", "test"):
        pd.DataFrame([row(split)]).to_parquet(tmp_path / f"{split}.parquet")
    hub = HubRows(str(tmp_path))  # the library loads a directory as it loads a data set of the hub
    assert [(number, item["prompt"]) for number, item in hub.rows()] == [(1, "train")]
    assert hub.key() == hub.key()
    (tmp_path / "train.parquet").unlink()
    assert [item["prompt"] for _, item in hub.rows()] == ["test"]
    pd.DataFrame([row()]).to_parquet(tmp_path / "validation.parquet")
    with pytest.raises(DataError, match="has the splits validation, test and none is called train"):
        next(hub.rows())


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is not a regular file; write the data to a file")


def test_a_path_that_the_system_refuses(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 300), "cannot be read: File name too long")


def test_an_empty_file(tmp_path: Path) -> None:
    refused_bytes(tmp_path, b"", "is empty")


@pytest.mark.parametrize("content", [b"\n \n", gzip.compress(b"", mtime=0)])
def test_a_file_of_blank_lines_or_an_empty_archive(tmp_path: Path, content: bytes) -> None:
    refused_bytes(tmp_path, content, "holds no rows; expected one comparison per line")


def test_a_parquet_file_without_rows(tmp_path: Path) -> None:
    pd.DataFrame([row()]).iloc[:0].to_parquet(tmp_path / "pairs.parquet")
    refused(tmp_path / "pairs.parquet", "holds no rows; expected one comparison per row")


@pytest.mark.parametrize("content", [b"\x7fELF\x02\0\0\0", bytes(range(256)), b"\x89PNG\r\n\x1a\n\0\0"])
def test_a_binary_file(tmp_path: Path, content: bytes) -> None:
    refused_bytes(tmp_path, content, "binary|not text in UTF-8")


def test_text_in_another_encoding(tmp_path: Path) -> None:
    line = json.dumps(row("Où?"), ensure_ascii=False).encode("latin-1")
    refused_bytes(tmp_path, GOOD + b"\n" + line, "line 2 is not text in UTF-8 .* Save the file again")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n" + GOOD + b"\r\n")
    assert read_preferences([tmp_path / "pairs.jsonl"]).summary.pairs == 2


def test_line_separators_of_unicode_inside_a_text_do_not_end_a_line(tmp_path: Path) -> None:
    line = json.dumps(row("one\u2028two\x85three"), ensure_ascii=False).encode()
    (tmp_path / "pairs.jsonl").write_bytes(line + b"\n" + GOOD)
    assert read_preferences([tmp_path / "pairs.jsonl"]).messages(0)[0]["content"] == "one\u2028two\x85three"


def test_a_gzip_file_that_was_cut_off(tmp_path: Path) -> None:
    whole = gzip.compress(b"\n".join(json.dumps(row(f"question {i * i}")).encode() for i in range(5000)))
    message = refused_bytes(tmp_path, whole[: len(whole) // 2], r"cut off or damaged after line \d+", "pairs.jsonl.gz")
    assert int(message.split("after line ")[1].split(":")[0]) > 100


def test_a_damaged_gzip_file(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(b"\n".join([GOOD] * 50)))
    whole[-6] ^= 255  # the checksum
    refused_bytes(tmp_path, bytes(whole), "cut off or damaged", "pairs.jsonl.gz")


def test_compression_is_told_from_content_not_from_the_name(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_bytes(gzip.compress(GOOD))
    (tmp_path / "pairs.gz").write_bytes(GOOD)
    pd.DataFrame([row()]).to_parquet(tmp_path / "pairs.json")
    for name in ("pairs.jsonl", "pairs.gz", "pairs.json"):
        assert read_preferences([tmp_path / name]).summary.pairs == 1


def test_a_last_line_that_was_cut_off(tmp_path: Path) -> None:
    refused_bytes(tmp_path, GOOD + b"\n" + GOOD[:30], "line 2 is the last line and not a whole JSON object .* cut off")


def test_a_line_that_is_not_json(tmp_path: Path) -> None:
    refused_bytes(
        tmp_path, GOOD + b"\n{'prompt': 1}\n" + GOOD, "line 2 is not a JSON object .* expected one object per line"
    )


def test_a_table_with_commas_is_not_json(tmp_path: Path) -> None:
    for table in (b"prompt,response_a,response_b\n", b"prompt,response_a,response_b\nq,a,b\n"):
        refused_bytes(tmp_path, table, "line 1 is not JSON .*expected one object per line")


def test_a_csv_file_is_told_how_to_write_its_labels(tmp_path: Path) -> None:
    table = b"prompt,response_a,response_b,safety\nq,a,b,1\n"
    refused_bytes(tmp_path, table, 'tables are not read; write one object per line .*"preferences": {', "pairs.csv")


def test_a_key_that_a_row_has_twice(tmp_path: Path) -> None:
    twice = b'{"prompt": "q", "preferences": {"safety": 1, "safety": 0}}'
    refused_bytes(tmp_path, GOOD + b"\n" + twice, "line 2 has the key 'safety' twice")


def test_a_json_array_over_the_whole_file(tmp_path: Path) -> None:
    refused_bytes(
        tmp_path, json.dumps([row()], indent=1).encode(), "line 1 begins a JSON array; write one object per line"
    )
    refused_bytes(tmp_path, json.dumps([row()]).encode(), r"line 1 is \[.*; expected one JSON object per line")


@pytest.mark.parametrize("value", ["3", '"text"', "null", "true"])
def test_a_line_that_is_no_object(tmp_path: Path, value: str) -> None:
    refused_bytes(tmp_path, GOOD + b"\n" + value.encode(), "line 2 is .*; expected one JSON object per line")


def test_json_nested_without_end(tmp_path: Path) -> None:
    refused_bytes(tmp_path, GOOD + b'\n{"prompt":' + b"[" * 200_000 + b"\n" + GOOD, "line 2 is not a JSON object")


def test_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    refused_bytes(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull")


def test_parquet_that_was_cut_off(tmp_path: Path) -> None:
    pd.DataFrame([row()]).to_parquet(tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    refused_bytes(tmp_path, content[: len(content) // 2], "begins like Parquet but cannot be read", "pairs.parquet")


def test_columns_of_no_known_format_are_listed_with_the_formats(tmp_path: Path) -> None:
    message = refused_bytes(
        tmp_path, b'{"question": "q", "answer": "a"}', "has the columns question, answer, which are no"
    )
    assert all(
        name in message for name in ("PKU-SafeRLHF", "HH-RLHF", "HelpSteer2", "response_a, response_b, preferences")
    )


def test_two_formats_in_one_file(tmp_path: Path) -> None:
    other = {"prompt": "q", "response_0": "x", "response_1": "y", "better_response_id": 0}
    refused_row(
        tmp_path, other, r"began in the format MOPO, but this row lacks .* \(it has the columns of PKU-SafeRLHF\)"
    )
    refused_row(tmp_path, {"prompt": "q"}, r"lacks response_a, response_b \(its columns are prompt\)")


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        (1.5, "1.5"),
        (-0.1, "-0.1"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        ("a", "the text 'a'"),
        (True, "true"),
        ([1], "a list"),
    ],
)
def test_labels_that_are_no_probabilities(tmp_path: Path, label: Any, shown: str) -> None:
    bad = row(labels={"helpfulness": 1, "safety": label})
    refused_row(
        tmp_path, bad, f"the label on 'safety' is {shown}; expected the probability that response_a is preferred"
    )


@pytest.mark.parametrize(
    ("bad", "pattern"),
    [
        (row(""), "'prompt' is empty"),
        (row(" \n"), "'prompt' is empty"),
        (row(None), "'prompt' is missing or null; expected a string or a list"),
        (row(7), "'prompt' is 7; expected a string or a list of {role, content}"),
        (row([]), "'prompt' is an empty list"),
        (row(["Why?"]), r"'prompt\[0\]' is the text 'Why\?'; expected {role, content}"),
        (
            row([{"role": "human", "content": "x"}]),
            r"'prompt\[0\]' has the role the text 'human'; expected one of system",
        ),
        (row([{"role": "user", "content": ""}]), r"'prompt\[0\]' has no content"),
        (row([{"role": "user", "content": 3}]), r"'prompt\[0\]' has the content 3; expected a string"),
        (row([{"role": "assistant", "content": "x"}]), "ends with a message of role 'assistant'"),
        (row(a=""), "'response_a' is empty; give the answer's text, or remove the row"),
        (row(b=" "), "'response_b' is empty"),
        (row(b=None), "'response_b' is missing or null; expected a string"),
        (row(a={"text": "x"}), "'response_a' is an object; expected a string"),
        (row(labels=[1]), "'preferences' is a list; expected {objective: number"),
        (row(labels={"Be safe": 1}), "'Be safe' cannot name an objective"),
        (row(weight=0), "'weight' is 0; expected a number greater than 0"),
        (row(weight=-1), "'weight' is -1"),
        (row(weight=math.nan), "'weight' is nan"),
        (row(weight=math.inf), "'weight' is inf"),
        (row(weight=10**400), "'weight' is 1000"),
        (row(weight="2"), "'weight' is the text '2'"),
        (row(weight=True), "'weight' is true"),
        (row(group=[1]), "'group' is a list; expected a string or a whole number"),
        (row(group=1.5), "'group' is 1.5; expected a string or a whole number"),
        (row(annotator=math.inf), "'annotator' is inf; expected"),
        (row(a="\ud800"), "half of a surrogate pair"),
    ],
)
def test_fields_that_cannot_be_used(tmp_path: Path, bad: Row, pattern: str) -> None:
    refused_row(tmp_path, bad, pattern)


def test_a_bad_row_of_parquet_is_counted_from_one(tmp_path: Path) -> None:
    pd.DataFrame([row(), row(), row(weight=-1.0)]).to_parquet(tmp_path / "pairs.parquet")
    refused(tmp_path / "pairs.parquet", r"pairs\.parquet' row 3: 'weight' is -1\.0")


def test_a_directory_without_data_lists_what_it_holds(tmp_path: Path) -> None:
    refused(tmp_path, "no preference data in the directory .*; it holds nothing")
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    refused(tmp_path, r"expected files that end in \.jsonl.*; it holds notes\.txt")


def test_a_directory_with_one_file_or_with_one_for_training(tmp_path: Path) -> None:
    write_rows(tmp_path / "any.jsonl", [row()])
    assert [raw.name for raw in find(str(tmp_path))] == [str(tmp_path / "any.jsonl")]
    write_rows(tmp_path / "train.jsonl.gz", [row()])
    assert [raw.name for raw in find(str(tmp_path))] == [str(tmp_path / "train.jsonl.gz")]


def test_the_sandbox_and_a_split_are_read_by_their_directory(tmp_path: Path) -> None:
    write_rows(tmp_path / "preferences.jsonl", [row()])
    write_rows(tmp_path / "prompts.jsonl", [{"id": "p", "prompt": "q"}])
    (tmp_path / "sandbox.json").write_text("{}", encoding="utf-8")
    assert read_preferences([tmp_path]).summary.pairs == 1


def test_a_directory_with_several_files_lists_them(tmp_path: Path) -> None:
    for name in ("one.jsonl", "two.parquet"):
        write_rows(tmp_path / name, [row()])
    refused(tmp_path, r"holds several data files \(one\.jsonl, two\.parquet\); name the one to read, or each")
    write_rows(tmp_path / "train.jsonl", [row()])
    write_rows(tmp_path / "train.parquet", [row()])
    refused(tmp_path, "holds several data files")


@pytest.mark.parametrize("names", [("train-1.jsonl", "train-0.jsonl"), ("b.jsonl", "a.jsonl"), ("train_2", "train10")])
def test_plain_files_of_one_format_are_read_together_in_the_order_of_their_names(
    names: tuple[str, str], tmp_path: Path
) -> None:
    for name in names:
        write_rows(tmp_path / f"{name.removesuffix('.jsonl')}.jsonl", [row(name)])
    write_rows(tmp_path / "notes.txt", [row("no data")])
    data = read_preferences([tmp_path])
    assert [data.messages(index)[0]["content"] for index in range(2)] == sorted(names)


@pytest.mark.parametrize("name", ["test", "validation", "held-out", "a_dev", "prompts", "my-eval-set"])
def test_a_file_that_is_kept_apart_by_its_name_is_not_trained_on(name: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "devices.jsonl", [row("q")])
    write_rows(tmp_path / f"{name}.jsonl", [row("held out")])
    refused(tmp_path, "holds several data files .* name the one to read")
    (tmp_path / "devices.jsonl").rename(tmp_path / "train-1.jsonl")
    assert read_preferences([tmp_path]).summary.pairs == 1


def test_files_of_several_formats_in_a_directory_must_be_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [row()])
    write_rows(tmp_path / "b.jsonl", [{"prompt": "q", "chosen": "x", "rejected": "y"}])
    refused(tmp_path, r"files of several formats \(a\.jsonl: MOPO; b\.jsonl: TRL preference\); name the one to read")


def test_shards_of_one_file_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for index in (1, 0):
        pd.DataFrame([row(f"q{index}")]).to_parquet(tmp_path / "data" / f"train-0000{index}-of-00002.parquet")
    pd.DataFrame([row("held out")]).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    data = read_preferences([tmp_path])
    assert [data.messages(index)[0]["content"] for index in range(2)] == ["q0", "q1"]
    assert data.summary.source == [str(tmp_path)]
