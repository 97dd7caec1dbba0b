"""A pairwise preference model, fitted to preference data on this machine, as the judge.

It compares an answer with the reference policy's. Every judgement says how well the model ranked held-out pairs of its
data: a small model from scratch knows little, and its number should be read beside that.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mopo_eval.judges.case import Case, OnJudgement
from mopo_eval.judges.fingerprint import of_files
from mopo_eval.reliability import Reliability
from mopo_train.console import say
from mopo_train.errors import JudgeError
from mopo_train.judgement import Judgement
from mopo_train.rows import read_prompt

if TYPE_CHECKING:
    from mopo_train.preference_model.settings import FitSettings
    from mopo_train.preferences import PreferenceData


class PreferenceJudge(NamedTuple):
    """Probability that an answer is preferred to its baseline, by a model of ``sources``."""

    name: str
    sources: Sequence[str]
    objective: str
    encoder: str | None = None
    seed: int = 0
    costly: bool = False
    compares: bool = True

    @property
    def fingerprint(self) -> str:
        """Of the data's files and the encoder's."""
        paths = [Path(source) if Path(source).exists() else Path(source.partition("=")[2]) for source in self.sources]
        return of_files(self.name, [*paths, *([Path(self.encoder)] if self.encoder else [])])

    def judge(self, cases: Sequence[Case], on_judgement: OnJudgement) -> None:
        """Every judgement, in order, after fitting the model or finding that it was fitted before.

        Raises JudgeError for an answer without a baseline and for data that does not label the objective, DataError for
        data that cannot be used.
        """
        import numpy as np

        from mopo_train.preference_model.labelling import compare_answers
        from mopo_train.preference_model.settings import FitSettings

        for case in cases:
            if case.baseline is None:
                raise JudgeError(
                    f"judge '{self.name}' on {case.where}: nothing to compare with; it needs the reference policy's "
                    'answer, in a file of rows the field "baseline".'
                )
        data, settings = self._data(), FitSettings(encoder=self.encoder)
        known = self._held_out(data, settings).sentence
        say(f"judge {self.name}: {known}")
        talks = [read_prompt(case.prompt) for case in cases]
        answers = [[case.response, str(case.baseline)] for case in cases]
        pairs = np.arange(2 * len(cases)).reshape(-1, 2)
        chance = compare_answers(data, settings, talks, answers, pairs, seed=self.seed)
        column = data.objectives.index(self.objective)
        for index, case in enumerate(cases):
            score = 0.5 if case.response == case.baseline else float(chance[index, column])
            on_judgement(index, Judgement(score, None, known))

    def reliability(self) -> Reliability:
        """How well the model ranks held-out pairs. Raises JudgeError and DataError."""
        from mopo_train.preference_model.settings import FitSettings

        return self._held_out(self._data(), FitSettings(encoder=self.encoder))

    def _data(self) -> "PreferenceData":
        from mopo_train.preferences import read_preferences

        data = read_preferences(self.sources, at_least=1)
        if self.objective not in data.objectives:
            told = ", ".join(data.objectives)
            raise JudgeError(f"judge '{self.name}': its data label {told}, not '{self.objective}'.")
        return data

    def _held_out(self, data: "PreferenceData", settings: "FitSettings") -> Reliability:
        """How well the model ranks the pairs that it did not see."""
        from mopo_train.cache import cache_root
        from mopo_train.preference_model.calibration import measure_fit
        from mopo_train.preference_model.crossfit import cross_fit
        from mopo_train.preference_model.strengths import logits

        fitted = cross_fit(data, settings, cache_root(), seed=self.seed, networks=True)
        column = data.objectives.index(self.objective)
        z = logits(fitted.strengths, data.first, data.second)[:, column]
        found = measure_fit(z, data.labels[:, column], data.weight, data.group[data.prompt])
        if found is None:
            raise JudgeError(f"judge '{self.name}': no row of its data carries a label on '{self.objective}'.")
        mean, low, high = found.accuracy
        return Reliability(accuracy=mean, low=low, high=high, ece=found.ece, n=found.pairs, unit="pairs", chance=0.5)
