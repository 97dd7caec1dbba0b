"""Errors that a user can fix.

MopoError
├── DataError            preference data, prompts or labels that cannot be used
├── ModelError           a model, tokenizer or adapter that cannot be loaded or does not fit
├── FloorError           floors or objectives that do not exist or are out of range
├── FamilyError          a family directory that is missing, half written, or would be overwritten
│   └── FamilyNotFound
├── EngineError          an inference engine that cannot be started, reached or used  (mopo_eval)
├── JudgeError           a judge that cannot be loaded or gave something other than a score  (mopo_eval)
├── ProfileError         threshold profiles that cannot be read  (mopo_eval)
├── ClusterError         processes or machines that cannot work together
└── RoomError            more memory or disk than there is

Every message says what was given, what was expected and what to do. Commands print it without a
traceback and exit with status 1.
"""

from pathlib import Path


class MopoError(Exception):
    """Base of every error that a user can fix."""


class DataError(MopoError):
    """Preference data, prompts or labels that cannot be used."""


class ModelError(MopoError):
    """A model, tokenizer or adapter that cannot be loaded or does not fit."""


class FloorError(MopoError):
    """A floor or objective that does not exist or is out of range."""


class FamilyError(MopoError):
    """A family directory that is missing, half written, or would be overwritten."""


class FamilyNotFound(FamilyError):
    """No finished family at a path."""

    def __init__(self, root: Path) -> None:
        if any((root / part).exists() for part in ("policies", "training")):
            cause = "a training run there was not completed. Repeat its command to continue it"
        else:
            cause = f"train one with 'mopo-train run DATA --model MODEL --out {root}', or give another directory"
        super().__init__(f"no finished policy family in '{root}': family.json is missing; {cause}.")


class EngineError(MopoError):
    """An inference engine that cannot be started, reached or used."""


class JudgeError(MopoError):
    """A judge that cannot be loaded or gave something other than a score in [0, 1]."""


class ProfileError(MopoError):
    """Threshold profiles that cannot be read."""


class ClusterError(MopoError):
    """Processes or machines that cannot work together."""


class RoomError(MopoError):
    """More memory or disk than there is."""
