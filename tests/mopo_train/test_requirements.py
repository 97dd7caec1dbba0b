"""What a run will take, from sizes alone, against what it really takes."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from mopo_train.console import ProgressLine, size_text
from mopo_train.errors import RoomError
from mopo_train.policy import requirements
from mopo_train.policy.adapter import new_adapter, save_adapter
from mopo_train.policy.corpus import Corpus, corpus_log_probabilities
from mopo_train.policy.loop import LoopSettings, Task, optimise
from mopo_train.policy.models import empty_model
from mopo_train.policy.packing import TokenBatch, collate
from mopo_train.policy.requirements import (
    FLOAT,
    NUMBER,
    SMALL,
    STATE,
    TRAINED,
    Files,
    Need,
    activations,
    check_disk,
    check_memory,
    log_probability_files,
    sizes_of,
    token_files,
    training_need,
)
from mopo_train.policy.scoring import response_log_probabilities
from mopo_train.policy.tokens import Encoded
from mopo_train.preferences import read_preferences
from tests.comparisons import row, write_rows

RANK = 4


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    build: Any = LlamaForCausalLM
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128}
    return build(LlamaConfig(vocab_size=128, **sizes | heads | changes))


def gpt2() -> Any:
    torch.manual_seed(0)
    build: Any = GPT2LMHeadModel
    return build(GPT2Config(vocab_size=128, n_positions=64, n_embd=32, n_layer=2, n_head=2))


def rows(number: int, length: int) -> list[Encoded]:
    """Each with a prompt of its own."""
    generator = np.random.default_rng(0)
    drawn = generator.integers(3, 128, (number, 2, length // 2)).astype(np.int32)
    return [Encoded(prompt, response) for prompt, response in drawn]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")  # PEFT, of GPT-2's layers
@pytest.mark.parametrize("build", [llama, gpt2])
def test_sizes_of_a_model_without_weights_are_those_of_its_files(build: Any, tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path / "model")
    sizes = sizes_of(empty_model(str(tmp_path / "model")))
    assert sizes == sizes_of(model)
    assert sizes.weights == sum(part.numel() for part in model.parameters())
    save_adapter(new_adapter(model, rank=RANK, seed=0, start=None), "base", tmp_path / "adapter")
    written = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    header = int.from_bytes(written[:8], "little")  # the format's own: the length of a JSON header
    assert len(written) - 8 - header == FLOAT * sizes.adapter(RANK)
    assert header < SMALL


def test_a_checkpoint_takes_what_was_said(tmp_path: Path) -> None:
    model = new_adapter(llama(), rank=RANK, seed=0, start=None)
    size = sizes_of(llama()).adapter(RANK)

    def loss(network: Any, batch: dict[str, Any]) -> torch.Tensor:
        return -response_log_probabilities(network, TokenBatch(*(batch[name] for name in TokenBatch._fields))).mean()

    task = Task([0] * 2, lambda _: collate(rows(2, 16))._asdict(), loss)
    settings = LoopSettings(1e-3, log_every=1, checkpoint_seconds=0)
    optimise(model, task, settings, tmp_path, ProgressLine("", 2, 0))  # type: ignore[arg-type]
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    written = sum(file.stat().st_size for file in checkpoint.iterdir())
    assert STATE * size < written < STATE * size + SMALL
    state: Any = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    moments = [value for kept in state["state"].values() for value in kept.values() if value.numel() > 1]
    assert sum(value.numel() for value in moments) * FLOAT == (STATE - FLOAT) * size


def test_log_probabilities_take_what_was_said(tmp_path: Path) -> None:
    made = rows(6, 16)
    corpus_log_probabilities(llama(), Corpus(made, np.full(6, 16), "digest"), range(6), tmp_path, "", title="reference")
    (file,) = tmp_path.iterdir()
    header = 128  # of NumPy's format
    assert file.stat().st_size - header == 6 * NUMBER
    assert log_probability_files(tmp_path, 6).parts == {"log-probabilities": 2 * 6 * NUMBER}


@pytest.mark.parametrize(
    "changes",
    [{}, {"hidden_size": 128, "intermediate_size": 256}, {"num_hidden_layers": 6}, {"intermediate_size": 512}],
)
def test_what_a_batch_keeps_for_its_backward_pass_is_within_a_third(changes: dict[str, Any]) -> None:
    """Against the storages that autograd keeps, weights and tokens aside."""
    model: Any = new_adapter(llama(**changes), rank=RANK, seed=0, start=None)
    own = {part.untyped_storage().data_ptr() for part in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = collate(rows(8, 64))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = response_log_probabilities(model, batch)
    sizes = sizes_of(llama(**changes))
    logits = activations(sizes, 0, FLOAT)
    assert sum(kept.values()) == pytest.approx(activations(sizes, 8 * 64, FLOAT) - logits, rel=1 / 3)
    assert held.requires_grad


def test_memory_of_training_is_that_of_weights_gradients_and_moments() -> None:
    model: Any = new_adapter(llama(), rank=RANK, seed=0, start=None)
    trained = [part for part in model.parameters() if part.requires_grad]
    optimiser = torch.optim.AdamW(trained)
    for part in trained:
        part.grad = torch.zeros_like(part)
    optimiser.step()
    moments = [kept[name] for kept in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    everything = [*trained, *(part.grad for part in trained), *moments]
    need = training_need(sizes_of(llama()), rank=RANK, element=4, tokens=0)
    assert need.parts["adapter and optimiser"] == sum(part.nbytes for part in everything)
    assert need.parts["adapter and optimiser"] == TRAINED * sum(part.numel() for part in trained)
    assert need.parts["weights"] == sum(part.nbytes for part in model.parameters() if not part.requires_grad)


def test_memory_that_is_not_there_is_refused_and_a_batch_that_may_not_fit_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need = Need(2_000_000_000, 3_000_000_000, {"weights": 1_500_000_000, "adapter": 500_000_000})
    monkeypatch.setattr(requirements, "free_memory", lambda: 4_000_000_000)
    check_memory(need, "training", "take less")
    assert capsys.readouterr().err == (
        "warning: training takes 2 GB of memory (weights 1.5 GB, adapter 500 MB) and a batch about 3 GB more, "
        "4 GB are free; take less\n"
    )
    with pytest.raises(RoomError, match=r"training takes 2 GB .*, 1.33 GB are free; take less\.$"):
        check_memory(need, "training", "take less", beside=3)
    monkeypatch.setattr(requirements, "free_memory", lambda: 6_000_000_000)
    check_memory(need, "training", "take less")
    monkeypatch.setattr(requirements, "free_memory", lambda: None)
    check_memory(need, "training", "take less")
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
def test_free_memory_is_what_the_system_tells() -> None:
    psutil = pytest.importorskip("psutil")
    free = requirements.free_memory(cuda=False)
    assert free is not None and 0 < free <= psutil.virtual_memory().total


def test_files_on_one_disk_count_together(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    one, other = Files(tmp_path / "a" / "b", {"adapters": free * 2 // 3}), Files(tmp_path, {"tokens": free * 2 // 3})
    check_disk(one)
    check_disk(other)
    with pytest.raises(RoomError, match=r"no space left on device: .* \(adapters .*, tokens .*\), .* are free"):
        check_disk(one, other)


def test_tokens_take_about_the_bytes_of_the_text(tmp_path: Path) -> None:
    lines = [
        row("Why?", "Because.", "Who knows, really?", {"a": 1, "b": 0}),
        row("How?", "So.", "Thus.", {"a": 1, "b": 0}),
    ]
    lines += [row("Why?", "Because.", "No.", {"a": 1, "b": 0})]
    data = read_preferences([write_rows(tmp_path / "pairs.jsonl", lines)])
    distinct = ["Why?", "How?", "Because.", "Who knows, really?", "So.", "Thus.", "No."]
    assert data.characters() == sum(map(len, distinct))
    assert token_files(tmp_path, 12).parts == {"tokens": 12}


def test_sizes_are_told_in_words() -> None:
    assert [size_text(size) for size in (0, 999, 1234, 5_600_000, 2e9, 3.5e15)] == [
        "0 bytes", "999 bytes", "1.23 kB", "5.6 MB", "2 GB", "3,500 TB",
    ]  # fmt: skip
