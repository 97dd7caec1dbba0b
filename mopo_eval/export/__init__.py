"""Finished runs in the formats of other people's harnesses, so that their viewers open them.

Nothing of those harnesses is needed here; that they read what is written is tested in environments of their own.
"""

from pathlib import Path

from mopo_eval.export.inspect_log import write_inspect
from mopo_eval.export.lm_eval_samples import write_lm_eval
from mopo_eval.export.records import Export, known_references, sample_reader
from mopo_eval.results import RunResults

FORMATS = {"inspect": write_inspect, "lm-eval": write_lm_eval}


def export_run(name: str, results: RunResults, kind: str, out: Path) -> list[Path]:
    """Write the run of the family ``name`` into ``out`` as ``kind``, one of ``FORMATS``; the files, policy by policy.

    Raises FamilyError for tables that cannot be read.
    """
    write, references = FORMATS[kind], known_references(results)
    paths = []
    for policy in results.summary.policies:
        samples = sample_reader(results, policy, references)
        paths += write(Export(name, results, policy, samples), out)
    return paths
