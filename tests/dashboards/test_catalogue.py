"""Every text is in every language's catalogue, says the same things, and is used."""

import ast
import re
import string
from pathlib import Path

import pytest

from dashboards.catalogue import LANGUAGES, TEXTS, catalogue, read_texts

SOURCES = sorted((Path(__file__).parents[2] / "dashboards").rglob("*.py"))
ENGLISH = read_texts(TEXTS / "en.yaml")
OTHERS = [name for name in LANGUAGES if name != "en"]
FILE_TYPES = {"json", "jsonl", "py", "yaml", "html", "toml"}
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


def placeholders(text: str) -> set[tuple[str, str]]:
    """Name and format of each."""
    return {(name, spec or "") for _, name, spec, _ in string.Formatter().parse(text) if name is not None}


def keys_in_code() -> tuple[set[str], set[str]]:
    """Keys that the code names, and beginnings of keys that it completes at run time."""
    literal, prefixes = set(), set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                literal.add(node.value)
            if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
                prefixes.add(str(node.values[0].value))
    return literal, {prefix for prefix in prefixes if re.fullmatch(r"objective\.|[a-z_]+\.[a-z_]+_", prefix)}


@pytest.mark.parametrize("language", OTHERS)
def test_the_languages_have_the_same_keys_and_placeholders(language: str) -> None:
    other = read_texts(TEXTS / f"{language}.yaml")
    plural = {key for key in ENGLISH if key.endswith("_one")}  # a language without plurals needs none
    assert set(ENGLISH) - plural <= set(other) <= set(ENGLISH)
    assert {key for key in other if placeholders(ENGLISH[key]) != placeholders(other[key])} == set()


def test_every_japanese_text_is_japanese() -> None:
    other = read_texts(TEXTS / "ja.yaml")
    bare = {key: re.sub(r"\{[^}]*\}", "", text) for key, text in other.items()}
    wordy = {key for key in other if re.search(r"[A-Za-z]{3}", re.sub(r"\{[^}]*\}", "", ENGLISH[key]))}
    assert {key for key in wordy if not JAPANESE.search(bare[key])} == set()
    assert {key for key in wordy if other[key] == ENGLISH[key]} == set()


def test_every_key_is_used_and_every_used_key_exists() -> None:
    literal, prefixes = keys_in_code()
    sections = {key.partition(".")[0] for key in ENGLISH}
    named = {text for text in literal if re.fullmatch(r"[a-z_]+\.[a-z_]+", text) and text.partition(".")[0] in sections}
    named = {text for text in named if text not in prefixes and text.partition(".")[2] not in FILE_TYPES}
    assert named - set(ENGLISH) == set()
    used = named | {f"{key}_one" for key in named} | {key for key in ENGLISH if key in literal}
    unused = {key for key in ENGLISH if key not in used and not any(key.startswith(prefix) for prefix in prefixes)}
    assert unused == set()


def test_texts_are_filled_by_name_and_numbers_by_their_format() -> None:
    t = catalogue("en")
    assert t("word.below", name="safety", amount=0.25) == "safety 0.250 below"
    assert t.floors({"safety": 0.8, "factuality": 0.0, "speed.win_rate": 0.5}) == (
        "safety at least 0.80, speed (win rate) at least 0.50"
    )
    assert (t.number(1, "word.prompts"), t.number(2000, "word.prompts")) == ("1 prompt", "2,000 prompts")
    assert catalogue("ja").number(1, "word.prompts") == "プロンプト 1 件"


def test_an_unknown_language_is_english() -> None:
    assert catalogue("tlh").language == "en"
