"""The base model of the sandbox: a tiny Llama, trained from scratch on texts of the world's writer."""

from collections.abc import Sequence
from pathlib import Path

from mopo_train.reference import Example, ReferenceConfig, fit_reference
from mopo_train.sandbox.pairs import Text

BASE = ReferenceConfig(
    batch_size=16,  # many small steps: names and facts are learned in fewer texts than with few large steps
    learning_rate=2e-3,
    max_length=96,  # the world's own prompts and answers need at most 50
    hidden_size=128,
    layers=2,
    heads=4,
    vocab_size=1024,
    positions=512,
)


def train_base(out: Path, texts: Sequence[Text], seed: int) -> None:
    """Train model and tokenizer on ``texts``, each seen once; ``out`` is whole or absent."""
    examples = [Example([{"role": "user", "content": text.prompt}], text.response) for text in texts]
    steps = -(-len(texts) // BASE.batch_size)
    fit_reference(examples, out, BASE._replace(steps=steps, seed=seed), model=None)
