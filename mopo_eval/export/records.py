"""The answers of one policy with everything that was said of them, as both formats need it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mopo_eval.evaluation import JUDGEMENTS, RESPONSES
from mopo_eval.prompts import read_prompts
from mopo_eval.results import AskedPrompt, RunResults
from mopo_train.console import say
from mopo_train.errors import FamilyError, MopoError

Row = Mapping[str, Any]


class Sample(NamedTuple):
    """One answer."""

    place: int
    """Of its prompt in the run."""
    prompt: AskedPrompt
    references: tuple[str, ...]
    """Right answers; empty where the file of prompts is not at hand any more."""
    answer: Row
    """Its row in ``responses.parquet``."""
    judgements: dict[str, Row]
    """Its rows in ``judgements.parquet``, by objective."""


class Export(NamedTuple):
    """One policy of a run."""

    name: str
    """Of the family."""
    results: RunResults
    policy: str
    samples: Callable[[], Iterator[Sample]]
    """Reads them again each time, in the run's order."""


def sample_reader(
    results: RunResults, policy: str, references: Mapping[str, tuple[str, ...]]
) -> Callable[[], Iterator[Sample]]:
    """What reads the samples of ``policy``. It raises FamilyError for tables that cannot be read."""

    def samples() -> Iterator[Sample]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        places = {prompt.id: place for place, prompt in enumerate(results.prompts)}
        path = results.directory / JUDGEMENTS
        try:
            verdicts: dict[tuple[str, int], dict[str, Row]] = {}
            for row in pq.read_table(path, filters=[("policy", "=", policy)]).to_pylist():
                verdicts.setdefault((row["prompt_id"], row["sample"]), {})[row["objective"]] = row
            path = results.directory / RESPONSES
            with pq.ParquetFile(path) as table:
                for group in range(table.num_row_groups):
                    if policy not in table.read_row_group(group, ["policy"]).column(0).unique().to_pylist():
                        continue  # the run's order has one policy after the other
                    for row in table.read_row_group(group).to_pylist():
                        if row["policy"] == policy:
                            place = places[row["prompt_id"]]
                            said = verdicts.get((row["prompt_id"], row["sample"]), {})
                            known = references.get(row["prompt_id"], ())
                            yield Sample(place, results.prompts[place], known, row, said)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise FamilyError(f"cannot read '{path}': {error}; measure again with 'mopo-eval run'.") from error

    return samples


def known_references(results: RunResults) -> dict[str, tuple[str, ...]]:
    """Right answers by prompt id, where the run's file of prompts is at hand and still holds the same prompts."""
    path = Path(results.summary.prompts_from)
    if not results.summary.prompts_from or not path.is_file():
        return {}
    try:
        known = {prompt.id: prompt for prompt in read_prompts(path)}
    except MopoError as error:
        say(f"warning: exported without references: {error}")
        return {}
    same = (each for each in results.prompts if each.id in known and known[each.id].text == each.text)
    return {each.id: known[each.id].references for each in same}
