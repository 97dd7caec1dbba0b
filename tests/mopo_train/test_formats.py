"""Each source format, on rows written for these tests and, where they are at hand, on the real files."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mopo_train.errors import DataError
from mopo_train.formats import FORMATS, recognise
from mopo_train.preferences import PreferenceData, read_preferences
from mopo_train.rows import Comparison
from tests.comparisons import Row, row, write_rows


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def read(tmp_path: Path, *rows: Row, objectives: list[str] | None = None) -> PreferenceData:
    return read_preferences([write_rows(tmp_path / "rows.jsonl", rows)], objectives=objectives, at_least=1)


def read_one(tmp_path: Path, item: Row, objective: str | None = None) -> Comparison:
    (found,) = read(tmp_path, item, objectives=[objective] if objective else None).comparisons()
    return found


def refused(tmp_path: Path, item: Row, pattern: str, objective: str | None = None) -> None:
    with pytest.raises(DataError, match=pattern):
        read_one(tmp_path, item, objective)


SAFE: Row = {"prompt": "q", "response_0": "x", "response_1": "y", "better_response_id": 0, "safer_response_id": 1}


def test_saferlhf_labels_helpfulness_and_safety_by_the_number_of_the_response(tmp_path: Path) -> None:
    data = read(
        tmp_path, SAFE | {"is_response_0_safe": False}, SAFE | {"better_response_id": 1, "safer_response_id": 0}
    )
    assert data.objectives == ("helpfulness", "safety")
    assert data.labels.tolist() == [[1, 0], [0, 1]]
    assert [data.response(int(data.first[0])), data.response(int(data.second[0]))] == ["x", "y"]


def test_saferlhf_with_one_of_its_labels(tmp_path: Path) -> None:
    only = {key: value for key, value in SAFE.items() if key != "better_response_id"}
    assert read_one(tmp_path, only).preferences == {"safety": 0}
    assert read_one(tmp_path, SAFE | {"safer_response_id": None}).preferences == {"helpfulness": 1}


@pytest.mark.parametrize("number", [2, -1, "0", True, 0.5])
def test_saferlhf_with_a_preferred_response_that_is_not_there(tmp_path: Path, number: Any) -> None:
    refused(tmp_path, SAFE | {"safer_response_id": number}, r"line 1: 'safer_response_id' is .*; expected 0 or 1")


def test_saferlhf_empty_response_is_skipped_but_an_empty_prompt_is_an_error(tmp_path: Path) -> None:
    data = read(tmp_path, SAFE, SAFE | {"response_1": ""})
    assert (data.summary.pairs, data.skipped) == (1, {"an empty response": 1})
    refused(tmp_path, SAFE | {"prompt": ""}, "'prompt' is empty")
    refused(tmp_path, SAFE | {"response_0": None}, "'response_0' is missing or null")


def test_hh_dialogues_are_split_into_the_conversation_and_two_answers(tmp_path: Path) -> None:
    before = "\n\nHuman: Hi there\n\nAssistant: Hello!\n\nHuman: What is 2 + 2?\n\nIn words.\n\nAssistant:"
    found = read_one(tmp_path, {"chosen": before + " Four.", "rejected": before + " Five.\n\nSurely."}, "helpfulness")
    assert found.prompt == [user("Hi there"), assistant("Hello!"), user("What is 2 + 2?\n\nIn words.")]
    assert (found.response_a, found.response_b) == ("Four.", "Five.\n\nSurely.")
    assert found.preferences == {"helpfulness": 1}


def test_hh_rows_that_are_no_comparison_are_skipped_by_reason(tmp_path: Path) -> None:
    good = {"chosen": "\n\nHuman: q\n\nAssistant: x", "rejected": "\n\nHuman: q\n\nAssistant: y"}
    data = read(
        tmp_path,
        good,
        good | {"chosen": "\n\nHuman: q\n\nAssistant:"},
        good | {"chosen": "\n\nHuman: another\n\nAssistant: x"},
        good | {"chosen": "\n\nHuman: q\n\nAssistant: x\n\nHuman: bye"},
        good | {"rejected": "\n\nHuman: q\n\nAssistant: x"},
        {key: "\n\nHuman: q\n\nAssistant:\n\nHuman: r" + text[9:] for key, text in good.items()},
        objectives=["safety"],
    )
    assert data.summary.pairs == 1
    assert data.skipped == {
        "an empty response": 1,
        "answers to different conversations": 1,
        "a conversation that does not end with an answer to a user": 1,
        "identical responses": 1,
        "an empty turn in the conversation": 1,
    }


def test_hh_answers_that_hold_a_dialogue_are_skipped(tmp_path: Path) -> None:
    good = {"chosen": "\n\nHuman: q\n\nAssistant: x", "rejected": "\n\nHuman: q\n\nAssistant: y"}
    bad = good | {"chosen": "\n\nHuman: q\n\nAssistant: x  Human: r\n\nAssistant: z"}
    query = {"query": "Human: q\nHuman: r", "chosen": "Assistant: x", "rejected": "Assistant: y"}
    data = read(tmp_path, good, bad, query, objectives=["safety"])
    assert (data.summary.pairs, data.skipped) == (1, {"a speaker who speaks twice in a row": 2})


def test_hh_with_query_reads_single_line_breaks_and_drops_the_speaker(tmp_path: Path) -> None:
    query = "Human: Hi\nAssistant: Hello\nHuman: Why?"
    found = read_one(tmp_path, {"query": query, "chosen": "Assistant: So.", "rejected": "Assistant: No."}, "safety")
    assert found.prompt == [user("Hi"), assistant("Hello"), user("Why?")]
    assert (found.response_a, found.response_b) == ("So.", "No.")


def test_query_that_is_no_dialogue_is_the_question_itself(tmp_path: Path) -> None:
    found = read_one(tmp_path, {"query": "Why?", "chosen": "x", "rejected": "y"}, "safety")
    assert (found.prompt, found.response_a, found.response_b) == ([user("Why?")], "x", "y")


def test_a_query_that_ends_inside_an_answer_is_skipped(tmp_path: Path) -> None:
    good = {"query": "Human: Why?", "chosen": "Assistant: x", "rejected": "Assistant: y"}
    data = read(tmp_path, good, good | {"query": "Human: Why?\nAssistant: Because"}, objectives=["safety"])
    assert data.skipped == {"a conversation that does not end with an answer to a user": 1}


TRL = {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green."}


@pytest.mark.parametrize(
    "item",
    [
        TRL,
        {"prompt": [user("Sky?")], "chosen": [assistant("Blue.")], "rejected": [assistant("Green.")]},
        {"chosen": [user("Sky?"), assistant("Blue.")], "rejected": [user("Sky?"), assistant("Green.")]},
        {"chosen": "Sky? Blue.", "rejected": "Sky? Green."},
        {
            "prompt": "Sky?",
            "chosen": [user("Sky?"), assistant("Blue.")],
            "rejected": [user("Sky?"), assistant("Green.")],
        },
        {"prompt": [user("Sky?")], "chosen": "Blue.", "rejected": "Green."},
    ],
    ids=["explicit text", "explicit messages", "implicit messages", "implicit text", "repeated prompt", "mixed"],
)
def test_trl_in_each_of_its_forms(tmp_path: Path, item: Row) -> None:
    expected = Comparison([user("Sky?")], "Blue.", "Green.", {"helpfulness": 1})
    assert read_one(tmp_path, item, "helpfulness") == expected


def test_trl_implicit_text_is_cut_at_a_word(tmp_path: Path) -> None:
    found = read_one(tmp_path, {"chosen": "The sky is grey.", "rejected": "The sky is green."}, "helpfulness")
    assert (found.prompt, found.response_a, found.response_b) == ([user("The sky is")], "grey.", "green.")


def test_trl_system_message_and_earlier_turns_stay_in_the_prompt(tmp_path: Path) -> None:
    before = [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Hello"), user("Sky?")]
    item = {"prompt": before, "chosen": [assistant("Blue.")], "rejected": [assistant("Green.")]}
    assert read_one(tmp_path, item, "helpfulness").prompt == before


@pytest.mark.parametrize(
    ("item", "pattern"),
    [
        ({"chosen": "Blue.", "rejected": "Green."}, "share no beginning that could be the prompt"),
        (TRL | {"rejected": ["Green."]}, "'rejected' is a list, but 'chosen' is text"),
        (TRL | {"chosen": [user("Blue.")], "rejected": [assistant("x")]}, "the last message of 'chosen' is an object"),
        (TRL | {"chosen": [], "rejected": []}, "'chosen' is a list; expected text or a list"),
        (TRL | {"chosen": None}, "'chosen' is missing or null"),
        (
            {"chosen": [assistant("x")], "rejected": [assistant("y")]},
            "'the messages of chosen before the answer' is an empty",
        ),
        (TRL | {"prompt": ""}, "'prompt' is empty"),
    ],
)
def test_trl_rows_that_cannot_be_used(tmp_path: Path, item: Row, pattern: str) -> None:
    refused(tmp_path, item, pattern, "helpfulness")


def test_trl_empty_answers_are_skipped(tmp_path: Path) -> None:
    messages = {"prompt": [user("Sky?")], "chosen": [assistant("")], "rejected": [assistant("Green.")]}
    data = read(tmp_path, TRL, TRL | {"chosen": " "}, messages, objectives=["safety"])
    assert (data.summary.pairs, data.skipped) == (1, {"an empty response": 2})


def test_trl_messages_in_parquet(tmp_path: Path) -> None:
    rows = [{"prompt": [user("Sky?")], "chosen": [assistant("Blue.")], "rejected": [assistant("Green.")]}]
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    data = read_preferences([tmp_path / "rows.parquet"], objectives=["safety"], at_least=1)
    assert (data.messages(0), data.response(0), data.response(1)) == ([user("Sky?")], "Blue.", "Green.")


@pytest.mark.parametrize("nested", [True, False])
def test_ultrafeedback_is_helpfulness_and_equal_scores_are_a_tie(tmp_path: Path, nested: bool) -> None:
    def item(chosen: float | None, rejected: float) -> Row:
        scores = {"score_chosen": chosen, "score_rejected": rejected}
        return TRL | ({"metadata": scores} if nested else scores)

    data = read(tmp_path, item(8, 3), item(5.5, 5.5), item(None, 3))
    assert data.objectives == ("helpfulness",)
    assert data.labels[:, 0].tolist() == [1, 0.5, 1]
    assert read(tmp_path, item(8, 3), objectives=["safety"]).objectives == ("safety",)


def test_helpsteer_answers_to_one_prompt_become_pairs_by_rating(tmp_path: Path) -> None:
    def rated(prompt: str, response: str, helpfulness: float, correctness: float | None) -> Row:
        ratings = {"helpfulness": helpfulness, "correctness": correctness, "coherence": 4, "verbosity": 0}
        return {"prompt": prompt, "response": response} | ratings

    data = read(
        tmp_path, rated("q", "x", 4, 1), rated("r", "alone", 0, 0), rated("q", "y", 2, 3), rated("q", "z", 4, None)
    )
    assert data.objectives == ("helpfulness", "factuality", "coherence")
    nan = np.nan
    np.testing.assert_array_equal(data.labels, [[1, 0, 0.5], [0.5, nan, 0.5], [0, nan, 0.5]])  # xy, xz, yz
    assert [data.response(index) for index in range(3)] == ["x", "y", "z"]
    assert data.compared().tolist() == [[0, 1], [0, 2], [1, 2]]
    assert data.skipped == {"the only answer to its prompt": 1}


def test_helpsteer_turns_keep_their_roles(tmp_path: Path) -> None:
    prompt = "Hi \n<extra_id_1>Assistant\nHello\n\n<extra_id_1>User\nWhy?"
    data = read(tmp_path, *({"prompt": prompt, "response": text, "helpfulness": len(text)} for text in ("x", "yy")))
    assert data.messages(0) == [user("Hi "), assistant("Hello\n"), user("Why?")]
    assert data.labels.tolist() == [[0]]


@pytest.mark.parametrize("rating", [5, -1, "4", True, float("nan")])
def test_helpsteer_ratings_out_of_range(tmp_path: Path, rating: Any) -> None:
    refused(tmp_path, {"prompt": "q", "response": "x", "helpfulness": rating}, "'helpfulness' is .*; expected a rating")


def test_helpsteer_rows_that_cannot_be_used(tmp_path: Path) -> None:
    good = [{"prompt": "q", "response": text, "helpfulness": 1} for text in ("x", "y")]
    mark = "Hi\n<extra_id_1>Assistant\n \n<extra_id_1>User\nWhy?"
    data = read(tmp_path, *good, good[0] | {"response": " "}, good[0] | {"prompt": mark})
    assert data.skipped == {"an empty response": 1, "an empty turn in the conversation": 1}
    refused(tmp_path, good[0] | {"prompt": ""}, "'prompt' is empty text; expected the question as text")


def rated_by_four(instruction: str, **ratings: tuple[Any, Any]) -> Row:
    """A row of UltraFeedback: response -> (rating of helpfulness, rating of truthfulness)."""

    def annotations(helpful: Any, true: Any) -> Row:
        return {"helpfulness": {"Rating": helpful, "Rationale": "r", "Type": ["1"]}, "truthfulness": {"Rating": true}}

    completions = [
        {"model": "m", "response": text, "annotations": annotations(*pair)} for text, pair in ratings.items()
    ]
    return {"source": "s", "instruction": instruction, "models": [], "completions": completions}


def test_ultrafeedback_as_published_compares_its_completions_on_each_aspect(tmp_path: Path) -> None:
    data = read(tmp_path, rated_by_four("q", x=("5", "1"), y=("3", "4"), z=("3", "N/A")), rated_by_four("r", w=(1, 1)))
    assert data.objectives == ("helpfulness", "factuality")
    nan = np.nan
    np.testing.assert_array_equal(data.labels, [[1, 0], [1, nan], [0.5, nan]])  # xy, xz, yz
    assert data.skipped == {"the only answer to its prompt": 1}


def test_ultrafeedback_completions_in_parquet_and_empty_ones(tmp_path: Path) -> None:
    pd.DataFrame([rated_by_four("q", x=("5", "1"), y=("2", "2")) | {"extra": 1}]).to_parquet(tmp_path / "u.parquet")
    assert read_preferences([tmp_path / "u.parquet"]).labels.tolist() == [[1, 0]]
    item = rated_by_four("q", x=("5", "1"), y=("2", "2"))
    item["completions"].append({"response": "", "annotations": {}})
    assert read(tmp_path, item).skipped == {"an empty response": 1}


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"completions": "x"}, "'completions' is the text 'x'"),
        ({"completions": ["x"]}, r"'completions\[0\]' is the text 'x'"),
        ({"completions": [{"response": None}]}, r"'completions\[0\]\.response' is missing"),
        ({"completions": [{"response": "x", "annotations": ["x"]}]}, r"annotations' is a list"),
        ({"completions": [{"response": "x", "annotations": {"honesty": {"Rating": "6"}}}]}, "a rating from 1 to 5"),
        ({"completions": [{"response": "x", "annotations": {"honesty": {"Rating": "good"}}}]}, "a rating from 1 to 5"),
        ({"instruction": ""}, "'instruction' is empty"),
    ],
)
def test_ultrafeedback_rows_that_cannot_be_used(tmp_path: Path, change: Row, pattern: str) -> None:
    refused(tmp_path, rated_by_four("q", x=("5", "1")) | change, pattern)


def test_trl_unpaired_completions_of_one_prompt_become_pairs(tmp_path: Path) -> None:
    def one(completion: Any, label: Any, prompt: Any = "Sky?") -> Row:
        return {"prompt": prompt, "completion": completion, "label": label}

    rows = [one(" Blue.", True), one([assistant("Green.")], False, [user("Sky?")]), one("Red.", False), one("", True)]
    data = read(tmp_path, *rows, one("x", True, "Alone?"), objectives=["safety"])
    assert data.objectives == ("safety",)
    assert data.labels[:, 0].tolist() == [1, 1, 0.5]  # Blue over Green and Red, which tie
    assert data.response(int(data.first[0])) == "Blue."
    assert data.skipped == {"an empty response": 1, "the only answer to its prompt": 1}
    refused(tmp_path, one("x", 1), "'label' is 1; expected true", "safety")
    refused(tmp_path, one(None, True), "'completion' is missing", "safety")
    refused(tmp_path, one("x", True), "does not say what was judged")


def judged(question: str, answer: str, end: str, verdict: str) -> Row:
    return {"prompt": f"Q: {question}\nA: {answer}\n{end}:", "completion": verdict}


def test_truthfulqa_true_is_factuality_and_informative_is_helpfulness(tmp_path: Path) -> None:
    true = write_rows(
        tmp_path / "true.jsonl",
        [judged("q", "x", "True", " yes"), judged("q", "y", "True", " no"), judged("q", "z", "True", " no")],
    )
    helpful = write_rows(
        tmp_path / "helpful.jsonl", [judged("q", "y", "Helpful", " yes"), judged("q", "x", "Helpful", " yes")]
    )
    data = read_preferences([true, helpful])
    assert data.objectives == ("helpfulness", "factuality")
    assert data.messages(0) == [user("q")]
    nan = np.nan
    np.testing.assert_array_equal(data.labels, [[nan, 1], [nan, 1], [nan, 0.5], [0.5, nan]])  # xy xz yz yx
    assert data.first.tolist() == [0, 0, 1, 1]


def test_truthfulqa_answers_judged_twice_are_one_answer_with_the_mean(tmp_path: Path) -> None:
    rows = [("x", " yes"), ("x", " no"), ("y", " yes"), ("x", " no")]
    data = read(
        tmp_path, *(judged("q", answer, "True", verdict) for answer, verdict in rows), judged("q", "", "True", " no")
    )
    assert data.labels.tolist() == [[0]]  # 1/3 against 1
    assert data.skipped == {"an empty response": 1}


def test_truthfulqa_with_another_verdict(tmp_path: Path) -> None:
    refused(tmp_path, judged("q", "x", "True", " maybe"), "'completion' is the text ' maybe'; expected ' yes' or ' no'")


def test_truthfulqa_with_a_prompt_of_another_form(tmp_path: Path) -> None:
    for prompt in ("Q: q\nTrue:", "q\nA: x\nTrue:"):
        refused(
            tmp_path, {"prompt": prompt, "completion": " yes"}, "'prompt' is the text .*; expected 'Q: ...', 'A: ...'"
        )
    rows = [judged("q", "x", "True", " yes"), {"prompt": "Q: q\nA: x", "completion": " yes"}]
    with pytest.raises(DataError, match="line 2: 'prompt' is the text"):
        read(tmp_path, *rows)


def test_a_rated_answer_with_broken_unicode_is_named_by_its_line(tmp_path: Path) -> None:
    refused(tmp_path, {"prompt": "q", "response": "\udc00", "helpfulness": 1}, r"line 1: .*surrogate")


def test_every_format_is_recognised_as_itself() -> None:
    rows: dict[str, Row] = {
        "MOPO": row(),
        "PKU-SafeRLHF": SAFE,
        "PKU-SafeRLHF, safe and unsafe": {"prompt": "q", "safer_response": "no", "unsafe_response": "yes"},
        "HelpSteer2 preferences": STRONG,
        "FineGrainedRLHF": FOUR,
        "UltraFeedback": TRL | {"metadata": {"score_chosen": 2, "score_rejected": 1}},
        "HH-RLHF": {"chosen": "\n\nHuman: q\n\nAssistant: x", "rejected": "\n\nHuman: q\n\nAssistant: y"},
        "TRL preference": TRL,
        "HelpSteer2": {"prompt": "q", "response": "x", "helpfulness": 1, "correctness": 2},
        "UltraFeedback, rated": rated_by_four("q", x=(1, 1)),
        "TRL unpaired preference": {"prompt": "q", "completion": "x", "label": True},
        "TruthfulQA judge": judged("q", "x", "True", " yes"),
    }
    assert list(rows) == [known.name for known in FORMATS]
    found = [recognise(item) for item in rows.values()]
    assert [known.name if known else None for known in found] == list(rows)
    assert recognise({"prompt": "q", "completion": "x"}) is None
    assert recognise({"prompt": "q", "response": "x"}) is None


STRONG: Row = {"prompt": "q", "response_1": "x", "response_2": "y", "preference_strength": 2}


@pytest.mark.parametrize(("strength", "label"), [(-3, 1.0), (-1, 1.0), (0, 0.5), (1, 0.0), (3, 0.0)])
def test_helpsteers_preferences_are_for_the_first_where_negative(tmp_path: Path, strength: int, label: float) -> None:
    found = read_one(tmp_path, STRONG | {"preference_strength": strength})
    assert (found.response_a, found.response_b, found.preferences) == ("x", "y", {"helpfulness": label})


@pytest.mark.parametrize("strength", [4, None, "2", True])
def test_a_strength_that_is_none_is_refused(tmp_path: Path, strength: object) -> None:
    refused(tmp_path, STRONG | {"preference_strength": strength}, "'preference_strength' is .*from -3 to 3")


def test_helpsteers_preferences_keep_the_conversation(tmp_path: Path) -> None:
    text = "hi\n<extra_id_1>Assistant\nhello\n<extra_id_1>User\nand?"
    assert read_one(tmp_path, STRONG | {"prompt": text}).prompt == [user("hi"), assistant("hello"), user("and?")]


def test_safe_and_unsafe_answers_label_safety(tmp_path: Path) -> None:
    found = read_one(tmp_path, {"prompt": "q", "safer_response": "no", "unsafe_response": "yes"})
    assert (found.response_a, found.preferences) == ("no", {"safety": 1.0})


FOUR: Row = {f"prediction {n}": f"answer {n}" for n in range(1, 5)} | {
    "question": "q",
    "preference": [0, 1, 2, 1, 0, 2],
}


def test_four_compared_answers_make_six_pairs(tmp_path: Path) -> None:
    """The example of FineGrainedRLHF's own description: 1vs2, 1vs3, 1vs4, 2vs3, 2vs4, 3vs4."""
    pairs = {
        (a.response_a[-1], a.response_b[-1]): a.preferences["helpfulness"] for a in read(tmp_path, FOUR).comparisons()
    }
    assert pairs == {
        ("1", "2"): 0.5, ("1", "3"): 1.0, ("1", "4"): 0.0, ("2", "3"): 1.0, ("2", "4"): 0.5, ("3", "4"): 0.0
    }  # fmt: skip
    floats = read(tmp_path, FOUR | {"preference": [0.0, 1.0, 2.0, 1.0, 0.0, 2.0]})  # as a table of numbers may say it
    assert floats.labels.tolist() == [[0.5], [1.0], [0.0], [1.0], [0.5], [0.0]]
    refused(tmp_path, FOUR | {"preference": [1, 2]}, "expected 6 numbers")
    refused(tmp_path, FOUR | {"preference": [0, 1, 2, 1, 0, [2]]}, "expected 6 numbers")


def real_rows(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "pairs", "skipped"),
    [
        ("hh_harmless_base_test", 2299, 13),
        ("hh_helpful_base_test", 2333, 21),
        ("hh_helpful_online_test", 1127, 10),
        ("hh_helpful_rejection_sampled_test", 2713, 36),
        ("pku_saferlhf_safer_choice_3k", 3319, 14),
    ],
)
def test_real_chosen_and_rejected_answers(real_data: Path, name: str, pairs: int, skipped: int) -> None:
    path = real_data / f"{name}.jsonl.gz"
    data = read_preferences([path], objectives=["safety"], at_least=1)
    rows = real_rows(path)
    assert (data.summary.pairs, sum(data.skipped.values()), len(rows)) == (pairs, skipped, pairs + skipped)
    assert (data.labels == 1).all()
    for found, place in zip(data.comparisons(), data.rows["place"], strict=True):
        whole = rows[place - 1]
        assert whole["chosen"].rstrip().endswith(found.response_a.rstrip()[-200:])
        assert whole["rejected"].rstrip().endswith(found.response_b.rstrip()[-200:])
        assert {message["role"] for message in found.prompt[::2]} == {"user"}
        assert {message["role"] for message in found.prompt[1::2]} <= {"assistant"}


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "objective", "held"),
    [("pku_saferlhf_safety_pairs", "safety", 5135), ("finegrained_rlhf_qa_feedback_dev", "helpfulness", 3000)],
)
def test_real_files_of_third_parties_are_recognised(real_data: Path, name: str, objective: str, held: int) -> None:
    data = read_preferences([real_data / f"{name}.jsonl.gz"], at_least=1)
    assert data.objectives == (objective,)
    assert data.summary.pairs + sum(data.skipped.values()) == held


@pytest.mark.data
def test_real_helpsteer_ratings_are_compared(real_data: Path) -> None:
    path = real_data / "helpsteer2_validation.jsonl.gz"
    rows = real_rows(path)
    data = read_preferences([path])
    assert data.summary.pairs == data.summary.prompts == len(rows) // 2 == 519
    first, second = rows[::2], rows[1::2]  # in this file the two answers to a prompt are neighbours
    for column, name in enumerate(("helpfulness", "correctness", "coherence")):
        signs = [np.sign(a[name] - b[name]) for a, b in zip(first, second, strict=True)]
        np.testing.assert_array_equal(data.labels[:, column], 0.5 + 0.5 * np.array(signs))


@pytest.mark.data
def test_real_ultrafeedback_ties_where_the_scores_do(real_data: Path) -> None:
    path = real_data / "ultrafeedback_pairs_sample.jsonl.gz"
    data = read_preferences([path], at_least=1)
    rows = [
        rows for rows in real_rows(path) if rows["chosen"] != rows["rejected"] and rows["chosen"] and rows["rejected"]
    ]
    tied = [item["metadata"]["score_chosen"] == item["metadata"]["score_rejected"] for item in rows]
    assert (data.labels[:, 0] == 0.5).tolist() == tied


@pytest.mark.data
def test_real_truthfulqa_verdicts_rank_the_answers(real_data: Path, tmp_path: Path) -> None:
    rows = real_rows(real_data / "truthfulqa_judge_info.jsonl.gz")[:4000]
    data = read(tmp_path, *rows)
    verdicts: dict[tuple[str, str], set[str]] = {}
    for item in rows:
        question, answer = item["prompt"].removesuffix("\nHelpful:").split("\nA:", 1)
        if answer.strip():
            verdicts.setdefault((question[2:].strip(), answer.strip()), set()).add(item["completion"])
    asked = Counter(question for question, _ in verdicts)
    assert len(data.response_prompt) == sum(count for count in asked.values() if count > 1)
    sizes = np.bincount(data.response_prompt)
    assert data.summary.pairs == (sizes * (sizes - 1) // 2).sum()
    for index in range(0, data.summary.pairs, 997):
        question = data.messages(int(data.prompt[index]))[0]["content"]
        a, b = (verdicts[question, data.response(int(side[index]))] for side in (data.first, data.second))
        if len(a) == len(b) == 1:
            assert data.labels[index, 0] == (0.5 if a == b else float(a == {" yes"}))
