import re
from pathlib import Path

from mopo_train.policy.models import load_model, load_tokenizer
from mopo_train.reference import Example, train_tokenizer
from mopo_train.sandbox.base import BASE, train_base
from mopo_train.sandbox.pairs import corpus


def test_a_base_model_is_written_whole_and_can_be_loaded(tmp_path: Path) -> None:
    (tmp_path / ".base.partial").mkdir()  # as a killed run leaves it
    (tmp_path / ".base.partial" / "half").write_text("", encoding="utf-8")
    train_base(tmp_path / "base", corpus(0, 48), seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    model, tokenizer = load_model(str(tmp_path / "base")), load_tokenizer(str(tmp_path / "base"))
    assert model.config.hidden_size == BASE.hidden_size
    assert sum(weights.numel() for weights in model.parameters()) < 2_000_000
    talk = [{"role": "user", "content": "What is Orvel Mere?"}]
    assert len(tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)) < BASE.max_length


def test_every_word_of_the_world_is_one_token_and_no_text_is_cut_off() -> None:
    texts = corpus(0, 4000)
    examples = [Example([{"role": "user", "content": text.prompt}], text.response) for text in texts]
    tokenizer = train_tokenizer(examples, BASE.vocab_size)
    for text in texts[:300]:
        lengths = []
        for part in text:
            pieces = tokenizer(part, add_special_tokens=False)["input_ids"]
            assert len(pieces) == len(re.findall(r"\w+|[.,?]", part))
            lengths.append(len(pieces))
        assert sum(lengths) + 10 < BASE.max_length  # role marks and ends
