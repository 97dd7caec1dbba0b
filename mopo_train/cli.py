"""The command ``mopo-train``. Heavy imports happen inside the commands, so that ``--help`` is quick."""

import click

from mopo_train import __version__
from mopo_train.console import CommandGroup


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Train a family of policies along the Pareto front from pairwise preferences."""
