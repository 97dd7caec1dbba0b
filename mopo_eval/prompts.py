"""Prompts to measure on: reading, checking, choosing, and refusing those that training has seen."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mopo_eval.rows import read_rows
from mopo_train.errors import DataError
from mopo_train.family import PolicyFamily
from mopo_train.rows import RowError, read_prompt

Conversation = str | list[dict[str, str]]
"""A prompt as it is given: one user message, or a list of {role, content} up to the answer."""
LEAST_PROMPTS = 2
"""No interval can be made from one prompt."""


class EvaluationPrompt(NamedTuple):
    """One prompt of a prompts file."""

    id: str
    prompt: Conversation
    category: str | None = None
    references: tuple[str, ...] = ()
    """Right answers, for judges that compare with them."""
    incorrect: tuple[str, ...] = ()
    """Wrong answers that people give."""
    harmful: bool | None = None
    """Whether it asks for something that must be refused; None if the file does not say."""

    @property
    def text(self) -> str:
        """The prompt as one string: itself, or its messages as JSON."""
        return self.prompt if isinstance(self.prompt, str) else json.dumps(self.prompt, ensure_ascii=False)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as messages of a chat request."""
        return read_prompt(self.prompt)


def read_prompts(path: Path) -> list[EvaluationPrompt]:
    """The prompts in ``path``: rows of {"prompt", "id"?, "category"?} and what judges may need (``read_truth``).

    Without an ``id`` a prompt's id is a hash of its text. Raises DataError for prompts that are missing, empty,
    malformed or repeated: a repeated prompt would count twice in every interval.
    """
    prompts: list[EvaluationPrompt] = []
    ids: dict[str, int] = {}
    texts: dict[str, int] = {}
    for line, row in read_rows(path):
        where = f"'{path}', row {line}"
        prompt = _checked(row.get("prompt"), where)
        given, category = row.get("id"), row.get("category")
        key = prompt_hash(prompt)
        name = key[:12] if given is None else str(given)
        for value, seen, what in ((key, texts, "the same prompt"), (name, ids, f"the id '{name}'")):
            if first := seen.get(value):
                raise DataError(f"{where}: {what} is also in row {first}; every prompt must be there once.")
            seen[value] = line
        kind = None if category is None else str(category)
        prompts.append(EvaluationPrompt(name, prompt, kind, *read_truth(row, where)))
    if not prompts:
        raise DataError(f'no prompts in \'{path}\'; write rows like {{"prompt": "..."}}.')
    return prompts


class Truth(NamedTuple):
    """What a row says about right answers to its prompt."""

    references: tuple[str, ...]
    incorrect: tuple[str, ...]
    harmful: bool | None


def read_truth(row: Mapping[str, Any], where: str) -> Truth:
    """The fields "references" and "incorrect" (a text or a list of them) and "harmful" (true or false) of a row.

    Raises DataError for anything else in their place.
    """
    texts = []
    for name in ("references", "incorrect"):
        given = row.get(name)
        listed = [] if given is None else [given] if isinstance(given, str) else given
        if not isinstance(listed, list) or not all(isinstance(text, str) and text.strip() for text in listed):
            raise DataError(f"{where}: '{name}' must be a text or a list of texts, found {given!r:.60}.")
        texts.append(tuple(listed))
    harmful = row.get("harmful")
    if not isinstance(harmful, bool | None):
        raise DataError(f"{where}: 'harmful' must be true or false, found {harmful!r:.60}.")
    return Truth(texts[0], texts[1], harmful)


def prompt_hash(prompt: Conversation) -> str:
    """SHA-256 of the prompt as messages, so that a string equals its one user message."""
    pairs = [[message["role"], message["content"]] for message in read_prompt(prompt)]
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=False).encode()).hexdigest()


def choose(prompts: Sequence[EvaluationPrompt], most: int | None, seed: int) -> list[EvaluationPrompt]:
    """At most ``most`` prompts, drawn by ``seed``, in the order of the file; a smaller draw is part of a larger.

    Raises DataError if fewer than two are left.
    """
    drawn = {p.id for p in sorted(prompts, key=lambda p: hashlib.sha256(f"{seed} {p.id}".encode()).digest())[:most]}
    chosen = [prompt for prompt in prompts if prompt.id in drawn]
    if len(chosen) < LEAST_PROMPTS:
        raise DataError(f"{len(chosen)} prompt to measure on; an interval needs at least {LEAST_PROMPTS}, better 200.")
    return chosen


def beside_data(family: PolicyFamily, name: str) -> Path | None:
    """The file called ``name`` beside the family's training data, or None."""
    for source in family.data.source:
        path = _source_path(source)
        candidate = (path if path.is_dir() else path.parent) / name
        if path.exists() and candidate.is_file():
            return candidate
    return None


def prompts_path(family: PolicyFamily, given: Path | None) -> Path:
    """The prompts file: ``given``, or prompts.jsonl beside the training data. Raises DataError where there is none."""
    path = given or beside_data(family, "prompts.jsonl")
    if path is None:
        raise DataError(
            f"no prompts given, and no prompts.jsonl beside the training data ({', '.join(family.data.source)}); "
            'name a file of rows {"prompt": "..."} with --prompts.'
        )
    return path


def trained_prompts(family: PolicyFamily) -> set[str] | None:
    """Hashes of the prompts that the family was trained on; None where the data is not on this machine."""
    if not all(_source_path(source).exists() for source in family.data.source):
        return None
    from mopo_train.preferences import read_preferences

    data = read_preferences(family.data.source, at_least=0)
    return {prompt_hash(data.messages(index)) for index in range(len(data.group))}


def check_unseen(prompts: Iterable[EvaluationPrompt], trained: set[str]) -> None:
    """Raise DataError if a prompt is among the hashes ``trained``: scores on training prompts are too good."""
    seen = [prompt.id for prompt in prompts if prompt_hash(prompt.prompt) in trained]
    if seen:
        raise DataError(
            f"{len(seen)} of the prompts are training prompts of this family (the first: '{seen[0]}'); scores on them "
            "would be too good. Remove them, or measure on them anyway with --allow-trained."
        )


def _source_path(source: str) -> Path:
    """The path in ``source``, which may be written ``objective=path``."""
    path = Path(source)
    return path if path.exists() else Path(source.partition("=")[2] or source)


def _checked(prompt: Any, where: str) -> Conversation:
    """``prompt`` as given, without further keys in its messages; raises DataError unless it is a conversation."""
    try:
        conversation = read_prompt(prompt)
    except RowError as error:
        raise DataError(f"{where}: {error}.") from error
    return prompt if isinstance(prompt, str) else conversation
