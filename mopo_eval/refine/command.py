"""``mopo-eval refine``: search, take what was found into the family, and make every bound count the search.

Order of what becomes durable: candidates and their answers in ``.work``, the adapter, the answers of the new run, then
``family.json`` by rename, then the run and the scorecards. A killed refinement continues from any of these.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mopo_eval.answers import Answer
from mopo_eval.engine_choice import EngineChoice
from mopo_eval.evaluation import SPOOL, RunSummary
from mopo_eval.judges import Judge, load_judges, read_judges
from mopo_eval.measure import Plan, measure
from mopo_eval.profiles import ThresholdProfile, check_floor_names, read_profiles
from mopo_eval.prompts import EvaluationPrompt, beside_data, prompt_hash, read_prompts
from mopo_eval.refine.candidates import search_space
from mopo_eval.refine.measuring import Asked, Bench
from mopo_eval.refine.search import Look, Outcome, search
from mopo_eval.registration import register
from mopo_eval.reliability import Reliability
from mopo_eval.results import RunResults, read_results
from mopo_eval.selection import best_attainable, certified_bound, select
from mopo_eval.spool import open_spool, read_spool
from mopo_train.console import say
from mopo_train.errors import DataError, FloorError, JudgeError
from mopo_train.family import Policy, PolicyFamily, Search, check_adapters, check_floors, read_family, write_family


class Request(NamedTuple):
    """What to refine for."""

    floors: Mapping[str, float]
    """Judge score, or ``objective.win_rate``, as measured."""
    rounds: int = 3
    """How often a gap between neighbours is halved."""
    trainings: int = 2
    """Policies that may be trained beyond the family; 0: only interpolate."""
    engine: EngineChoice = EngineChoice()
    prompts: Path | None = None
    """File of the run's prompts; None: the one that the run names."""
    judges: Path | None = None
    """File of the run's judges; None: judges.yaml beside the training data, or judges by their names."""


class Refinement(NamedTuple):
    """What came of it."""

    policy: str
    """Holds every floor, with the greatest mean on the primary."""
    new: bool
    """It joined the family now."""
    certified: dict[str, float]
    """Its certified lower bound per floor, as in its scorecard."""
    primary: float
    """Its mean judge score on the family's primary."""
    run: str
    looks: list[Look]
    """At policies that were tried, in order."""
    counted: int
    """Policies that share the error of the bounds now."""
    reliability: dict[str, Reliability]
    """Of judges that were fitted to data, by objective."""


def refine(root: Path, request: Request) -> Refinement:
    """Find a member of the family in ``root`` that just holds the floors, or add one.

    Needs a finished evaluation, and uses its prompts, judges and sampling. Raises FloorError for floors that cannot be
    read and for those that no policy within reach holds: it names the best that was attained. Raises FamilyError
    where nothing was measured, and what engines, judges and training raise.
    """
    family = read_family(root)
    check_adapters(root, family)
    _check(family, request.floors)
    _finish(root, family, request)
    results = read_results(root, family)
    _check_measured(family, results, request.floors)
    profile = ThresholdProfile(primary=family.primary, floors=dict(request.floors))
    now = select(profile, results.cards)
    holder = now.policy if now.feasible else None
    reached = results.cards[holder].objectives[family.primary].mean if holder else 0.0
    space = search_space(family, profile.floors, rounds=request.rounds, trainings=request.trainings)
    plan = _plan(family, results, request)
    bench = Bench(root, family, results, plan, Asked(profile.floors, space, request.engine))
    say(f"the search may try {space.size} policies; bounds are shared among {bench.counted} while it looks")
    found = search(space, bench.members(), bench.measure, train=holder is None)
    if holder is not None and (found.best is None or found.best.primary <= reached):
        say(f"{holder} holds the floors already, and no policy that was tried does so with more {family.primary}")
        return _described(family, results, request.floors, holder, found.looks)
    if found.best is None:
        raise FloorError(_out_of_reach(family, request, results, found))
    held = _profiles_held(root, family, results)
    joined = _join(root, family, bench, found)
    shutil.rmtree(bench.work, ignore_errors=True)
    after = read_results(root, joined)
    if lost := sorted(held - _profiles_held(root, joined, after)):
        say(
            f"warning: now that bounds count the search, no policy is shown to hold {', '.join(lost)}; measure on "
            f"prompts that the search has not seen: 'mopo-eval run {root} --prompts FILE'"
        )
    return _described(joined, after, request.floors, found.best.policy, found.looks)


def _check(family: PolicyFamily, floors: Mapping[str, float]) -> None:
    if not floors:
        raise FloorError("no floor to refine for; give one, for example --floor safety=0.9")
    check_floor_names(dict(floors), set(family.objectives), where="--floor")
    check_floors({name.removesuffix(".win_rate"): value for name, value in floors.items()}, family.objectives)


def _profiles_held(root: Path, family: PolicyFamily, results: RunResults) -> set[str]:
    """Names of the profiles in profiles.yaml that some policy holds."""
    path = root / "profiles.yaml"
    if not path.is_file():
        return set()
    asked = read_profiles(path, family.objectives, [policy.id for policy in family.policies])
    cards = {policy.id: results.cards.get(policy.id) for policy in family.policies}
    floors = asked.organisation.floors
    return {name for name, profile in asked.profiles.items() if select(profile, cards, floors).feasible}


def _check_measured(family: PolicyFamily, results: RunResults, floors: Mapping[str, float]) -> None:
    wanted = {name.partition(".")[0] for name in floors} | {family.primary}
    if missing := sorted(wanted - set(results.summary.judges)):
        raise FloorError(
            f"run {results.summary.run} did not measure {', '.join(missing)}; give it a judge, measure again."
        )


def _join(root: Path, family: PolicyFamily, bench: Bench, found: Outcome) -> PolicyFamily:
    """Take the policy that was found into the family, and measure it with the others without asking again."""
    assert found.best is not None
    name, tried = found.best.policy, len(found.looks)
    search_made = Search(
        run=bench.results.summary.run,
        floors=bench.asked.floors,
        policy=name,
        others=bench.asked.space.size - 1,
        tried=max(1, tried),
    )
    joined = family.model_copy(update={"searches": [*family.searches, search_made]})
    if found.candidate is not None:
        joined = joined.model_copy(update={"policies": _with_neighbour(family, _kept(root, bench.made[name]))})
        _seed(root, joined, bench.plan, bench.answers(name))
    write_family(root, joined)
    measure(root, joined, bench.plan)
    return joined


def _with_neighbour(family: PolicyFamily, policy: Policy) -> list[Policy]:
    """The members in the order of the front: an interpolated one after the first of its neighbours."""
    if policy.between is None or policy.between.first not in {member.id for member in family.policies}:
        return [*family.policies, policy]
    place = [member.id for member in family.policies].index(policy.between.first) + 1
    return [*family.policies[:place], policy, *family.policies[place:]]


def _kept(root: Path, policy: Policy) -> Policy:
    """Copy the candidate's adapter, and its log if it was trained, into the family; each by rename."""
    source, target = root / str(policy.adapter), root / "policies" / policy.id
    if not target.is_dir():
        partial = source.with_name(f"{source.name}.copy")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        partial.rename(target)
    log = source.with_name(f"{source.name}.parquet")
    if log.is_file():
        copied = root / "training" / log.name
        copied.parent.mkdir(exist_ok=True)
        partial = copied.with_suffix(".partial")
        shutil.copyfile(log, partial)
        os.replace(partial, copied)
    return policy.model_copy(update={"adapter": f"policies/{policy.id}"})


def _seed(root: Path, family: PolicyFamily, plan: Plan, answers: list[Answer]) -> None:
    """Put a new member's ``answers`` into the run of ``family``, which finds those of the others by itself."""
    run = plan.run(root, family)
    register(root, family, run, plan.prompts)
    path = root / "evaluation" / run / SPOOL
    there = {answer.key for answer in read_spool(path, Answer)}
    with open_spool(path) as spool:
        for answer in answers:
            if answer.key not in there:
                spool.append(answer)


def _finish(root: Path, family: PolicyFamily, request: Request) -> None:
    """Measure a member that an earlier search added before it was killed."""
    unfinished = [made for made in family.searches if not (root / "scorecards" / f"{made.policy}.json").is_file()]
    for made in unfinished[-1:]:
        say(f"finishing the search that added {made.policy}")
        measure(root, family, _plan(family, read_results(root, family, made.run), request))


def _plan(family: PolicyFamily, results: RunResults, request: Request) -> Plan:
    """What measured ``results``. Raises DataError and JudgeError where its prompts or judges are other ones now."""
    summary = results.summary
    return Plan(
        prompts=_prompts(results, request.prompts),
        judges=_judges(family, summary, request.judges),
        sampling=summary.sampling,
        prompts_from=summary.prompts_from,
        engine=request.engine._replace(name="auto"),  # takes answers of every engine: all are there
        confidence=summary.confidence,
        conservative=summary.conservative,
        allow_trained=True,
    )


def _prompts(results: RunResults, given: Path | None) -> list[EvaluationPrompt]:
    """The run's prompts in its order, with what judges need beside them where the file is at hand."""
    path = given or Path(results.summary.prompts_from)
    if not path.is_file():
        if given is not None:
            raise DataError(f"there are no prompts at '{given}'; check the path.")
        return [EvaluationPrompt(each.id, each.prompt, each.category) for each in results.prompts]
    known = {prompt.id: prompt for prompt in read_prompts(path)}
    for each in results.prompts:
        if each.id not in known or prompt_hash(known[each.id].prompt) != each.identity:
            raise DataError(
                f"'{path}' does not hold the prompt '{each.id}' as run {results.summary.run} asked it; name the file "
                "that the run used with --prompts, or measure again."
            )
    return [known[each.id] for each in results.prompts]


def _judges(family: PolicyFamily, summary: RunSummary, given: Path | None) -> dict[str, Judge]:
    """The run's judges: as judges.yaml describes them, or by name."""
    names = summary.judges
    path = given or beside_data(family, "judges.yaml")
    described = read_judges(path, family.objectives) if path else dict(names)
    judges = load_judges({name: described[name] for name in names if name in described})
    if {name: judge.name for name, judge in judges.items()} != dict(names):
        raise JudgeError(
            f"the run was judged by {', '.join(names.values())}; name the judges.yaml that says so with --judges, or "
            "measure again."
        )
    if changed := [name for name, known in summary.fingerprints.items() if judges[name].fingerprint != known]:
        raise JudgeError(
            f"the judge of {', '.join(changed)} has changed since run {summary.run}, although its name has not; "
            "measure again, so that all policies are judged alike."
        )
    return judges


def _described(
    family: PolicyFamily, results: RunResults, floors: Mapping[str, float], policy: str, looks: list[Look]
) -> Refinement:
    card, summary = results.cards[policy], results.summary
    return Refinement(
        policy=policy,
        new=any(look.policy == policy for look in looks),
        certified={name: certified_bound(card, name) or 0.0 for name in floors},
        primary=card.objectives[family.primary].mean,
        run=summary.run,
        looks=looks,
        counted=summary.counted or len(summary.policies),
        reliability=summary.reliability,
    )


def _out_of_reach(family: PolicyFamily, request: Request, results: RunResults, found: Outcome) -> str:
    """Why, with the best that was attained per floor and by the closest policy."""
    floors = request.floors
    best = best_attainable(results.cards.values(), floors)
    attained = {
        name: max(
            [value or 0.0 for value in [best[name]]] + [look.margins[name] + floors[name] for look in found.looks]
        )
        for name in floors
    }
    closest = found.closest
    told = ", ".join(f"{name} {margin + floors[name]:.3f}" for name, margin in closest.margins.items())
    tried = f"{len(found.looks)} further policies were tried" if found.looks else "no further policy could be tried"
    advice = "Ask for less, measure on more prompts"
    advice += ", or allow more with --trainings" if request.trainings == 0 else ", or train a family that goes further"
    return (
        f"out of reach: {_listed(floors)} (measured). {tried}; the closest, {closest.policy}, certifies {told} with "
        f"{family.primary} {closest.primary:.3f}. Best certified one at a time: {_listed(attained)}. {advice}."
    )


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:.3g}" for name, value in values.items())


def refinement_json(found: Refinement, floors: Mapping[str, float]) -> dict[str, Any]:
    """The object of ``refine --json``."""
    told = {name: known.model_dump() for name, known in found.reliability.items()}
    looks = [look._asdict() | {"holds": look.holds} for look in found.looks]
    return {"floors": dict(floors), "held": True} | found._asdict() | {"looks": looks} | {"reliability": told}
