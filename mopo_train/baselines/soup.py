"""Rewarded soups (Rame et al., arXiv 2306.04488): one policy per mixture of single-objective adapters, untrained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from mopo_train.policy.adapter import save_adapter, unwrap

MIXTURE = "default"
"""PEFT's name for the adapter of a directory."""


def mix_adapters(
    base: PreTrainedModel,
    experts: Mapping[str, Path],
    weights: Mapping[str, float],
    directory: Path,
    base_name: str,
) -> PreTrainedModel:
    """Write to ``directory`` the adapter whose update of each matrix is the ``weights``' mean of the experts' updates.

    Exact: the factors are put side by side (PEFT's ``cat``), so the rank is the sum of the experts' ranks. A mean of
    the factors would not do, because a product of means is not the mean of products. Returns ``base`` as it was.
    """
    used = {f"expert-{name}": name for name in experts if weights[name] > 0}
    first, *others = used
    model: Any = PeftModel.from_pretrained(base, str(experts[used[first]]), adapter_name=first)
    for loaded in others:
        model.load_adapter(str(experts[used[loaded]]), adapter_name=loaded)
    shares = [weights[name] for name in used.values()]
    model.add_weighted_adapter(list(used), shares, MIXTURE, combination_type="cat")
    model.set_adapter(MIXTURE)
    for loaded in used:
        model.delete_adapter(loaded)
    save_adapter(model, base_name, directory)
    return unwrap(model)
