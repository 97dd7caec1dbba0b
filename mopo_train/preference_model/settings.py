"""How a preference model of text is made and trained. Imports nothing heavy."""

from typing import NamedTuple

FOLDS = 3
"""Of cross-fitting: each network sees two thirds of the prompts."""


class Size(NamedTuple):
    """Of the encoder from scratch."""

    hidden: int = 64
    layers: int = 0
    """0: means of token embeddings and their products, which long texts and few pairs bear better than attention."""
    heads: int = 2


class FitSettings(NamedTuple):
    """How a preference network is made and trained."""

    encoder: str | None = None
    """Directory or hub name of a transformers model; None: a small one from scratch."""
    width: int = 8
    """Dimensions 2 r of the skew part; 0: a Bradley-Terry model."""
    epochs: float = 6.0
    """Passes over the compared pairs."""
    least_steps: int = 150
    """Few pairs are passed over more often: what suits which prompt takes this many steps to find."""
    batch_size: int = 64
    """Responses per step."""
    learning_rate: float | None = None
    """None: 2e-3 from scratch, 2e-5 for a given encoder."""
    weight_decay: float = 0.1
    dropout: float = 0.5
    """Before the heads."""
    max_length: int = 256
    """Tokens of prompt and response together."""
    size: Size = Size()
    """Of the encoder from scratch."""
