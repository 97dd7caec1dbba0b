"""Exact interpolation of two LoRA adapters: weights (1 - share) x first + share x second, as one adapter.

The update of a layer is a product of two thin matrices, so the interpolation of two updates of rank r has rank 2r at
most and is written as such; nothing is approximated but rounding. Whether the policy between is any good only a
measurement can say: its scores are not the interpolation of scores.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from mopo_train.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NEGLIGIBLE = 1e-6
"""Singular values below this share of the largest are rounding."""
SPECIAL = ("rank_pattern", "alpha_pattern", "use_dora", "modules_to_save", "layer_replication", "lora_bias")
"""Settings of adapters that are more than one product per layer."""


class _Adapter(NamedTuple):
    config: dict[str, Any]
    layers: dict[str, tuple[Tensor, Tensor]]
    """Per layer, factors (out, r) with the scale and (r, in) of its update."""


def interpolate_adapters(first: Path, second: Path, share: float, target: Path) -> None:
    """Write the adapter at ``share`` in [0, 1] of the way from ``first`` to ``second`` to the directory ``target``.

    Raises ModelError for adapters that are not plain LoRA on the same layers.
    """
    one, other = _read(first), _read(second)
    if {k: (b.shape[0], a.shape[1]) for k, (b, a) in one.layers.items()} != {
        k: (b.shape[0], a.shape[1]) for k, (b, a) in other.layers.items()
    }:
        raise ModelError(f"'{first}' and '{second}' adapt different layers, so there is nothing between them.")
    compact = {
        name: _compact(
            torch.cat([(1 - share) * b, share * other.layers[name][0]], dim=1),
            torch.cat([a, other.layers[name][1]], dim=0),
        )
        for name, (b, a) in one.layers.items()
    }
    rank = max(1, *(b.shape[1] for b, _ in compact.values()))
    weights = {}
    for name, (b, a) in compact.items():
        weights[f"{name}.lora_B.weight"] = _padded(b, rank, dim=1)
        weights[f"{name}.lora_A.weight"] = _padded(a, rank, dim=0)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    config = one.config | {"r": rank, "lora_alpha": rank, "use_rslora": False, "inference_mode": True}
    safetensors.torch.save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    (target / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read(path: Path) -> _Adapter:
    try:
        config = json.loads((path / CONFIG).read_bytes())
        weights = safetensors.torch.load_file(path / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"cannot read the adapter '{path}': {error}; restore it from a copy.") from error
    if config.get("peft_type") != "LORA" or any(config.get(name) for name in SPECIAL):
        raise ModelError(f"the adapter '{path}' is not plain LoRA, which is all that can be interpolated.")
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    layers = {}
    for name in sorted(weights):
        layer, found, _ = name.partition(".lora_A.weight")
        if found:
            layers[layer] = (scale * weights[f"{layer}.lora_B.weight"].float(), weights[name].float())
    if len(weights) != 2 * len(layers):
        raise ModelError(f"the adapter '{path}' holds other weights beside LoRA's; it cannot be interpolated.")
    return _Adapter(config, layers)


def _compact(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of ``left`` (out, R) @ ``right`` (R, in) with as few columns as the product's rank, balanced."""
    q_left, r_left = torch.linalg.qr(left.double())
    q_right, r_right = torch.linalg.qr(right.double().T)
    u, size, v = torch.linalg.svd(r_left @ r_right.T)
    kept = int((size > NEGLIGIBLE * size[0]).sum()) if size[0] > 0 else 0
    root = size[:kept].sqrt()
    return (q_left @ u[:, :kept] * root).float(), ((q_right @ v[:kept].T) * root).T.float()


def _padded(matrix: Tensor, rank: int, *, dim: int) -> Tensor:
    shape = list(matrix.shape)
    shape[dim] = rank - shape[dim]
    return torch.cat([matrix, matrix.new_zeros(shape)], dim=dim).contiguous()
