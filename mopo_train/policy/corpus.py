"""The prompts and responses of preference data as tokens, and a model's log-probability of each response.

Both are kept beside the converted data (`mopo_train.cache`), under what they depend on: tokens under the content of
the data and the tokenizer, log-probabilities under the tokens and the content of the model. So further runs on the same
data and model find them, whatever their floors and wherever they write.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mopo_train.cache import cache_root, replacing, tidy, used
from mopo_train.columns import mapped
from mopo_train.console import ProgressLine, progress, say
from mopo_train.errors import DataError
from mopo_train.policy.distributed import from_leader, group, summed
from mopo_train.policy.packing import collate
from mopo_train.policy.requirements import check_disk, token_files
from mopo_train.policy.scoring import response_log_probabilities, to_device, traits
from mopo_train.policy.token_store import TokenRows, Tokens, is_stored, stored_tokens
from mopo_train.policy.tokens import Encoded, Ids, encode_prompts, encode_responses
from mopo_train.preferences import PreferenceData
from mopo_train.winrates import FloatArray, IntArray

SCORED_TOGETHER = 32
"""Responses in a batch of a pass that keeps no gradients."""
SORTED_TOGETHER = 8192
"""Responses that are sorted by length for that."""
ENCODED_TOGETHER = 1000
"""Texts that are tokenised at once."""


class Corpus(NamedTuple):
    """Y responses with their prompts as tokens."""

    rows: Sequence[Encoded]
    """(Y) prompt and response; the responses of a prompt are neighbours."""
    lengths: IntArray
    """(Y,) tokens of both."""
    digest: str
    """Of all tokens: what log-probabilities depend on besides the model."""

    def response_lengths(self) -> IntArray:
        """(Y,) tokens of each response."""
        if isinstance(self.rows, TokenRows):
            return self.rows.response_lengths()
        return np.array([len(row.response) for row in self.rows])


class Prompts(Sequence[Ids]):
    """The P prompts of ``rows``, read when they are asked for."""

    def __init__(self, rows: Sequence[Encoded], starts: IntArray) -> None:
        """``starts`` (P + 1,): the responses of prompt x are rows[starts[x]:starts[x + 1]]."""
        self.rows, self.starts = rows, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, place: Any) -> Any:
        places = range(len(self))[place]
        if isinstance(places, int):
            return self.rows[int(self.starts[places])].prompt
        return [self[each] for each in places]


def encode_corpus(data: PreferenceData, tokenizer: PreTrainedTokenizerBase, limit: int) -> Corpus:
    """Tokenise ``data`` once, at most ``limit`` tokens per prompt and response together, the end of a response cut off.

    Raises DataError for prompts without room for an answer, for responses without tokens and for a
    disk that fills up, RoomError for one without room for the tokens.
    """
    told = [data.summary.sha256, list(data.summary.labelled), limit, _identity(tokenizer)]
    entry = cache_root() / f"tokens-{hashlib.sha256(repr(told).encode()).hexdigest()[:32]}"
    new = not is_stored(entry)
    if new:
        check_disk(token_files(cache_root(), data.characters()))
    try:
        digest = stored_tokens(entry, lambda: _tokens(data, tokenizer, limit))
    except OSError as error:
        raise DataError(
            f"cannot write the tokens of the data to '{entry.parent}': {error.strerror or error}; make room there, or "
            "name another directory in the environment variable HF_DATASETS_CACHE."
        ) from error
    used(entry)
    if new:
        tidy(cache_root())
    rows = TokenRows(entry, data.response_prompt)
    return Corpus(rows, mapped(rows.lengths()), digest)


def _identity(tokenizer: Any) -> list[Any]:
    """What decides the tokens of a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else [tokenizer.name_or_path, sorted(tokenizer.get_vocab().items())]
    return [type(tokenizer).__name__, rules, tokenizer.chat_template, sorted(tokenizer.special_tokens_map.items())]


def _tokens(data: PreferenceData, tokenizer: PreTrainedTokenizerBase, limit: int) -> Tokens:
    def prompts() -> Iterator[Ids]:
        for part in _parts(len(data.group)):
            conversations: Any = [data.messages(prompt) for prompt in part]
            yield from encode_prompts(tokenizer, conversations, limit)

    def responses(lengths: IntArray) -> Iterator[Ids]:
        cut = 0
        room = limit - lengths[data.response_prompt]  # (Y,)
        for part in _parts(len(room)):
            for index, row in zip(
                part, encode_responses(tokenizer, [data.response(index) for index in part]), strict=True
            ):
                cut += len(row) > room[index]
                yield row[: room[index]]
        if cut:
            say(f"{cut} of {len(room)} responses exceed {limit} tokens with their prompt: their end is cut off")

    return Tokens(prompts(), responses)


def _parts(number: int) -> Iterator[range]:
    for begin in range(0, number, ENCODED_TOGETHER):
        yield range(begin, min(begin + ENCODED_TOGETHER, number))


def log_probabilities(model: PreTrainedModel, rows: Sequence[Encoded], line: ProgressLine | None = None) -> FloatArray:
    """(len(rows),) log pi(response | prompt) in nats, without gradients; ``model`` is left in evaluation mode.

    Processes that train together call it alike: each takes its share of the batches, and all get the whole result.
    """
    model.eval()  # type: ignore[no-untyped-call]
    found = np.zeros(len(rows))
    with torch.no_grad():
        for begin in range(0, len(rows), SORTED_TOGETHER):
            part = slice(begin, begin + SORTED_TOGETHER)
            found[part] = _my_scores(model, rows[part], line)
    return summed(found)


def _my_scores(model: PreTrainedModel, rows: Sequence[Encoded], line: ProgressLine | None) -> FloatArray:
    """(len(rows),) log-probabilities of this process's share of ``rows``, 0 elsewhere."""
    device, worth = next(model.parameters()).device, traits(model).worth
    found = np.zeros(len(rows))
    batches, us = _batches(rows), group()
    for begin in range(0, len(batches), us.size):
        # Where a model is spread over processes, all of them have to run it equally often.
        indices = batches[min(begin + us.rank, len(batches) - 1)]
        batch = to_device(collate([rows[index] for index in indices], worth), device)
        scores = response_log_probabilities(model, batch).double().cpu().numpy()
        if begin + us.rank < len(batches):
            found[indices] = scores
        if line is not None:
            line.advance(sum(map(len, batches[begin : begin + us.size])))
    return found


def _batches(rows: Iterable[Encoded]) -> list[list[int]]:
    """Indices of ``rows``, those of similar length together; neighbours with one prompt stay together."""
    groups, lengths, last = list[list[int]](), list[int](), None
    for index, row in enumerate(rows):
        if last is None or not np.array_equal(last, row.prompt) or len(groups[-1]) == SCORED_TOGETHER:
            groups.append([])
            lengths.append(len(row.prompt))
        groups[-1].append(index)
        lengths[-1] += len(row.response)
        last = row.prompt
    batches = list[list[int]]()
    for place in np.argsort(lengths, kind="stable").tolist():
        if not batches or len(batches[-1]) + len(groups[place]) > SCORED_TOGETHER:
            batches.append([])
        batches[-1] += groups[place]
    return batches


class _Chosen(Sequence[Encoded]):
    """Some of ``rows``, read when they are asked for."""

    def __init__(self, rows: Sequence[Encoded], indices: IntArray) -> None:
        self.rows, self.indices = rows, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: Any) -> Any:
        chosen = self.indices[place]
        return [self.rows[index] for index in chosen.tolist()] if isinstance(place, slice) else self.rows[int(chosen)]


def corpus_log_probabilities(
    model: PreTrainedModel, corpus: Corpus, needed: Sequence[int] | IntArray, directory: Path, key: str, *, title: str
) -> FloatArray:
    """(Y,) log pi(y | x) in nats of the responses ``needed``; NaN for those that nobody asked for yet.

    Kept in ``directory`` under the digest of the tokens and ``key`` (the model's fingerprint): computed once for all
    policies of a family, and again only for responses that are new.
    """
    told = f"{key} {corpus.digest} {next(model.parameters()).dtype}"
    name = hashlib.sha256(told.encode()).hexdigest()[:32]
    path = directory / f"log-probabilities-{name}.npy"
    known = from_leader(lambda: _known(path, len(corpus.rows)))
    asked = np.asarray(needed, dtype=np.int64)
    missing = asked[np.isnan(known[asked])]
    if not len(missing):
        return mapped(known)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)  # type: ignore[arg-type]
    with progress(f"{title} log-probabilities", len(missing)) as line:
        found = log_probabilities(model, _Chosen(corpus.rows, missing), line)
    known[missing] = found
    from_leader(lambda: _keep(path, known))
    return mapped(known)


def _known(path: Path, responses: int) -> FloatArray:
    """What ``path`` holds; NaN where it does not exist or was damaged."""
    nothing = np.full(responses, np.nan)
    if not path.is_file():
        return nothing
    used(path)
    try:
        known: FloatArray = np.load(path)
    except (OSError, ValueError, EOFError):
        return nothing
    return known if known.shape == nothing.shape else nothing


def _keep(path: Path, known: FloatArray) -> None:
    with replacing(path) as partial:
        np.save(partial, known)
