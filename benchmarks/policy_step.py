"""Compare the policy steps on the sandbox: what policies reach from the same floors, steps and seeds.

    python benchmarks/policy_step.py SANDBOX [--steps 160] [--floor safety=0.5 ...] [--learning-rate 0.002 ...]

Trains one policy from scratch per step kind, setting and floor (no floor is always among them), answers the held-out
prompts at temperature 1 and prints the means of the exact judges, beside what the data predicts and what the exact
front allows. SANDBOX is written by ``mopo-train sandbox``. Not part of the tests.
"""

import itertools
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from mopo_train.console import print_table, progress
from mopo_train.dual import Solution, solve
from mopo_train.family import parse_floors
from mopo_train.policy.adapter import AdapterTask, StepKind, new_adapter, train_adapter, unwrap
from mopo_train.policy.batches import make_units, plan_steps
from mopo_train.policy.corpus import corpus_log_probabilities, encode_corpus
from mopo_train.policy.followed import Followed, make_target
from mopo_train.policy.loop import LoopSettings
from mopo_train.policy.models import fingerprint, load_model, load_tokenizer
from mopo_train.policy.packing import collate
from mopo_train.policy.scoring import response_log_probabilities
from mopo_train.policy.tokens import encode_prompts, encode_responses, join
from mopo_train.preferences import read_preferences
from mopo_train.sandbox.judges import JUDGES
from mopo_train.winrates import win_rates

TOGETHER = 50
"""Prompts answered in one batch."""


def answer(model: Any, tokenizer: Any, prompts: Sequence[str], seed: int) -> list[str]:
    """One answer per prompt, sampled at temperature 1."""
    torch.manual_seed(seed)
    tokenizer.padding_side = "left"
    answers: list[str] = []
    model.eval()
    for begin in range(0, len(prompts), TOGETHER):
        talks = [[{"role": "user", "content": text}] for text in prompts[begin : begin + TOGETHER]]
        batch = tokenizer.apply_chat_template(
            talks, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True
        )
        with torch.inference_mode():
            out = model.generate(**batch, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=64, use_cache=True)
        answers += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def generated_kl(model: Any, tokenizer: Any, prompts: Sequence[str], answers: Sequence[str]) -> float:
    """KL(policy || reference) in nats, estimated on answers that the policy wrote; it sees text outside the data."""
    told = [(x, y) for x, y in zip(prompts, answers, strict=True) if y]  # the rare empty answer has no tokens to score
    talks = [[{"role": "user", "content": x}] for x, _ in told]
    pairs = zip(encode_prompts(tokenizer, talks, 512), encode_responses(tokenizer, [y for _, y in told]), strict=True)
    rows = [join(x, y, 512) for x, y in pairs]
    total = 0.0
    with torch.inference_mode():
        for begin in range(0, len(rows), TOGETHER):
            batch = collate(rows[begin : begin + TOGETHER])
            moved = response_log_probabilities(model, batch)
            with model.disable_adapter():
                total += float((moved - response_log_probabilities(model, batch)).sum())
    return total / len(rows)


def judged(prompts: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Mean score of each exact judge."""
    pairs = list(zip(prompts, answers, strict=True))
    return {name: float(np.mean([judge(x, y).score for x, y in pairs])) for name, judge in JUDGES.items()}


def front_value(front: Mapping[str, Any], scores: Mapping[str, float], primary: str) -> float:
    """Best ``primary`` of an exact point that is at least as good on every other objective; NaN if there is none."""
    points = [point["scores"] for point in front["points"]]
    able = [p[primary] for p in points if all(p[k] >= scores[k] for k in scores if k != primary)]
    return max(able, default=float("nan"))


@click.command()
@click.argument("sandbox", type=click.Path(path_type=Path, exists=True))
@click.option("--steps", default=[160], multiple=True, type=int)
@click.option("--floor", "floors", multiple=True, help="One policy per option; commas join floors of one policy.")
@click.option("--kind", "kinds", default=["pairwise", "weighted-bc"], multiple=True)
@click.option("--learning-rate", "rates", default=[2e-3], multiple=True, type=float)
@click.option("--anchor", "anchors", default=[0.1], multiple=True, type=float)
@click.option("--batch-size", "sizes", default=[32], multiple=True, type=int)
@click.option("--tau", default=0.15)
@click.option("--seed", default=0)
@click.option("--samples", default=3, help="Answers per prompt.")
def main(sandbox: Path, floors: tuple[str, ...], tau: float, seed: int, samples: int, **grid: Any) -> None:
    """Print one row per policy."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    prompts = [json.loads(line)["prompt"] for line in (sandbox / "prompts.jsonl").read_text("utf-8").splitlines()]
    front = json.loads((sandbox / "front.json").read_bytes())
    data = read_preferences([sandbox / "preferences.jsonl"])
    wins, tokenizer = win_rates(data), load_tokenizer(str(sandbox / "base"))
    corpus = encode_corpus(data, tokenizer, 512)
    work = Path(tempfile.mkdtemp())
    base: Any = load_model(str(sandbox / "base"))
    everything = range(len(corpus.rows))
    reference = corpus_log_probabilities(
        base, corpus, everything, work, fingerprint(str(sandbox / "base")), title="reference"
    )
    asked_often = prompts * samples
    before = judged(asked_often, answer(base, tokenizer, asked_often, seed))
    rows = [_row(("reference", "", "", "", "", ""), None, before, before, exact=front, cost=(0.0, 0.0))]
    for text in ("", *floors):
        asked = parse_floors(tuple(part for part in text.split(",") if part))
        point = solve(wins, primary="helpfulness", floors=asked, tau=tau)
        settings = itertools.product(*(grid[k] for k in ("kinds", "steps", "sizes", "rates", "anchors")))
        for kind, steps, size, rate, anchor in settings:
            plan = plan_steps(
                make_units(data.compared(), data.response_prompt, size), corpus.lengths, size, steps, seed
            )
            step: StepKind = kind
            followed = Followed(make_target(point.ratio, point.score, tau, wins), reference, wins.mass, point)
            task = AdapterTask(step, followed, corpus, wins, plan, anchor, tau)
            began = time.process_time()
            model = new_adapter(base, rank=8, seed=seed, start=None)
            with progress(f"{kind} {text}", steps) as line:
                train_adapter(model, task, LoopSettings(learning_rate=rate, seed=seed), work / "run", line)
            spent = time.process_time() - began
            answers = answer(model, tokenizer, asked_often, seed)
            scores, far = judged(asked_often, answers), generated_kl(model, tokenizer, asked_often, answers)
            told = (kind, text, str(steps), str(size), f"{rate:g}", f"{anchor:g}")
            rows.append(_row(told, point, scores, before, exact=front, cost=(far, spent)))
            base = unwrap(model)
            shutil.rmtree(work / "run", ignore_errors=True)
            sys.stderr.write("  ".join(rows[-1]) + "\n")
    shutil.rmtree(work)
    columns = ["step", "floors", "steps", "batch", "rate", "anchor"]
    print_table(
        [*columns, *(f"{k[:4]}" for k in JUDGES), "gain", *(f"plan {k[:4]}" for k in JUDGES), "exact", "KL", "CPU s"],
        rows,
    )


def _row(
    told: tuple[str, ...],
    point: Solution | None,
    scores: Mapping[str, float],
    before: Mapping[str, float],
    *,
    exact: Any,
    cost: tuple[float, float],
) -> list[str]:
    """One line of the table.

    ``gain`` is what the policy was asked for, primary + sum of multiplier x objective, above the reference's; ``cost``
    is KL and CPU seconds.
    """
    planned = [f"{point.predicted[name]:.3f}" if point else "" for name in JUDGES]
    weights = {"helpfulness": 1.0} | (point.multipliers if point else {})
    gain = sum(weight * (scores[name] - before[name]) for name, weight in weights.items())
    best = front_value(exact, scores, "helpfulness")
    return [
        *told,
        *(f"{scores[name]:.3f}" for name in JUDGES),
        f"{gain:.3f}",
        *planned,
        f"{best:.3f}",
        f"{cost[0]:.2f}",
        f"{cost[1]:.0f}",
    ]


if __name__ == "__main__":
    main()
