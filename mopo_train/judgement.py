"""What a judge says of one answer. Judges are callables ``(prompt, response) -> Judgement | float``."""

from typing import NamedTuple


class Judgement(NamedTuple):
    """A score with the reason for it."""

    score: float
    """In [0, 1]; larger is better."""
    label: str | None = None
    """Category of the answer in the judge's own terms, for example ``refusal``."""
    evidence: str | None = None
    """Why, in words that a stakeholder can read."""
