"""What is different on an NVIDIA GPU: bfloat16 weights and autocast, compared with the same work on the processor."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mopo_train.family import read_family
from mopo_train.policy.corpus import corpus_log_probabilities, encode_corpus
from mopo_train.policy.models import load_model, load_tokenizer
from mopo_train.preferences import read_preferences
from mopo_train.reference import Example, ReferenceConfig, fit_reference
from mopo_train.run import RunConfig, run_family
from tests.comparisons import write_rows
from tests.mopo_train.test_run import rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use"),
]
SIZES = ReferenceConfig(hidden_size=64, layers=2, heads=2, vocab_size=300, max_length=64, positions=128)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("gpu") / "pairs.jsonl", rows())


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    read = read_preferences([data])
    prompts = read.response_prompt.tolist()
    examples = [Example(read.messages(prompt), read.response(index)) for index, prompt in enumerate(prompts)]
    out = tmp_path_factory.mktemp("model") / "reference"
    fit_reference(examples, out, SIZES._replace(steps=60, learning_rate=0.01), model=None)
    return str(out)


def test_log_probabilities_agree_with_the_processor(data: Path, model: str, tmp_path: Path) -> None:
    read = read_preferences([data])
    corpus = encode_corpus(read, load_tokenizer(model), 64)
    every = list(range(len(corpus.rows)))
    on_gpu = corpus_log_probabilities(load_model(model), corpus, every, tmp_path / "gpu", "key", title="gpu")
    network = load_model(model, frozen=False)  # float32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        on_cpu = corpus_log_probabilities(network, corpus, every, tmp_path / "cpu", "key", title="cpu")
    assert np.isfinite(on_gpu).all()
    assert on_gpu == pytest.approx(on_cpu, rel=0.03, abs=0.15)  # bfloat16 has 8 bits of precision


def test_small_steps_of_full_fine_tuning_are_not_rounded_away(data: Path, model: str, tmp_path: Path) -> None:
    rows = [Example([{"role": "user", "content": "Say it."}], "Yes, gladly.")]
    fit_reference(rows, tmp_path / "further", ReferenceConfig(steps=20, learning_rate=1e-5), model=model)
    before, after = (load_model(path, frozen=False).state_dict() for path in (model, str(tmp_path / "further")))
    moved = torch.cat([(before[name].cpu() != after[name].cpu()).flatten() for name in before])
    assert moved.float().mean() > 0.9


def test_a_family_follows_the_front(data: Path, model: str, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"steps": 40, "batch_size": 8, "learning_rate": 5e-3, "rank": 2, "max_length": 64}
    run_family([data], tmp_path / "family", RunConfig(primary="helpfulness", policies=3, **sizes), model=model)
    members = read_family(tmp_path / "family").policies[1:]
    logs = [pd.read_parquet(tmp_path / "family" / "training" / f"{member.id}.parquet") for member in members]
    assert logs[0]["estimated.helpfulness"].iloc[-1] > 0.55
    assert logs[-1]["estimated.safety"].iloc[-1] > logs[0]["estimated.safety"].iloc[-1]
