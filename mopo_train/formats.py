"""The source formats of preference data, recognised by their columns.

A pair format holds one comparison per row; a rated format holds answers with their ratings, and the
answers to one prompt become pairs (``mopo_train.ratings``). Rows of third parties' formats that are no comparison,
such as one with an empty answer, are skipped and counted, because their users cannot correct them; in our own format
they are errors. Not covered: rankings of more than two answers in one row.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from mopo_train.dialogues import (
    HH_QUERY_TURN,
    HH_TURN,
    Answered,
    alternates,
    common_prompt,
    helpsteer_turns,
    is_dialogue,
    read_answered,
    split_answer,
    turns,
)
from mopo_train.rows import (
    Comparison,
    Message,
    RowError,
    read_name,
    read_preferences_field,
    read_prompt,
    read_text,
    read_weight,
    shown,
)

Row = Mapping[str, Any]


class Skipped(NamedTuple):
    """A row that holds no usable comparison."""

    reason: str


EMPTY = Skipped("an empty response")
NO_ANSWER = Skipped("a conversation that does not end with an answer to a user")
DIFFERENT = Skipped("answers to different conversations")
TWICE = Skipped("a speaker who speaks twice in a row")
EMPTY_TURN = Skipped("an empty turn in the conversation")


class Rated(NamedTuple):
    """One answer with its ratings; only their order for one prompt matters."""

    prompt: list[Message]
    response: str
    ratings: dict[str, float]


Converted = Comparison | Rated | Skipped | list[Rated | Skipped] | list[Comparison | Skipped]
"""What a row holds."""


@dataclass(frozen=True)
class SourceFormat:
    """How to know a format and read a row of it."""

    name: str
    columns: str
    """For messages: what it is recognised by."""
    required: frozenset[str]
    """Columns that every row has."""
    matches: Callable[[Row], bool]
    """Whether a file whose first row is given has this format."""
    convert: Callable[[Row, str], Converted]
    """From a row and the objective's name (empty unless ``unnamed``); a list where a row holds several. Raises
    RowError."""
    rated: bool = False
    """Holds rated answers, one or several per row, not one comparison."""
    unnamed: bool = False
    """Has one label whose objective the file does not name."""
    chosen_first: bool = False
    """Writes the preferred answer first, so that the order of the answers says nothing but the label."""
    default: str | None = None
    """Objective of an unnamed label when the caller gives none."""


def _own(row: Row, _: str) -> Comparison:
    return Comparison(
        prompt=read_prompt(row.get("prompt")),
        response_a=read_text(row.get("response_a"), "response_a"),
        response_b=read_text(row.get("response_b"), "response_b"),
        preferences=read_preferences_field(row.get("preferences")),
        weight=read_weight(row.get("weight")),
        annotator=read_name(row.get("annotator"), "annotator"),
        group=read_name(row.get("group"), "group"),
    )


SAFERLHF_LABELS = {"better_response_id": "helpfulness", "safer_response_id": "safety"}


def _saferlhf(row: Row, _: str) -> Comparison | Skipped:
    prompt = read_prompt(row.get("prompt"))
    if _any_empty(row, "response_0", "response_1"):
        return EMPTY
    preferences = {}
    for column, objective in SAFERLHF_LABELS.items():
        if (preferred := row.get(column)) is None:
            continue
        if isinstance(preferred, bool) or preferred not in (0, 1):
            raise RowError(f"'{column}' is {shown(preferred)}; expected 0 or 1, the number of the preferred response")
        preferences[objective] = 1.0 - preferred
    texts = [read_text(row[column], column) for column in ("response_0", "response_1")]
    return Comparison(prompt, texts[0], texts[1], preferences)


def _safer(row: Row, _: str) -> Comparison | Skipped:
    """Copies of PKU-SafeRLHF's answers of which one is safe."""
    prompt = read_prompt(row.get("prompt"))
    if _any_empty(row, "safer_response", "unsafe_response"):
        return EMPTY
    texts = [read_text(row[column], column) for column in ("safer_response", "unsafe_response")]
    return Comparison(prompt, texts[0], texts[1], {"safety": 1.0})


def _chosen(row: Row, objective: str) -> Comparison | Skipped:
    """Any format with ``chosen`` and ``rejected``: as text or messages, with the prompt beside or inside them."""
    label = 0.5 if _scores_tie(row) else 1.0
    pair = _split_texts(row) if isinstance(row["chosen"], str) else _split_messages(row)
    if isinstance(pair, Skipped):
        return pair
    chosen, rejected = pair
    if not chosen.answer.strip() or not rejected.answer.strip():
        return EMPTY
    if chosen.prompt != rejected.prompt:
        return DIFFERENT
    if not all(message["content"].strip() for message in chosen.prompt):
        return EMPTY_TURN
    return Comparison(read_prompt(chosen.prompt), chosen.answer, rejected.answer, {objective: label})


def _split_messages(row: Row) -> tuple[Answered, Answered] | Skipped:
    given = row.get("prompt")
    prompt = [] if given is None else read_prompt(given)
    for column in ("chosen", "rejected"):
        last = row[column][-1] if isinstance(row[column], list) and row[column] else None
        if isinstance(last, dict) and last.get("content") == "":
            return EMPTY
    return read_answered(row["chosen"], "chosen", prompt), read_answered(row["rejected"], "rejected", prompt)


def _split_texts(row: Row) -> tuple[Answered, Answered] | Skipped:
    chosen, rejected = row["chosen"], row["rejected"]
    if not isinstance(rejected, str):
        raise RowError(f"'rejected' is {shown(rejected)}, but 'chosen' is text; expected the same kind in both")
    given = row.get("prompt", row.get("query"))
    if given is not None:
        if not isinstance(given, str) or not is_dialogue(given):
            prompt = read_prompt(given)
            return Answered(prompt, chosen), Answered(prompt, rejected)
        heard = turns(given, HH_QUERY_TURN)
        if not alternates(heard):
            return TWICE
        if heard[-1]["role"] != "user":
            return NO_ANSWER
        return Answered(heard, _without_speaker(chosen)), Answered(heard, _without_speaker(rejected))
    if not is_dialogue(chosen):
        text, first, second = common_prompt(chosen, rejected)
        return Answered(read_prompt(text), first), Answered(read_prompt(text), second)
    dialogues = [turns(text, HH_TURN) for text in (chosen, rejected)]
    if not all(map(alternates, dialogues)):
        return TWICE
    answered = [split_answer(messages) for messages in dialogues]
    if answered[0] is None or answered[1] is None:
        return NO_ANSWER
    return answered[0], answered[1]


def _without_speaker(answer: str) -> str:
    return answer.strip().removeprefix("Assistant:").strip()


def _scores_tie(row: Row) -> bool:
    scores = _scores(row)
    return scores is not None and scores[0] is not None and scores[0] == scores[1]


def _scores(row: Row) -> tuple[Any, Any] | None:
    """The two scores of UltraFeedback, which copies hold in the row or in its field ``metadata``."""
    for holder in (row, row.get("metadata")):
        if isinstance(holder, Mapping) and holder.keys() >= {"score_chosen", "score_rejected"}:
            return holder["score_chosen"], holder["score_rejected"]
    return None


HELPSTEER_RATINGS = {"helpfulness": "helpfulness", "correctness": "factuality", "coherence": "coherence"}
"""The attributes of which more is better; HelpSteer2's complexity and verbosity describe a style."""


def _helpsteer_prompt(row: Row) -> list[Message]:
    text = row.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise RowError(f"'prompt' is {shown(text)}; expected the question as text")
    return helpsteer_turns(text)


def _helpsteer(row: Row, _: str) -> Rated | Skipped:
    messages = _helpsteer_prompt(row)
    if _any_empty(row, "response"):
        return EMPTY
    ratings = {}
    for column, objective in HELPSTEER_RATINGS.items():
        if (rating := row.get(column)) is None:
            continue
        if isinstance(rating, bool) or not isinstance(rating, int | float) or not 0 <= rating <= 4:
            raise RowError(f"'{column}' is {shown(rating)}; expected a rating from 0 to 4, or null")
        ratings[objective] = float(rating)
    if not all(message["content"].strip() for message in messages):
        return EMPTY_TURN
    return Rated(read_prompt(messages), read_text(row.get("response"), "response"), ratings)


def _helpsteer_preference(row: Row, objective: str) -> Comparison | Skipped:
    """HelpSteer2's file of preferences: -3 where the first answer is much better, to 3 where the second one is."""
    messages = _helpsteer_prompt(row)
    if _any_empty(row, "response_1", "response_2"):
        return EMPTY
    if not all(message["content"].strip() for message in messages):
        return EMPTY_TURN
    strength = row.get("preference_strength")
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not -3 <= strength <= 3:
        raise RowError(f"'preference_strength' is {shown(strength)}; expected a number from -3 to 3")
    texts = [read_text(row[column], column) for column in ("response_1", "response_2")]
    label = 0.5 if strength == 0 else float(strength < 0)
    return Comparison(read_prompt(messages), texts[0], texts[1], {objective: label})


FINE_GRAINED_ANSWERS = [f"prediction {number}" for number in range(1, 5)]
FINE_GRAINED_LABELS = {0: 0.5, 1: 1.0, 2: 0.0}


def _fine_grained(row: Row, objective: str) -> list[Comparison | Skipped]:
    """FineGrainedRLHF's qa-feedback: four answers, each pair compared. The passages that they rest on are left out."""
    prompt = read_prompt(row.get("question"), "question")
    pairs, verdicts = list(combinations(FINE_GRAINED_ANSWERS, 2)), row.get("preference")
    if not isinstance(verdicts, list) or len(verdicts) != len(pairs) or any(each not in (0, 1, 2) for each in verdicts):
        raise RowError(f"'preference' is {shown(verdicts)}; expected 6 numbers: 1 or 2, the better one, or 0")
    found: list[Comparison | Skipped] = []
    for (first, second), verdict in zip(pairs, verdicts, strict=True):
        if _any_empty(row, first, second):
            found.append(EMPTY)
            continue
        texts = read_text(row[first], first), read_text(row[second], second)
        found.append(Comparison(prompt, *texts, {objective: FINE_GRAINED_LABELS[verdict]}))
    return found


TRUTHFULQA_ENDS = {"\nTrue:": "factuality", "\nHelpful:": "helpfulness"}


def _truthfulqa(row: Row, _: str) -> Rated | Skipped:
    text, verdict = row.get("prompt"), row.get("completion")
    end = next((end for end in TRUTHFULQA_ENDS if isinstance(text, str) and text.endswith(end)), None)
    if not isinstance(text, str) or end is None or not text.startswith("Q:") or "\nA:" not in text:
        raise RowError(
            f"'prompt' is {shown(text)}; expected 'Q: ...', 'A: ...' and 'True:' or 'Helpful:' on lines of their own"
        )
    if not isinstance(verdict, str) or verdict.strip().lower() not in ("yes", "no"):
        raise RowError(f"'completion' is {shown(verdict)}; expected ' yes' or ' no'")
    question, answer = text.removeprefix("Q:").removesuffix(end).split("\nA:", maxsplit=1)
    if not answer.strip():
        return EMPTY
    rating = float(verdict.strip().lower() == "yes")
    return Rated(read_prompt(question.strip()), answer.strip(), {TRUTHFULQA_ENDS[end]: rating})


ULTRAFEEDBACK_RATINGS = {
    "helpfulness": "helpfulness",
    "truthfulness": "factuality",
    "honesty": "honesty",
    "instruction_following": "instruction-following",
}


def _ultrafeedback_rated(row: Row, _: str) -> list[Rated | Skipped]:
    """UltraFeedback as published: an instruction with the completions of several models, each rated on four aspects."""
    prompt = read_prompt(row.get("instruction"), "instruction")
    completions = row.get("completions")
    if not isinstance(completions, list):
        raise RowError(f"'completions' is {shown(completions)}; expected a list of {{response, annotations}}")
    found: list[Rated | Skipped] = []
    for index, completion in enumerate(completions):
        field = f"completions[{index}]"
        if not isinstance(completion, Mapping):
            raise RowError(f"'{field}' is {shown(completion)}; expected {{response, annotations}}")
        if _any_empty(completion, "response"):
            found.append(EMPTY)
            continue
        response = read_text(completion.get("response"), f"{field}.response")
        annotations = completion.get("annotations") or {}
        if not isinstance(annotations, Mapping):
            raise RowError(f"'{field}.annotations' is {shown(annotations)}; expected {{aspect: {{Rating}}}}")
        ratings = {}
        for aspect, objective in ULTRAFEEDBACK_RATINGS.items():
            rating = _stars(annotations.get(aspect), f"{field}.annotations.{aspect}")
            if rating is not None:
                ratings[objective] = rating
        found.append(Rated(prompt, response, ratings))
    return found


def _stars(annotation: Any, field: str) -> float | None:
    """The rating of one aspect, 1 to 5, which is written as text; None for N/A or absent. Raises RowError."""
    value = annotation.get("Rating") if isinstance(annotation, Mapping) else annotation
    if value is None or value == "N/A":
        return None
    try:
        rating = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        rating = math.nan
    if not 1 <= rating <= 5:
        raise RowError(f"'{field}' is {shown(value)}; expected a rating from 1 to 5, or N/A")
    return rating


def _unpaired(row: Row, objective: str) -> Rated | Skipped:
    """TRL's unpaired preference: one completion that is good or not."""
    prompt = read_prompt(row.get("prompt"))
    completion, label = row.get("completion"), row.get("label")
    if not isinstance(label, bool):
        raise RowError(f"'label' is {shown(label)}; expected true where the completion is good and false where not")
    if isinstance(completion, str):
        answered = Answered(prompt, completion.strip())
    else:
        answered = read_answered(completion, "completion", prompt)
    if not answered.answer.strip():
        return EMPTY
    return Rated(answered.prompt, answered.answer, {objective: float(label)})


def _any_empty(row: Row, *columns: str) -> bool:
    return any(isinstance(row.get(column), str) and not row[column].strip() for column in columns)


def _has(*columns: str) -> Callable[[Row], bool]:
    return lambda row: row.keys() >= set(columns)


def _is_hh(row: Row) -> bool:
    whole = row.keys() >= {"chosen", "rejected"} and row.keys().isdisjoint({"prompt", "query"})
    return _has("query", "chosen", "rejected")(row) or (
        whole and isinstance(row["chosen"], str) and is_dialogue(row["chosen"])
    )


def _is_truthfulqa(row: Row) -> bool:
    return _has("prompt", "completion")(row) and str(row["prompt"]).endswith(tuple(TRUTHFULQA_ENDS))


FORMATS: tuple[SourceFormat, ...] = (
    SourceFormat(
        name="MOPO",
        columns="prompt, response_a, response_b, preferences",
        required=frozenset({"prompt", "response_a", "response_b"}),
        matches=_has("prompt", "response_a", "response_b"),
        convert=_own,
    ),
    SourceFormat(
        name="PKU-SafeRLHF",
        columns="prompt, response_0, response_1, better_response_id and/or safer_response_id",
        required=frozenset({"prompt", "response_0", "response_1"}),
        matches=lambda row: (
            _has("prompt", "response_0", "response_1")(row) and not row.keys().isdisjoint(SAFERLHF_LABELS)
        ),
        convert=_saferlhf,
    ),
    SourceFormat(
        name="PKU-SafeRLHF, safe and unsafe",
        columns="prompt, safer_response, unsafe_response",
        required=frozenset({"prompt", "safer_response", "unsafe_response"}),
        matches=_has("prompt", "safer_response", "unsafe_response"),
        convert=_safer,
        chosen_first=True,
    ),
    SourceFormat(
        name="HelpSteer2 preferences",
        columns="prompt, response_1, response_2, preference_strength from -3 to 3",
        required=frozenset({"prompt", "response_1", "response_2", "preference_strength"}),
        matches=_has("prompt", "response_1", "response_2", "preference_strength"),
        convert=_helpsteer_preference,
        unnamed=True,
        default="helpfulness",
    ),
    SourceFormat(
        name="FineGrainedRLHF",
        columns="question, prediction 1 to prediction 4, preference",
        required=frozenset({"question", "preference", *FINE_GRAINED_ANSWERS}),
        matches=_has("question", "preference", *FINE_GRAINED_ANSWERS),
        convert=_fine_grained,
        unnamed=True,
        default="helpfulness",
    ),
    SourceFormat(
        name="UltraFeedback",
        columns="prompt, chosen, rejected, score_chosen and score_rejected (also inside metadata)",
        required=frozenset({"prompt", "chosen", "rejected"}),
        matches=lambda row: _has("prompt", "chosen", "rejected")(row) and _scores(row) is not None,
        convert=_chosen,
        unnamed=True,
        chosen_first=True,
        default="helpfulness",
    ),
    SourceFormat(
        name="HH-RLHF",
        columns="chosen, rejected as dialogues of Human: and Assistant:, or query, chosen, rejected",
        required=frozenset({"chosen", "rejected"}),
        matches=_is_hh,
        convert=_chosen,
        unnamed=True,
        chosen_first=True,
    ),
    SourceFormat(
        name="TRL preference",
        columns="chosen, rejected as text or messages, usually with prompt",
        required=frozenset({"chosen", "rejected"}),
        matches=_has("chosen", "rejected"),
        convert=_chosen,
        unnamed=True,
        chosen_first=True,
    ),
    SourceFormat(
        name="HelpSteer2",
        columns="prompt, response, helpfulness, correctness, coherence rated 0-4",
        required=frozenset({"prompt", "response"}),
        matches=lambda row: _has("prompt", "response")(row) and not row.keys().isdisjoint(HELPSTEER_RATINGS),
        convert=_helpsteer,
        rated=True,
    ),
    SourceFormat(
        name="UltraFeedback, rated",
        columns="instruction, completions with response and annotations",
        required=frozenset({"instruction", "completions"}),
        matches=_has("instruction", "completions"),
        convert=_ultrafeedback_rated,
        rated=True,
    ),
    SourceFormat(
        name="TRL unpaired preference",
        columns="prompt, completion, label as true or false",
        required=frozenset({"prompt", "completion", "label"}),
        matches=_has("prompt", "completion", "label"),
        convert=_unpaired,
        rated=True,
        unnamed=True,
    ),
    SourceFormat(
        name="TruthfulQA judge",
        columns="prompt as 'Q: ... A: ... True:' or 'Helpful:', completion as yes or no",
        required=frozenset({"prompt", "completion"}),
        matches=_is_truthfulqa,
        convert=_truthfulqa,
        rated=True,
    ),
)
"""Tried in this order."""


def recognise(row: Row) -> SourceFormat | None:
    """The format that a file whose first row is ``row`` has, or None."""
    return next((known for known in FORMATS if known.matches(row)), None)


def known_formats() -> str:
    """Every format with its columns, for messages."""
    return "; ".join(f"{known.name} ({known.columns})" for known in FORMATS)
