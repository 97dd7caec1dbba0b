"""Reading the verdict of a language model: a number or a letter in JSON, with its probability where tokens have one."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_OBJECT = re.compile(r"\{.*\}", re.DOTALL)


class Verdict(NamedTuple):
    """What a model decided."""

    choice: str
    """One of the choices that it was given."""
    probabilities: dict[str, float]
    """Of every choice, summing to 1; all on ``choice`` where the endpoint gives no log-probabilities."""
    reason: str | None


def read_verdict(choice: Mapping[str, Any], choices: Sequence[str]) -> Verdict | None:
    """The verdict in a chat completion's ``choice``: JSON {"reason", "verdict"}; None if it has none of ``choices``.

    Probabilities are those of the first token of the verdict, restricted to the choices and normalised.
    """
    text = (choice.get("message") or {}).get("content")
    found = _OBJECT.search(text) if isinstance(text, str) else None
    try:
        answer = json.loads(found.group()) if found else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    given = str(answer.get("verdict", "")).strip()
    named = {name.casefold(): name for name in choices}
    if given.casefold() not in named:
        return None
    decided = named[given.casefold()]
    probabilities = _probabilities(choice, given, choices) or {name: float(name == decided) for name in choices}
    if any(math.isnan(each) for each in probabilities.values()):
        return None
    reason = answer.get("reason")
    return Verdict(decided, probabilities, None if reason is None else str(reason))


def _probabilities(choice: Mapping[str, Any], given: str, choices: Sequence[str]) -> dict[str, float] | None:
    """Of each choice, from the alternatives to the first token of the verdict; None without log-probabilities."""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    start = _verdict_token(tokens, given)
    if start is None:
        return None
    mass = dict.fromkeys(choices, 0.0)
    for alternative in tokens[start].get("top_logprobs") or []:
        begins = str(alternative.get("token", "")).strip().strip('"').casefold()
        fitting = [name for name in choices if begins and name.casefold().startswith(begins)]
        if len(fitting) == 1:
            mass[fitting[0]] += math.exp(min(float(alternative["logprob"]), 0.0))  # in this order NaN stays NaN
    total = sum(mass.values())
    return None if total == 0 else {name: value / total for name, value in mass.items()}


def _verdict_token(tokens: Sequence[Mapping[str, Any]], given: str) -> int | None:
    """Index of the token with which the value of the last "verdict" begins."""
    text, starts = "", []
    for token in tokens:
        starts.append(len(text))
        text += str(token.get("token", ""))
    key = text.rfind('"verdict"')
    place = text.find(given, key + len('"verdict"')) if key >= 0 else -1
    if place < 0:
        return None
    return max((index for index, start in enumerate(starts) if start <= place), default=None)
