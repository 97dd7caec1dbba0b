import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mopo_train.cache import cache_root
from mopo_train.cli import main
from mopo_train.errors import DataError
from mopo_train.preference_model.crossfit import cross_fit, fold_networks
from mopo_train.preference_model.labelling import label_candidates, read_candidates
from mopo_train.preference_model.network import encode
from mopo_train.preference_model.settings import FitSettings, Size
from mopo_train.preference_model.strengths import preferences
from mopo_train.preference_model.training import read_strengths
from mopo_train.preferences import PreferenceData
from tests.comparisons import write_rows
from tests.mopo_train.preference_model.worlds import word_data

SMALL = FitSettings(epochs=2, least_steps=1, size=Size(hidden=16, layers=1), learning_rate=1e-2, width=2)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> PreferenceData:
    return word_data(tmp_path_factory.mktemp("label") / "words.jsonl", 40, 0)


def labelled(words: PreferenceData, rows: list[dict[str, Any]], tmp_path: Path) -> list[dict[str, Any]]:
    source = write_rows(tmp_path / "candidates.jsonl", rows)
    label_candidates(words, str(source), tmp_path / "labelled.jsonl", SMALL)
    return [json.loads(line) for line in (tmp_path / "labelled.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_prompt_of_the_data_is_labelled_by_the_network_that_did_not_see_it(
    words: PreferenceData, tmp_path: Path
) -> None:
    """Candidates that are the data's own answers get the out-of-fold probabilities of cross-fitting."""
    answers = {index: words.response(index) for index in range(len(words.response_prompt))}
    rows = [
        {"prompt": words.messages(int(prompt)), "response": answers[index]}
        for index, prompt in enumerate(words.response_prompt)
    ]
    found = labelled(words, rows, tmp_path)
    assert len(found) == 40 * 6  # all pairs of four
    place = {(f"Question {i}?", answers[y]) for y, i in enumerate(words.response_prompt)}
    assert len(place) == len(answers)
    number = {
        (words.messages(int(prompt))[0]["content"], answers[index]): index
        for index, prompt in enumerate(words.response_prompt)
    }
    first, second = (
        np.array([number[row["prompt"], row[side]] for row in found]) for side in ("response_a", "response_b")
    )
    fitted = cross_fit(words, SMALL, cache_root(), networks=True)
    expected = preferences(fitted.strengths, first, second)
    told = np.array([[row["preferences"][name] for name in words.objectives] for row in found])
    assert told == pytest.approx(expected, abs=1e-5)


def test_another_prompt_is_labelled_by_the_mean_of_the_networks(words: PreferenceData, tmp_path: Path) -> None:
    rows = [{"prompt": "New?", "response": text} for text in ("good one", "dull one", "good one")]
    (only,) = labelled(words, rows, tmp_path)
    fitted = cross_fit(words, SMALL, cache_root(), networks=True)
    networks = fold_networks(words, SMALL, cache_root())
    texts = encode(networks.tokenizer, [[{"role": "user", "content": "New?"}]], ["good one", "dull one"], [0, 0], 256)
    each = [
        preferences(read_strengths(network, texts).scaled(temperature), np.array([0]), np.array([1]))[0]
        for network, temperature in zip(networks.networks, fitted.temperature, strict=True)
    ]
    assert list(only["preferences"].values()) == pytest.approx(np.mean(each, axis=0).tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "One?", "response": "a"}], "no prompt of .* has two different answers"),
        ([{"prompt": "One?", "response": "a"}] * 3, "no prompt of .* has two different answers"),
        ([{"prompt": "One?", "answer": "a"}], "line 1: it lacks response"),
        ([{"prompt": "", "response": "a"}], "line 1: 'prompt' is empty"),
    ],
)
def test_candidates_that_cannot_be_compared_are_refused(
    rows: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_candidates(str(write_rows(tmp_path / "bad.jsonl", rows)))


def test_the_command_says_what_is_missing(words: PreferenceData, tmp_path: Path) -> None:
    out, data = tmp_path / "out.jsonl", str(words.summary.source[0])
    result = CliRunner().invoke(main, ["label", data, "--candidates", str(tmp_path / "none"), "--out", str(out)])
    assert result.exit_code == 1
    assert "no file or directory" in result.stderr and not out.exists()
