"""Tokenizers that lack what training needs: given it, or refused."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mopo_train.errors import DataError, ModelError
from mopo_train.policy.models import CHAT_TEMPLATE, load_tokenizer
from mopo_train.policy.tokens import encode_prompts, encode_responses


def write_tokenizer(directory: Path, **tokens: str) -> str:
    """Words of a small vocabulary, and no more than it is given; a directory that passes for a model."""
    words: Any = Tokenizer(models.WordLevel({"<end>": 0, "<pad>": 1, "yes": 2, "no": 3}, unk_token=None))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    build: Any = PreTrainedTokenizerFast
    build(tokenizer_object=words, **tokens).save_pretrained(directory)
    (directory / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (directory / "model.safetensors").touch()
    return str(directory)


def test_a_missing_template_and_padding_are_supplied(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, eos_token="<end>"))
    assert (tokenizer.chat_template, tokenizer.pad_token) == (CHAT_TEMPLATE, "<end>")
    given = load_tokenizer(write_tokenizer(tmp_path, eos_token="<end>", pad_token="<pad>", chat_template="{{ 'yes' }}"))
    assert (given.chat_template, given.pad_token) == ("{{ 'yes' }}", "<pad>")


def test_a_template_that_could_not_be_kept_and_a_missing_end_are_refused(tmp_path: Path) -> None:
    model = write_tokenizer(tmp_path, eos_token="<end>")
    with pytest.raises(ModelError, match="has no chat template.*mopo-train reference DATA --model"):
        load_tokenizer(model, add_template=False)
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        load_tokenizer(write_tokenizer(tmp_path / "endless", pad_token="<pad>"))


def test_a_template_that_refuses_and_responses_without_tokens_are_told(tmp_path: Path) -> None:
    template = "{{ raise_exception('only assistants') }}"
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, eos_token="<end>", chat_template=template))
    with pytest.raises(ModelError, match="chat template refuses a prompt of this data: only assistants"):
        encode_prompts(tokenizer, [[{"role": "user", "content": "yes"}]], 8)
    assert [row.tolist() for row in encode_responses(tokenizer, ["yes no"])] == [[2, 3, 0]]
    with pytest.raises(DataError, match=r"1 of 2 responses have no tokens \(the first: '\\u3000'\)"):
        encode_responses(tokenizer, ["yes", "\u3000"])  # a blank, which this tokenizer drops
