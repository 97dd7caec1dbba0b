"""The reference's own samples and the policies' divergence from it, each made once and kept in the work directory."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mopo_train.console import progress
from mopo_train.family import GeneratedKL, write_whole
from mopo_train.policy.adapter import OwnSamples, new_adapter, unwrap
from mopo_train.policy.corpus import log_probabilities
from mopo_train.policy.distributed import from_leader
from mopo_train.policy.sampling import generated_divergence, sample
from mopo_train.policy.tokens import Encoded, Ids

OWN_PROMPTS = 512
"""At most so many prompts are answered by the reference, once each."""


class Speaker:
    """Lets a model write answers to the training prompts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Ids], limit: int, seed: int) -> None:
        """``prompts`` in tokens; ``limit`` in tokens for prompt and answer together."""
        self.tokenizer, self.limit, self.seed = tokenizer, limit, seed
        self._prompts, self._order = prompts, np.random.default_rng(seed).permutation(len(prompts))

    def asked(self, number: int) -> list[Ids]:
        """At most ``number`` of the prompts, in random order; fewer are the first of more."""
        return [self._prompts[index] for index in self._order[:number]]

    def own_samples(self, base: PreTrainedModel, work: Path, weight: float) -> OwnSamples:
        """Answers of the reference ``base``, with its log-probabilities; kept in ``work``."""
        path, prompts = work / "own-samples.json", self.asked(OWN_PROMPTS)
        if not from_leader(path.exists):
            rows = sample(base, self.tokenizer, prompts, self.limit, self.seed)
            told = json.dumps([row.response.tolist() for row in rows])
            from_leader(lambda: write_whole(path, told))
        answers = from_leader(lambda: json.loads(path.read_bytes()))
        rows = [
            Encoded(prompt, np.array(answer, dtype=np.int32)) for prompt, answer in zip(prompts, answers, strict=True)
        ]
        with progress("the reference's own samples", len(rows)) as line:
            return OwnSamples(rows, log_probabilities(base, rows, line), weight)

    def divergences(
        self, base: PreTrainedModel, adapters: dict[str, Path], work: Path, prompts: int
    ) -> dict[str, GeneratedKL]:
        """How far each adapter's policy is from ``base``, on its answers to ``prompts`` prompts; kept in ``work``."""
        found, model = {}, base
        with progress("divergence of generated text", len(adapters)) as line:
            for name, adapter in adapters.items():
                path = work / f"divergence-{name}.json"
                if not from_leader(path.exists):
                    wrapped = new_adapter(model, rank=1, seed=self.seed, start=adapter)
                    came = generated_divergence(wrapped, self.tokenizer, self.asked(prompts), self.limit, self.seed)
                    model = unwrap(wrapped)
                    error = came.error if came.prompts > 1 else None
                    told = GeneratedKL(kl=came.kl, error=error, prompts=came.prompts).model_dump_json()
                    from_leader(partial(write_whole, path, told))
                found[name] = GeneratedKL.model_validate_json(from_leader(path.read_bytes))
                line.advance(note=name)
        return found
