"""What every command shares: exit statuses, messages and progress on stderr, JSON on stdout."""

import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from mopo_train.errors import MopoError

FULL_DISK = ("No space left on device", "PytorchStreamWriter failed", "unexpected pos")
"""What safetensors and torch (the last two) say of it in errors that are no OSError."""


class CommandGroup(click.Group):
    """A group that turns an error which a user can fix into its message and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; no traceback for a ``MopoError``, a path that cannot be used or a full disk."""
        try:
            return super().invoke(ctx)
        except MopoError as error:
            click.echo(f"{ctx.info_name}: {error}", err=True)
            ctx.exit(1)
        except OSError as error:
            if error.filename is None and error.errno != errno.ENOSPC:  # a closed pipe is click's, others are bugs
                raise
            where = f"'{error.filename}': " if error.filename is not None else ""
            click.echo(f"{ctx.info_name}: {where}{(error.strerror or str(error)).lower()}", err=True)
            ctx.exit(1)
        except Exception as error:
            if not any(words in str(error) for words in FULL_DISK):
                raise
            click.echo(f"{ctx.info_name}: no space left on device; make room and repeat the command", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo(f"{ctx.info_name}: interrupted; repeat the command to continue", err=True)
            ctx.exit(130)


class FiniteRange(click.FloatRange):
    """A range of numbers without infinity, and without NaN, which no bound excludes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; usage errors as click's."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def floor_option(
    text: str, metavar: str = "NAME=VALUE", *, required: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The repeatable option ``--floor``, as text; one that is no floor is a usage error, an unknown objective not."""
    return click.option(
        "--floor", "floors", multiple=True, required=required, metavar=metavar, callback=_are_floors, help=text
    )


def _are_floors(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    from mopo_train.family import check_floors, parse_floors

    try:
        floors = parse_floors(given)
        check_floors(floors, list(floors))
    except MopoError as error:
        raise click.BadParameter(str(error)) from error
    return given


def launched() -> int:
    """Processes that a launcher (torchrun, accelerate) started together with this one, itself included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def speaks() -> bool:
    """Whether this process tells people what happens: the first of those that were `launched`."""
    return launched() == 1 or os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """A line for the person who watches, on stderr."""
    if speaks():
        click.echo(message, err=True)


def size_text(size: float) -> str:
    """Bytes in words."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.0f} TB"


def print_json(value: Any) -> None:
    """``value`` as one JSON document on stdout; refuses NaN, which is not JSON."""
    click.echo(json.dumps(value, allow_nan=False, indent=2))


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator["ProgressLine"]:
    """A progress bar on stderr with time left; plain lines where stderr is no terminal."""
    line = ProgressLine(title, total, done)
    with line.shown():
        yield line


class ProgressLine:
    """Counts finished pieces of work towards ``total``."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done = title, total, done
        self._bar: Any = None
        self._task: Any = None
        self._told, self._begun, self._began = done, done, time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar while the block runs."""
        if not (sys.stderr.isatty() and speaks()):
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as self._bar:
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.done)
            yield
        self._bar = None

    def advance(self, pieces: int = 1, note: str = "") -> None:
        """``pieces`` more are done; ``note`` (loss, policy) is shown beside the title."""
        self.done += pieces
        if self._bar is not None:
            description = f"{self.title}  {note}" if note else self.title
            self._bar.update(self._task, completed=self.done, description=description)
        elif self.done - self._told >= max(1, self.total // 5) or self.done == self.total:
            self._told = self.done
            say("  ".join(filter(None, [f"{self.title}: {self.done}/{self.total}", note, self._left()])))

    def _left(self) -> str:
        """The time that is left if the rest goes as the part since the line began."""
        done, rest = self.done - self._begun, self.total - self.done
        if done <= 0 or rest <= 0:
            return ""
        seconds = int((time.monotonic() - self._began) / done * rest)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A table on stdout, wide enough for its content even when stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 400)  # a file or pipe has no width to fit
    console.print(table)
