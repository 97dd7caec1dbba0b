"""Log-probabilities of responses under a causal language model, without logits where no response token is predicted.

The vocabulary is the widest layer. Where the output layer is frozen its logits exist a few positions at a time, and
their slope is kept in their place: it has the width of a hidden state.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from transformers import PreTrainedModel

from mopo_train.policy.packing import TokenBatch, collate
from mopo_train.policy.tokens import Encoded

TOGETHER = 256
"""Positions whose logits exist at once."""


class Traits(NamedTuple):
    """What a model allows."""

    plain_head: bool
    """Its logits are its output layer's, with nothing done to them."""
    worth: float
    """`packing.sharing_pays`; 0 where responses cannot share a row."""


_known: WeakKeyDictionary[nn.Module, Traits] = WeakKeyDictionary()


def response_log_probabilities(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """Log p(response | prompt) in nats, shape (R,): summed over the response's tokens, its end included."""
    each = token_log_probabilities(model, batch)
    total = torch.zeros(batch.responses, dtype=each.dtype, device=each.device)
    return total.index_add(0, batch.owner, each)


def token_log_probabilities(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """Log p(token | everything before it) of each response token, in nats, float32, shape (N,)."""
    head = _base(model).get_output_embeddings()
    fixed = not torch.is_grad_enabled() or not any(part.requires_grad for part in head.parameters())
    if fixed and isinstance(head, nn.Linear) and traits(model).plain_head:
        return _fused(model, head, batch)
    return _gathered(model, head, batch)


def traits(model: PreTrainedModel) -> Traits:
    """What ``model`` was found to allow: tried once, on a few tokens."""
    base = _base(model)
    if base not in _known:
        training = model.training
        model.eval()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            _known[base] = _try(model, base)
        model.train(training)
    return _known[base]


def _base(model: Any) -> Any:
    """The language model inside wrappers for adapters and for several processes."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _try(model: PreTrainedModel, base: Any) -> Traits:
    head, device = base.get_output_embeddings(), next(model.parameters()).device
    first, second, third = np.arange(12, dtype=np.int32).reshape(3, 4) % base.config.get_text_config().vocab_size
    rows = [Encoded(first, second), Encoded(first, third)]
    apart, shared = (to_device(collate(rows, worth), device) for worth in (0.0, 1e9))
    wanted = _gathered(model, head, apart)
    far = 1e-3 if head.weight.dtype == torch.float32 else 0.2  # nats
    plain = isinstance(head, nn.Linear) and torch.allclose(_fused(model, head, apart), wanted, atol=far)
    if not _masks_alone(base.config.get_text_config()):
        return Traits(plain, 0.0)
    try:
        packed = torch.allclose(_gathered(model, head, shared), wanted, atol=far)
    except (RuntimeError, TypeError, ValueError):  # takes no positions, or no mask of this shape
        packed = False
    return Traits(plain, _worth(base) if packed else 0.0)


def _masks_alone(config: Any) -> bool:
    """True where the mask that is given decides what a token sees: no windows beside it."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return kinds == {"full_attention"} and not window and config._attn_implementation == "sdpa"


def _worth(base: Any) -> float:
    """Positions whose attention costs as many operations as the weights that every token passes through."""
    config = base.config.get_text_config()
    weights = sum(  # without an adapter's: the answer must not depend on when it is asked for
        part.weight.numel()
        for name, part in base.named_modules()
        if isinstance(part, nn.Linear) and part is not base.get_output_embeddings() and ".lora_" not in name
    )  # 2 operations each; attention: 4 per position and unit
    return weights / float(2 * config.hidden_size * config.num_hidden_layers)


def _fused(model: Any, head: nn.Linear, batch: TokenBatch) -> Tensor:
    def answer(hidden: Tensor) -> Tensor:
        found: Tensor = _HeadLogProbability.apply(  # type: ignore[no-untyped-call]
            hidden[batch.row, batch.column], head.weight, head.bias, batch.targets
        )
        return found

    with _in_place_of(head, answer):
        return _run(model, batch)


def _gathered(model: Any, head: nn.Module, batch: TokenBatch) -> Tensor:
    def gather(_: nn.Module, given: tuple[Tensor]) -> Tensor:
        return given[0][batch.row, batch.column][None]  # (1, N, hidden)

    hook = head.register_forward_pre_hook(gather)
    try:
        logits = _run(model, batch)[0]
    finally:
        hook.remove()
    return -cross_entropy(logits.float(), batch.targets, reduction="none")


def _run(model: Any, batch: TokenBatch) -> Tensor:
    """What stands for the logits."""
    tokens = batch.tokens
    given = {} if batch.positions is None else {"position_ids": batch.positions, "attention_mask": batch.mask()}
    if batch.positions is None:  # the padding of a row may go beyond the positions that a model has
        tokens = tokens[:, : getattr(_base(model).config.get_text_config(), "max_position_embeddings", None)]
    found: Tensor = model(input_ids=tokens, use_cache=False, **given).logits
    return found


@contextmanager
def _in_place_of(head: nn.Module, answer: Any) -> Iterator[None]:
    """``head`` answers with ``answer``."""
    head.forward = answer
    try:
        yield
    finally:
        del head.forward


class _HeadLogProbability(torch.autograd.Function):
    """log softmax(hidden W' + b)[target] of N positions; W and b are frozen.

    The slope on a hidden state, W[target] - softmax W, is found beside the value, up to the factor that comes back.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        found = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for begin in range(0, len(hidden), TOGETHER):
            part, wanted = slice(begin, begin + TOGETHER), targets[begin : begin + TOGETHER, None]
            logits = linear(hidden[part], weight, bias).float()  # (n, vocabulary)
            normaliser = logits.logsumexp(dim=1, keepdim=True)
            found[part] = (logits.gather(1, wanted) - normaliser)[:, 0]
            if slope is not None:
                chance = logits.sub_(normaliser).exp_()
                chance.scatter_add_(1, wanted, torch.full_like(wanted, -1.0, dtype=chance.dtype))
                slope[part] = -(chance.to(weight.dtype) @ weight)
        ctx.slope = slope
        return found

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        """Of ``hidden`` alone."""
        return ctx.slope * slopes[0][:, None].to(ctx.slope.dtype), None, None, None


def to_device(batch: TokenBatch, device: torch.device) -> TokenBatch:
    """``batch`` there."""
    moved: list[Any] = [part.to(device) if isinstance(part, Tensor) else part for part in batch]
    return TokenBatch(*moved)
