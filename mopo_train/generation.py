"""Answers from a base model and its LoRA adapters, token by token, in batches that mix policies.

The torch side of the embedded engine (``mopo_eval.engine.embedded``). Holds every adapter of a family in one
copy of the base model. Not covered: answers that join a running batch, paged caches, several devices; vLLM does
those.
"""

import contextlib
import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from mopo_train.errors import ModelError
from mopo_train.hub import settle_offline
from mopo_train.text_stream import TextStream

SCORED_CELLS = 50_000_000
"""Logits held at once while prompts are scored: 200 MB."""


class Sampling(NamedTuple):
    """How the tokens of one answer are drawn."""

    max_tokens: int
    """0: nothing is generated, for prompts that are only scored."""
    temperature: float = 1.0
    """0: the most probable token each time."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens with at least this probability, in (0, 1]."""
    seed: int | None = None
    """Equal seeds give equal answers; None draws afresh."""
    stop: tuple[str, ...] = ()
    """Texts before which the answer ends."""
    top_logprobs: int | None = None
    """How many alternatives to report per token; None: no log-probabilities at all."""
    echo: bool = False
    """Report the prompt's log-probabilities too, where ``top_logprobs`` asks for any."""


class TokenLogprob(NamedTuple):
    """One token with its log-probability in nats, before temperature and top-p."""

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...]
    """The most probable tokens at this place, best first."""


class Piece(NamedTuple):
    """What one token adds to an answer."""

    text: str
    finish: str | None
    """``stop`` or ``length`` with the last piece."""
    logprob: TokenLogprob | None


class Row:
    """One answer in the making."""

    def __init__(self, policy: str | None, prompt: list[int], sampling: Sampling) -> None:
        """``policy`` None: the base model. ``prompt`` in tokens."""
        self.policy, self.prompt, self.sampling = policy, prompt, sampling
        self.tokens = 0
        """Generated so far, the end-of-text token included."""
        self.cancelled = False
        """Set from any thread: nobody wants the rest."""
        self.random = random.Random(sampling.seed)
        self.stream: TextStream | None = None
        self.prompt_logprobs: list[TokenLogprob] = []
        """Of the prompt's tokens from the second on, where the sampling asks for them; there before any piece."""


class Generator:
    """A base model with a family's adapters. Use from one thread at a time."""

    def __init__(self, base: str, adapters: Mapping[str, Path], max_length: int | None = None) -> None:
        """Load ``base`` (directory or hub name) and ``adapters`` by policy id. Raises ModelError.

        ``max_length`` in tokens limits prompt and answer together; by default the model's own limit.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype: Any = "auto" if self.device.type == "cuda" else torch.float32
        if not Path(base).is_dir():
            settle_offline()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(base)
            model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"cannot load the base model '{base}': {error}") from error
        self.end_tokens = _end_tokens(model, self.tokenizer)
        limit = getattr(model.config, "max_position_embeddings", None) or 2048
        self.max_length = min(limit, max_length or limit)
        self._short_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._names = {policy: f"adapter{index}" for index, policy in enumerate(adapters)}  # ids may hold dots
        self.model: Any = _with_adapters(model, {self._names[policy]: path for policy, path in adapters.items()})
        self.model.to(self.device).eval()

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Tokens of the conversation in the tokenizer's chat template, ready for the answer. Raises ValueError."""
        if not self.tokenizer.chat_template:
            raise ValueError("the base model's tokenizer has no chat template; use /v1/completions")
        text = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, tokenize=False
        )
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text_prompt(self, text: str) -> list[int]:
        """Tokens of plain ``text``."""
        return list(self.tokenizer(text)["input_ids"])

    def decode(self, tokens: list[int]) -> str:
        """The text of ``tokens`` without special tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @torch.inference_mode()
    def generate(self, rows: Sequence[Row], emit: Callable[[Row, Piece], None]) -> None:
        """Complete every row with its own policy, all at once; ``emit`` gets each piece.

        Rows that are finished or cancelled leave the batch at once.
        """
        from transformers import DynamicCache

        self._score_prompts([row for row in rows if row.sampling.echo and row.sampling.top_logprobs is not None])
        live = []
        for row in rows:
            row.stream = TextStream(self.decode, row.sampling.stop)
            if row.sampling.max_tokens == 0:
                emit(row, Piece("", "length", None))
            elif not row.cancelled:
                live.append(row)
        if not live:
            return
        ids, mask = self._left_padded([row.prompt for row in live])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        short = {"logits_to_keep": 1} if self._short_logits else {}
        while live:
            logits = self._logits(
                live, input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, **short
            )
            tokens = draw_tokens(logits, live)
            for row, token, logprob in zip(live, tokens.tolist(), _logprobs(logits, tokens, live), strict=True):
                emit(row, self._extend(row, token, logprob))
            keep = [at for at, row in enumerate(live) if row.stream is not None and not row.cancelled]
            if len(keep) < len(live):
                live = [live[at] for at in keep]
                chosen = torch.tensor(keep, dtype=torch.long, device=self.device)
                tokens, mask, positions = tokens[chosen], mask[chosen], positions[chosen]
                cache.batch_select_indices(chosen)
            ids, positions = tokens[:, None], positions[:, -1:] + 1  # (B, 1)
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)

    def _score_prompts(self, rows: Sequence[Row]) -> None:
        """Give every row its ``prompt_logprobs``; as many at once as ``SCORED_CELLS`` allows, similar lengths first."""
        waiting = sorted((row for row in rows if not row.cancelled), key=lambda row: len(row.prompt))
        while waiting:
            together = max(1, SCORED_CELLS // (len(waiting[-1].prompt) * self.model.config.vocab_size))
            chosen, waiting = waiting[-together:], waiting[:-together]
            ids, mask = self._left_padded([row.prompt for row in chosen])
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            logits = self._all_logits(chosen, input_ids=ids, attention_mask=mask, position_ids=positions)
            for row, own in zip(chosen, logits, strict=True):  # (T, V): what stands at t predicts t + 1
                length = len(row.prompt)
                following = torch.tensor(row.prompt[1:], device=self.device)
                found = _logprobs(own[-length:-1], following, [row] * (length - 1))
                row.prompt_logprobs = [each for each in found if each is not None]

    def _logits(self, rows: Sequence[Row], **inputs: Any) -> Tensor:
        """Logits of each row's next token under the row's policy, (B, V)."""
        logits: Tensor = self._all_logits(rows, **inputs)[:, -1]
        return logits

    def _all_logits(self, rows: Sequence[Row], **inputs: Any) -> Tensor:
        """Logits under each row's policy at every place that the model is asked for, (B, T, V)."""
        policies = {row.policy for row in rows}
        with contextlib.ExitStack() as stack:
            if len(policies) > 1:
                inputs["adapter_names"] = [self._names[row.policy] if row.policy else "__base__" for row in rows]
            elif (policy := policies.pop()) is not None:  # one adapter for all is faster than a list of names
                self.model.set_adapter(self._names[policy])
            elif self._names:
                stack.enter_context(self.model.disable_adapter())
            logits: Tensor = self.model(**inputs).logits
        return logits

    def _extend(self, row: Row, token: int, logprob: TokenLogprob | None) -> Piece:
        stream = row.stream
        assert stream is not None
        row.tokens += 1
        ended = token in self.end_tokens
        text = "" if ended else stream.push(token)
        finish = "stop" if ended or stream.stopped else None
        if finish is None and row.tokens >= row.sampling.max_tokens:
            finish = "length"
        if finish:
            if not stream.stopped:
                text += stream.finish()
                finish = "stop" if stream.stopped else finish
            row.stream = None
        return Piece(text, finish, logprob)

    def _left_padded(self, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, both (B, longest prompt)."""
        longest = max((len(prompt) for prompt in prompts), default=0)
        pad = self.tokenizer.pad_token_id or 0  # never attended to
        ids = [[pad] * (longest - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)


def draw_tokens(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """One token per row from ``logits`` (B, V) by the row's own temperature, top-p and randomness; shape (B,).

    A row's draw depends on its seed and its own probabilities only, not on the rows beside it.
    """
    greedy = logits.argmax(-1)
    if all(row.sampling.temperature == 0 for row in rows):
        return greedy
    temperature = logits.new_tensor([row.sampling.temperature for row in rows], dtype=torch.float64)
    top_p = logits.new_tensor([[row.sampling.top_p] for row in rows], dtype=torch.float64)
    uniform = logits.new_tensor([[row.random.random()] for row in rows], dtype=torch.float64)
    probabilities = (logits.double() / temperature.clamp(min=1e-6)[:, None]).softmax(-1)
    order: Tensor | None = None
    if bool((top_p < 1).any()):  # sorting a large vocabulary costs more than everything else here
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        ahead = probabilities.cumsum(-1) - probabilities
        probabilities[(ahead >= top_p) & (top_p < 1)] = 0
    reached = probabilities.cumsum(-1)
    place = torch.searchsorted(reached, uniform * reached[:, -1:], right=True).clamp(max=logits.shape[-1] - 1)
    drawn = place if order is None else order.gather(-1, place)
    return torch.where(temperature > 0, drawn[:, 0], greedy)


def _logprobs(logits: Tensor, tokens: Tensor, rows: Sequence[Row]) -> list[TokenLogprob | None]:
    wanted = [row.sampling.top_logprobs for row in rows]
    if all(count is None for count in wanted):
        return [None] * len(rows)
    table = logits.float().log_softmax(-1)
    chosen = table.gather(-1, tokens[:, None])[:, 0].tolist()
    best = table.topk(min(max(count or 0 for count in wanted), table.shape[-1]), dim=-1)
    found: list[TokenLogprob | None] = []
    for at, count in enumerate(wanted):
        pairs = zip(best.indices[at, :count].tolist(), best.values[at, :count].tolist(), strict=True)
        found.append(None if count is None else TokenLogprob(int(tokens[at]), chosen[at], tuple(pairs)))
    return found


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the generation configuration's, and the tokenizer's."""
    stated = model.generation_config.eos_token_id
    listed = stated if isinstance(stated, list) else [stated]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if token is not None)


def _with_adapters(model: Any, adapters: Mapping[str, Path]) -> Any:
    """``model`` with every adapter loaded under its name. Raises ModelError."""
    from peft import LoraConfig, PeftModel

    for index, (name, path) in enumerate(adapters.items()):
        try:
            if index == 0:
                model = PeftModel.from_pretrained(model, str(path), adapter_name=name)
            else:
                model.load_adapter(str(path), adapter_name=name)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            raise ModelError(f"the adapter '{path}' does not fit the base model: {error}") from error
        config = model.peft_config[name]
        if not isinstance(config, LoraConfig) or config.use_dora:
            raise ModelError(f"the adapter '{path}' is not plain LoRA, which is all that the embedded engine serves")
    return model
