"""What a login needs before the dashboard starts: Streamlit's OIDC settings and the library that it uses.

The login itself is Streamlit's (``st.login``); nothing here sees a password or a token.
"""

import importlib.util
import tomllib
from collections.abc import Sequence
from pathlib import Path

from dashboards.errors import LoginError

NEEDED = ["redirect_uri", "cookie_secret"]
PROVIDER = ["client_id", "client_secret", "server_metadata_url"]


def secrets_places() -> list[Path]:
    """Where Streamlit looks for secrets, first found first."""
    return [place / ".streamlit" / "secrets.toml" for place in (Path.cwd(), Path.home())]


def check_login(places: Sequence[Path]) -> None:
    """Raise LoginError unless Streamlit could ask people to sign in with the secrets at one of ``places``."""
    if importlib.util.find_spec("authlib") is None:
        raise LoginError("a login needs the package authlib; install it with: pip install 'mopo-suite[login]'.")
    found = [place for place in places if place.is_file()]
    if not found:
        raise LoginError(
            f"no secrets at {' or '.join(map(str, places))}; write one with a table [auth] that has "
            f"{', '.join(NEEDED + PROVIDER)} of your OIDC provider."
        )
    try:
        auth = tomllib.loads(found[0].read_text(encoding="utf-8")).get("auth", {})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise LoginError(f"cannot read '{found[0]}': {error}.") from error
    providers = [value for value in auth.values() if isinstance(value, dict)]
    missing = [name for name in NEEDED if not auth.get(name)]
    missing += [name for name in PROVIDER if not any(each.get(name) for each in [auth, *providers])]
    if missing:
        raise LoginError(f"'{found[0]}': the table [auth] lacks {', '.join(missing)}.")
