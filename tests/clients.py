"""Other people's programs, each in an environment of its own below ``$MOPO_CLIENTS``: their dependencies disagree.

``litellm`` (litellm), ``langchain`` (langchain-openai), ``inspect`` (inspect-ai, openai), ``lm_eval`` (lm_eval[api],
transformers, torch). A test that needs one which is not there is skipped.
"""

import os
from pathlib import Path

import pytest

ENVIRONMENTS = Path(os.environ.get("MOPO_CLIENTS", "/nonexistent"))


def program(environment: str, name: str) -> Path:
    """The program ``name`` of ``environment``; skips the test where it is not there."""
    found = ENVIRONMENTS / environment / "bin" / name
    if not found.exists():
        pytest.skip(f"no {found}: make an environment '{environment}' below $MOPO_CLIENTS")
    return found
