"""Which files a command's data arguments mean, in which format, and what the labels in them are called.

Formats with chosen and rejected answers do not say what was judged; the caller does. Reads no more than the first row
of a file.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mopo_train.errors import DataError
from mopo_train.formats import SourceFormat, known_formats, recognise
from mopo_train.rows import RowError, check_objective
from mopo_train.sources import RawRows, find

UNNAMED = "unnamed"
"""What a label without a name is called where it does not matter."""
NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=(.+)", re.DOTALL)


class NamedFile(NamedTuple):
    """A file, how to read it, and the name of its label."""

    raw: RawRows
    source_format: SourceFormat
    objective: str
    """Empty where the format names its own labels."""


class Resolved(NamedTuple):
    """What the data arguments of a command mean."""

    sources: list[str]
    """As given, with the name of the label where there is one: reading them again gives the same."""
    files: list[NamedFile]
    selected: tuple[str, ...]
    """The only objectives to read; empty for all."""


class _Source(NamedTuple):
    """One data argument."""

    given: str
    """Path or hub name."""
    objective: str | None
    """From ``objective=DATA``."""
    files: list[tuple[RawRows, SourceFormat]]

    @property
    def unnamed(self) -> SourceFormat | None:
        """The format that leaves the label's name open, if it was not given either."""
        return next((known for _, known in self.files if known.unnamed and not self.objective), None)


def resolve(sources: Sequence[str | Path], objectives: Sequence[str], *, named: bool = True) -> Resolved:
    """Find the files, recognise their formats and name their labels, unless names do not matter. Raises DataError."""
    if not sources:
        raise DataError("no preference data was named; give at least one file, directory or hub name.")
    for name in objectives:
        _check_name(name, "--objective")
    found = [_open(source) for source in sources]
    waiting = [source for source in found if source.unnamed]
    selects = not waiting or (
        len(objectives) not in (1, len(waiting)) and all(source.unnamed.default for source in waiting if source.unnamed)
    )
    names: Iterator[str | None] = iter([None] * len(waiting) if selects else _spread(objectives, waiting))
    files: list[NamedFile] = []
    shown: list[str] = []
    for source in found:
        label = source.objective or (next(names) if source.unnamed else None)
        if label is None and source.unnamed:
            label = source.unnamed.default or (None if named else UNNAMED)
        files += [NamedFile(raw, known, _label(source, known, label)) for raw, known in source.files]
        shown.append(source.given if label in (None, UNNAMED) else f"{label}={source.given}")
    return Resolved(shown, files, tuple(dict.fromkeys(objectives)) if selects else ())


def select(resolved: Resolved, labelled: Sequence[str], at_least: int) -> tuple[str, ...]:
    """The objectives to read out of those that are ``labelled``. Raises DataError."""
    where = listed(resolved.sources)
    if not labelled and at_least:
        raise DataError(
            f"{where}: no row carries a label; "
            f'give each row its preferences, for example {{"helpfulness": 1, "safety": 0.5}}.{_outside(resolved)}'
        )
    for name in resolved.selected:
        if name not in labelled:
            raise DataError(f"objective '{name}' is labelled nowhere in {where}; labelled are: {', '.join(labelled)}.")
    chosen = resolved.selected or tuple(labelled)
    if len(chosen) < at_least:
        raise DataError(
            f"{where}: labels on {len(chosen)} objective only ({', '.join(chosen)}), but MOPO trades at least "
            f"{at_least} against each other. Name a second data set that labels another one beside it: DATA may be "
            "given several times, and the same prompts are joined."
        )
    return chosen


def _outside(resolved: Resolved) -> str:
    """A hint for rows that have labels as columns of their own, which no format does."""
    first = [next(iter(file.raw.rows()))[1] for file in resolved.files]
    columns = dict.fromkeys(name for row in first for name, value in row.items() if isinstance(value, int | float))
    columns.pop("weight", None)
    return f" Numbers in columns of their own ({', '.join(columns)}) are not read." if columns else ""


def listed(sources: Sequence[str]) -> str:
    """Sources as a message names them."""
    return ", ".join(f"'{source}'" for source in sources)


def _open(source: str | Path) -> _Source:
    """Split ``objective=DATA``, unless there is a file of that name, and look at the first row of each file."""
    given, objective = str(source), None
    match = NAMED.fullmatch(given)
    if match and not isinstance(source, Path) and not Path(given).exists():
        objective, given = match[1], match[2]
        _check_name(objective, f"{objective}={given}")
    files = [(raw, _recognise(raw)) for raw in find(given)]
    if len({known.name for _, known in files}) > 1:
        held = "; ".join(f"{Path(raw.name).name}: {known.name}" for raw, known in files)
        raise DataError(
            f"the directory '{given}' holds files of several formats ({held}); name the one to read, or each of "
            "them to join them."
        )
    return _Source(given, objective, files)


def _recognise(raw: RawRows) -> SourceFormat:
    _, first = next(iter(raw.rows()), (0, None))
    if first is None:
        raise DataError(f"'{raw.name}' holds no rows; expected one comparison per {raw.unit}.")
    known = recognise(first)
    if known is None:
        raise DataError(
            f"'{raw.name}' has the columns {', '.join(map(str, first)) or '(none)'}, which are no known format of "
            f"preference data. Known are: {known_formats()}. Rename the columns, or write one comparison per "
            f"{raw.unit} with prompt, response_a, response_b and preferences ({{objective: number in [0, 1] or null}})."
        )
    return known


def _spread(objectives: Sequence[str], waiting: Sequence[_Source]) -> list[str | None]:
    """One name for each source that waits for one. Raises DataError."""
    if not objectives:
        return [None] * len(waiting)
    if len(objectives) == 1:
        return [objectives[0]] * len(waiting)
    if len(objectives) != len(waiting):
        raise DataError(
            f"{len(objectives)} objectives ({', '.join(objectives)}) for {len(waiting)} sources whose labels have "
            f"no name ({listed([source.given for source in waiting])}); give one for all, one for each in order, or "
            "write objective=DATA."
        )
    return list(objectives)


def _label(source: _Source, known: SourceFormat, name: str | None) -> str:
    """What the label in a file of ``source`` is called; empty where the file says it. Raises DataError."""
    if not known.unnamed:
        if source.objective:
            raise DataError(
                f"'{source.given}' is in the format {known.name}, which names its own objectives; "
                f"write it without '{source.objective}='."
            )
        return ""
    if name:
        return name
    raise DataError(
        f"'{source.given}' is in the format {known.name}, which does not say what was judged. Name the objective: "
        f"write helpfulness={source.given} (or give --objective helpfulness)."
    )


def _check_name(name: str, where: str) -> None:
    try:
        check_objective(name)
    except RowError as error:
        raise DataError(f"'{where}': {error}.") from error
