"""Conversations that other formats write as one text, or as lists with the answer at the end."""

import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from mopo_train.rows import Message, RowError, read_message, read_prompt, shown

HH_TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")
HH_QUERY_TURN = re.compile(r"(?:\A|\n)\s*(Human|Assistant):")
"""In copies with the columns query, chosen and rejected, one line break separates the turns."""
HELPSTEER_TURN = re.compile(r"\n<extra_id_1>(User|Assistant)\n")
ROLE = {"Human": "user", "User": "user", "Assistant": "assistant"}


class Answered(NamedTuple):
    """A conversation and the answer to it."""

    prompt: list[Message]
    answer: str


def is_dialogue(text: str) -> bool:
    """True for text that begins with a turn of HH-RLHF."""
    return HH_TURN.match(text) is not None


def helpsteer_turns(text: str) -> list[Message]:
    """The messages of a HelpSteer2 prompt, character by character; the first is the user's."""
    pieces = ["User", *HELPSTEER_TURN.split(text)]
    return [{"role": ROLE[who], "content": said} for who, said in zip(pieces[::2], pieces[1::2], strict=True)]


def turns(text: str, mark: re.Pattern[str]) -> list[Message]:
    """The messages of a dialogue of HH-RLHF, which begins with ``mark``; without the space around them."""
    pieces = mark.split(text)[1:]
    return [{"role": ROLE[who], "content": said.strip()} for who, said in zip(pieces[::2], pieces[1::2], strict=True)]


def alternates(messages: Sequence[Message]) -> bool:
    """True where user and assistant take turns and the user begins. Where not, an answer holds a dialogue."""
    return all(message["role"] == ("user", "assistant")[index % 2] for index, message in enumerate(messages))


def split_answer(messages: Sequence[Message]) -> Answered | None:
    """The last message as the answer to those before it; None unless an assistant answers a user there."""
    roles = [message["role"] for message in messages]
    if roles[-2:] != ["user", "assistant"]:
        return None
    return Answered(list(messages[:-1]), messages[-1]["content"])


def read_answered(value: Any, field: str, prompt: list[Message]) -> Answered:
    """From a list of messages, which may or may not repeat ``prompt`` before the answer. Raises RowError."""
    if not isinstance(value, list) or not value:
        raise RowError(f"'{field}' is {shown(value)}; expected text or a list of {{role, content}}")
    *before, last = value
    context = [read_message(message, f"{field}[{index}]") for index, message in enumerate(before)]
    answer = last.get("content") if isinstance(last, dict) else None
    if not isinstance(last, dict) or last.get("role") != "assistant" or not isinstance(answer, str):
        raise RowError(f"the last message of '{field}' is {shown(last)}; expected {{role: assistant, content: text}}")
    if context[: len(prompt)] != prompt:
        context = prompt + context
    return Answered(read_prompt(context, f"the messages of {field} before the answer"), answer)


def common_prompt(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt and two answers from two texts that begin alike, cut at a word's end. Raises RowError."""
    shared = os.path.commonprefix([chosen, rejected])
    cut = max((match.start() for match in re.finditer(r"\s+", shared)), default=0)
    if not shared[:cut].strip():
        raise RowError(
            "'chosen' and 'rejected' share no beginning that could be the prompt; "
            "add a column 'prompt' (text or a list of {role, content})"
        )
    return shared[:cut], chosen[cut:].lstrip(), rejected[cut:].lstrip()
