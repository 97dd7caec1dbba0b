"""The command ``mopo-dashboard``: starts the Streamlit application in this very process, so nothing can be orphaned."""

import errno
import os
import runpy
import socket
import sys
from pathlib import Path
from typing import Any

import click

from dashboards.errors import AddressError
from dashboards.login import check_login, secrets_places
from dashboards.settings import Settings
from mopo_train import __version__
from mopo_train.console import say
from mopo_train.errors import FamilyNotFound, MopoError

APP = Path(__file__).with_name("app.py")
SETTINGS = {
    "server.headless": "true",
    "server.showEmailPrompt": "false",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "runner.magicEnabled": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",
    "logger.hideWelcomeMessage": "true",
    "theme.base": "light",
    "theme.primaryColor": "#0072B2",
    "theme.textColor": "#1F2933",
    "theme.backgroundColor": "#FFFFFF",
    "theme.secondaryBackgroundColor": "#F5F7FA",
}
"""Streamlit's settings: nothing is sent anywhere, nothing is asked, no source code is shown on an error."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("family", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8501, show_default=True, type=click.IntRange(1, 65535))
@click.option("--gateway", metavar="URL", help="A live gateway, for the playground; its key in MOPO_API_KEY.")
@click.option(
    "--audit", metavar="STORE", envvar="MOPO_AUDIT", show_envvar=True,
    help="The gateway's audit store, for the monitor.  [default: audit.db in the user's state]",
)  # fmt: skip
@click.option("--read-only", is_flag=True, help="Show everything, save nothing.")
@click.option("--login", is_flag=True, help="Ask for a login through OIDC ([auth] in .streamlit/secrets.toml).")
@click.version_option(__version__)
def main(family: Path, host: str, port: int, **more: Any) -> None:
    """See what floors cost, compare policies, agree on profiles and watch what is served, in the browser.

    Profiles, sign-offs, labels and comments are saved in FAMILY. Ctrl-C stops it.
    """
    try:
        check_family(family)
        check_address(host, port)
        if more["login"]:
            check_login(secrets_places())
    except MopoError as error:
        say(f"mopo-dashboard: {error}")
        sys.exit(1)
    shown = f"[{host}]" if ":" in host else host
    say(f"Dashboard of {family} at http://{shown}:{port} (Ctrl-C stops it)")
    serve(Settings(family.resolve(), **more), host, port)


def check_family(root: Path) -> None:
    """Raise FamilyNotFound where there is no trace of a family; a half-written one has a page that helps."""
    if not any((root / part).exists() for part in ("family.json", "policies", "training", "run.json")):
        raise FamilyNotFound(root)


def check_address(host: str, port: int) -> None:
    """Raise AddressError unless this machine can listen on ``host`` and ``port``."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        kind, _, _, _, address = found[0]
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            cause = "the port is in use. Stop what listens there, or give another with --port"
        elif error.errno == errno.EACCES:
            cause = "this needs rights that you do not have. Give a port above 1023 with --port"
        else:
            cause = f"{error.strerror or error}. Give an address of this machine with --host, for example 127.0.0.1"
        raise AddressError(f"cannot listen on {host}:{port}: {cause}.") from error


def serve(dashboard: Settings, host: str, port: int) -> None:
    """Run the application until SIGINT or SIGTERM; does not return."""
    os.environ.update(dashboard.environment())
    settings = SETTINGS | {"server.address": host, "server.port": str(port), "browser.serverAddress": host}
    sys.argv = ["streamlit", "run", str(APP), *(f"--{name}={value}" for name, value in settings.items())]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)
