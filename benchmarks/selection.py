"""What deciding costs: microseconds per request, for families of several sizes; the fastest of several repetitions.

Includes checking the floors that a request states. A mixture with floors that were never seen before solves a linear
program; seen again, it is remembered.
"""

import argparse
import functools
import timeit
from collections.abc import Callable

from mopo_eval.profiles import Organisation, ProfileFile, ThresholdProfile
from mopo_serve.caller import Caller
from mopo_serve.requests import take_profile
from mopo_serve.routing import Routing, build_routing
from tests import families

FLOORS = {"safety": 0.7, "factuality": 0.6}


def family(policies: int) -> Routing:
    """A family along a front beside its reference, with a plain profile and a mixture."""
    steps = [index / (policies - 2) for index in range(policies - 1)]
    scores = {
        f"policy-{index:02}": {"helpfulness": 0.9 - 0.5 * step, "safety": 0.5 + 0.45 * step, "factuality": 0.7}
        for index, step in enumerate(steps)
    }
    scores["reference"] = {"helpfulness": 0.5, "safety": 0.6, "factuality": 0.6}
    cards = {policy: families.scorecard(policy, each) for policy, each in scores.items()}
    profile = ThresholdProfile(primary="helpfulness", floors={"safety": 0.6})
    mixture = profile.model_copy(update={"selection": "mixture"})
    file = ProfileFile(
        profiles={"plain": profile, "mixed": mixture}, organisation=Organisation(floors={"safety": 0.5})
    )  # fmt: skip
    return build_routing(families.family(scores), cards, file, identity="benchmark")


def fastest(what: Callable[[], object], repetitions: int) -> float:
    """Microseconds of one call."""
    return min(timeit.repeat(what, number=repetitions, repeat=5)) / repetitions * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10_000)
    count = parser.parse_args().repetitions
    ann = Caller(user="ann")
    print(f"{'microseconds per decision':<34}{'7 policies':>12}{'50 policies':>12}")
    tables = [family(7), family(50)]

    def stated(table: Routing, model: str) -> object:
        return table.decide(model, take_profile({"objective_profile": {"floors": FLOORS}}), ann)

    rows: dict[str, Callable[[Routing], object]] = {
        "a profile": lambda table: table.decide("mopo/plain", None, ann),
        "a profile, two floors stated": lambda table: stated(table, "mopo/plain"),
        "a mixture": lambda table: table.decide("mopo/mixed", None, ann),
        "a mixture, the same floors again": lambda table: stated(table, "mopo/mixed"),
    }
    for title, decide in rows.items():
        times = [fastest(functools.partial(decide, table), count) for table in tables]
        print(f"{title:<34}{times[0]:>12.1f}{times[1]:>12.1f}")


if __name__ == "__main__":
    main()
