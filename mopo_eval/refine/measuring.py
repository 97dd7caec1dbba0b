"""Making a candidate's adapter and measuring it on the prompts of an earlier run; a repetition finds all of it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mopo_eval.answers import Answer, questions
from mopo_eval.choice_scores import ChoiceTable, choice_scores
from mopo_eval.collect import Missing, collect
from mopo_eval.engine_choice import EngineChoice, Engines, chosen_engines
from mopo_eval.estimates import FloatArray, ScoreTable, make_scorecards
from mopo_eval.evaluation import read_responses
from mopo_eval.judging import Docket, judged
from mopo_eval.measure import Plan
from mopo_eval.refine.candidates import Space, Trained, raised_multipliers, raised_objectives
from mopo_eval.refine.search import Candidate, Look, Place
from mopo_eval.results import RunResults
from mopo_eval.selection import policy_margins
from mopo_eval.spool import read_spool
from mopo_train.console import say
from mopo_train.family import INTERPOLATED, REFERENCE, Between, Policy, PolicyFamily


class Asked(NamedTuple):
    """What a search is for."""

    floors: dict[str, float]
    """In judge score, or ``objective.win_rate``."""
    space: Space
    engine: EngineChoice


class Bench:
    """Measures candidates beside the policies of a finished run."""

    def __init__(self, root: Path, family: PolicyFamily, results: RunResults, plan: Plan, asked: Asked) -> None:
        """``plan`` measured ``results``: the same prompts, judges and sampling."""
        self.root, self.family, self.results, self.plan, self.asked = root, family, results, plan, asked
        self.work = root / ".work" / f"refine-{results.summary.run}"
        self.reference = [answer for answer in read_responses(results.directory) if answer.policy == REFERENCE]
        self.counted = max(results.summary.counted, len(results.summary.policies)) + asked.space.size
        self.made: dict[str, Policy] = {}
        """Candidates that were measured; their adapters lie in ``work``."""

    def members(self) -> dict[str, Look]:
        """How the measured members stand, with the error shared among all that the search may visit."""
        return self._looks(self.results.table)

    def measure(self, candidate: Candidate) -> Look:
        """Make and measure ``candidate``. Raises as `collect` and `extend_family` do."""
        policy = self._make(candidate)
        with chosen_engines(self.root, self._alone(policy), self.asked.engine, self.work / "engine.log") as engines:
            answers = self._answers(policy.id, engines)
            choices = choice_scores(engines, self.plan.prompts, self.plan.judges, self.work)
        self.made[policy.id] = policy
        known = self.results.table
        scores = np.concatenate([known.scores, self._scores(answers, choices)[None]])  # (P + 1, K, N, S)
        look = self._looks(ScoreTable([*known.policies, policy.id], known.objectives, scores))[policy.id]
        told = ", ".join(f"{name} {margin + self.asked.floors[name]:.3f}" for name, margin in look.margins.items())
        verdict = "holds" if look.holds else "does not hold"
        say(f"{policy.id}: certified {told}; {self.family.primary} {look.primary:.3f}; {verdict} the floors")
        return look

    def answers(self, policy: str) -> list[Answer]:
        """What the candidate called ``policy`` answered."""
        return read_spool(self._spool(policy), Answer)

    def _looks(self, table: ScoreTable) -> dict[str, Look]:
        summary, primary = self.results.summary, self.family.primary
        cards = make_scorecards(
            table,
            summary.judges,
            run=summary.run,
            confidence=summary.confidence,
            conservative=summary.conservative,
            counted=self.counted,
        )
        found = {}
        for card in cards:
            row = policy_margins(card.policy, card, self.asked.floors, primary)
            margins = {name: margin for name, margin in row.margins.items() if margin is not None}
            found[card.policy] = Look(card.policy, margins, card.objectives[primary].mean)
        return found

    def _make(self, candidate: Candidate) -> Policy:
        adapter = self.work / candidate.id
        if isinstance(candidate, Trained):
            from mopo_train.extension import extend_family

            origin = self.family.policy(candidate.origin)
            raised = raised_objectives(self.family, self.asked.floors)
            multipliers = raised_multipliers(origin, raised, candidate.factor)
            return extend_family(self.root, self.family, candidate.id, multipliers, start=origin, adapter=adapter)
        if not adapter.is_dir():
            from mopo_train.policy.interpolation import interpolate_adapters

            partial = adapter.with_name(f"{adapter.name}.partial")
            first, second = (self._adapter(end) for end in candidate.gap)
            interpolate_adapters(first, second, float(candidate.share), partial)
            partial.rename(adapter)
        return self._between(candidate, adapter)

    def _between(self, place: Place, adapter: Path) -> Policy:
        between = Between(first=place.gap.first, second=place.gap.second, share=float(place.share))
        return Policy(id=place.id, kind=INTERPOLATED, adapter=str(adapter.relative_to(self.root)), between=between)

    def _adapter(self, policy: str) -> Path:
        if policy in self.made:
            return self.root / str(self.made[policy].adapter)
        return self.root / str(self.family.policy(policy).adapter)

    def _spool(self, policy: str) -> Path:
        return self.work / f"{policy}.answers.jsonl"

    def _answers(self, policy: str, engines: Engines) -> list[Answer]:
        """Of ``policy``, in the order of prompts and samples; those that are not kept yet are asked for."""
        spool = self._spool(policy)
        kept = {answer.key: answer for answer in read_spool(spool, Answer)}
        wanted = list(questions([policy], self.plan.prompts, self.plan.sampling))
        missing = [question for question in wanted if question.key not in kept]
        if missing:
            wanting = Missing(missing, len(missing), lambda answer, _: kept.update({answer.key: answer}))
            collect(engines, wanting, self.plan.sampling, spool)
        return [kept[question.key] for question in wanted]

    def _alone(self, policy: Policy) -> PolicyFamily:
        """A family of the reference and ``policy``."""
        return self.family.model_copy(update={"policies": [self.family.policy(REFERENCE), policy]})

    def _scores(self, answers: list[Answer], choices: ChoiceTable) -> FloatArray:
        """(K, N, S) of the ``answers`` of one policy; judges that compare see the reference's answers too."""
        baselines = {(answer.prompt_id, answer.sample): answer.response for answer in self.reference}
        docket = Docket(
            answers,
            {prompt.id: prompt for prompt in self.plan.prompts},
            lambda place: baselines.get((answers[place].prompt_id, answers[place].sample)),
            choices,
        )
        rows = [row for _, some in judged(docket, self.plan.judges, self.results.directory) for row in some]
        shape = (len(self.plan.judges), len(self.plan.prompts), self.plan.sampling.samples)
        return np.array([row.score for row in rows]).reshape(shape)
