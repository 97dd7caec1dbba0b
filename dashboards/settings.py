"""What the command ``mopo-dashboard`` tells the application, which runs as a script: by environment variables."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

FAMILY_VARIABLE = "MOPO_DASHBOARD_FAMILY"
GATEWAY_VARIABLE = "MOPO_DASHBOARD_GATEWAY"
AUDIT_VARIABLE = "MOPO_DASHBOARD_AUDIT"
READ_ONLY_VARIABLE = "MOPO_DASHBOARD_READ_ONLY"
LOGIN_VARIABLE = "MOPO_DASHBOARD_LOGIN"
KEY_VARIABLE = "MOPO_API_KEY"
"""The gateway's key, never given on a command line, where others could read it."""


class Settings(NamedTuple):
    """One dashboard."""

    family: Path
    gateway: str | None = None
    """URL of a live gateway, without ``/v1``."""
    audit: str | None = None
    """Path or URL of the gateway's audit store."""
    read_only: bool = False
    """Nothing is written: no profile, sign-off, label, flag or comment."""
    login: bool = False
    """Pages are shown to people who signed in through Streamlit's OIDC support alone."""
    key: str | None = None
    """For the gateway."""

    def environment(self) -> dict[str, str]:
        """Variables that ``read_settings`` reads back; the key is left where it was."""
        given = {
            FAMILY_VARIABLE: str(self.family),
            GATEWAY_VARIABLE: self.gateway or "",
            AUDIT_VARIABLE: self.audit or "",
            READ_ONLY_VARIABLE: "1" if self.read_only else "",
            LOGIN_VARIABLE: "1" if self.login else "",
        }
        return {name: value for name, value in given.items() if value}


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in ``environment``. Raises KeyError without a family."""
    return Settings(
        family=Path(environment[FAMILY_VARIABLE]),
        gateway=environment.get(GATEWAY_VARIABLE) or None,
        audit=environment.get(AUDIT_VARIABLE) or None,
        read_only=bool(environment.get(READ_ONLY_VARIABLE)),
        login=bool(environment.get(LOGIN_VARIABLE)),
        key=environment.get(KEY_VARIABLE) or None,
    )
