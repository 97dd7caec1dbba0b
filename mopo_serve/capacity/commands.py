"""``mopo-serve capacity``: how many replicas for a load."""

from contextlib import closing
from typing import TYPE_CHECKING

import click

from mopo_train.console import FiniteRange, print_json, print_table, say

if TYPE_CHECKING:
    from mopo_serve.capacity.plan import Point
    from mopo_serve.capacity.throughput import FloatArray, Throughput

POSITIVE = FiniteRange(min=0, min_open=True)
GATEWAY_LOAD = 0.7
"""Share of a gateway's core that may be busy: beyond it, waiting for the gateway itself shows in the quantiles."""


@click.command()
@click.option("--rate", type=POSITIVE, required=True, help="Requests per second.")
@click.option("--p99", "seconds", type=POSITIVE, required=True, help="Seconds to the whole answer at --quantile.")
@click.option("--quantile", type=FiniteRange(0.5, 0.9999), default=0.99, show_default=True)
@click.option(
    "--throughput", "points", multiple=True, metavar="IN_FLIGHT=TOKENS/S",
    help="What one replica does, measured (benchmarks/engines.py); repeatable, such as 1=140 and 32=1320.",
)  # fmt: skip
@click.option("--tokens", type=POSITIVE, help="Mean tokens of an answer; lengths are drawn exponentially.")
@click.option("--from", "store", metavar="STORE", help="Take throughput and lengths from an audit store instead.")
@click.option("--engine", help="With --from: the replica whose answers count.  [default: the busiest]")
@click.option("--slots", type=click.IntRange(min=1), default=256, show_default=True, help="vLLM's --max-num-seqs.")
@click.option("--gateway-us", type=POSITIVE, default=200.0, show_default=True, help="A gateway's CPU per request.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def capacity(  # noqa: PLR0913 - one parameter per option
    rate: float,
    seconds: float,
    quantile: float,
    points: tuple[str, ...],
    tokens: float | None,
    store: str | None,
    engine: str | None,
    slots: int,
    gateway_us: float,
    seed: int,
    as_json: bool,
) -> None:
    """Simulate how many engine replicas answer --rate requests per second within --p99 seconds.

    Feed it with measurements: --throughput and --tokens, or the audit store of a gateway that served such requests.
    """
    from mopo_serve.capacity.plan import Demand, Effort, plan
    from mopo_serve.capacity.throughput import parse_throughput

    if (store is None) == (not points) or (tokens is None) != (store is not None):
        raise click.UsageError("give --throughput and --tokens, or --from STORE")
    if store is not None:
        curve, lengths = recorded(store, engine)
    else:
        curve, lengths = parse_throughput(points), exponential(tokens or 1.0)
    demand = Demand(rate, lengths, quantile, seconds)
    tried: list[Point] = []

    def tell(point: "Point") -> None:
        tried.append(point)
        say(f"{point.replicas} replicas: {point.seconds:.3g} s [{point.low:.3g}, {point.high:.3g}]")

    found = plan(demand, curve, slots=slots, effort=Effort(seed=seed), tell=tell)
    cores = -(-rate * gateway_us // (1e6 * GATEWAY_LOAD))
    if as_json:
        print_json(
            {
                **found._asdict(),
                "gateway_cores": int(cores),
                "quantile": quantile,
                "throughput": dict(zip(map(str, curve.in_flight), curve.tokens_per_second, strict=True)),
                "tokens": float(lengths.mean()),
                "tried": [point._asdict() for point in sorted(tried)],
            }
        )
        return
    columns = ("replicas", f"p{100 * quantile:g} s [95 %]", "median s", "waiting s", "in flight each")
    rows = [
        (
            str(point.replicas),
            f"{point.seconds:.3g} [{point.low:.3g}, {point.high:.3g}]",
            f"{point.median:.3g}",
            f"{point.waiting:.3g}",
            f"{point.in_flight:.1f}",
        )
        for point in sorted(tried)
    ]
    print_table(columns, rows, title=f"{rate:g} requests/s, {lengths.mean():.4g} tokens each, seed {seed}")
    click.echo(f"{found.replicas} replicas and {int(cores)} gateway cores for a p{100 * quantile:g} of {seconds:g} s")


def exponential(mean: float) -> "FloatArray":
    """Lengths (1000,) of an exponential distribution, by its quantiles."""
    import numpy as np

    result: FloatArray = -mean * np.log1p(-(np.arange(1000) + 0.5) / 1000)
    return result


def recorded(place: str, engine: str | None) -> "tuple[Throughput, FloatArray]":
    """One replica's throughput, and the lengths of all answers, from an audit store.

    Raises AuditError, CapacityError.
    """
    from mopo_serve.audit import frames
    from mopo_serve.audit.store import open_store
    from mopo_serve.capacity.throughput import CapacityError, observed_throughput

    with closing(open_store(place, create=False)) as store:
        table = frames.answered(store)
    known = table["engine"].value_counts()
    name = engine if engine is not None or known.empty else str(known.index[0])
    if known.empty or name not in known.index:
        raise CapacityError(f"no counted answers of an engine '{name}' are recorded; known: {sorted(known.index)}")
    own = table[table["engine"] == name]
    starts, seconds, tokens = (own[name].to_numpy(float) for name in ("time", "seconds", "completion_tokens"))
    return observed_throughput(starts, seconds, tokens), table["completion_tokens"].to_numpy(float)
