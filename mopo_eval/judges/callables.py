"""Judges that are Python callables, by dotted name: ``(prompt, response) -> Judgement | float | mapping``.

A mapping has the fields of a Judgement. The prompt is as it stands in the prompts file. What they print goes to stderr,
since stdout is for results.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from numbers import Real
from typing import Any, NamedTuple

from mopo_eval.judges.case import Case, OnJudgement
from mopo_eval.judges.fingerprint import of_source
from mopo_eval.prompts import Conversation
from mopo_train.errors import JudgeError, MopoError
from mopo_train.judgement import Judgement


class CallableJudge(NamedTuple):
    """A callable with the name under which its scores are reported."""

    name: str
    """As given: ``package.module.function`` or ``package.module:function``."""
    score: Callable[[Conversation, str], Any]

    costly: bool = False
    compares: bool = False

    @property
    def fingerprint(self) -> str:
        """Of the module's source."""
        return of_source(self.name, self.score)

    def judge(self, cases: Sequence[Case], on_judgement: OnJudgement) -> None:
        """Every judgement, in order. Raises JudgeError."""
        for index, case in enumerate(cases):
            on_judgement(index, self(case.prompt, case.response, where=case.where))

    def __call__(self, prompt: Conversation, response: str, *, where: str) -> Judgement:
        """The checked judgement of one answer; ``where`` names the prompt or row in errors. Raises JudgeError."""
        try:
            with redirect_stdout(sys.stderr):
                given = self.score(prompt, response)
        except (Exception, SystemExit) as error:
            kind = "" if isinstance(error, MopoError) else f"{type(error).__name__}: "
            raise JudgeError(f"judge '{self.name}' failed on {where}: {kind}{error}") from error
        if isinstance(given, Mapping) and "score" in given:
            given = Judgement(given["score"], given.get("label"), given.get("evidence"))
        judgement = given if isinstance(given, Judgement) else Judgement(given)
        score = judgement.score
        if not isinstance(score, Real) or not 0 <= float(score) <= 1:  # the comparison also refuses NaN
            hint = "; judges are plain functions, not coroutines" if hasattr(given, "__await__") else ""
            raise JudgeError(
                f"judge '{self.name}' on {where}: expected a Judgement or a number in [0, 1], got {given!r:.100}{hint}"
            )
        return Judgement(float(score), _text(judgement.label), _text(judgement.evidence))


def load_callable(name: str) -> CallableJudge:
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
    return CallableJudge(name, score)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
