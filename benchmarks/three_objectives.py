"""A family on three real objectives, from nothing: SafeRLHF joined with the TruthfulQA judge data.

    python -m benchmarks.three_objectives --data ../shared/data [--out runs/three] [--quick]

Helpfulness and safety of PKU-SafeRLHF's pairs; informative (as helpfulness) and true (as factuality) of the answers
that TruthfulQA's judges were trained on, paired within a question. Both are split by prompt. A small Llama is trained
from scratch on the training responses, with the learning rate of the least loss on held-out responses after a short
trial; then six policies by MOPO; then ``mopo-eval pairs`` on the held-out pairs of each source; then the family is
served by ``mopo-serve`` and every policy is asked. Every step is one command of the suite and resumes. With ``--quick``
all are tiny, on the first rows of the files and without a choice of the learning rate, to see them work: the tests do.

Fixed before the first run: seed 0 and, per objective, one question about held-out pairs: do policies that were planned
to hold more of it rank more of its pairs rightly? Statistic: per prompt, the slope of a policy's accuracy on its
planned data win rate over the six policies; test: signs of the prompts' slopes flipped at random (scipy, 9,999 flips,
one sided), adjusted for the three objectives (Holm).
"""

import contextlib
import gzip
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx
import numpy as np
from scipy import stats

from mopo_eval import cli as eval_cli
from mopo_eval.differences import holm
from mopo_eval.pairs import policy_log_ratios, ranked_right
from mopo_train import cli as train_cli
from mopo_train.console import print_table, say
from mopo_train.family import PolicyFamily, read_family
from mopo_train.policy.corpus import corpus_log_probabilities, encode_corpus
from mopo_train.policy.models import load_model, load_tokenizer
from mopo_train.preferences import PreferenceData, read_preferences

SOURCES = {
    "saferlhf": ["pku_saferlhf_train.jsonl.gz"],
    "truthfulqa": ["truthfulqa_judge_truth.jsonl.gz", "truthfulqa_judge_info.jsonl.gz"],
}
LEARNING_RATES = (1e-3, 2e-3, 4e-3)
BIN = Path(sys.executable).parent
COMMANDS = {"mopo-train": train_cli.main, "mopo-eval": eval_cli.main}
SEED = "0"


class Size(NamedTuple):
    """How much is trained."""

    reference_steps: int
    trial_steps: int
    family_steps: int
    hidden_size: int
    layers: int
    heads: int
    vocab_size: int
    max_length: int
    rates: tuple[float, ...] = LEARNING_RATES
    rows: int | None = None
    """Of each source; None: all."""


FULL = Size(600, 80, 120, 320, 4, 5, 4096, 256)
QUICK = Size(10, 5, 3, 64, 2, 2, 1024, 768, LEARNING_RATES[-1:], 80)


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True), help="Directory of the data sets.")
@click.option("--out", default="runs/three", show_default=True, type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="Tiny sizes, to see that it works.")
@click.option("--serve/--no-serve", default=True, help="Ask every policy at the end.")
def main(data: Path, out: Path, quick: bool, serve: bool) -> None:
    """Train, measure and serve the family; print what it shows."""
    size = QUICK if quick else FULL
    began = time.monotonic()
    for name, files in SOURCES.items():
        if not (out / name / "prompts.jsonl").exists():
            sources = first_rows([data / file for file in files], out / f"{name}-rows", size.rows)
            command("mopo-train", "split", *sources, "--out", out / name, "--seed", SEED)
    train, heldout = ([out / name / f"{part}.jsonl" for name in SOURCES] for part in ("train", "heldout"))
    reference = trained_reference(train, heldout, out, size)
    family = out / "family"
    command(
        "mopo-train", "run", *train, "--model", reference, "--out", family, "--primary", "helpfulness",
        "--policies", 6, "--steps", size.family_steps, "--max-length", size.max_length, "--seed", SEED,
    )  # fmt: skip
    say(f"trained after {time.monotonic() - began:.0f} s")
    for path in heldout:
        found = command("mopo-eval", "pairs", family, path, "--json")
        (out / f"pairs-{path.parent.name}.json").write_text(found)
        print_pairs(json.loads(found), f"{path.parent.name}, held out: share of pairs ranked as labelled")
    trends(family, {path.parent.name: read_preferences([path], at_least=1) for path in heldout})
    if serve:
        asked(family)
    say(f"done after {time.monotonic() - began:.0f} s")


def command(*arguments: object) -> str:
    """Run a command of the suite here, its progress on stderr, and return its stdout. Ends the program if it fails."""
    name, *rest = map(str, arguments)
    say("$ " + " ".join([name, *rest]))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = COMMANDS[name].main(rest, prog_name=name, standalone_mode=False)
    if status:
        sys.exit(status)
    return printed.getvalue()


def first_rows(files: Sequence[Path], directory: Path, rows: int | None) -> Sequence[Path]:
    """``files``, or copies of the first ``rows`` distinct questions in them."""
    if rows is None:
        return files
    directory.mkdir(parents=True, exist_ok=True)
    copies, chosen = [], set[str]()
    for file in files:
        copy = directory / file.name.removesuffix(".gz")
        with gzip.open(file, "rt", encoding="utf-8") as lines, copy.open("w", encoding="utf-8") as kept:
            for line in lines:
                question = json.loads(line)["prompt"].partition("\nA:")[0]
                if question in chosen or (file == files[0] and len(chosen) < rows):
                    chosen.add(question)
                    kept.write(line)
        copies.append(copy)
    return copies


def print_pairs(found: dict[str, Any], title: str) -> None:
    """The shares of ``mopo-eval pairs --json`` as a table."""
    objectives = list(next(iter(found.values()), {}))
    rows = [[policy, *(_share(scores[name]) for name in objectives)] for policy, scores in found.items()]
    print_table(["policy", *objectives], rows, title=title)


def _share(score: dict[str, Any]) -> str:
    told = f"{score['accuracy']:.3f} [{score['low']:.3f}, {score['high']:.3f}], n = {score['n']}"
    if "difference" not in score:
        return told
    difference = score["difference"]
    ends = f"[{difference['low']:+.3f}, {difference['high']:+.3f}]"
    return f"{told}; minus {difference['policy']} {difference['mean']:+.3f} {ends} p {difference['p_value']:.2g}"


def trained_reference(train: Sequence[Path], heldout: Sequence[Path], out: Path, size: Size) -> Path:
    """The reference model, with the learning rate whose short trial has the least held-out loss."""
    shape = [
        "--hidden-size", size.hidden_size, "--layers", size.layers, "--heads", size.heads,
        "--vocab-size", size.vocab_size, "--max-length", size.max_length, "--seed", SEED,
    ]  # fmt: skip
    losses = {rate: 0.0 for rate in size.rates}
    for rate in size.rates if len(size.rates) > 1 else ():
        trial = out / f"trial-{rate:g}"
        command(
            "mopo-train", "reference", *train, "--model", "scratch", "--out", trial, *shape,
            "--steps", size.trial_steps, "--learning-rate", rate,
        )  # fmt: skip
        losses[rate] = held_out_loss(trial, heldout, size)
        say(f"learning rate {rate:g}: {losses[rate]:.4f} nats per held-out token after {size.trial_steps} steps")
    best = min(losses, key=losses.__getitem__)
    reference = out / "reference"
    command(
        "mopo-train", "reference", *train, "--model", "scratch", "--out", reference, *shape,
        "--steps", size.reference_steps, "--learning-rate", best,
    )  # fmt: skip
    parameters = sum(weight.numel() for weight in load_model(str(reference)).parameters())
    loss = held_out_loss(reference, heldout, size)
    click.echo(f"reference: {parameters:,} parameters, learning rate {best:g}, {loss:.4f} nats per held-out token")
    return reference


def held_out_loss(model: Path, heldout: Sequence[Path], size: Size) -> float:
    """Mean -log p per token of the held-out responses, in nats."""
    data = read_preferences(heldout, at_least=1)
    corpus = encode_corpus(data, load_tokenizer(str(model)), size.max_length)
    every = list(range(len(corpus.rows)))
    found = corpus_log_probabilities(load_model(str(model)), corpus, every, model, "held out", title="held-out loss")
    return float(-found.sum() / sum(len(row.response) for row in corpus.rows))


def trends(root: Path, heldout: dict[str, PreferenceData]) -> None:
    """Print the answers to the questions that were fixed beforehand."""
    family = read_family(root)
    slopes: dict[str, list[tuple[str, Any]]] = {}
    for source, data in heldout.items():
        ratios = policy_log_ratios(root, family, data)
        right = np.stack([ranked_right(data, ratio) for ratio in ratios.values()])  # (P, R, K)
        for k, name in enumerate(data.objectives):
            slopes.setdefault(name, []).append(
                (source, prompt_slopes(family, list(ratios), data, right[:, :, k], name))
            )
    tests = {}
    for name, parts in slopes.items():
        each = np.concatenate([values for _, values in parts])
        found = stats.permutation_test(
            (each,),
            np.mean,
            permutation_type="samples",
            alternative="greater",
            n_resamples=9999,
            rng=np.random.default_rng(0),
        )
        tests[name] = (float(each.mean()), float(found.pvalue), len(each), " + ".join(source for source, _ in parts))
    adjusted = holm([p_value for _, p_value, _, _ in tests.values()])
    rows = [
        [name, source, str(n), f"{mean:+.3f}", f"{p_value:.4f}", f"{corrected:.4f}"]
        for (name, (mean, p_value, n, source)), corrected in zip(tests.items(), adjusted, strict=True)
    ]
    columns = ["objective", "held-out pairs of", "prompts", "slope", "p", "p adjusted"]
    print_table(columns, rows, title="accuracy on an objective's pairs per planned data win rate on it")


def prompt_slopes(family: PolicyFamily, policies: Sequence[str], data: PreferenceData, right: Any, name: str) -> Any:
    """(prompts with strict labels,) least-squares slope of accuracy on the planned data win rate, over the policies."""
    planned = np.array([family.policy(policy).predicted[name] for policy in policies])
    contrast = (planned - planned.mean()) / ((planned - planned.mean()) ** 2).sum()
    strict = ~np.isnan(right[0])
    per_row = contrast @ right[:, strict]
    prompts, code = np.unique(data.prompt[strict], return_inverse=True)
    return np.bincount(code, per_row, len(prompts)) / np.bincount(code, minlength=len(prompts))


def asked(root: Path) -> None:
    """Serve the family and ask every policy one question."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    server = subprocess.Popen([BIN / "mopo-serve", "run", str(root), "--port", str(port)], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 300
        while time.monotonic() < until and server.poll() is None and not ready(url):
            time.sleep(1)
        for policy in read_family(root).policies:
            body = {
                "model": f"mopo/policy/{policy.id}",
                "messages": [{"role": "user", "content": "Why does the moon look larger near the horizon?"}],
                "max_tokens": 40,
                "seed": 0,
            }
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
            answer.raise_for_status()
            text = answer.json()["choices"][0]["message"]["content"]
            click.echo(f"{answer.headers['x-mopo-policy']}: {json.dumps(text)}")
    finally:
        server.terminate()
        server.wait(timeout=60)


def ready(url: str) -> bool:
    """Whether the gateway answers that it is ready."""
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    main()
