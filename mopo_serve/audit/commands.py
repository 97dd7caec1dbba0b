"""``mopo-serve audit``: verify an audit store, and export it."""

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mopo_train.console import CommandGroup, print_json, print_table, say

if TYPE_CHECKING:
    from mopo_serve.audit.verify import Verification

STORE = click.argument("place", metavar="STORE")
TABLE_NAMES = ("decisions", "feedback", "events")
WHEN = click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"))
TAMPERED = 3


@click.group(cls=CommandGroup)
def audit() -> None:
    """Verify and export what the gateway decided. STORE is a path (SQLite) or a URL (postgresql://...)."""


@audit.command()
@STORE
@click.option(
    "--head", "kept", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Heads that an earlier 'verify --json' printed.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, to keep as --head elsewhere.")
def verify(place: str, kept: Path | None, as_json: bool) -> None:
    """Check every hash chain of STORE; exit status 3 if a row was altered, removed or inserted.

    Whoever can write to the database could write all of it anew. Keep the output of --json where they cannot, and give
    it as --head next time: the chains must pass through it.
    """
    from mopo_serve.audit.store import open_store
    from mopo_serve.audit.verify import heads_document, read_heads
    from mopo_serve.audit.verify import verify as verify_store

    known = read_heads(kept) if kept else None
    with closing(open_store(place, create=False)) as store:
        found = verify_store(store, known)
    if as_json:
        problems = [problem._asdict() for problem in found.problems]
        print_json({"ok": not problems, "heads": heads_document(found.heads), "problems": problems, "more": found.more})
    else:
        _print(found, against=kept)
    if found.problems:
        sys.exit(TAMPERED)


@audit.command()
@STORE
@click.option("--table", "name", type=click.Choice(TABLE_NAMES), default="decisions", show_default=True)
@click.option("--format", "kind", type=click.Choice(("jsonl", "parquet")), default="jsonl", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A file.  [default: stdout]")
@click.option("--since", type=WHEN, help="UTC, included.")
@click.option("--until", type=WHEN, help="UTC, not included.")
def export(place: str, name: str, kind: str, out: Path | None, since: object, until: object) -> None:
    """Write a table of STORE as JSON Lines or Parquet, in the order in which rows were appended."""
    from mopo_serve.audit.export import write_json_lines, write_parquet
    from mopo_serve.audit.frames import Period
    from mopo_serve.audit.schema import TABLES
    from mopo_serve.audit.store import open_store

    write = write_json_lines if kind == "jsonl" else write_parquet
    period = Period(since, until)  # type: ignore[arg-type]
    if out is None and kind == "parquet" and sys.stdout.isatty():
        raise click.UsageError("Parquet is no text; give --out FILE, or send stdout to one")
    with closing(open_store(place, create=False)) as store:
        if out is None:
            rows = write(store, TABLES[name], period, sys.stdout.buffer)
        else:
            partial = out.with_name(out.name + ".partial")
            with partial.open("wb") as file:
                rows = write(store, TABLES[name], period, file)
            partial.replace(out)
    say(f"{rows} rows of {name}" + (f" in {out}" if out else ""))


def _print(found: "Verification", against: Path | None) -> None:
    rows = [(name, str(head.seq), head.hash) for name, head in found.heads.items()]
    print_table(("chain", "rows", "head"), rows)
    for problem in found.problems:
        click.echo(f"{problem.chain}: {problem.message}")
    if found.more:
        click.echo(f"and {found.more} more")
    if not found.problems:
        kept = f", and they pass through the heads in {against}" if against else ""
        click.echo(f"every chain is whole{kept}")
