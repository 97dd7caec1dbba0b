"""On-policy rounds: the policy answers, a preference model labels the answers, and training goes on from there.

Algorithm 1 (arXiv 2505.10892) with fresh text in place of reweighted data: the reference becomes the policy itself as
it stands, samples of it stand for it, and their win rates are against the responses of the data, as before, so that
floors keep their unit. The preference model is the cross-fitted one of `mopo_train.preference_model`: its errors
are not corrected by anything here. Measure what comes.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mopo_train.console import ProgressLine
from mopo_train.errors import DataError
from mopo_train.family import write_whole
from mopo_train.formulation import solve_floors
from mopo_train.policy.adapter import new_adapter, unwrap
from mopo_train.policy.batches import Steps, make_units, plan_steps
from mopo_train.policy.corpus import Corpus, log_probabilities
from mopo_train.policy.distributed import from_leader
from mopo_train.policy.sampling import sample
from mopo_train.policy.tokens import Encoded, Ids
from mopo_train.policy.training import PlannedPolicy, Training, train_policy
from mopo_train.preference_model.settings import FitSettings
from mopo_train.preferences import PreferenceData
from mopo_train.rows import plain, to_json
from mopo_train.winrates import FloatArray, IntArray, WinRates, from_rates

MOST_PROMPTS = 512
"""Training prompts that are answered in a round."""


class Setup(NamedTuple):
    """What all rounds of a run share."""

    data: PreferenceData
    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[Ids]
    """(P) in tokens."""
    limit: int
    """Tokens of prompt and answer together."""
    answers: int
    """Per prompt."""
    fit: FitSettings
    """Of the preference model."""


class Written(NamedTuple):
    """Distinct answers of the policy to the prompts where it has more than one."""

    prompts: IntArray
    """(P',) indices among the prompts of the data, ascending."""
    rows: list[Encoded]
    """(Y') contiguous per prompt."""
    texts: list[str]
    counts: FloatArray
    """(Y',) how often each was drawn."""
    starts: IntArray
    """(P' + 1,)"""


class Round(NamedTuple):
    """What a round trains on."""

    rates: WinRates
    corpus: Corpus
    reference: FloatArray
    """(Y',) log-probability under the policy as it was when the round began."""


def prepare_round(
    setup: Setup, base: PreTrainedModel, adapter: Path, work: Path, *, seed: int
) -> tuple[PreTrainedModel, Round]:
    """Let the policy of ``adapter`` answer, and label its answers; what is written is kept in ``work``.

    Returns ``base`` as it was, and the round. Raises DataError where the policy gives one answer to every prompt.
    """
    model = new_adapter(base, rank=1, seed=seed, start=adapter)
    written = write_answers(setup, model, seed)  # type: ignore[arg-type]
    reference = log_probabilities(model, written.rows)  # type: ignore[arg-type]
    labels = from_leader(lambda: _label(setup, written, work))
    rates = round_rates(setup.data, written, labels)
    corpus = Corpus(written.rows, np.array([row.length for row in written.rows], dtype=np.int64), "")
    return unwrap(model), Round(rates, corpus, reference)


def plan_round(made: Round, batch_size: int, steps: int, seed: int) -> Steps:
    """The batches of a round: all pairs of a prompt's answers."""
    compared = [
        (start + a, start + b)
        for start, size in zip(made.rates.starts[:-1].tolist(), np.diff(made.rates.starts).tolist(), strict=True)
        for a, b in combinations(range(size), 2)
    ]
    units = make_units(np.array(compared, dtype=np.int64), made.rates.prompt_of(), batch_size)
    return plan_steps(units, made.corpus.lengths, batch_size, steps, seed)


def write_answers(setup: Setup, model: PreTrainedModel, seed: int) -> Written:
    """``setup.answers`` answers to each of at most `MOST_PROMPTS` prompts, drawn by ``seed``; equal ones are one."""
    order = np.random.default_rng(seed).permutation(len(setup.prompts))[:MOST_PROMPTS]
    asked = np.sort(order)
    rows = sample(
        model, setup.tokenizer, [setup.prompts[x] for x in asked for _ in range(setup.answers)], setup.limit, seed
    )
    prompts, kept, texts, counts, starts = [], list[Encoded](), list[str](), list[int](), [0]
    for place, prompt in enumerate(asked.tolist()):
        mine = rows[place * setup.answers : (place + 1) * setup.answers]
        told = [str(setup.tokenizer.decode(row.response, skip_special_tokens=True)) for row in mine]
        drawn = Counter(text for text in told if text.strip())
        if len(drawn) < 2:
            continue
        prompts.append(prompt)
        kept += [mine[told.index(text)] for text in drawn]
        texts += list(drawn)
        counts += list(drawn.values())
        starts.append(len(kept))
    if not prompts:
        raise DataError(
            "the policy gives the same answer to every prompt each time, so a round has nothing to compare; use a "
            "larger --tau, or no --on-policy-rounds."
        )
    return Written(np.array(prompts), kept, texts, np.array(counts, dtype=np.float64), np.array(starts))


def round_rates(data: PreferenceData, written: Written, labels: Mapping[tuple[str, str, str], FloatArray]) -> WinRates:
    """Win rates of the written answers against a response of the data drawn for the prompt, a tie with itself.

    ``labels``: (K,) probabilities by prompt (as JSON), answer and response of the data. An objective counts on the
    prompts where the data carry a label on it.
    """
    shape = len(written.rows), len(data.objectives)
    rates = np.empty(shape)
    for place, prompt in enumerate(written.prompts.tolist()):
        key, others = _key(data, prompt), _responses(data, prompt)
        for index in range(written.starts[place], written.starts[place + 1]):
            text = written.texts[index]
            tie = np.full(shape[1], 0.5)
            rates[index] = np.mean([tie if text == y else labels[key, text, y] for y in others], axis=0)
    carries = np.zeros((len(data.group), shape[1]), dtype=bool)
    for k in range(shape[1]):
        carries[data.prompt[~np.isnan(data.labels[:, k])], k] = True
    totals = np.add.reduceat(written.counts, written.starts[:-1])
    mass = written.counts / np.repeat(totals, np.diff(written.starts))
    labelled = carries[written.prompts]
    return from_rates(data.objectives, rates, written.starts, labelled=labelled, mass=mass)._replace(itself=True)


def _label(setup: Setup, written: Written, work: Path) -> dict[tuple[str, str, str], FloatArray]:
    """The preference model's word on every written answer against every response of the data to the same prompt."""
    from mopo_train.preference_model.labelling import label_candidates

    data, lines = setup.data, list[str]()
    for place, prompt in enumerate(written.prompts.tolist()):
        texts = written.texts[written.starts[place] : written.starts[place + 1]]
        for text in dict.fromkeys([*texts, *_responses(data, prompt)]):
            lines.append(to_json({"prompt": plain(data.messages(prompt)), "response": text}) + "\n")
    candidates, labelled = work / "candidates.jsonl", work / "labelled.jsonl"
    write_whole(candidates, "".join(lines))
    label_candidates(data, str(candidates), labelled, setup.fit)
    found: dict[tuple[str, str, str], FloatArray] = {}
    for line in labelled.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        key, a, b = json.dumps(row["prompt"]), row["response_a"], row["response_b"]
        chance = np.array([row["preferences"][name] for name in data.objectives])
        found[key, a, b], found[key, b, a] = chance, 1 - chance
    return found


def _key(data: PreferenceData, prompt: int) -> str:
    return json.dumps(json.loads(to_json({"prompt": plain(data.messages(prompt))}))["prompt"])


def _responses(data: PreferenceData, prompt: int) -> list[str]:
    first, last = np.searchsorted(data.response_prompt, [prompt, prompt + 1])
    return [data.response(index) for index in range(first, last)]


def train_with_rounds(
    training: Training, setup: Setup, base: PreTrainedModel, policy: PlannedPolicy, line: ProgressLine
) -> PreTrainedModel:
    """Train ``policy`` on the data, then on its own answers; the last round writes its adapter. Returns ``base``.

    Every stage is whole or absent, so the same call continues a killed one. Floors are those of ``policy.point``; where
    the answers at hand cannot meet them, the nearest ones that they can.
    """
    config, work = training.config, training.workspace.work / f"{policy.name}-rounds"
    stages = [work / str(index) for index in range(config.on_policy_rounds)] + [policy.adapter]
    if not from_leader(stages[0].is_dir):
        base = train_policy(training, base, policy._replace(adapter=stages[0]), line)
    for index in range(1, len(stages)):
        if from_leader(stages[index].is_dir):
            continue
        base, made = prepare_round(setup, base, stages[index - 1], work / f"text-{index}", seed=config.seed + index)
        point = solve_floors(made.rates, policy.point.floors, training.form)
        name = f"{policy.name}.round-{index}"
        plan = plan_round(made, config.batch_size, config.round_steps, config.seed + index)
        log = policy.log.with_name(f"{name}.parquet")
        stage = PlannedPolicy(name, point, plan, stages[index - 1], stages[index], log)
        own = training._replace(rates=made.rates, corpus=made.corpus, reference=made.reference)
        base = train_policy(own, base, stage, line)
    from_leader(lambda: shutil.rmtree(work))
    return base
