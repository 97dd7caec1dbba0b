import signal
import socket
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from dashboards.cli import SETTINGS, check_family, main
from dashboards.errors import LoginError
from dashboards.login import check_login
from dashboards.settings import Settings, read_settings
from mopo_train.errors import FamilyNotFound
from tests.dashboards.served import accepts, served
from tests.families import write_measured_family


def refused(*arguments: str) -> str:
    """What the command says when it does not start; it must exit with 1 and without a traceback."""
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    return result.output


def test_a_directory_without_a_family_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    assert "mopo-train run" in refused(str(tmp_path))
    assert "no finished policy family" in refused(str(tmp_path / "nowhere"))


def test_a_port_in_use_is_refused_with_the_option_that_changes_it(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        message = refused(str(tmp_path), "--port", port)
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use" in message
    assert "--port" in message


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])  # 192.0.2.0/24 is reserved for documentation
def test_an_address_of_another_machine_is_refused(tmp_path: Path, host: str) -> None:
    write_measured_family(tmp_path)
    assert "--host" in refused(str(tmp_path), "--host", host)


@pytest.mark.parametrize("arguments", [[], [".", "--port", "0"], [".", "--port", "x"], [".", "--prot", "1"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_nothing_is_sent_anywhere_and_nothing_is_asked() -> None:
    assert SETTINGS["browser.gatherUsageStats"] == "false"
    assert SETTINGS["server.showEmailPrompt"] == "false"
    assert SETTINGS["server.headless"] == "true"


@pytest.mark.parametrize("wish", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_only_process_and_frees_the_port(tmp_path: Path, wish: signal.Signals) -> None:
    write_measured_family(tmp_path)
    with served(tmp_path) as here:
        children = subprocess.run(["ps", "--ppid", str(here.process.pid)], capture_output=True, text=True, check=False)
        assert len(children.stdout.splitlines()) == 1  # the heading alone: nothing that could be orphaned
        here.process.send_signal(wish)
        output, _ = here.process.communicate(timeout=30)
        assert here.process.returncode == 0
        assert not accepts(here.port)
    assert f"http://127.0.0.1:{here.port}" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("trace", ["policies", "training", "run.json", "family.json"])
def test_a_half_written_family_is_served_since_its_page_helps(tmp_path: Path, trace: str) -> None:
    (tmp_path / trace).mkdir()
    check_family(tmp_path)
    (tmp_path / trace).rmdir()
    with pytest.raises(FamilyNotFound):
        check_family(tmp_path)


def test_what_the_command_was_given_reaches_the_application() -> None:
    given = Settings(Path("/family"), gateway="http://127.0.0.1:8000", audit="audit.db", read_only=True, login=True)
    assert read_settings(given.environment()) == given
    assert read_settings({"MOPO_DASHBOARD_FAMILY": "/family", "MOPO_API_KEY": "k"}) == Settings(
        Path("/family"), key="k"
    )
    assert "MOPO_API_KEY" not in given._replace(key="secret").environment()


SECRETS = """[auth]
redirect_uri = "http://127.0.0.1:8501/oauth2callback"
cookie_secret = "c"
client_id = "i"
client_secret = "s"
server_metadata_url = "http://127.0.0.1/.well-known/openid-configuration"
"""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "write one with a table"),
        ("[other]", "lacks redirect_uri, cookie_secret, client_id"),
        (SECRETS.replace("cookie_secret", "cookie"), "lacks cookie_secret"),
        ("[auth", "cannot read"),
    ],
)
def test_a_login_that_is_not_set_up_is_refused_before_anything_is_shown(
    tmp_path: Path, content: str | None, problem: str
) -> None:
    path = tmp_path / "secrets.toml"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(LoginError, match=problem):
        check_login([path])


def test_a_login_with_one_provider_or_a_named_one_is_set_up(tmp_path: Path) -> None:
    path = tmp_path / "secrets.toml"
    path.write_text(SECRETS, encoding="utf-8")
    check_login([tmp_path / "nowhere.toml", path])
    path.write_text(SECRETS.replace("client_id", "[auth.company]\nclient_id"), encoding="utf-8")
    check_login([path])
