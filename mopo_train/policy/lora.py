"""PEFT's linear layer with its adapter in one step of autograd: the same function, fewer passes and less kept."""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear


class FusedLinear(Linear):  # type: ignore[misc, unused-ignore]
    """``x W' + b + s (x A') B'`` for the active adapter; W and b are frozen, and there is no dropout."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As PEFT's."""
        base = self.get_base_layer()
        if self.disable_adapters:
            plain: Tensor = base(x)
            return plain
        (name,) = self.active_adapters
        parts = base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
        found: Tensor = _LoraLinear.apply(x, *parts)  # type: ignore[no-untyped-call]
        return found


def fuse(model: nn.Module) -> None:
    """Let every plain LoRA layer of ``model`` compute in one step."""
    for layer in model.modules():
        if type(layer) is Linear and _is_plain(layer):
            layer.__class__ = FusedLinear


def _is_plain(layer: Any) -> bool:
    names = layer.active_adapters
    return (
        len(names) == 1
        and type(layer.get_base_layer()) is nn.Linear
        and not layer.lora_variant
        and not layer.lora_bias[names[0]]
        and isinstance(layer.lora_dropout[names[0]], nn.Identity)
        and not any(part.requires_grad for part in layer.get_base_layer().parameters())
    )


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913  autograd passes every input by itself
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])  # (n, in)
        found = linear(flat, weight, bias)  # (n, out)
        inner = (flat @ down.to(flat.dtype).T).to(found.dtype)  # (n, rank)
        found.addmm_(inner, up.to(found.dtype).T, alpha=scale)
        ctx.save_for_backward(flat, weight, down, up, inner)
        ctx.scale = scale
        return found.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        """Of ``x`` where it needs one, and of the adapter."""
        flat, weight, down, up, inner = ctx.saved_tensors
        slope = slopes[0].reshape(-1, slopes[0].shape[-1])
        narrow = slope @ up.to(slope.dtype)  # (n, rank)
        of_up = (inner.T @ slope).T.to(up.dtype) * ctx.scale
        of_down = (narrow.T @ flat.to(narrow.dtype)).to(down.dtype) * ctx.scale
        if not ctx.needs_input_grad[0]:
            return None, None, None, of_down, of_up, None
        of_x = slope @ weight.to(slope.dtype)
        of_x.addmm_(narrow, down.to(of_x.dtype), alpha=ctx.scale)
        shape = *slopes[0].shape[:-1], flat.shape[-1]
        return of_x.to(flat.dtype).view(shape), None, None, of_down, of_up, None
