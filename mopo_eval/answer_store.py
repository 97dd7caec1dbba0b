"""The answers of a run where they lie on disk, by their place in the run's order: policies, prompts, samples.

In memory there are ten bytes per answer, whatever its length, and one row group of each table that is being read.
Answers come from the run's spool, from its own table, and from runs that drew some of the same.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from mopo_eval.answers import Answer, AnswerKey
from mopo_eval.spool import read_row, scan_spool
from mopo_train.errors import FamilyError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ROWS_AT_ONCE = 8192
"""Rows that are read, judged and written together."""
GROUPS_KEPT = 2
"""Row groups of a table that stay in memory: of the policy that is judged, and of the reference."""


class Grid:
    """The order of a run's answers; ``size`` = policies x prompts x samples."""

    def __init__(self, policies: Sequence[str], prompts: Sequence[str], samples: int) -> None:
        """``prompts``: their ids."""
        self.policies, self.prompts, self.samples = list(policies), list(prompts), samples
        self.size = len(policies) * len(prompts) * samples
        self._policy = {policy: place for place, policy in enumerate(policies)}
        self._prompt = {prompt: place for place, prompt in enumerate(prompts)}

    def place(self, key: AnswerKey) -> int | None:
        """That of ``key``; None if the run has no such answer."""
        policy, prompt = self._policy.get(key.policy), self._prompt.get(key.prompt_id)
        if policy is None or prompt is None or not 0 <= key.sample < self.samples:
            return None
        return (policy * len(self.prompts) + prompt) * self.samples + key.sample

    def key(self, place: int) -> AnswerKey:
        """Which answer is at ``place``."""
        rest, sample = divmod(place, self.samples)
        policy, prompt = divmod(rest, len(self.prompts))
        return AnswerKey(self.policies[policy], self.prompts[prompt], sample)

    def place_of(self, policy: str, place: int) -> int:
        """The place of the answer of ``policy`` to the prompt and sample of ``place``."""
        each = len(self.prompts) * self.samples
        return self._policy[policy] * each + place % each


Takes = Callable[[AnswerKey, str], bool]
"""Whether an answer with this key, which an engine of this kind gave, is one of the run."""


class _Source(Protocol):
    run: str

    def read(self, row: int) -> Answer: ...


class AnswerStore:
    """Answers by their place in ``grid``; close it after use."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._source = np.full(grid.size, -1, dtype=np.int16)
        self._row = np.zeros(grid.size, dtype=np.int64)
        self._sources: list[_Source] = []
        self._files = ExitStack()
        self.engines: set[str] = set()
        """Kinds of the engines that gave the answers."""

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def __len__(self) -> int:
        return self.grid.size

    def __getitem__(self, place: int) -> Answer:
        if self._source[place] < 0:
            raise IndexError(f"no answer {self.grid.key(place)}")
        return self._sources[int(self._source[place])].read(int(self._row[place]))

    @property
    def count(self) -> int:
        """Answers that are there."""
        return int(np.count_nonzero(self._source >= 0))

    @property
    def runs(self) -> list[str]:
        """Names of the runs whose answers are there."""
        return sorted({self._sources[source].run for source in np.unique(self._source).tolist() if source >= 0})

    def missing(self) -> Iterator[int]:
        """Places without an answer, as the store stands now."""
        yield from np.flatnonzero(self._source < 0).tolist()

    def add_spool(self, path: Path, run: str, takes: Takes) -> Callable[[Answer, int], None]:
        """Take answers from the spool at ``path``; what it returns takes later ones."""
        source = len(self._sources)
        self._sources.append(_SpoolSource(path, run, self._files))

        def note(answer: Answer, row: int) -> None:
            if (place := self.grid.place(answer.key)) is not None and takes(answer.key, answer.engine):
                self._source[place], self._row[place] = source, row
                self.engines.add(answer.engine)

        for row, answer in scan_spool(path, Answer):
            note(answer, row)
        return note

    def add_table(self, path: Path, run: str, takes: Takes) -> None:
        """Take answers from the table at ``path``, if there is one. Raises FamilyError for a damaged one."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not path.is_file():
            return
        source, row = len(self._sources), 0
        try:
            table = self._files.enter_context(pq.ParquetFile(path))
            self._sources.append(_TableSource(table, run))
            for batch in table.iter_batches(ROWS_AT_ONCE, columns=["policy", "prompt_id", "sample", "engine"]):
                columns = (batch.column(name).to_pylist() for name in ("policy", "prompt_id", "sample", "engine"))
                for policy, prompt, sample, engine in zip(*columns, strict=True):
                    key = AnswerKey(policy, prompt, sample)
                    if (place := self.grid.place(key)) is not None and takes(key, engine):
                        self._source[place], self._row[place] = source, row
                        self.engines.add(engine)
                    row += 1
        except (pa.ArrowException, OSError, TypeError, KeyError) as error:
            raise FamilyError(f"cannot read '{path}': {error}; delete '{path.parent}' to measure again.") from error


class _SpoolSource:
    """Answers in a spool, by the byte at which they begin."""

    def __init__(self, path: Path, run: str, files: ExitStack) -> None:
        self.run = run
        self._path, self._files = path, files
        self._opened = None if not path.exists() else files.enter_context(path.open("rb"))

    def read(self, row: int) -> Answer:
        if self._opened is None:
            self._opened = self._files.enter_context(self._path.open("rb"))
        return read_row(self._opened, row, Answer)


class _TableSource:
    """Answers in a Parquet file, by their row."""

    def __init__(self, table: "pq.ParquetFile", run: str) -> None:
        self.run = run
        self._table = table
        counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
        self._begins = [0, *np.cumsum(counts).tolist()]
        self._groups: OrderedDict[int, list[list[object]]] = OrderedDict()

    def read(self, row: int) -> Answer:
        group = bisect_right(self._begins, row) - 1
        if group not in self._groups:
            found = self._table.read_row_group(group, columns=list(Answer._fields))
            self._groups[group] = [found.column(name).to_pylist() for name in Answer._fields]
            while len(self._groups) > GROUPS_KEPT:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        return Answer(*(column[row - self._begins[group]] for column in self._groups[group]))


class Tally(NamedTuple):
    """What is counted of answers while they are written."""

    engines: set[str]
    cut: dict[str, int]
    """Per policy, answers that the token limit ended."""
    empty: dict[str, int]
    """Per policy, answers without text."""

    def add(self, answer: Answer) -> None:
        """Take ``answer`` in."""
        self.engines.add(answer.engine)
        for counts, found in ((self.cut, answer.finish_reason == "length"), (self.empty, not answer.response.strip())):
            if found:
                counts[answer.policy] = counts.get(answer.policy, 0) + 1
