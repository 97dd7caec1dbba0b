import signal
import socket
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from dashboards.cli import SETTINGS, check_family, main
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
