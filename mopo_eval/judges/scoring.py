"""Running a judge over many cases: every case once, in order, and nothing that costs anything twice.

Judgements of costly judges go to a file as they come, by what the judge saw and which judge it was, so that a killed
run, another run of the same answers or other policies with the same answer need not ask again.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from mopo_eval.judges.case import Case, Judge, OnJudgement
from mopo_eval.judges.verdicts import VERDICTS, Kept, Verdicts
from mopo_eval.prompts import read_truth
from mopo_eval.rows import read_rows
from mopo_eval.spool import Spool, open_spool
from mopo_train.console import ProgressLine, progress
from mopo_train.errors import DataError, JudgeError
from mopo_train.judgement import Judgement


def score_cases(judge: Judge, cases: Sequence[Case], keep: Path | None = None) -> list[Judgement]:
    """The judgement of every case, in order; costly ones are kept in, and taken from, the directory ``keep``.

    Verdicts in sibling directories of ``keep`` count too. Raises JudgeError and EngineError.
    """
    with scoring(judge, len(cases), keep) as score:
        return score(cases)


Score = Callable[[Sequence[Case]], list[Judgement]]


@contextmanager
def scoring(judge: Judge, total: int, keep: Path | None = None) -> Iterator[Score]:
    """What judges some cases as ``score_cases`` does, again and again, ``total`` in all."""
    if keep is None or not judge.costly:
        yield lambda cases: _all(judge, cases)
        return
    with ExitStack() as files:
        known = files.enter_context(closing(Verdicts(sorted(keep.parent.glob(f"*/{VERDICTS}")))))
        asking: list[tuple[Spool, ProgressLine]] = []  # made for the first verdict that is missing

        def score(cases: Sequence[Case]) -> list[Judgement]:
            keys = [_key(judge, case) for case in cases]
            found = {key: known.find(key) for key in keys}
            missing = [key for key, judgement in found.items() if judgement is None]
            if missing:
                if not asking:
                    spool = files.enter_context(open_spool(keep / VERDICTS))
                    asking.append((spool, files.enter_context(progress(f"judging ({judge.name})", total))))
                (spool, line), places = asking[0], {key: place for place, key in enumerate(keys)}

                def take(index: int, judgement: Judgement) -> None:
                    key = missing[index]
                    known.add(key, spool.append(Kept(key, *judgement)), keep / VERDICTS)
                    found[key] = judgement
                    line.advance()

                _judge(judge, [cases[places[key]] for key in missing], take)
            if asking and len(cases) > len(missing):
                asking[0][1].advance(len(cases) - len(missing))
            return [judgement for key in keys if (judgement := found[key]) is not None]

        yield score


def _all(judge: Judge, cases: Sequence[Case]) -> list[Judgement]:
    found: dict[int, Judgement] = {}
    _judge(judge, cases, found.__setitem__)
    return [found[index] for index in range(len(cases))]


def _judge(judge: Judge, cases: Sequence[Case], take: OnJudgement) -> None:
    """Hand every judgement to ``take``. Raises JudgeError for a score that is none, whatever kind of judge gave it."""

    def checked(index: int, judgement: Judgement) -> None:
        if not 0 <= judgement.score <= 1:  # the comparison also refuses NaN
            raise JudgeError(
                f"judge '{judge.name}' on {cases[index].where}: its score is {judgement.score}, not in [0, 1]; "
                "see that its model and data hold finite numbers."
            )
        take(index, judgement)

    judge.judge(cases, checked)


def read_cases(path: Path) -> Iterator[Case]:
    """The rows of {"prompt", "response", "references"?, "incorrect"?, "harmful"?, "baseline"?}. Raises DataError."""
    for position, row in read_rows(path):
        where = f"'{path}', row {position}"
        prompt, response, baseline = row.get("prompt"), row.get("response"), row.get("baseline")
        if not (isinstance(prompt, str | list) and isinstance(response, str)):
            raise DataError(f"{where}: expected {{prompt, response}}, found the fields {', '.join(row) or 'none'}.")
        if not isinstance(baseline, str | None):
            raise DataError(f"{where}: 'baseline' must be the text of an answer, found {baseline!r:.60}.")
        yield Case(prompt, response, where, *read_truth(row, where), baseline)


def _key(judge: Judge, case: Case) -> str:
    return hashlib.sha256(f"{judge.fingerprint}\0{case.digest}".encode()).hexdigest()
