"""Errors of the dashboard that a user can fix.

MopoError
├── AddressError         a host or port that cannot be listened on
├── EvaluationError      answers or judgements that are missing or cannot be read
├── DataCheckError       data that cannot be checked, or a check that cannot be read
├── GatewayError         a gateway that does not answer, or refuses
└── LoginError           a login that is asked for, but not set up
"""

from mopo_train.errors import MopoError


class AddressError(MopoError):
    """A host or port that cannot be listened on."""


class EvaluationError(MopoError):
    """Answers or judgements that are missing or cannot be read."""


class GatewayError(MopoError):
    """A gateway that does not answer, or refuses."""


class DataCheckError(MopoError):
    """Data that cannot be checked, or a check that cannot be read."""


class LoginError(MopoError):
    """A login that is asked for, but not set up."""
