"""How many floors of the exact front a family holds, before and after ``mopo-eval refine``, in judge scores.

    python -m benchmarks.refined_floors --front runs/front --cell mopo-0.1 --seeds 0 1 --policies 8 --out runs/refined

Reads a cell that `benchmarks.front` trained, measures a copy of its family with ``mopo-eval run`` on the validation
prompts, and asks for the floors of each of the best points of the exact front, every one of a fresh copy. A policy is
promised for a floor where its certified bounds on the validation prompts hold it, before or after `refine`; the floor
is met where that policy's means on the test prompts hold it, too. Beside it stands what `benchmarks.front` counts: the
policy is chosen by means on the validation prompts, which promise nothing. Nothing in the cell is changed. A finished
floor is a file under OUT and is not computed again. Not part of the tests.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.front_statistics import policy_means, promises_kept, share_of_floors_met
from benchmarks.front_worlds import MAX_TOKENS, SandboxWorld
from benchmarks.three_objectives import command
from mopo_eval.engine_choice import EngineChoice
from mopo_eval.profiles import ThresholdProfile
from mopo_eval.refine.command import Request, refine
from mopo_eval.results import read_results
from mopo_eval.selection import select
from mopo_train.console import print_table, say
from mopo_train.errors import FloorError
from mopo_train.family import read_family, write_whole
from mopo_train.winrates import FloatArray


class Floor(NamedTuple):
    """What became of one floor; who is promised for it: None where nobody is."""

    before: str | None
    after: str | None
    added: list[list[float]] | None
    """(K, prompts) mean judge scores of the policy that refining added; None where it added none."""


def main() -> None:
    """Print a row for each seed."""
    options = arguments()
    torch.set_num_threads(1)
    world = SandboxWorld(options.front, prompts=options.prompts, held_out=options.held_out, samples=options.samples)
    rows = [counted(world, seed, options) for seed in options.seeds]
    promises = ["promised", "and met", "refined: promised", "and met"]
    columns = ["seed", "floors", *promises, "chosen by means: met", "refined: met"]
    print_table(columns, rows, title=f"{options.cell}: floors of the best points of the exact front")


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--front", type=Path, required=True, metavar="DIR", help="OUT of benchmarks.front; only read")
    parser.add_argument("--cell", required=True, metavar="METHOD-STRENGTH")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--policies", type=int, default=8, help="points of the exact front whose floors are asked for")
    parser.add_argument("--prompts", type=int, default=500, help="as for benchmarks.front")
    parser.add_argument("--held-out", type=int, default=300, help="as for benchmarks.front")
    parser.add_argument("--samples", type=int, default=2, help="as for benchmarks.front")
    parser.add_argument("--trainings", type=int, default=2, help="new policies for a floor; 0: only between neighbours")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def counted(world: SandboxWorld, seed: int, options: argparse.Namespace) -> list[str]:
    """The row of a seed: how many floors are promised and met."""
    cell, place = options.front / f"seed-{seed}" / options.cell, options.out / f"seed-{seed}-{options.cell}"
    split = world.validation(seed)
    floors = world.truth(seed, ~split, options.policies).floors
    measured = measured_copy(world, seed, cell, place)
    family = read_family(measured)
    found = [
        one_floor(world, seed, measured, place / f"floor-{index}", asked, options.trainings)
        for index, asked in enumerate(named(world.objectives, floors))
    ]
    with np.load(cell / "cell.npz") as kept:
        values: FloatArray = kept["values"]
    members = [policy.id for policy in family.policies if policy.adapter]
    means = dict(zip(members, policy_means(values[..., ~split]), strict=True))
    added = {index: np.array(floor.added) for index, floor in enumerate(found) if floor.added is not None}
    promises = [
        [(floor.before, means.get(str(floor.before))) for floor in found],
        [
            (floor.after, added[index][:, ~split].mean(axis=-1) if index in added else means.get(str(floor.after)))
            for index, floor in enumerate(found)
        ],
    ]
    row = [str(seed), str(len(floors))]
    for side in promises:
        held = [means for _, means in side]
        row += [
            str(sum(policy is not None for policy, _ in side)),
            str(promises_kept(held, floors)),
        ]
    primary = world.objectives.index(family.primary)
    for each in (values, np.concatenate([values, *(scores[None] for scores in added.values())])):
        chosen, tested = (policy_means(each[..., part]) for part in (split, ~split))
        row.append(f"{share_of_floors_met(chosen, tested, floors, primary) * len(floors):.0f}")
    return row


def measured_copy(world: SandboxWorld, seed: int, cell: Path, place: Path) -> Path:
    """A copy of the cell's family with the base model, measured on the validation prompts."""
    ready = world.ready(seed)
    family, prompts = place / "family", place / "prompts.jsonl"
    if not family.exists():
        partial = place / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(cell / "family", partial)
        shutil.copytree(ready.model, partial / "base", dirs_exist_ok=True)
        partial.rename(family)
    lines = (ready.model.parent / "prompts.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    write_whole(prompts, "".join(lines[: int(world.validation(seed).sum())]))
    asked = ["--prompts", prompts, "--judges", ready.model.parent / "judges.yaml", "--engine", "embedded"]
    command("mopo-eval", "run", family, *asked, "--samples", world.samples, "--max-tokens", MAX_TOKENS)
    return family


def named(objectives: Sequence[str], floors: FloatArray) -> list[dict[str, float]]:
    """Floors (F, K) by objective."""
    return [
        {name: float(value) for name, value in zip(objectives, row, strict=True) if not np.isnan(value)}
        for row in floors
    ]


def one_floor(
    world: SandboxWorld, seed: int, measured: Path, place: Path, asked: Mapping[str, float], trainings: int
) -> Floor:
    """Refine a copy of the ``measured`` family for the floors ``asked``; a file beside ``place`` keeps what came."""
    kept = place.with_suffix(".json")
    if kept.exists():
        return Floor(**json.loads(kept.read_bytes()))
    if not place.exists():
        partial = place.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(measured, partial)
        partial.rename(place)
    family = read_family(measured)
    now = select(ThresholdProfile(primary=family.primary, floors=dict(asked)), read_results(measured, family).cards)
    after = refined(place, asked, world.ready(seed).model.parent / "judges.yaml", trainings)
    new = after is not None and after not in {policy.id for policy in family.policies}
    scores = world.scores(seed, place, [str(after)])[0].tolist() if new else None
    floor = Floor(now.policy if now.feasible else None, after, scores)
    write_whole(kept, json.dumps(floor._asdict()) + "\n")
    shutil.rmtree(place)
    return floor


def refined(family: Path, asked: Mapping[str, float], judges: Path, trainings: int) -> str | None:
    """The policy that `refine` promises; None where the floors are out of its reach."""
    request = Request(dict(asked), trainings=trainings, engine=EngineChoice("embedded"), judges=judges)
    try:
        return refine(family, request).policy
    except FloorError as error:
        say(str(error))
        return None


if __name__ == "__main__":
    main()
