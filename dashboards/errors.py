"""Errors of the dashboard that a user can fix.

MopoError
├── AddressError         a host or port that cannot be listened on
└── EvaluationError      answers or judgements that are missing or cannot be read
"""

from mopo_train.errors import MopoError


class AddressError(MopoError):
    """A host or port that cannot be listened on."""


class EvaluationError(MopoError):
    """Answers or judgements that are missing or cannot be read."""
