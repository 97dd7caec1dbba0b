"""An interpolated adapter against the interpolation of merged weights, by PEFT itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from mopo_train.errors import ModelError
from mopo_train.policy.interpolation import interpolate_adapters

FIRST, SECOND = "policy-00", "policy-02"


def merged(root: Path, adapter: Path) -> dict[str, torch.Tensor]:
    base: Any = LlamaForCausalLM.from_pretrained(root / "base")
    model: Any = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    return dict(model.state_dict())


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_weights_lie_between(share: float, tiny_family: Path, tmp_path: Path) -> None:
    start, end = (tiny_family / "policies" / name for name in (FIRST, SECOND))
    interpolate_adapters(start, end, share, tmp_path / "between")
    first, second, found = (merged(tiny_family, path) for path in (start, end, tmp_path / "between"))
    for name, weight in found.items():
        expected = (1 - share) * first[name] + share * second[name]
        assert (weight - expected).abs().max() < 1e-5, name
    config = json.loads((tmp_path / "between" / "adapter_config.json").read_bytes())
    assert config["r"] == config["lora_alpha"] == 8  # 4 + 4: the updates have nothing in common


def test_between_two_equal_adapters_lies_the_same_at_the_same_rank(tiny_family: Path, tmp_path: Path) -> None:
    end = tiny_family / "policies" / FIRST
    interpolate_adapters(end, end, 0.3, tmp_path / "between")
    assert json.loads((tmp_path / "between" / "adapter_config.json").read_bytes())["r"] == 4
    found, expected = merged(tiny_family, tmp_path / "between"), merged(tiny_family, end)
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-5


def test_other_kinds_of_adapters_are_refused(tiny_family: Path, tmp_path: Path) -> None:
    first, other = tiny_family / "policies" / FIRST, tmp_path / "other"
    shutil.copytree(tiny_family / "policies" / SECOND, other)
    config = json.loads((other / "adapter_config.json").read_bytes())
    (other / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}), encoding="utf-8")
    with pytest.raises(ModelError, match="other' is not plain LoRA"):
        interpolate_adapters(first, other, 0.5, tmp_path / "between")
    (other / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = safetensors.torch.load_file(other / "adapter_model.safetensors")
    fewer = {name: weight for name, weight in weights.items() if "layers.0.mlp" not in name}
    safetensors.torch.save_file(fewer, other / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="adapt different layers"):
        interpolate_adapters(first, other, 0.5, tmp_path / "between")
    (other / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="cannot read the adapter.*other"):
        interpolate_adapters(first, other, 0.5, tmp_path / "between")
    assert not (tmp_path / "between").exists()
