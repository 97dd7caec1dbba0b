"""Supervised fine-tuning from scratch, from a directory, and what it refuses."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mopo_train.errors import DataError, FamilyError, ModelError, RoomError
from mopo_train.policy.models import CHAT_TEMPLATE
from mopo_train.policy.packing import collate
from mopo_train.policy.tokens import Encoded, encode_prompts, encode_responses
from mopo_train.reference import (
    Example,
    ReferenceConfig,
    fit_reference,
    new_model,
    supervised_loss,
    train_tokenizer,
)

TINY = ReferenceConfig(steps=4, hidden_size=32, layers=1, heads=1, vocab_size=300, max_length=64, positions=128)
REPOSITORY = Path(__file__).resolve().parents[2]


def examples() -> list[Example]:
    return [
        Example([{"role": "user", "content": f"Name {colour} {thing}."}], f"A {thing} can be {colour}.")
        for colour, thing in itertools.product(["red", "blue", "green"], ["door", "sea", "leaf", "cup"])
    ]


def test_it_learns_to_answer_and_to_stop(tmp_path: Path) -> None:
    rows = [Example([{"role": "user", "content": "Say it."}], "Yes, gladly.")] * 8
    fit_reference(rows, tmp_path / "base", TINY._replace(steps=40, batch_size=4, learning_rate=0.01), model=None)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "base")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    prompt = tokenizer.apply_chat_template(
        rows[0].messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, do_sample=False, max_new_tokens=20)[0, prompt["input_ids"].shape[1] :]
    assert answer[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(answer, skip_special_tokens=True) == "Yes, gladly."


@torch.no_grad()
def test_a_token_counts_alike_in_every_batch() -> None:
    tokenizer = train_tokenizer(examples(), TINY.vocab_size)
    torch.manual_seed(0)
    model = new_model(tokenizer, TINY)
    prompt = encode_prompts(tokenizer, [[{"role": "user", "content": "Name it."}]], 64)[0]
    short, long = (Encoded(prompt, ids) for ids in encode_responses(tokenizer, ["A cup.", "A leaf can be red. " * 3]))
    apart = [float(supervised_loss(model, collate([row])._asdict(), 7.0)) for row in (short, long)]
    together = float(supervised_loss(model, collate([short, long])._asdict(), 7.0))
    assert together == pytest.approx(sum(apart), rel=1e-5)
    ids = torch.tensor([[*long.prompt, *long.response]])
    logits = model(input_ids=ids).logits[0, len(long.prompt) - 1 : -1]
    by_torch = (
        torch.nn.functional.cross_entropy(logits, torch.tensor(long.response, dtype=torch.long), reduction="sum") / 7.0
    )
    assert apart[1] == pytest.approx(float(by_torch), rel=1e-5)


def test_fresh_matrices_are_as_wide_as_the_model_is_narrow() -> None:
    torch.manual_seed(0)
    network = new_model(train_tokenizer(examples(), 300), TINY._replace(hidden_size=128, heads=4))
    for weights in network.parameters():
        if weights.ndim == 2:
            assert float(weights.detach().std()) == pytest.approx(128**-0.5, rel=0.05)
        else:
            assert bool((weights == 1).all())


def test_a_new_tokenizer_gives_back_any_text_and_marks_roles(tmp_path: Path) -> None:
    fit_reference(examples(), tmp_path / "base", TINY._replace(steps=1), model=None)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    text = "Zażółć  gęślą\n jaźń 🙂 'quoted' ."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    talk = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    assert tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) == (
        "<|bos|><|user|>\nHi.\n<|assistant|>\nHello.<|eos|>\n<|assistant|>\n"
    )
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}) == 3


def test_a_given_model_is_trained_further_and_gets_a_chat_template(tmp_path: Path) -> None:
    fit_reference(examples(), tmp_path / "first", TINY._replace(steps=1), model=None)
    (tmp_path / "first" / "chat_template.jinja").unlink()
    fit_reference(examples(), tmp_path / "second", TINY._replace(learning_rate=0.01), model=str(tmp_path / "first"))
    assert AutoTokenizer.from_pretrained(tmp_path / "second").chat_template == CHAT_TEMPLATE
    before = load_file(tmp_path / "first" / "model.safetensors")
    after = load_file(tmp_path / "second" / "model.safetensors")
    assert before.keys() == after.keys()
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        fit_reference(examples(), tmp_path / name, TINY._replace(seed=seed), model=None)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_killed_training_continues_to_the_same_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TINY._replace(steps=60, checkpoint_seconds=0)
    out = tmp_path / "killed"
    code = f"""
from pathlib import Path
from tests.mopo_train.test_reference import ReferenceConfig, examples, fit_reference
fit_reference(examples(), Path({str(out)!r}), {config!r}, model=None)
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("killed: 24/"):
                process.send_signal(signal.SIGKILL)
                break
    assert not out.exists()
    assert list(tmp_path.glob(".killed.partial/checkpoint-*"))
    fit_reference(examples(), out, config, model=None)
    assert "continued" in capsys.readouterr().err
    fit_reference(examples(), tmp_path / "whole", config._replace(checkpoint_seconds=60), model=None)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_finished_reference_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit_reference(examples(), tmp_path / "base", TINY._replace(steps=1), model=None)
    made = (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns
    fit_reference(examples(), tmp_path / "base", TINY._replace(steps=1), model=None)
    assert "already in" in capsys.readouterr().err
    assert (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns == made
    with pytest.raises(FamilyError, match="exists already"):
        fit_reference(examples(), tmp_path / "base", TINY._replace(steps=2), model=None)


def test_it_refuses_to_overwrite(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FamilyError, match="exists already"):
        fit_reference(examples(), tmp_path, TINY, model=None)


def test_it_refuses_paths_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    (tmp_path / "weightless").mkdir()
    (tmp_path / "weightless" / "config.json").write_text("{}", encoding="utf-8")
    for name, problem in [
        ("missing", "no model directory"),
        ("file", "is a file"),
        ("empty", "config.json is missing"),
        ("weightless", "no weights"),
    ]:
        with pytest.raises(ModelError, match=problem):
            fit_reference(examples(), tmp_path / "out", TINY, model=str(tmp_path / name))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_hidden_layers": 2}, "do not fit its config.json: 9 tensors are missing"),
        ({"intermediate_size": 64}, "cannot load the model|do not fit"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "BertForMaskedLM, not a model that writes"),
    ],
)
def test_it_refuses_weights_that_would_leave_the_model_random(
    changes: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    fit_reference(examples(), tmp_path / "base", TINY._replace(steps=1), model=None)
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="utf-8")
    with pytest.raises(ModelError, match=problem):
        fit_reference(examples(), tmp_path / "out", TINY, model=str(tmp_path / "base"))
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_it_refuses_what_does_not_fit_into_memory(tmp_path: Path) -> None:
    huge = TINY._replace(hidden_size=2**20, heads=2**12)
    with pytest.raises(RoomError, match="no space left on device|training the reference takes"):
        fit_reference(examples(), tmp_path / "out", huge, model=None)
    assert list(tmp_path.iterdir()) == []


def test_it_refuses_no_examples_long_prompts_and_empty_responses(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no response to learn from"):
        fit_reference([], tmp_path / "out", TINY, model=None)
    long = Example([{"role": "user", "content": "word " * 300}], "Too much.")
    with pytest.raises(DataError, match="1 of 13 prompts leave no room.*limit is 64"):
        fit_reference([*examples(), long], tmp_path / "out", TINY, model=None)
    with pytest.raises(DataError, match="1 of 13 responses have no tokens"):
        fit_reference(
            [*examples(), Example([{"role": "user", "content": "Hi"}], "")], tmp_path / "out", TINY, model=None
        )
