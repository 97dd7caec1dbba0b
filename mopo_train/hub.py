"""Whether the Hugging Face hub can be reached: asked once, briefly, before its libraries try for half a minute."""

import functools
import os
import sys

from mopo_train.console import say

SECONDS = 5.0
"""How long the hub may take to answer at all."""


def settle_offline() -> None:
    """Where the hub does not answer, have its libraries look into their cache alone, in this process and its children.

    To be called before anything is looked up by a name on the hub. A model that lies in the cache then loads at once,
    and an unknown name is an error at once.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        return
    say(f"the hub ({constants.ENDPOINT}) cannot be reached: only what is in its cache on this machine is found")
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    if (datasets := sys.modules.get("datasets")) is not None:  # it keeps a copy of its own
        datasets.config.HF_HUB_OFFLINE = True


@functools.cache
def _answers(endpoint: str) -> bool:
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=SECONDS)
    except Exception:  # which HTTP client it uses, and thus which errors, changes with its version
        return False
    return True
