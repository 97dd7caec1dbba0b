"""The short version of the family on three real objectives: it does not show anything, it works."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.three_objectives import main
from mopo_train.family import read_family


@pytest.mark.data
def test_a_family_on_three_real_objectives_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip(f"needs the real data sets in {data}")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "three"
    arguments = ["--data", str(data), "--out", str(out), "--quick", "--no-serve"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    family = read_family(out / "family")
    assert family.objectives == ["helpfulness", "safety", "factuality"]
    trained = [policy.id for policy in family.policies if policy.adapter]
    assert len(trained) == 6
    for source, objective in {"saferlhf": "safety", "truthfulqa": "factuality"}.items():
        train, held = ((out / source / f"{part}.jsonl").read_text(encoding="utf-8") for part in ("train", "heldout"))
        prompts = [{json.loads(line)["prompt"] for line in text.splitlines()} for text in (train, held)]
        assert not prompts[0] & prompts[1]
        found = json.loads((out / f"pairs-{source}.json").read_text())
        assert list(found) == trained
        for policy, scores in found.items():
            assert list(scores) == ["helpfulness", objective]
            for score in scores.values():
                assert 0 <= score["low"] <= score["accuracy"] <= score["high"] <= 1
                assert ("difference" in score) == (policy != trained[0])
    assert "slope" in result.stdout and os.environ["HF_DATASETS_CACHE"].startswith(str(tmp_path))
