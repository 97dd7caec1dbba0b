"""The directory that ``mopo-train sandbox`` writes.

DIR/preferences.jsonl   comparisons for training (design section 3)
DIR/prompts.jsonl       held-out prompts: id, prompt, category
DIR/judges.yaml         the exact judges by dotted name
DIR/front.json          the exact front on the held-out prompts
DIR/base/               the base model, trained from scratch
DIR/sandbox.json        what was asked for; written last: where it exists, the sandbox is whole
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mopo_train import __version__
from mopo_train.console import say
from mopo_train.errors import DataError
from mopo_train.family import first_problem, write_whole
from mopo_train.sandbox.front import TAU, Front, exact_front
from mopo_train.sandbox.pairs import comparisons, corpus, held_out_questions, training_questions
from mopo_train.sandbox.questions import Question

MANIFEST = "sandbox.json"
FILES = ("preferences.jsonl", "prompts.jsonl", "judges.yaml", "front.json")
JUDGES_YAML = """\
# Exact judges of the sandbox: they read the text of an answer against the encyclopedia.
judges:
  helpfulness: mopo_train.sandbox.judges.helpfulness
  safety: mopo_train.sandbox.judges.safety
  factuality: mopo_train.sandbox.judges.factuality
"""


class SandboxConfig(BaseModel):
    """What a sandbox is made of; equal configurations give equal files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)
    prompts: int = Field(default=500, ge=1)
    """Training prompts; each has six pairs of answers, each labelled by two annotators."""
    held_out: int = Field(default=200, ge=1)
    """Prompts for evaluation, about entities that training never sees."""
    tau: float = Field(default=TAU, gt=0)
    """At which the exact front is computed."""
    base: bool = True
    """Whether a base model is trained."""
    texts: int = Field(default=24_000, ge=1)
    """Texts that the base model learns from, each once."""


class Sandbox(BaseModel):
    """The contents of ``sandbox.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    package_version: str
    config: SandboxConfig
    pairs: int
    """Rows of preferences.jsonl."""
    reference_scores: dict[str, float]
    """Expected judge scores of the world's own writer on the held-out prompts."""


def build_sandbox(root: Path, config: SandboxConfig, *, force: bool = False) -> Sandbox:
    """Write the sandbox of ``config`` to ``root``, or find that it is there already.

    Raises DataError where ``root`` holds another sandbox (unless ``force``) or somebody's other files.
    """
    if not force and (there := _finished(root, config)):
        say(f"this sandbox is already in '{root}'; --force makes it again")
        return there
    asked = held_out_questions(config.seed, config.held_out)
    trained = training_questions(config.seed, config.prompts)
    _clear(root, force)
    write_whole(root / (MANIFEST + ".begun"), config.model_dump_json() + "\n")
    say(f"sandbox: {config.prompts} training prompts, {config.held_out} held-out prompts, seed {config.seed}")
    rows = comparisons(config.seed, trained)
    write_whole(root / "preferences.jsonl", _lines(rows))
    write_whole(root / "prompts.jsonl", _lines(_prompt_rows(asked)))
    write_whole(root / "judges.yaml", JUDGES_YAML)
    front = exact_front([question.text for question in asked], tau=config.tau)
    write_whole(root / "front.json", json.dumps(front_document(front), indent=1) + "\n")
    if config.base:
        from mopo_train.sandbox.base import train_base  # torch, which data alone does not need

        train_base(root / "base", corpus(config.seed, config.texts), config.seed)
    made = Sandbox(package_version=__version__, config=config, pairs=len(rows), reference_scores=front.reference.scores)
    write_whole(root / MANIFEST, made.model_dump_json(indent=2) + "\n")
    (root / (MANIFEST + ".begun")).unlink()
    return made


def read_sandbox(root: Path) -> Sandbox:
    """What the finished sandbox in ``root`` was made of. Raises DataError without one, or for a damaged one."""
    path = root / MANIFEST
    if not path.is_file():
        raise DataError(
            f"no finished sandbox in '{root}': {MANIFEST} is missing; run 'mopo-train sandbox --out {root}'."
        )
    try:
        made = Sandbox.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"'{path}' is not readable ({first_problem(error)}); make it again with --force.") from error
    wanted = [*FILES, *(["base/config.json"] if made.config.base else [])]
    if missing := [name for name in wanted if not (root / name).is_file()]:
        raise DataError(f"the sandbox in '{root}' lacks {', '.join(missing)}; make it again with --force.")
    return made


def front_document(front: Front) -> dict[str, Any]:
    """The front as front.json holds it; win rates are against the world's writer."""
    return {
        "tau": front.tau,
        "primary": front.primary,
        "reference": front.reference._asdict(),
        "points": [point._asdict() for point in front.points],
    }


def _finished(root: Path, config: SandboxConfig) -> Sandbox | None:
    """The finished sandbox in ``root`` if it is the one asked for; DataError if it is another one."""
    if not (root / MANIFEST).exists():
        return None
    made = read_sandbox(root)
    if made.config != config:
        differing = [name for name, value in made.config if value != getattr(config, name)]
        told = ", ".join(f"{name} {getattr(made.config, name)}, not {getattr(config, name)}" for name in differing)
        raise DataError(f"'{root}' holds another sandbox ({told}); give another directory, or --force to replace it.")
    if made.package_version != __version__:
        raise DataError(
            f"'{root}' holds a sandbox of package version {made.package_version}, this is {__version__}; "
            "give another directory, or --force to replace it."
        )
    return made


def _clear(root: Path, force: bool) -> None:
    """Make room in ``root``; touches only what this command wrote."""
    ours = [root / name for name in (*FILES, "base", MANIFEST)]
    begun = (root / (MANIFEST + ".begun")).exists()
    if root.is_file():
        raise DataError(f"'{root}' is a file; give a directory.")
    there = [path.name for path in ours if path.exists()]
    if there and not begun and not (force and (root / MANIFEST).exists()):
        raise DataError(f"'{root}' holds {', '.join(there)}, which no sandbox command wrote; give another directory.")
    if begun:
        say(f"an earlier run did not finish the sandbox in '{root}': beginning again")
    (root / MANIFEST).unlink(missing_ok=True)  # first: what is being replaced is no longer whole
    if (root / "base").exists():
        shutil.rmtree(root / "base")


def _prompt_rows(asked: Sequence[Question]) -> list[dict[str, str]]:
    return [
        {"id": f"p{index:04d}", "prompt": question.text, "category": question.category}
        for index, question in enumerate(asked)
    ]


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
