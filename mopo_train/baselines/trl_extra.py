"""TRL, the optional library of the baselines: whether it is there, and its import without its noise."""

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mopo_train.errors import ModelError


def require_trl() -> None:
    """Raise ModelError where TRL is missing, with the command that installs it."""
    if importlib.util.find_spec("trl") is None:
        raise ModelError(
            "the baselines are trained by TRL, which is not installed; install the extra: "
            "pip install 'mopo-suite[baselines]' (from a checkout: pip install -c constraints.txt -e '.[baselines]')."
        )


@contextmanager
def without_warnings() -> Iterator[None]:
    """For importing TRL: it warns of versions of vLLM that it does not know, but nothing here has it use vLLM."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
