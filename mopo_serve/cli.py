"""The command ``mopo-serve``. Heavy imports happen inside the commands, so that ``--help`` is quick."""

import json
import os
import shlex
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mopo_serve.audit.commands import audit
from mopo_serve.capacity.commands import capacity
from mopo_serve.cli_keys import KEYS, key
from mopo_train import __version__
from mopo_train.console import CommandGroup, floor_option, print_json, print_table, say

if TYPE_CHECKING:
    from mopo_eval.selection import Selection
    from mopo_serve.access import Access
    from mopo_serve.routing import Routing
    from mopo_serve.trail import Trail

FAMILY = click.argument("root", metavar="FAMILY", type=click.Path(path_type=Path))
PROFILES = click.option(
    "--profiles", type=click.Path(path_type=Path), help="Threshold profiles.  [default: FAMILY/profiles.yaml]"
)
AUDIT = click.option(
    "--audit", metavar="STORE", envvar="MOPO_AUDIT", show_envvar=True,
    help="Path or URL (postgresql://...) of the audit store; none: keep none.  [default: audit.db in the user's state]",
)  # fmt: skip
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Serve a family of policies: each caller names floors, the gateway picks the policy that holds them."""


main.add_command(audit)
main.add_command(key)
main.add_command(capacity)


@main.command()
@FAMILY
@click.option(
    "--engine", "choices", multiple=True, default=["auto"], show_default=True, metavar="auto|vllm|embedded|URL",
    help="Start vLLM or the embedded engine, or attach to a running one. Repeat it for replicas.",
)  # fmt: skip
@PROFILES
@click.option("--host", default="127.0.0.1", show_default=True, help="Only loopback while no keys exist.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@KEYS
@click.option("--tls-cert", type=FILE, help="Certificate chain (PEM): serve HTTPS.")
@click.option("--tls-key", type=FILE, help="Its private key (PEM).")
@click.option("--tls-client-ca", type=FILE, help="Clients must have a certificate of this authority (PEM).")
@click.option("--cors-origin", "origins", multiple=True, help="Web pages that may call; repeatable.  [default: none]")
@click.option("--max-body", type=click.IntRange(min=1024), default=2 * 1024 * 1024, show_default=True, help="Bytes.")
@click.option(
    "--max-connections", type=click.IntRange(min=1), default=10_000, show_default=True, help="More are answered 503."
)
@click.option("--engine-args", default="", metavar="TEXT", help="More arguments for vLLM, as for a shell.")
@click.option("--live-adapters", is_flag=True, help="Let vLLM load adapters while it runs, for reload and rollout.")
@click.option(
    "--allow-families", "allowed", multiple=True, type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory whose families may be rolled out; repeatable.  [default: FAMILY itself]",
)  # fmt: skip
@AUDIT
@click.option(
    "--audit-spill", type=click.Path(path_type=Path, file_okay=False),
    help="Where decisions go while the store cannot be reached.  [default: beside it]",
)  # fmt: skip
@click.option("--keep-text", is_flag=True, help="Keep prompts and answers in the audit store.")
@click.option(
    "--live-floors", type=click.Choice(("lower", "upper")),
    help="Suspend a policy from a profile while this end of what users' feedback says is below a floor.",
)  # fmt: skip
@click.option("--live-minimum", type=click.IntRange(min=1), default=100, show_default=True, help="Judgements needed.")
@click.option("--engine-log", type=click.Path(path_type=Path), help="Keep the engine's log here.")
@click.option("--log-requests", is_flag=True, help="One JSON line per request on stderr; no text of prompts.")
def run(  # noqa: PLR0913 - one parameter per option
    root: Path,
    choices: tuple[str, ...],
    profiles: Path | None,
    host: str,
    port: int,
    keys: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    origins: tuple[str, ...],
    max_body: int,
    max_connections: int,
    engine_args: str,
    live_adapters: bool,
    allowed: tuple[Path, ...],
    audit: str | None,
    audit_spill: Path | None,
    keep_text: bool,
    live_floors: str | None,
    live_minimum: int,
    engine_log: Path | None,
    log_requests: bool,
) -> None:
    """Serve FAMILY behind one OpenAI-compatible URL until Ctrl-C or SIGTERM.

    An engine that it started and that dies or hangs is started again, after growing pauses and not for ever. Exit
    status 1 if every engine stays dead, so that a supervisor starts all of it again.
    """
    from mopo_eval.engine import open_engine
    from mopo_serve.gateway import Extras, Limits, create_gateway
    from mopo_serve.logs import RequestLog, log_as_json
    from mopo_serve.releases import Releases
    from mopo_serve.revival import Care, Engines
    from mopo_serve.routing import read_routing
    from mopo_serve.server import bind, serve, url_of
    from mopo_serve.settings import Transport

    if (tls_key is None) != (tls_cert is None) or (tls_client_ca and not tls_cert):
        raise click.UsageError("TLS needs both --tls-cert and --tls-key")
    log_as_json(requests=log_requests)
    routing = read_routing(root, profiles)
    access = read_access(keys, routing)
    transport = Transport(tls_cert, tls_key, tls_client_ca, max_connections, origins)
    releases = Releases(root, profiles, allowed)
    with bind(host, port, exposed=not access.open) as bound, ExitStack() as engines:
        report(routing)
        trail = read_trail(audit, audit_spill, live_floors, live_minimum)
        if trail is not None:
            engines.callback(trail.store.close)
        logs = [_log_of(engine_log, number, len(choices)) for number in range(len(choices))]
        running = [
            engines.enter_context(
                open_engine(
                    choice,
                    root,
                    routing.family,
                    log=log,
                    live_adapters=live_adapters,
                    arguments=split_arguments(engine_args),
                )  # fmt: skip
            )
            for choice, log in zip(choices, logs, strict=True)
        ]
        sinks = [RequestLog()] if log_requests else []
        gateway = create_gateway(
            releases.first(routing, [each.models for each in running if each.pid is None]),
            [engine.url for engine in running],
            limits=Limits(body_bytes=max_body),
            extras=Extras(
                access=access, releases=releases, sinks=sinks,
                keeper=trail, routes=trail.routes() if trail else (), keeps_text=keep_text and trail is not None,
            ),
        )  # fmt: skip
        if trail is not None:
            trail.follow(gateway.deployment, access, gateway.metrics.registry)
            if gateway.admin is not None:
                gateway.admin.feedback = trail.opinions
        started = [log for log, engine in zip(logs, running, strict=True) if engine.pid is not None]
        url = url_of(bound, tls=tls_cert is not None)
        kinds = ", ".join(dict.fromkeys(engine.kind for engine in running))
        replicas = gateway.pool.replicas
        care = Care(
            lambda: releases.check_unchanged(gateway.deployment.live),
            lambda number: releases.load_again(replicas[number]),
            lambda number: replicas[number].hangs,
        )
        serve(
            gateway, bound, Engines(running, started, care), transport=transport,
            ready=lambda: greet(url, kinds, routing, access),
        )  # fmt: skip
    if engine_log is None:
        for log in logs:
            log.unlink(missing_ok=True)
    say("stopped")


def split_arguments(text: str) -> list[str]:
    """``text`` in words, as a shell splits it."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise click.UsageError(f"--engine-args '{text}' cannot be split into words: {error}") from error


def read_trail(place: str | None, spill: Path | None, bound: str | None, minimum: int) -> "Trail | None":
    """The audit trail; None where ``place`` is ``none``. Raises AuditError."""
    from mopo_serve.evidence import Rule
    from mopo_serve.trail import default_place, open_trail

    rule = None if bound is None else Rule(bound, minimum)  # type: ignore[arg-type]
    if place == "none":
        if rule is not None:
            raise click.UsageError("--live-floors needs an audit store, which holds the feedback")
        return None
    trail = open_trail(place or default_place(), spill, rule)
    say(f"decisions are kept in {trail.store.name}")
    return trail


def read_access(keys: Path | None, routing: "Routing") -> "Access":
    """The keys, with every name in them held against the family. Raises MopoError."""
    from mopo_eval.profiles import check_floor_names
    from mopo_serve.access import Access
    from mopo_serve.key_file import default_key_file, keys_to_serve
    from mopo_serve.keys import unknown_profiles

    path = keys or default_key_file()
    ring = keys_to_serve(path)
    living = [each for each in ring.keys.values() if each.revoked_at is None]
    for each in living:
        check_floor_names(each.floors, set(routing.family.objectives), where=f"key '{each.name}' in '{path}'")
    for name, gone in unknown_profiles(living, routing.profiles).items():
        say(f"key '{name}' may ask for profiles that do not exist: {', '.join(gone)}")
    return Access(ring, path)


@main.command()
@FAMILY
@click.option("--profile", help="Name of a profile.")
@floor_option("Judge score; repeatable.", "OBJECTIVE=SCORE")
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
    from mopo_eval.reliability import sentences
    from mopo_eval.scorecards import reliability_of
    from mopo_serve.explanation import explain
    from mopo_serve.routing import read_routing, stated

    if profile is None and not floors and primary is None:
        raise click.UsageError("name a profile with --profile, or floors with --floor OBJECTIVE=SCORE")
    routing = read_routing(root, profiles)
    asked = stated(routing, floors, primary)
    selection = routing.select(routing.known_profile(profile), asked)
    if as_json:
        print_json(explain(routing, profile, asked))
    else:
        click.echo(f"policy: {selection.served or 'none'}" + ("" if selection.feasible else "  (infeasible)"))
        click.echo(selection.reason)
        print_margins(selection)
        for sentence in sentences(reliability_of(card for card in routing.cards.values() if card is not None)):
            click.echo(sentence)


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


def greet(url: str, kind: str, routing: "Routing", access: "Access") -> None:
    """Tell where the gateway is, what each profile gets, and how to ask."""
    rows = [
        (f"mopo/{name}", found.served or "none (422)", _floors(found), "yes" if found.feasible else "no")
        for name, found in routing.selections.items()
    ]
    if rows:
        print_table(("model", "policy", "effective floors", "held"), rows, title=f"family {routing.identity}")
    example = next((row[0] for row in rows if row[1] != "none (422)"), "mopo/policy/reference")
    body = json.dumps({"model": example, "messages": [{"role": "user", "content": "Hello"}]})
    authorisation = "" if access.open else ' -H "authorization: Bearer $MOPO_KEY"'
    click.echo(f"\n  curl {url}/v1/chat/completions{authorisation} -H 'content-type: application/json' -d '{body}'\n")
    if access.open:
        say("no keys exist: everybody on this machine may use it, and nobody the admin routes")
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


def _floors(selection: "Selection") -> str:
    return ", ".join(f"{name} >= {floor:g}" for name, floor in selection.floors.items()) or "none"


def _log_of(engine_log: Path | None, number: int, count: int) -> Path:
    """Where an engine's log goes: beside ``engine_log`` for the second one and on; else a temporary file.

    That is kept where something went wrong.
    """
    if engine_log is not None:
        return engine_log if count == 1 else engine_log.with_name(f"{engine_log.stem}-{number}{engine_log.suffix}")
    handle, name = tempfile.mkstemp(prefix="mopo-engine-", suffix=".log")
    os.close(handle)
    return Path(name)


def _bound(certified: float | None, margin: float | None) -> str:
    return "not measured" if certified is None or margin is None else f"{certified:.3f} ({margin:+.3f})"
