"""One comparison in canonical form: its checks, its identity, and its row of the Arrow table.

A prompt given as text is the same prompt as a conversation that consists of that one user message. Texts are kept
character by character. Does not read files and knows no source format but our own field names.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

ROLES = ("system", "user", "assistant")
OBJECTIVE = re.compile(r"[a-z][a-z0-9_-]*")

Message = dict[str, str]
"""``{"role": ..., "content": ...}``."""


class RowError(Exception):
    """What is wrong with a row, without its place; the reader adds file and line."""


class Comparison(NamedTuple):
    """Two responses to one prompt with the probability, per objective, that the first is preferred."""

    prompt: list[Message]
    """Conversation up to the answer."""
    response_a: str
    response_b: str
    preferences: dict[str, float]
    """Only the objectives that are labelled; 1 = a, 0 = b, 0.5 = tie."""
    weight: float = 1.0
    annotator: str | None = None
    group: str | None = None

    def canonical(self) -> dict[str, Any]:
        """The row in our own format (design section 3), without what is absent; a lone user message is a string."""
        row: dict[str, Any] = {
            "prompt": plain(self.prompt),
            "response_a": self.response_a,
            "response_b": self.response_b,
            "preferences": dict(sorted(self.preferences.items())),
        }
        if self.weight != 1:
            row["weight"] = self.weight
        if self.annotator is not None:
            row["annotator"] = self.annotator
        if self.group is not None:
            row["group"] = self.group
        return row


def plain(prompt: Sequence[Message]) -> str | list[Message]:
    """The text of a prompt that is one user message, otherwise its messages."""
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return list(prompt)


KEY_WORDS = 8
"""64-bit words of ``row_keys``."""


def row_keys(row: Comparison) -> bytes:
    """Four digests of 16 bytes: of the prompt, of response_a and of response_b (with the prompt), of the whole row.

    Raises RowError for text that is not valid Unicode.
    """
    first, second = answer_keys(row.prompt, row.response_a), answer_keys(row.prompt, row.response_b)
    return first + second[16:] + _digest([to_json(row.canonical())])


def answer_keys(prompt: Sequence[Message], response: str) -> bytes:
    """Two digests of 16 bytes: of the prompt, and of the response to it. Raises RowError as ``row_keys``."""
    asked = _digest([part for message in prompt for part in (message["role"], message["content"])])
    return asked + _digest([asked.hex(), response])


def to_json(value: Any) -> str:
    """One line of JSON, the same for equal values."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))


def _digest(parts: Iterable[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        try:
            data = part.encode()
        except UnicodeEncodeError as error:
            raise RowError(
                f"text with half of a surrogate pair ({ascii(part[error.start])}), which is not valid Unicode; "
                "repair the text or remove the row"
            ) from error
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def read_prompt(value: Any, field: str = "prompt") -> list[Message]:
    """A conversation from a string or a list of messages. Raises RowError."""
    if isinstance(value, str):
        if not value.strip():
            raise RowError(f"'{field}' is empty; give the question, or remove the row")
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        expected = "a string or a list of {role, content}"
        raise RowError(f"'{field}' is {shown(value)}; expected {expected}")
    if not value:
        raise RowError(f"'{field}' is an empty list; expected at least one message with role 'user'")
    messages = [read_message(message, f"{field}[{index}]") for index, message in enumerate(value)]
    if messages[-1]["role"] != "user":
        raise RowError(
            f"'{field}' ends with a message of role '{messages[-1]['role']}'; a conversation ends with the user's "
            "message, and the answers to it are the responses"
        )
    return messages


def read_message(value: Any, field: str) -> Message:
    """One message; further keys (names, identifiers) are not used. Raises RowError."""
    if not isinstance(value, Mapping):
        raise RowError(f"'{field}' is {shown(value)}; expected {{role, content}}")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise RowError(f"'{field}' has the role {shown(role)}; expected one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise RowError(f"'{field}' has the content {shown(content)}; expected a string")
    if not content.strip():
        raise RowError(f"'{field}' has no content; give the text, or remove the message")
    return {"role": role, "content": content}


def read_text(value: Any, field: str) -> str:
    """A string that is not blank. Raises RowError."""
    if not isinstance(value, str):
        raise RowError(f"'{field}' is {shown(value)}; expected a string")
    if not value.strip():
        raise RowError(f"'{field}' is empty; give the answer's text, or remove the row")
    return value


def read_preferences_field(value: Any) -> dict[str, float]:
    """Labels by objective, without the null ones. Raises RowError."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RowError(f"'preferences' is {shown(value)}; expected {{objective: number in [0, 1] or null}}")
    labels: dict[str, float] = {}
    for name, label in value.items():
        check_objective(name)
        if label is None:
            continue
        if isinstance(label, bool) or not isinstance(label, int | float) or not 0 <= label <= 1:  # refuses NaN
            raise RowError(
                f"the label on '{name}' is {shown(label)}; expected the probability that response_a is preferred, "
                "a number from 0 (b) over 0.5 (tie) to 1 (a), or null where it is not labelled"
            )
        labels[name] = float(label)
    return labels


def check_objective(name: str) -> None:
    """Raise RowError unless ``name`` can name an objective."""
    if not OBJECTIVE.fullmatch(name):
        raise RowError(
            f"{name!r} cannot name an objective: use lower-case letters, digits, '_' and '-', beginning with a letter"
        )


def read_weight(value: Any) -> float:
    """A positive, finite number; 1 where absent. Raises RowError."""
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise RowError(f"'weight' is {shown(value)}; expected a number greater than 0 (remove the row to ignore it)")
    return float(value)


def read_name(value: Any, field: str) -> str | None:
    """An identifier given as text or whole number; None where absent or empty. Raises RowError."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        return str(int(value))
    raise RowError(f"'{field}' is {shown(value)}; expected a string or a whole number")


def shown(value: Any) -> str:
    """``value`` as a message names it: short, and with its kind where that is the mistake."""
    if value is None:
        return "missing or null"
    if isinstance(value, str):
        text = value if len(value) <= 40 else value[:37] + "..."
        return f"the text {ascii(text)}" if value else "empty text"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)[:40]
    kind = "a list" if isinstance(value, list) else "an object" if isinstance(value, Mapping) else type(value).__name__
    return kind
