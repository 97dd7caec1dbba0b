"""Shared rows, the fused output layer and the fused adapter, each against the plain computation: loss and gradient."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, MistralConfig, Qwen3Config

from mopo_train.policy.adapter import new_adapter
from mopo_train.policy.packing import WIDTHS, collate, sharing_pays
from mopo_train.policy.scoring import response_log_probabilities, traits
from mopo_train.policy.token_store import FILES, TokenRows, Tokens, is_stored, stored_tokens
from mopo_train.policy.tokens import Encoded, Ids
from mopo_train.winrates import IntArray

ALWAYS = 1e9
SMALL: dict[str, Any] = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 48, "max_position_embeddings": 40, "num_key_value_heads": 1, "head_dim": 16}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL),
    "gpt2": GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2, n_positions=40),
    "gemma2": Gemma2Config(**SMALL, final_logit_softcapping=1.0),
    "mistral": MistralConfig(**SMALL, sliding_window=6),
}


def causal(name: str) -> Any:
    torch.manual_seed(0)
    build: Any = AutoModelForCausalLM.from_config
    model = build(CONFIGS[name])
    for weight in model.parameters():  # far from even chances
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def encoded(prompt: list[int], response: list[int]) -> Encoded:
    return Encoded(np.array(prompt, dtype=np.int32), np.array(response, dtype=np.int32))


ROWS = [
    encoded([1, 2, 3], [4, 5]),
    encoded([1, 2, 3], [6]),
    encoded([1, 2, 3], [7, 8, 9, 10, 11, 12, 13]),
    encoded([14], [15, 16]),
    encoded([17, 18], [19]),
    encoded([17, 18], [20, 21, 22]),
]


def written_out(model: Any, row: Encoded) -> Tensor:
    """log p(response | prompt), by the definition."""
    tokens = torch.tensor([*row.prompt.tolist(), *row.response.tolist()])
    steps = torch.log_softmax(model(input_ids=tokens[None]).logits[0], dim=-1)
    return torch.stack([steps[at - 1, tokens[at]] for at in range(len(row.prompt), len(tokens))]).sum()


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradient_are_those_of_every_response_alone(name: str) -> None:
    """PEFT's own forward on separate sequences against everything of ours together; an uneven loss of the responses."""
    base = causal(name)
    options: dict[str, Any] = {"target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    adapter = LoraConfig(r=3, fan_in_fan_out=name == "gpt2", **options)
    model: Any = get_peft_model(base, adapter).eval()
    weigh = torch.arange(1.0, 7.0)
    wanted = torch.stack([written_out(model, row) for row in ROWS])
    total: Any = (weigh * wanted).sum() + wanted[0] * wanted[5]
    total.backward()
    slopes = {key: weight.grad.clone() for key, weight in model.named_parameters() if weight.grad is not None}
    assert slopes
    model.zero_grad()
    for worth in (0.0, traits(model).worth * 1e9):
        found = response_log_probabilities(model, collate(ROWS, worth))
        total = (weigh * found).sum() + found[0] * found[5]
        total.backward()
        assert torch.allclose(found, wanted, atol=1e-4)
        for key, weight in model.named_parameters():
            if key in slopes:
                assert torch.allclose(weight.grad, slopes[key], rtol=1e-4, atol=1e-4), key
        model.zero_grad()


def test_what_models_allow_is_found_out() -> None:
    found = {name: traits(causal(name)) for name in CONFIGS}
    assert {name: can.plain_head for name, can in found.items()} == {
        "llama": True, "qwen3": True, "gpt2": True, "gemma2": False, "mistral": True,
    }  # fmt: skip
    assert {name: can.worth > 0 for name, can in found.items()} == {
        "llama": True, "qwen3": True, "gpt2": False, "gemma2": False, "mistral": False,
    }  # fmt: skip
    # 2 layers of q, o: 32 x 32, k, v: 32 x 16 and three of 32 x 48, over 2 x 32 x 2
    assert found["llama"].worth == pytest.approx(2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) / (2 * 32 * 2))


def test_the_fused_adapter_is_pefts(tmp_path: Path) -> None:
    model = new_adapter(causal("llama"), rank=3, seed=1, start=None)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.2)
    model.save_pretrained(str(tmp_path))
    from peft import PeftModel

    plain = PeftModel.from_pretrained(causal("llama"), str(tmp_path), is_trainable=True)
    tokens = torch.arange(12).reshape(2, 6)
    ours, theirs = (one(input_ids=tokens).logits for one in (model, plain))
    assert torch.allclose(ours, theirs, atol=1e-4)
    for logits in (ours, theirs):
        (logits**2).mean().backward()
    wanted = dict(plain.named_parameters())
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert torch.allclose(_slope(weight), _slope(wanted[name]), rtol=1e-3, atol=1e-5), name
    with model.disable_adapter(), torch.no_grad():
        assert torch.allclose(model(input_ids=tokens).logits, causal("llama")(input_ids=tokens).logits, atol=1e-5)


def _slope(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def test_a_shared_row_holds_a_prompt_once_and_hides_responses_from_each_other() -> None:
    batch = collate(ROWS[:2], ALWAYS)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5, 6] + [0] * (WIDTHS - 6)]
    assert batch.positions is not None
    assert batch.positions[0, :6].tolist() == [0, 1, 2, 3, 4, 3]
    assert (batch.row.tolist(), batch.column.tolist()) == ([0, 0, 0], [2, 3, 2])
    assert (batch.targets.tolist(), batch.owner.tolist()) == ([4, 5, 6], [0, 0, 1])
    mask = batch.mask()
    assert mask is not None
    assert mask[0, 0, :6, :6].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]


def of(prompt: int, *responses: int) -> list[Encoded]:
    return [encoded([1] * prompt, [2] * size) for size in responses]


def test_sharing_pays_for_long_prompts_and_not_for_long_responses() -> None:
    """For two responses of 500 tokens: 1010 tokens that see 1010 each, against 1020 that see half of 510."""
    assert sharing_pays([of(100, 50, 50)], worth=1000)
    assert not sharing_pays([of(10, 500, 500)], worth=1000)
    assert 1000 * 1020 + 510**2 < 1000 * 1010 + 1010**2
    assert not sharing_pays([of(100, 50)], worth=100)
    assert not sharing_pays([of(100, 50, 50)], worth=0)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.lists(st.integers(1, 4), min_size=1, max_size=3)), min_size=1, max_size=5)
)
def test_every_response_token_is_predicted_once_from_the_token_before_it(shape: list[tuple[int, list[int]]]) -> None:
    rows, token = list[Encoded](), 1
    for length, sizes in shape:
        prompt = np.arange(token, token + length, dtype=np.int32)
        token += length
        for size in sizes:
            rows.append(Encoded(prompt, np.arange(token, token + size, dtype=np.int32)))
            token += size
    for worth in (0.0, ALWAYS):
        batch = collate(rows, worth)
        before = batch.tokens[batch.row, batch.column].tolist()
        assert batch.targets.tolist() == [token for row in rows for token in row.response.tolist()]
        assert before == [token for row in rows for token in [row.prompt[-1], *row.response[:-1]]]
        assert batch.owner.tolist() == [index for index, row in enumerate(rows) for _ in row.response]


def test_stored_tokens_are_read_back_and_written_once(tmp_path: Path) -> None:
    prompts = [np.array([1, 2], dtype=np.int32), np.array([3], dtype=np.int32)]
    responses = [np.array(row, dtype=np.int32) for row in ([4], [5, 6], [7, 8, 9])]
    asked: list[list[int]] = []

    def make() -> Tokens:
        def answers(lengths: IntArray) -> list[Ids]:
            asked.append(lengths.tolist())
            return responses

        return Tokens(prompts, answers)

    digest = stored_tokens(tmp_path / "entry", make)
    assert stored_tokens(tmp_path / "entry", make) == digest
    assert asked == [[2, 1]]
    rows = TokenRows(tmp_path / "entry", np.array([0, 0, 1]))
    assert [(row.prompt.tolist(), row.response.tolist()) for row in rows] == [
        ([1, 2], [4]),
        ([1, 2], [5, 6]),
        ([3], [7, 8, 9]),
    ]
    assert rows.lengths().tolist() == [3, 4, 4]
    assert [row.response.tolist() for row in rows[1:]] == [[5, 6], [7, 8, 9]]
    responses[2] = np.array([7, 8, 10], dtype=np.int32)
    assert stored_tokens(tmp_path / "other", make) != digest
    (tmp_path / "entry" / "digest").unlink()  # by something that tidies up
    assert stored_tokens(tmp_path / "entry", make) != digest
    for name in FILES:  # by a machine that lost its power
        path = tmp_path / "entry" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        assert not is_stored(tmp_path / "entry")
        stored_tokens(tmp_path / "entry", make)
        assert path.read_bytes() == whole
    assert {path.name for path in tmp_path.iterdir()} == {"entry", "other"}


def test_tokens_that_another_process_stored_meanwhile_stay_under_its_feet(tmp_path: Path) -> None:
    entry, first = tmp_path / "entry", list[int]()
    ids = [np.array([1, 2], dtype=np.int32)]

    def quick() -> Tokens:
        return Tokens(ids, lambda _: ids)

    def slow() -> Tokens:
        stored_tokens(entry, quick)  # the other one is done before this one
        first.append((entry / "digest").stat().st_ino)
        return quick()

    stored_tokens(entry, slow)
    assert (entry / "digest").stat().st_ino == first[0]
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]
