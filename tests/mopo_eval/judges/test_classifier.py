from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from mopo_eval.judges.case import Case
from mopo_eval.judges.classifier import ClassifierJudge
from mopo_train.errors import JudgeError
from mopo_train.judgement import Judgement

CASES = [Case("Q", "a rather long answer to it", "p1"), Case("Q", "short", "p2"), Case("Q", "", "p3")]


def written(tiny_family: Path, root: Path, labels: list[str]) -> Path:
    """A classifier with random weights that reads with the tiny family's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_family / "base")
    tokenizer.save_pretrained(root)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        id2label=dict(enumerate(labels)),
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForSequenceClassification(config).save_pretrained(root)  # type: ignore[no-untyped-call]
    return root


def judged(judge: ClassifierJudge) -> list[Judgement]:
    found: dict[int, Judgement] = {}
    judge.judge(CASES, found.__setitem__)
    return [found[index] for index in range(len(CASES))]


def test_scores_are_the_probabilities_of_the_label_whatever_the_batch(tiny_family: Path, tmp_path: Path) -> None:
    root = str(written(tiny_family, tmp_path, ["bad", "good", "odd"]))
    good = [one.score for one in judged(ClassifierJudge("c", root, "good", batch_size=3))]
    alone = [one.score for one in judged(ClassifierJudge("c", root, "good", batch_size=1))]
    rest = [[one.score for one in judged(ClassifierJudge("c", root, name))] for name in ("bad", "odd")]
    assert good == pytest.approx(alone, abs=1e-5)
    assert [sum(each) for each in zip(good, *rest, strict=True)] == pytest.approx([1, 1, 1], abs=1e-5)
    assert len({round(score, 6) for score in good}) == 3


def test_a_reward_model_scores_by_the_logistic_function_of_its_reward(tiny_family: Path, tmp_path: Path) -> None:
    root = written(tiny_family, tmp_path, ["reward"])
    model = AutoModelForSequenceClassification.from_pretrained(root)
    with torch.no_grad():
        model.score.weight.mul_(40)
    model.save_pretrained(root)
    for one in judged(ClassifierJudge("c", str(root))):
        assert one.label is not None
        reward = float(one.label.removeprefix("reward "))
        assert one.score == pytest.approx(1 / (1 + 2.718281828**-reward), abs=0.005)


def test_a_label_or_model_that_is_not_there_is_named(tiny_family: Path, tmp_path: Path) -> None:
    root = str(written(tiny_family, tmp_path, ["bad", "good"]))
    with pytest.raises(JudgeError, match="no label 'best'; it has: bad, good"):
        judged(ClassifierJudge("c", root, "best"))
    with pytest.raises(JudgeError, match="say which label"):
        judged(ClassifierJudge("c", root))
    with pytest.raises(JudgeError, match="cannot load the classifier"):
        judged(ClassifierJudge("c", str(tmp_path / "none")))
