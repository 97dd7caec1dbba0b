"""Running a judge over many cases: every case once, in order, and nothing that costs anything twice.

Judgements of costly judges go to a file as they come, by what the judge saw and which judge it was, so that a killed
run, another run of the same answers or other policies with the same answer need not ask again.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mopo_eval.judges.case import Case, Judge
from mopo_eval.prompts import read_truth
from mopo_eval.rows import read_rows
from mopo_eval.spool import open_spool, read_spool
from mopo_train.console import progress
from mopo_train.errors import DataError
from mopo_train.judgement import Judgement

VERDICTS = "verdicts.jsonl"


class Kept(NamedTuple):
    """A judgement on disk."""

    key: str
    score: float
    label: str | None
    evidence: str | None


def score_cases(judge: Judge, cases: Sequence[Case], keep: Path | None = None) -> list[Judgement]:
    """The judgement of every case, in order; costly ones are kept in, and taken from, the directory ``keep``.

    Verdicts in sibling directories of ``keep`` count too. Raises JudgeError and EngineError.
    """
    if keep is None or not judge.costly:
        found: dict[int, Judgement] = {}
        judge.judge(cases, found.__setitem__)
        return [found[index] for index in range(len(cases))]
    keys = [_key(judge, case) for case in cases]
    known = {row.key: Judgement(*row[1:]) for row in _kept(keep.parent.glob(f"*/{VERDICTS}"))}
    missing = {key: index for index, key in enumerate(keys) if key not in known}  # equal cases are asked once
    if missing:
        asked = list(missing.values())
        with open_spool(keep / VERDICTS) as spool, progress(f"judging ({judge.name})", len(asked)) as line:

            def take(place: int, judgement: Judgement) -> None:
                key = keys[asked[place]]
                spool.append(Kept(key, *judgement))
                known[key] = judgement
                line.advance()

            judge.judge([cases[index] for index in asked], take)
    return [known[key] for key in keys]


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


def _kept(paths: Iterable[Path]) -> Iterator[Kept]:
    for path in sorted(paths):
        yield from read_spool(path, Kept)
