"""The command ``mopo-serve``. Heavy imports happen inside the commands, so that ``--help`` is quick."""

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mopo_serve.audit.commands import audit
from mopo_train import __version__
from mopo_train.console import CommandGroup, print_json, print_table, say

if TYPE_CHECKING:
    from mopo_eval.selection import Selection
    from mopo_serve.metrics import Record
    from mopo_serve.routing import Routing

FAMILY = click.argument("root", metavar="FAMILY", type=click.Path(path_type=Path))
PROFILES = click.option(
    "--profiles", type=click.Path(path_type=Path), help="Threshold profiles.  [default: FAMILY/profiles.yaml]"
)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Serve a family of policies: each caller names floors, the gateway picks the policy that holds them."""


main.add_command(audit)


@main.command()
@FAMILY
@click.option(
    "--engine", "choice", default="auto", show_default=True, metavar="auto|vllm|embedded|URL",
    help="Start vLLM or the embedded engine, or attach to a running one.",
)  # fmt: skip
@PROFILES
@click.option("--host", default="127.0.0.1", show_default=True, help="Only loopback while no keys exist.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--engine-log", type=click.Path(path_type=Path), help="Keep the engine's log here.")
@click.option("--log-requests", is_flag=True, help="One line per request on stderr.")
def run(  # noqa: PLR0913 - one parameter per option
    root: Path,
    choice: str,
    profiles: Path | None,
    host: str,
    port: int,
    engine_log: Path | None,
    log_requests: bool,
) -> None:
    """Serve FAMILY behind one OpenAI-compatible URL until Ctrl-C or SIGTERM.

    Exit status 1 if the engine dies, so that a supervisor starts both again.
    """
    from mopo_eval.engine import open_engine
    from mopo_serve.gateway import create_gateway
    from mopo_serve.routing import read_routing
    from mopo_serve.server import bind, serve, url_of

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    routing = read_routing(root, profiles)
    with bind(host, port) as bound:
        report(routing)
        log = engine_log or _scratch_log()
        with open_engine(choice, root, routing.family, log=log) as engine:
            gateway = create_gateway(routing, engine.url, observe=log_record if log_requests else None)
            started = None if engine.pid is None else log
            serve(gateway, bound, engine, log=started, ready=lambda: greet(url_of(bound), engine.kind, routing))
    if engine_log is None:
        log.unlink(missing_ok=True)
    say("stopped")


@main.command()
@FAMILY
@click.option("--profile", help="Name of a profile.")
@click.option("--floor", "floors", multiple=True, metavar="OBJECTIVE=SCORE", help="Judge score; repeatable.")
@click.option("--primary", help="Objective to maximise.  [default: the profile's or the family's]")
@PROFILES
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def resolve(  # noqa: PLR0913 - one parameter per option
    root: Path, profile: str | None, floors: tuple[str, ...], primary: str | None, profiles: Path | None, as_json: bool
) -> None:
    """Print which policy of FAMILY would serve a profile or floors, and why.

    Floors on the command line come on top of the profile's and the organisation's. Exit status 0 also when no
    policy holds them: that is an answer, not a failure.
    """
    from mopo_serve.routing import explain, read_routing, stated

    if profile is None and not floors and primary is None:
        raise click.UsageError("name a profile with --profile, or floors with --floor OBJECTIVE=SCORE")
    routing = read_routing(root, profiles)
    selection = routing.select(routing.known_profile(profile), stated(routing, floors, primary))
    if as_json:
        print_json(explain(routing, profile, selection))
    else:
        click.echo(f"policy: {selection.policy or 'none'}" + ("" if selection.feasible else "  (infeasible)"))
        click.echo(selection.reason)
        print_margins(selection)


def report(routing: "Routing") -> None:
    """Tell what a starting gateway cannot serve."""
    if not routing.measured:
        say("this family was not measured: profiles are answered 422 until 'mopo-eval run' has scored it; "
            "pinned policies (mopo/policy/ID) are answered" + (" 422 too" if routing.organisation else ""))  # fmt: skip
    if not routing.profiles:
        say("no profiles: a request can state its floors itself (model 'mopo', objective_profile) or pin a policy")
    for name, selection in routing.selections.items():
        if not selection.feasible:
            say(f"profile '{name}' is infeasible: {selection.reason}" + ("" if selection.policy else " (422)"))


def greet(url: str, kind: str, routing: "Routing") -> None:
    """Tell where the gateway is, what each profile gets, and how to ask."""
    rows = [
        (f"mopo/{name}", found.policy or "none (422)", _floors(found), "yes" if found.feasible else "no")
        for name, found in routing.selections.items()
    ]
    if rows:
        print_table(("model", "policy", "effective floors", "held"), rows, title=f"family {routing.identity}")
    example = next((row[0] for row in rows if row[1] != "none (422)"), "mopo/policy/reference")
    body = json.dumps({"model": example, "messages": [{"role": "user", "content": "Hello"}]})
    click.echo(f"\n  curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'\n")
    say("no keys exist: everybody on this machine may use it")
    click.echo(f"serving at {url}/v1 (engine: {kind})")


def print_margins(selection: "Selection") -> None:
    """How far each policy clears each floor."""
    names = list(selection.floors)
    columns = ["policy", "mean of primary", *(f"{name} >= {selection.floors[name]:g}" for name in names), "holds"]
    rows = []
    for row in selection.policies:
        cells = [_bound(row.certified[name], row.margins[name]) for name in names]
        mean = "not measured" if row.primary is None else f"{row.primary:.3f}"
        rows.append([row.id, mean, *cells, "yes" if row.meets else "no"])
    title = "certified lower bound (margin to the floor), in judge score or win rate against the reference"
    print_table(columns, rows, title=title)


def log_record(record: "Record") -> None:
    """One line for one finished request; no prompt text."""
    first = "" if record.first_token_seconds is None else f" first={record.first_token_seconds:.3f}s"
    say(
        f"{record.request_id} profile={record.profile} policy={record.policy} status={record.status} "
        f"{record.seconds:.3f}s{first}"
    )


def _floors(selection: "Selection") -> str:
    return ", ".join(f"{name} >= {floor:g}" for name, floor in selection.floors.items()) or "none"


def _scratch_log() -> Path:
    """A temporary file for the engine's log; it is kept where something went wrong."""
    handle, name = tempfile.mkstemp(prefix="mopo-engine-", suffix=".log")
    os.close(handle)
    return Path(name)


def _bound(certified: float | None, margin: float | None) -> str:
    return "not measured" if certified is None or margin is None else f"{certified:.3f} ({margin:+.3f})"
