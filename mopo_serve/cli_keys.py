"""``mopo-serve key``: make, list and revoke API keys."""

from pathlib import Path

import click

from mopo_train.console import CommandGroup, floor_option, print_json, print_table, say

KEYS = click.option(
    "--keys", type=click.Path(path_type=Path, dir_okay=False), envvar="MOPO_KEYS", show_envvar=True,
    help="File of API keys.  [default: mopo/keys.json in your configuration directory]",
)  # fmt: skip


@click.group(cls=CommandGroup)
def key() -> None:
    """API keys. Only a hash is kept; a running gateway follows changes within a second or two."""


@key.command()
@click.argument("label", metavar="[NAME]", required=False)
@click.option("--name", help="For people; the same as the argument.")
@click.option("--profile", "profiles", multiple=True, help="May ask for this profile only; repeatable.  [default: all]")
@floor_option("Floor that nothing lowers.", "OBJECTIVE=SCORE")
@click.option("--pin", is_flag=True, help="May name a policy itself (mopo/policy/ID).")
@click.option("--audit", is_flag=True, help="May read the audit.")
@click.option("--admin", is_flag=True, help="May reload and roll out; without --profile, nothing else.")
@click.option("--requests-per-minute", type=click.IntRange(min=1))
@click.option("--tokens-per-minute", type=click.IntRange(min=1), help="Prompt and completion tokens together.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Requests at the same time.")
@KEYS
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def create(  # noqa: PLR0913 - one parameter per option
    label: str | None,
    name: str | None,
    profiles: tuple[str, ...],
    floors: tuple[str, ...],
    pin: bool,
    audit: bool,
    admin: bool,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    concurrency: int | None,
    keys: Path | None,
    as_json: bool,
) -> None:
    """Make a key called NAME and print it, once: it cannot be told again."""
    from mopo_serve.key_file import create_key, default_key_file
    from mopo_train.family import parse_floors

    named = label or name
    if not named or (label and name and label != name):
        raise click.UsageError("give the key one NAME, for example the application that will use it")
    path = keys or default_key_file()
    made, text = create_key(
        path,
        named,
        profiles=list(profiles) if profiles or admin else None,
        floors=parse_floors(floors),
        pin=pin,
        audit=audit,
        admin=admin,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrency=concurrency,
    )
    if as_json:
        print_json({"id": made.id, "name": made.name, "key": text})
        return
    say(f"key {made.id} ({made.name}) is in {path}; this is the only time that it is shown:")
    click.echo(text)


@key.command("list")
@KEYS
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_keys(keys: Path | None, as_json: bool) -> None:
    """Print every key, without what would let anybody use it."""
    from mopo_serve.key_file import default_key_file, read_keys

    found = list(read_keys(keys or default_key_file()).keys.values())
    if as_json:
        print_json({"keys": [each.model_dump(exclude={"sha256"}) for each in found]})
        return
    if not found:
        say("no keys exist: the gateway serves on this machine alone, openly")
        return
    rows = []
    for each in found:
        rights = [right for right in ("pin", "audit", "admin") if getattr(each, right)]
        limits = [
            f"{value}{unit}"
            for value, unit in (
                (each.requests_per_minute, " requests/min"),
                (each.tokens_per_minute, " tokens/min"),
                (each.concurrency, " at once"),
            )
            if value is not None
        ]
        floors = [f"{name} >= {floor:g}" for name, floor in each.floors.items()]
        profiles = "all" if each.profiles is None else ", ".join(each.profiles) or "none"
        cells = [each.id, each.name, profiles, ", ".join(rights), ", ".join(floors), ", ".join(limits)]
        rows.append([*cells, f"revoked {each.revoked_at}" if each.revoked_at else f"since {each.created_at}"])
    print_table(["id", "name", "profiles", "rights", "floors", "limits", ""], rows)


@key.command()
@click.argument("which", metavar="ID|NAME")
@KEYS
def revoke(which: str, keys: Path | None) -> None:
    """Refuse a key from now on."""
    from mopo_serve.key_file import default_key_file, revoke_key

    gone = revoke_key(keys or default_key_file(), which)
    say(f"key {gone.id} ({gone.name}) is revoked")
