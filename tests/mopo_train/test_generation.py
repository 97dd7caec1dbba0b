"""Generation against transformers' own ``generate`` and arithmetic on the model's logits."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from mopo_train.errors import ModelError
from mopo_train.generation import Generator, Piece, Row, Sampling, draw_tokens
from tests.tiny_family import CONTEXT, POLICIES, greedy_answer

PROMPTS = ["Hello there", "Why?", "A much longer question, so that the batch has to be padded."]


@pytest.fixture(scope="module")
def generator(tiny_family: Path) -> Generator:
    adapters = {policy: tiny_family / "policies" / policy for policy in POLICIES[1:]}
    return Generator(str(tiny_family / "base"), adapters)


def run(generator: Generator, rows: Sequence[Row]) -> list[list[Piece]]:
    found: dict[int, list[Piece]] = {id(row): [] for row in rows}
    generator.generate(rows, lambda row, piece: found[id(row)].append(piece))
    return [found[id(row)] for row in rows]


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def own(policy: str) -> str | None:
    return None if policy == "reference" else policy


@pytest.mark.parametrize("policy", POLICIES)
def test_greedy_answers_of_a_padded_batch_equal_those_of_transformers(
    policy: str, generator: Generator, tiny_family: Path
) -> None:
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    rows = [Row(own(policy), generator.chat_prompt(chat), Sampling(30, temperature=0)) for chat in chats]
    expected = [greedy_answer(tiny_family, policy, chat, 30) for chat in chats]
    assert [text(pieces) for pieces in run(generator, rows)] == expected


def test_rows_of_different_policies_in_one_batch_answer_as_they_do_alone(generator: Generator) -> None:
    prompt = generator.text_prompt("Hello")
    lengths = [25, 10, 18]  # rows leave at different times, so the mixture of policies changes on the way
    alone = [
        text(run(generator, [Row(own(policy), prompt, Sampling(length, 0))])[0])
        for policy, length in zip(POLICIES, lengths, strict=True)
    ]
    rows = [Row(own(policy), prompt, Sampling(length, 0)) for policy, length in zip(POLICIES, lengths, strict=True)]
    assert [text(pieces) for pieces in run(generator, rows)] == alone
    assert len({answer[:10] for answer in alone}) == 3


def test_an_answer_of_full_length_says_so_and_one_that_ends_by_itself_stops(tiny_family: Path) -> None:
    generator = Generator(str(tiny_family / "base"), {})
    prompt = generator.text_prompt("Hello")
    (full,) = run(generator, [Row(None, prompt, Sampling(12, temperature=0))])
    assert [piece.finish for piece in full] == [None] * 11 + ["length"]
    generator.end_tokens = frozenset(generator.text_prompt(full[5].text))
    first = next(at for at, piece in enumerate(full) if piece.text == full[5].text)
    row = Row(None, prompt, Sampling(12, temperature=0))
    (ended,) = run(generator, [row])
    assert text(ended) == text(full[:first])  # the end token counts but has no text
    assert ended[-1].finish == "stop"
    assert row.tokens == first + 1


def test_a_stop_string_ends_one_row_and_not_the_others(generator: Generator) -> None:
    prompt = generator.text_prompt("Hello")
    (whole,) = run(generator, [Row(None, prompt, Sampling(20, 0))])
    stop = text(whole)[7:10]
    rows = [Row(None, prompt, Sampling(20, 0, stop=(stop,))), Row(None, prompt, Sampling(20, 0))]
    stopped, other = run(generator, rows)
    assert text(stopped) == text(whole).partition(stop)[0]
    assert stopped[-1].finish == "stop"
    assert text(other) == text(whole)


def test_a_cancelled_row_leaves_the_batch_and_the_others_finish(generator: Generator) -> None:
    prompt = generator.text_prompt("Hello")
    leaving, staying = (Row(None, prompt, Sampling(40, 0)) for _ in range(2))

    def cancel_after_five(row: Row, piece: Piece) -> None:
        leaving.cancelled = leaving.tokens >= 5

    generator.generate([leaving, staying], cancel_after_five)
    assert (leaving.tokens, staying.tokens) == (5, 40)


def test_equal_seeds_give_equal_answers_whatever_stands_beside_them(generator: Generator) -> None:
    prompt, other = generator.text_prompt("Hello"), generator.text_prompt("Something else entirely")
    alone = run(generator, [Row(None, prompt, Sampling(20, seed=7))])
    beside = run(generator, [Row(None, other, Sampling(30, seed=1)), Row(None, prompt, Sampling(20, seed=7))])
    different = run(generator, [Row(None, prompt, Sampling(20, seed=8))])
    assert text(alone[0]) == text(beside[1])
    assert text(alone[0]) != text(different[0])


def test_tokens_are_drawn_with_the_probabilities_of_softmax_at_the_temperature() -> None:
    logits = torch.tensor([[0.0, math.log(2.0), math.log(4.0)]])
    rows = [Row(None, [0], Sampling(1, temperature=0.5, seed=3))]
    counts = Counter(int(draw_tokens(logits, rows)[0]) for _ in range(4000))
    for token, probability in enumerate([1 / 21, 4 / 21, 16 / 21]):  # squares of 1, 2, 4
        assert counts[token] / 4000 == pytest.approx(probability, abs=5 * math.sqrt(0.25 / 4000))


def test_top_p_draws_only_from_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    rows = [Row(None, [0], Sampling(1, top_p=0.65, seed=5))]
    counts = Counter(int(draw_tokens(logits, rows)[0]) for _ in range(2000))
    assert set(counts) == {1, 3}  # 0.4 + 0.3 reaches 0.65
    assert counts[1] / 2000 == pytest.approx(4 / 7, abs=5 * math.sqrt(0.25 / 2000))


def test_logprobs_are_the_log_softmax_of_the_model(generator: Generator, tiny_family: Path) -> None:
    prompt = generator.text_prompt("Hello")
    (pieces,) = run(generator, [Row(None, prompt, Sampling(5, temperature=0.7, seed=1, top_logprobs=3))])
    found = [piece.logprob for piece in pieces if piece.logprob]
    model = AutoModelForCausalLM.from_pretrained(tiny_family / "base")
    ids = torch.tensor([prompt + [entry.token for entry in found]])
    table = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1).detach()  # (5, V)
    for at, entry in enumerate(found):
        assert entry.logprob == pytest.approx(float(table[at, entry.token]), abs=1e-4)
        assert [token for token, _ in entry.alternatives] == table[at].topk(3).indices.tolist()


def test_the_context_is_the_models_unless_a_shorter_one_is_asked(tiny_family: Path, generator: Generator) -> None:
    assert generator.max_length == CONTEXT
    assert Generator(str(tiny_family / "base"), {}, max_length=100).max_length == 100
    assert Generator(str(tiny_family / "base"), {}, max_length=10_000).max_length == CONTEXT


def test_policy_ids_may_hold_dots(tiny_family: Path) -> None:
    generator = Generator(str(tiny_family / "base"), {"v1.2": tiny_family / "policies/policy-00"})
    assert len(run(generator, [Row("v1.2", generator.text_prompt("Hi"), Sampling(3))])[0]) == 3


def test_a_directory_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load the base model"):
        Generator(str(tmp_path), {})


def test_an_adapter_that_does_not_fit_is_refused(tiny_family: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match="does not fit the base model"):
        Generator(str(tiny_family / "base"), {"policy-00": tmp_path})
