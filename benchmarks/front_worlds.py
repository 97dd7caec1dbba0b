"""The worlds that `benchmarks.front` measures families in: the sandbox, and real pairs on three objectives."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmarks.front_statistics import best_subset, hypervolume
from benchmarks.three_objectives import FULL, QUICK, SOURCES, command, first_rows, trained_reference
from mopo_eval.pairs import policy_log_ratios, ranked_right
from mopo_train.family import base_model_path, read_family, write_whole
from mopo_train.generation import Generator, Piece, Row, Sampling
from mopo_train.policy.adapter import new_adapter, unwrap
from mopo_train.policy.models import load_model, load_tokenizer
from mopo_train.policy.sampling import generated_divergence
from mopo_train.policy.tokens import encode_prompts
from mopo_train.preferences import read_preferences
from mopo_train.sandbox.build import SandboxConfig, build_sandbox
from mopo_train.sandbox.front import exact_front
from mopo_train.sandbox.judges import JUDGES
from mopo_train.winrates import FloatArray

TOGETHER = 200
"""Answers written in one batch."""
MAX_TOKENS = 64
LIMIT = 128
"""Tokens of a prompt of the sandbox and its answer together."""
KL_PROMPTS = 100
"""Prompts that every policy answers to measure its divergence."""


class Ready(NamedTuple):
    """A world with its data and model made."""

    sources: list[Path]
    model: Path
    primary: str


class Measured(NamedTuple):
    """A family on all prompts that were held out."""

    values: FloatArray
    """(policies, objectives, prompts), without the reference; larger is better."""
    kl: FloatArray
    """(policies,) from the reference, in nats per answer."""


class Truth(NamedTuple):
    """What the values of some prompts are held against."""

    nadir: FloatArray
    """(K,) reference point of hypervolumes."""
    best: float | None
    """Hypervolume of the best subset of the exact front, where there is one."""
    floors: FloatArray
    """(F, K) floors to hold, NaN where an objective is free."""


class World(Protocol):
    """What `benchmarks.front` needs of a world."""

    objectives: tuple[str, ...]

    def ready(self, seed: int) -> Ready:
        """Make data and model, or find them."""
        ...

    def measure(self, seed: int, family: Path) -> Measured:
        """Measure every policy but the reference."""
        ...

    def validation(self, seed: int) -> Any:
        """(prompts,) bool: which of the prompts choose settings; the others test."""
        ...

    def truth(self, seed: int, prompts: Any, policies: int) -> Truth:
        """For the ``prompts`` (bool) of a seed."""
        ...


class SandboxWorld:
    """Exact judges on sampled answers to prompts about entities that training never saw."""

    objectives: tuple[str, ...] = tuple(JUDGES)

    def __init__(self, root: Path, *, prompts: int, held_out: int, samples: int) -> None:
        """A third of the ``held_out`` prompts choose settings; ``samples`` answers to each."""
        self.root, self.prompts, self.held_out, self.samples = root, prompts, held_out, samples

    def ready(self, seed: int) -> Ready:
        """The sandbox of ``seed``."""
        root = self._place(seed)
        build_sandbox(root, SandboxConfig(seed=seed, prompts=self.prompts, held_out=self.held_out))
        return Ready([root / "preferences.jsonl"], root / "base", "helpfulness")

    def validation(self, seed: int) -> Any:
        """The first third."""
        return np.arange(self.held_out) < self.held_out // 3

    def truth(self, seed: int, prompts: Any, policies: int) -> Truth:
        """The nadir of the exact front on these prompts, and its best ``policies`` points."""
        kept = self._place(seed) / f"truth-{int(prompts.sum())}.json"
        if not kept.exists():
            asked = [text for text, used in zip(self._asked(seed), prompts, strict=True) if used]
            scores = [[point.scores[name] for name in self.objectives] for point in exact_front(asked).points]
            write_whole(kept, json.dumps(scores))
        points = np.array(json.loads(kept.read_bytes()))
        nadir = points.min(axis=0)
        best = points[best_subset(points, policies, nadir)]
        floors = np.where(np.array(self.objectives) == "helpfulness", np.nan, best)
        return Truth(nadir, hypervolume(best, nadir), floors)

    def measure(self, seed: int, family: Path) -> Measured:
        """Mean judge scores of each prompt's answers, and the divergence on these answers."""
        policies = [policy.id for policy in read_family(family).policies if policy.adapter]
        talks: list[Any] = [[{"role": "user", "content": text}] for text in self._asked(seed)[:KL_PROMPTS]]
        return Measured(self.scores(seed, family, policies), divergences(family, talks, LIMIT))

    def scores(self, seed: int, family: Path, policies: Sequence[str]) -> FloatArray:
        """(policies, objectives, prompts) mean judge scores of the answers of some ``policies`` of the family."""
        members = read_family(family)
        adapters = {policy: family / str(members.policy(policy).adapter) for policy in policies}
        generator = Generator(base_model_path(family, members), adapters)
        texts = self._asked(seed)
        asked = [generator.chat_prompt([{"role": "user", "content": text}]) for text in texts]
        values = []
        for policy in policies:
            rows = [
                Row(policy, prompt, Sampling(MAX_TOKENS, seed=1000 * sample + index))
                for sample in range(self.samples)
                for index, prompt in enumerate(asked)
            ]
            answers = written(generator, rows)
            scores = [
                [judge(text, answer).score for judge in JUDGES.values()]
                for text, answer in zip(texts * self.samples, answers, strict=True)
            ]
            values.append(np.array(scores).reshape(self.samples, len(texts), -1).mean(axis=0).T)
        return np.array(values)

    def _asked(self, seed: int) -> list[str]:
        lines = (self._place(seed) / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["prompt"] for line in lines]

    def _place(self, seed: int) -> Path:
        return self.root / f"seed-{seed}" / "world"


def written(generator: Generator, rows: list[Row]) -> list[str]:
    """The answer of every row."""
    texts: dict[int, list[str]] = {id(row): [] for row in rows}

    def keep(row: Row, piece: Piece) -> None:
        texts[id(row)].append(piece.text)

    for begin in range(0, len(rows), TOGETHER):
        generator.generate(rows[begin : begin + TOGETHER], keep)
    return ["".join(texts[id(row)]) for row in rows]


def divergences(family: Path, conversations: list[Any], limit: int) -> FloatArray:
    """(policies,) KL(policy || reference) in nats on answers that each policy writes to the ``conversations``."""
    members = read_family(family)
    place = base_model_path(family, members)
    tokenizer, base = load_tokenizer(place), load_model(place)
    prompts, found = encode_prompts(tokenizer, conversations, limit), []
    for policy in members.policies:
        if policy.adapter:
            wrapped = new_adapter(base, rank=1, seed=0, start=family / policy.adapter)
            found.append(generated_divergence(wrapped, tokenizer, prompts, limit, seed=0).kl)
            base = unwrap(wrapped)
    return np.array(found)


class PairsWorld:
    """Real pairs on three objectives: how each policy's log pi / pi_ref ranks held-out pairs, chance as the nadir."""

    objectives: tuple[str, ...] = ("helpfulness", "safety", "factuality")

    def __init__(self, root: Path, data: Path, *, quick: bool) -> None:
        """``data``: the directory of the real data sets."""
        self.root, self.data, self.size = root, data, QUICK if quick else FULL

    def ready(self, seed: int) -> Ready:
        """Split by prompt and train the reference; the split and the model are the same for all seeds."""
        for name, files in SOURCES.items():
            if not (self.root / name / "prompts.jsonl").exists():
                paths = first_rows([self.data / file for file in files], self.root / f"{name}-rows", self.size.rows)
                command("mopo-train", "split", *paths, "--out", self.root / name, "--seed", "0")
        train, heldout = ([self.root / name / f"{part}.jsonl" for name in SOURCES] for part in ("train", "heldout"))
        reference = self.root / "reference"
        if not (reference / "config.json").exists():
            trained_reference(train, heldout, self.root, self.size)
        return Ready(train, reference, "helpfulness")

    def validation(self, seed: int) -> Any:
        """A third of the held-out prompts, drawn by the seed."""
        prompts = len(self._heldout().group)
        return np.random.default_rng(seed).permutation(prompts) < prompts // 3

    def truth(self, seed: int, prompts: Any, policies: int) -> Truth:
        """Chance: nobody knows the front."""
        return Truth(np.full(3, 0.5), None, np.empty((0, 3)))

    def measure(self, seed: int, family: Path) -> Measured:
        """Share of a prompt's strictly labelled pairs that the policy ranks as the label does."""
        data = self._heldout()
        order = [data.objectives.index(name) for name in self.objectives]
        ratios = policy_log_ratios(family, read_family(family), data)
        values = []
        for ratio in ratios.values():
            right = ranked_right(data, ratio)[:, order]  # (rows, K)
            strict = ~np.isnan(right)
            counts = np.stack([np.bincount(data.prompt, strict[:, k], len(data.group)) for k in range(3)])
            held = np.stack([np.bincount(data.prompt, np.nan_to_num(right[:, k]), len(data.group)) for k in range(3)])
            values.append(np.where(counts > 0, held / np.maximum(counts, 1), np.nan))
        talks = [data.messages(prompt) for prompt in range(min(KL_PROMPTS, len(data.group)))]
        return Measured(np.array(values), divergences(family, talks, self.size.max_length))

    def _heldout(self) -> Any:
        return read_preferences([self.root / name / "heldout.jsonl" for name in SOURCES], at_least=1)
