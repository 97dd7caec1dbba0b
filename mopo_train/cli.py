"""The command ``mopo-train``. Heavy imports happen inside the commands, so that ``--help`` is quick."""

from pathlib import Path

import click

from mopo_train import __version__
from mopo_train.console import CommandGroup, say


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Train a family of policies along the Pareto front from pairwise preferences."""


@main.command()
@click.argument("sources", metavar="DATA...", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory for the three files.")
@click.option("--share", default=0.1, show_default=True, help="Part of the prompts to hold out.")
@click.option("--seed", default=0, show_default=True, help="Another seed holds out other prompts.")
@click.option("--objective", "objectives", multiple=True, help="Name of labels that have none, or those to keep.")
@click.option("--force", is_flag=True, help="Overwrite a split that is there.")
def split(
    sources: tuple[str, ...], out: Path, share: float, seed: int, objectives: tuple[str, ...], force: bool
) -> None:
    """Hold out prompts of DATA: OUT/train.jsonl, OUT/heldout.jsonl and the held-out prompts, OUT/prompts.jsonl.

    Rows of one prompt, or of one `group`, stay on one side. A source whose labels have no name (HH-RLHF, TRL) is
    written OBJECTIVE=DATA, for example safety=harmless.jsonl.gz.
    """
    from mopo_train.preferences import read_preferences
    from mopo_train.split import held_out, write_split

    data = read_preferences(sources, objectives=objectives, at_least=1)
    for note in data.notes():
        say(note)
    done = write_split(data, out, held_out(data, share, seed), force=force)
    say(f"{out}: {done.train_rows} rows on {done.train_prompts} prompts to train on (train.jsonl)")
    say(f"{out}: {done.heldout_rows} rows on {done.heldout_prompts} prompts held out (heldout.jsonl, prompts.jsonl)")
