"""How much memory ``mopo-eval run`` needs for a million answers against ten thousand.

    python -m benchmarks.answers_memory [--answers 10000 --answers 1000000] [--out runs/answers-memory]

Made-up answers of some 900 characters, by ten policies, ten to a prompt, go through the real spool as an engine's do;
then ``measure`` judges all of them (one judge whose verdicts are kept on disk, the judge of safety, and agreement of
words with references), writes both tables and makes the scorecards, as ``mopo-eval run`` does. Each step is a process
of its own; prints its CPU seconds and peak resident memory. Exits 1 where a hundredfold number of answers needs more
than ``MOST`` times the memory. Needs 5 GB of disk for a million answers. Not part of the tests.
"""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from mopo_eval.answers import Answer, Sampling, questions
from mopo_eval.evaluation import SPOOL
from mopo_eval.judges import Case, Judge, load_judge
from mopo_eval.judges.case import OnJudgement
from mopo_eval.measure import Plan, measure
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.spool import open_spool
from mopo_train import __version__
from mopo_train.console import print_table, say
from mopo_train.family import REFERENCE, DataSummary, Policy, PolicyFamily, read_family, write_family
from mopo_train.judgement import Judgement

POLICIES, SAMPLES, WORDS = 10, 10, 130
MOST = 2.0
"""The arrays of a bootstrap, 100 MB whatever the number, and thirty bytes of scores and places for each answer."""
OBJECTIVES = ["helpfulness", "safety", "factuality"]


class Lengthy(NamedTuple):
    """A judge that costs something, so that its verdicts are kept: longer is better."""

    name: str = "lengthy"
    costly: bool = True
    compares: bool = False
    fingerprint: str = "lengthy"

    def judge(self, cases: Sequence[Case], on_judgement: OnJudgement) -> None:
        """Every judgement, in order."""
        for index, case in enumerate(cases):
            on_judgement(index, Judgement(min(1.0, len(case.response) / 2000), None, case.response[:80]))


def plan(prompts: int) -> Plan:
    """What is measured on so many prompts."""
    asked = [
        EvaluationPrompt(f"p{n}", f"Question {n} about something?", references=(f"w{n} w1 w2",), harmful=n % 2 == 0)
        for n in range(prompts)
    ]
    judges: dict[str, Judge] = {
        "helpfulness": Lengthy(),
        "safety": load_judge("safety"),
        "factuality": load_judge("reference"),
    }
    return Plan(asked, judges, Sampling(samples=SAMPLES), allow_trained=True)


def answers(family: PolicyFamily, made: Plan) -> Iterator[Answer]:
    """An answer of words to every question, in the order in which an engine with many requests might give them."""
    rng, vocabulary = np.random.default_rng(0), np.array([f"w{n}" for n in range(20_000)])
    for question in questions([policy.id for policy in family.policies], made.prompts, made.sampling):
        count = int(rng.integers(WORDS // 2, WORDS * 3 // 2))
        text = " ".join(vocabulary[rng.integers(0, len(vocabulary), count)])
        yield Answer(*question.key, text, "stop", 12, count, "vllm")


def fill(root: Path, prompts: int) -> None:
    """A family in ``root`` whose answers lie in the spool of the run that ``measure`` looks for."""
    policies = [Policy(id=REFERENCE, kind="reference", adapter=None)]
    policies += [Policy(id=f"policy-{p:02d}", kind="mopo", adapter=f"policies/{p}") for p in range(POLICIES - 1)]
    data = DataSummary(
        source=["nowhere.jsonl"], sha256="0" * 64, pairs=1, prompts=1, labelled=dict.fromkeys(OBJECTIVES, 1)
    )
    family = PolicyFamily(
        created_at="2026-01-01T00:00:00+00:00",
        package_version=__version__,
        base_model="base",
        objectives=OBJECTIVES,
        primary="helpfulness",
        data=data,
        config={},
        policies=policies,
    )
    write_family(root, family)
    made = plan(prompts)
    with open_spool(root / "evaluation" / made.run(root, family) / SPOOL) as spool:
        for answer in answers(family, made):
            spool.append(answer)


class Used(NamedTuple):
    """What a process needed."""

    seconds: float
    """Of the processor."""
    peak: int
    """Bytes."""


def step(name: str, root: Path, prompts: int) -> Used:
    """Run this module's step ``name`` in a process of its own."""
    code = f"from benchmarks.answers_memory import run_step; run_step({name!r}, {str(root)!r}, {prompts})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return Used(*json.loads(done.stdout.splitlines()[-1]))


def run_step(name: str, root: str, prompts: int) -> None:
    """``nothing``, ``fill`` or ``measure``; prints CPU seconds and peak memory as JSON."""
    if name == "fill":
        fill(Path(root), prompts)
    if name == "measure":
        measure(Path(root), read_family(Path(root)), plan(prompts))
    used = resource.getrusage(resource.RUSAGE_SELF)
    sys.stdout.write(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]) + "\n")


@click.command()
@click.option("--answers", "counts", type=click.IntRange(min=1000), multiple=True, default=(10_000, 1_000_000))
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/answers-memory"), show_default=True)
def main(counts: tuple[int, ...], out: Path) -> None:
    """Fill and measure a family for each number of answers."""
    bare, rows, peaks = step("nothing", out, 0), [], {}
    rows.append(["imports alone", "", f"{bare.seconds:.0f}", f"{bare.peak / 2**20:.0f}"])
    for count in counts:
        prompts, root = count // (POLICIES * SAMPLES), out / str(count)
        shutil.rmtree(root, ignore_errors=True)
        for name in ("fill", "measure"):
            say(f"{count} answers: {name}")
            used = step(name, root, prompts)
            rows.append([name, f"{count:,}", f"{used.seconds:.0f}", f"{used.peak / 2**20:.0f}"])
            peaks[count] = used.peak
        shutil.rmtree(root)
    print_table(["step", "answers", "CPU s", "peak MiB"], rows)
    least, most = min(peaks), max(peaks)
    ratio = peaks[most] / peaks[least]
    click.echo(f"memory of {most:,} answers against {least:,}: {ratio:.2f}")
    if ratio > MOST:
        sys.exit(1)


if __name__ == "__main__":
    main()
