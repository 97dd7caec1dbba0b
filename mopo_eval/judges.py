"""Judges: Python callables by dotted name that score an answer in [0, 1] on one objective.

A judge is ``(prompt, response) -> Judgement | float``; the prompt is as it stands in the prompts file.
What judges print goes to stderr, since stdout is for results.
"""

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mopo_eval.prompts import Conversation, beside_data
from mopo_eval.rows import read_rows
from mopo_eval.strict_yaml import load_strictly
from mopo_train.errors import DataError, JudgeError, MopoError
from mopo_train.family import PolicyFamily
from mopo_train.judgement import Judgement


class Judge(NamedTuple):
    """A judge with the name under which its scores are reported."""

    name: str
    """As given: ``package.module.function`` or ``package.module:function``."""
    score: Callable[[Conversation, str], Any]

    def __call__(self, prompt: Conversation, response: str, *, where: str) -> Judgement:
        """The checked judgement of one answer; ``where`` names the prompt or row in errors. Raises JudgeError."""
        try:
            with redirect_stdout(sys.stderr):
                given = self.score(prompt, response)
        except (Exception, SystemExit) as error:
            kind = "" if isinstance(error, MopoError) else f"{type(error).__name__}: "
            raise JudgeError(f"judge '{self.name}' failed on {where}: {kind}{error}") from error
        judgement = given if isinstance(given, Judgement) else Judgement(given)
        score = judgement.score
        if not isinstance(score, Real) or not 0 <= float(score) <= 1:  # the comparison also refuses NaN
            hint = "; judges are plain functions, not coroutines" if hasattr(given, "__await__") else ""
            raise JudgeError(
                f"judge '{self.name}' on {where}: expected a Judgement or a number in [0, 1], got {given!r:.100}{hint}"
            )
        return Judgement(float(score), _text(judgement.label), _text(judgement.evidence))


def load_judge(name: str) -> Judge:
    """The callable that ``name`` says. Raises JudgeError if it cannot be imported or called."""
    module_name, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    if not module_name or not attribute:
        raise JudgeError(f"'{name}' does not name a judge; write package.module.function or package.module:function.")
    try:
        with redirect_stdout(sys.stderr):
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the module is the user's own code and may fail in any way
        raise JudgeError(f"cannot import the judge '{name}': {type(error).__name__}: {error}") from error
    score: Any = module
    for part in attribute.split("."):
        score = getattr(score, part, None)
    if not callable(score):
        known = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise JudgeError(f"'{attribute}' is no function of '{module_name}'; it has: {', '.join(known[:12]) or 'none'}.")
    return Judge(name, score)


def read_judges(path: Path, objectives: Iterable[str]) -> dict[str, str]:
    """Dotted judge name per objective, in the order of ``objectives``, from YAML ``judges: {objective: name}``.

    Objectives may lack a judge, but not all. Raises JudgeError.
    """
    try:
        content = load_strictly(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise JudgeError(f"cannot read judges from '{path}': {error}") from error
    judges = content.get("judges") if isinstance(content, dict) else None
    if not isinstance(judges, dict) or not judges or not all(isinstance(v, str) for v in judges.values()):
        raise JudgeError(f"'{path}' names no judges; write\njudges:\n  OBJECTIVE: package.module.function")
    known = list(objectives)
    if unknown := sorted(str(name) for name in judges if name not in known):
        raise JudgeError(
            f"'{path}' has a judge for '{unknown[0]}', which is not an objective of this family; "
            f"known: {', '.join(known)}"
        )
    return {name: judges[name] for name in known if name in judges}


def judges_path(family: PolicyFamily, given: Path | None) -> Path:
    """The judges file: ``given``, or judges.yaml beside the training data. Raises JudgeError where there is none."""
    path = given or beside_data(family, "judges.yaml")
    if path is None:
        raise JudgeError(
            f"no judges given, and no judges.yaml beside the training data ({', '.join(family.data.source)}); name a "
            "file 'judges: {objective: package.module.function}' with --judges, or collect answers with --answers-only."
        )
    return path


def load_judges(names: Mapping[str, str]) -> dict[str, Judge]:
    """The loaded judge of every objective. Raises JudgeError."""
    return {objective: load_judge(name) for objective, name in names.items()}


def judge_file(path: Path, judge: Judge) -> Iterator[Judgement]:
    """The judgement of every row of {"prompt", "response"} in ``path``, in order. Raises DataError and JudgeError."""
    for position, row in read_rows(path):
        where = f"'{path}', row {position}"
        prompt, response = row.get("prompt"), row.get("response")
        if not (isinstance(prompt, str | list) and isinstance(response, str)):
            raise DataError(f"{where}: expected {{prompt, response}}, found the fields {', '.join(row) or 'none'}.")
        yield judge(prompt, response, where=where)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
