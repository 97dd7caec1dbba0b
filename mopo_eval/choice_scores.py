"""Log-probabilities of given answers by every policy, through ``/v1/completions`` with ``echo``: for multiple choice.

Answers are sent as tokens, so that where the answer begins is certain, and each score is durable as soon as it exists.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mopo_eval.drawn import FILE as DRAWN
from mopo_eval.drawn import read_drawn
from mopo_eval.endpoint import Client, in_flight
from mopo_eval.engine_choice import Engines
from mopo_eval.judges import Judge
from mopo_eval.judges.choices import ChoiceJudge
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.spool import open_spool, scan_spool
from mopo_train.console import progress
from mopo_train.errors import EngineError, JudgeError
from mopo_train.family import base_model_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHOICES = "choices.jsonl"
ChoiceTable = Mapping[tuple[str, str], tuple[float, ...]]
"""By policy and prompt id: log-probability in nats of each of a prompt's references, then of its incorrect answers."""


class ChoiceScores(NamedTuple):
    """The scores of one prompt by one policy, on disk."""

    policy: str
    prompt_id: str
    key: str
    """Of the tokens that were scored."""
    logprobs: list[float]


class Scored(NamedTuple):
    """What is scored of one prompt."""

    begin: list[int]
    """Per choice, where the answer begins among its tokens."""
    tokens: list[list[int]]
    """Per choice, prompt and answer."""

    @property
    def key(self) -> str:
        """Equal for equal tokens."""
        return hashlib.sha256(json.dumps(list(self)).encode()).hexdigest()[:16]


def choice_scores(
    engines: Engines, prompts: Sequence[EvaluationPrompt], judges: Mapping[str, Judge], directory: Path
) -> ChoiceTable:
    """The scores of every policy and prompt, where one of ``judges`` needs them; what is on disk is not asked again.

    Raises JudgeError for judges that want different templates and prompts without choices, EngineError.
    """
    templates = {judge.template for judge in judges.values() if isinstance(judge, ChoiceJudge)}
    if not templates:
        return {}
    if len(templates) > 1:
        raise JudgeError("the multiple-choice judges name different templates; give all of them one.")
    from mopo_train.policy.models import load_tokenizer

    tokenizer = load_tokenizer(base_model_path(engines.root, engines.family))
    scored = {prompt.id: encode_choices(tokenizer, prompt, next(iter(templates))) for prompt in prompts}
    keys = {prompt: what.key for prompt, what in scored.items()}
    found: dict[tuple[str, str], tuple[float, ...]] = {}
    for path, policies in _kept(directory, {policy.id for policy in engines.family.policies}):
        for _, row in scan_spool(path, ChoiceScores):
            if row.policy in policies and keys.get(row.prompt_id) == row.key:
                found[row.policy, row.prompt_id] = tuple(row.logprobs)
    wanted = [(policy.id, prompt.id) for policy in engines.family.policies for prompt in prompts]
    if missing := [pair for pair in wanted if pair not in found]:
        path = directory / CHOICES
        with open_spool(path) as spool, progress("choices", len(missing)) as line:
            endpoint = engines.endpoints()[0]

            async def work(client: Client, pair: tuple[str, str]) -> None:
                logprobs = await _score(client, pair, scored[pair[1]])
                spool.append(ChoiceScores(*pair, keys[pair[1]], logprobs))
                found[pair] = tuple(logprobs)
                line.advance()

            asyncio.run(in_flight(endpoint, missing, work))
    return found


def _kept(directory: Path, policies: set[str]) -> Iterator[tuple[Path, set[str]]]:
    """Files with scores, and the ``policies`` of which they are: of the run in ``directory``, and of other runs.

    Of another run those policies that had the same weights.
    """
    yield directory / CHOICES, policies
    if not (directory / DRAWN).is_file():  # no run: a place where candidates are tried
        return
    ours = read_drawn(directory / DRAWN).policies
    for path in sorted(directory.parent.glob(f"*/{CHOICES}")):
        if path.parent != directory and (theirs := path.with_name(DRAWN)).is_file():
            yield path, {policy for policy, _ in ours.items() & read_drawn(theirs).policies.items()}


def encode_choices(tokenizer: "PreTrainedTokenizerBase", prompt: EvaluationPrompt, template: str | None) -> Scored:
    """The tokens of ``prompt`` with each of its choices.

    Without a ``template`` as a conversation, as the policies answer; with one as plain text, a space before the answer.
    Raises JudgeError for a prompt that lacks right or wrong answers.
    """
    if not prompt.references or not prompt.incorrect:
        raise JudgeError(
            f"multiple choice on prompt '{prompt.id}': it needs right and wrong answers to choose from; add "
            '"references": [...] (the best one first) and "incorrect": [...] to every prompt.'
        )
    choices = [*prompt.references, *prompt.incorrect]
    special = template is not None
    if template is None:
        shown: Any = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, tokenize=False)
        texts = [f"{shown}{choice}" for choice in choices]
    else:
        shown = template.replace("{prompt}", prompt.text)
        texts = [f"{shown} {choice}" for choice in choices]
    context = list(tokenizer(shown, add_special_tokens=special)["input_ids"])
    tokens = [list(tokenizer(text, add_special_tokens=special)["input_ids"]) for text in texts]
    return Scored([_shared(context, each) for each in tokens], tokens)


def _shared(context: Sequence[int], whole: Sequence[int]) -> int:
    """Tokens of ``context`` with which ``whole`` begins: one that runs into the answer belongs to the answer."""
    same = 0
    for ours, theirs in zip(context, whole[:-1], strict=False):
        if ours != theirs:
            break
        same += 1
    return max(1, same)  # nothing predicts the first token


async def _score(client: Client, pair: tuple[str, str], scored: Scored) -> list[float]:
    """Log-probability of each choice. Raises EngineError."""
    body = {"model": pair[0], "prompt": scored.tokens, "echo": True, "logprobs": 1, "max_tokens": 0, "temperature": 0}
    reply = await client.post("/v1/completions", body)
    if reply.status != 200:
        raise EngineError(
            f"the engine at {client.endpoint.url} gave no log-probabilities for prompt '{pair[1]}' ({reply.status}: "
            f"{reply.message.rstrip('.')}); multiple choice needs /v1/completions with 'echo', which vLLM "
            "and the embedded engine have."
        )
    try:
        choices = sorted(reply.json()["choices"], key=lambda choice: int(choice["index"]))
        found = [choice["logprobs"]["token_logprobs"] for choice in choices]
        return [
            sum(map(float, each[begin : len(tokens)]))
            for each, begin, tokens in zip(found, scored.begin, scored.tokens, strict=True)
        ]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EngineError(
            f"{client.endpoint.url} gave no log-probabilities of prompts: {reply.text[:200]!r}; multiple choice needs "
            "/v1/completions with 'echo' and 'logprobs'."
        ) from error
