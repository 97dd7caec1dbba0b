import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from mopo_train.console import ProgressLine
from mopo_train.errors import DataError, ModelError
from mopo_train.preference_model import crossfit as module
from mopo_train.preference_model.calibration import calibration_error, measure_fit
from mopo_train.preference_model.crossfit import CrossFit, cross_fit, labelled_pairs
from mopo_train.preference_model.folds import assign_folds
from mopo_train.preference_model.network import Reading, encode, make_tokenizer, pair_logits, read_texts
from mopo_train.preference_model.settings import FitSettings, Size
from mopo_train.preference_model.strengths import Pairs, Strengths, logits, preferences
from mopo_train.preference_model.training import (
    Lesson,
    compare,
    new_network,
    planned_steps,
    read_strengths,
    train,
)
from mopo_train.preference_model.view import model_view
from mopo_train.preferences import PreferenceData, read_preferences
from tests.comparisons import row, write_rows
from tests.mopo_train.preference_model.worlds import true_rates, word_data, word_rows

SMALL = FitSettings(epochs=10, least_steps=1, size=Size(hidden=16, layers=1), learning_rate=1e-2, width=2)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> PreferenceData:
    return word_data(tmp_path_factory.mktemp("words") / "words.jsonl", 120, 0, missing=0.5)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def fitted(words: PreferenceData, kept: Path) -> CrossFit:
    return cross_fit(words, SMALL, kept)


def test_out_of_fold_win_rates_come_closer_to_the_truth_than_labels(words: PreferenceData, fitted: CrossFit) -> None:
    view = model_view(words, fitted)
    truth = true_rates(words)
    model, labels = (np.abs(rates.rates - truth).mean(axis=0) for rates in (view.rates, view.labels))
    assert (model < 0.6 * labels).all()  # the second objective is labelled on half of the rows
    for name in ("x", "y"):
        fit = view.fits[name]
        assert fit is not None and view.learnt(name)
        assert fit.accuracy.low > 0.7 and fit.log_loss < np.log(2) and fit.ece < 0.1


def test_predictions_are_antisymmetric_to_the_last_bit(words: PreferenceData, fitted: CrossFit) -> None:
    pairs = labelled_pairs(words)
    one = preferences(fitted.strengths, pairs.first, pairs.second)
    assert (one + preferences(fitted.strengths, pairs.second, pairs.first) == 1.0).all()


def test_labels_of_a_fold_do_not_reach_its_own_predictions(words: PreferenceData, fitted: CrossFit, kept: Path) -> None:
    """Turning every label of fold 0 round changes what is said of the other folds, and nothing of fold 0."""
    turned = np.where((fitted.fold[words.prompt] == 0)[:, None], 1 - words.labels, words.labels)
    assert turned.shape == words.labels.shape
    other = cross_fit(_with_labels(words, turned), SMALL, kept)
    own = fitted.fold[words.response_prompt] == 0
    before, after = (
        fit.strengths.utility * fit.temperature[fit.fold[words.response_prompt]] for fit in (fitted, other)
    )
    assert after[own] == pytest.approx(before[own], abs=1e-4)
    assert np.abs(after[~own] - before[~own]).max() > 0.1


def _with_labels(data: PreferenceData, labels: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> PreferenceData:
    import dataclasses

    return dataclasses.replace(data, labels=labels)


def test_a_fit_that_was_made_is_found_again(
    words: PreferenceData, fitted: CrossFit, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("fitted again"))
    again = cross_fit(words, SMALL, kept)
    assert (again.strengths.utility == fitted.strengths.utility).all()
    with pytest.raises(pytest.fail.Exception):
        cross_fit(words, SMALL, kept, seed=1)


def test_a_killed_fit_keeps_the_folds_that_were_whole(
    words: PreferenceData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = SMALL._replace(epochs=0.5)
    whole = cross_fit(words, quick, tmp_path / "whole")
    trained: list[int] = []

    def killed(*given: object, **named: object) -> None:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(1)
        train(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        cross_fit(words, quick, tmp_path / "cut")
    trained.clear()
    trained.append(1)  # one more is allowed: the fold that is missing
    resumed = cross_fit(words, quick, tmp_path / "cut")
    assert resumed.strengths.utility == pytest.approx(whole.strengths.utility, abs=1e-5)


def test_folds_are_whole_groups_and_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = word_rows(30, 0)
    for index, each in enumerate(rows):
        each["group"] = each["prompt"][:10]
        each["annotator"] = str(index)
    one = read_preferences([write_rows(tmp_path / "one.jsonl", rows)])
    other = read_preferences([write_rows(tmp_path / "other.jsonl", rows[::-1])])
    folds = {}
    for data in (one, other):
        fold = assign_folds(data, 3, 0)
        assert all(len(set(fold[data.group == group])) == 1 for group in np.unique(data.group))
        assert np.bincount(fold, minlength=3).min() >= 9 - 1
        folds[id(data)] = {data.messages(prompt)[0]["content"]: int(part) for prompt, part in enumerate(fold)}
    assert folds[id(one)] == folds[id(other)]


def test_too_few_prompts_for_the_folds_are_an_error(tmp_path: Path) -> None:
    data = read_preferences([write_rows(tmp_path / "two.jsonl", [row("One?"), row("Two?")])])
    with pytest.raises(DataError, match="3 folds for 2 split groups"):
        cross_fit(data, SMALL, tmp_path)


def test_a_network_can_hold_a_cycle_of_texts(tmp_path: Path) -> None:
    """rock beats scissors beats paper beats rock, always: skew vectors say so, utilities alone cannot."""
    wins = [("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")]
    rows = [row(f"Throw {i}!", *pair, {"x": 1, "y": 0}) for i in range(8) for pair in wins]
    data = read_preferences([write_rows(tmp_path / "cycle.jsonl", rows)])
    pairs = labelled_pairs(data)
    z = {}
    for width in (0, 4):
        settings = SMALL._replace(width=width, epochs=40, dropout=0.0, weight_decay=0.0)
        tokenizer = make_tokenizer(None, data)
        texts = read_texts(data, tokenizer, 64)
        compared = compare(pairs)
        plan = planned_steps(compared, texts, settings, data.response_prompt, 0)
        network = new_network(settings, tokenizer, 2, 0)
        line = ProgressLine("cycle", len(plan), 0)
        train(network, Lesson(compared, texts, plan), settings, seed=0, work=tmp_path / str(width), line=line)
        z[width] = logits(read_strengths(network, texts), pairs.first, pairs.second)
    assert (z[4][:, 0] > 1).all() and (z[4][:, 1] < -1).all()
    sums = z[0][:, 0].reshape(8, 3).sum(axis=1)  # differences of scores cancel around a cycle
    assert sums == pytest.approx(np.zeros(8), abs=1e-5)


def test_rows_of_a_pair_are_joined_whichever_side_they_name_first() -> None:
    pairs = Pairs(
        np.array([4, 2, 4]),
        np.array([2, 4, 7]),
        np.array([[1.0, np.nan], [0.5, 0.0], [np.nan, 1.0]]),
        np.array([1, 3, 2.0]),
    )
    compared = compare(pairs)
    assert compared.pairs.tolist() == [[2, 4], [4, 7]]
    assert compared.labels.tolist() == [
        [(0 * 1 + 0.5 * 3) / 4, 0.0],
        [0.5, 1.0],
    ]  # 2 against 4: 0 once, 0.5 three times
    assert compared.weight.tolist() == [[4.0, 3.0], [0.0, 2.0]]


def test_logits_of_the_network_are_those_of_the_strengths() -> None:
    random = np.random.default_rng(0)
    made = Strengths(random.normal(size=(5, 2)), random.normal(size=(5, 2, 4)), np.zeros((5, 2)))
    pairs = np.array([[0, 1], [3, 2], [4, 0]])
    reading = Reading(torch.from_numpy(made.utility), torch.from_numpy(made.vectors))
    assert pair_logits(reading, torch.from_numpy(pairs)).numpy() == pytest.approx(
        logits(made, pairs[:, 0], pairs[:, 1])
    )


def test_long_texts_keep_the_end_of_the_prompt_and_the_beginning_of_the_response(words: PreferenceData) -> None:
    tokenizer = make_tokenizer(None, words)
    talk = [{"role": "user", "content": "first " * 50 + "last"}]
    texts = encode(tokenizer, [talk], ["superb " + "answer " * 50], [0], 20)
    assert texts.lengths.tolist() == [20]
    text = str(tokenizer.decode(texts.rows[0]))
    assert "last" in text.split("<|eos|>")[0] and "superb" in text.split("<|eos|>")[1]
    assert str(tokenizer.decode(texts.rows[0][texts.begins[0] :])).startswith("superb")


def test_any_transformers_model_can_be_the_encoder(words: PreferenceData, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(None, words)
    tokenizer.save_pretrained(tmp_path / "encoder")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    build: Any = BertModel
    build(config).save_pretrained(tmp_path / "encoder")
    given = cross_fit(words, FitSettings(encoder=str(tmp_path / "encoder"), epochs=0.3, least_steps=1), tmp_path)
    assert np.isfinite(given.strengths.utility).all()
    shutil.rmtree(tmp_path / "encoder")
    with pytest.raises(ModelError, match="no model directory"):
        cross_fit(words, FitSettings(encoder=str(tmp_path / "encoder")), tmp_path)


def test_fit_is_measured_in_pairs_and_both_orders() -> None:
    z = np.log(np.array([9.0, 9.0, 9.0, 1 / 9]))  # 0.9, 0.9, 0.9, 0.1
    labels = np.array([1.0, 1.0, 0.0, np.nan])
    fit = measure_fit(z, labels, np.ones(4), np.arange(4))
    assert fit is not None
    assert fit.pairs == 3
    assert fit.accuracy.mean == pytest.approx(2 / 3)
    assert fit.log_loss == pytest.approx(-(2 * np.log(0.9) + np.log(0.1)) / 3)
    assert fit.gain.mean == pytest.approx(np.log(2) - fit.log_loss)
    assert fit.gain.low < fit.gain.mean < fit.gain.high
    assert measure_fit(z, np.full(4, np.nan), np.ones(4), np.arange(4)) is None


def test_a_calibrated_prediction_has_a_small_error_and_a_bold_one_a_large_one() -> None:
    random = np.random.default_rng(0)
    z = random.normal(size=20_000)
    labels = (random.random(20_000) < 1 / (1 + np.exp(-z))).astype(float)
    assert calibration_error(z, labels, np.ones(20_000)) < 0.01
    bold = calibration_error(4 * z, labels, np.ones(20_000))
    true = np.abs(1 / (1 + np.exp(-4 * z)) - 1 / (1 + np.exp(-z))).mean()
    assert bold == pytest.approx(true, abs=0.01)


def test_a_small_encoder_learns_which_words_suit_which_prompts(tmp_path: Path) -> None:
    """Refusing is right for dangerous questions alone: no value of the answer by itself can say so."""
    rows = []
    for index in range(150):
        danger = index % 2 == 0
        question = f"{'dangerous' if danger else 'harmless'} question {index}?"
        rows.append(row(question, f"refuse {index}", f"explain {index}", {"x": float(danger), "y": 0.5}))
    data = read_preferences([write_rows(tmp_path / "suit.jsonl", rows)])
    settings = FitSettings(epochs=30, size=Size(hidden=32), learning_rate=1e-2, dropout=0.2, width=0)
    fit = model_view(data, cross_fit(data, settings, tmp_path)).fits["x"]
    assert fit is not None and fit.accuracy.low > 0.9
