"""Stores to test: SQLite in a temporary directory, and PostgreSQL in a private server where its programs are found."""

import getpass
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mopo_serve.audit.store import AuditStore, open_store


def postgres_programs() -> Path | None:
    """Where ``initdb`` and ``pg_ctl`` are."""
    found = shutil.which("pg_ctl")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


class PostgresServer:
    """A private server that listens on a Unix socket alone; every database in it is new."""

    def __init__(self, programs: Path, place: Path) -> None:
        self.programs, self.place, self._made = programs, place, 0
        self.user = getpass.getuser()
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            self.user = next(name for name in ("postgres", "nobody") if _exists(name))
            shutil.chown(place, self.user)

    def call(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        if os.getuid() == 0:
            command = ["setpriv", f"--reuid={self.user}", "--regid=nogroup", "--clear-groups", *command]
        subprocess.run(command, check=True, cwd=self.place, capture_output=True, timeout=60)

    def start(self) -> None:
        settings = f"-c listen_addresses='' -c unix_socket_directories='{self.place}' -c fsync=off"
        self.call("pg_ctl", "-D", f"{self.place}/data", "-w", "-l", f"{self.place}/log", "-o", settings, "start")

    def stop(self) -> None:
        self.call("pg_ctl", "-D", f"{self.place}/data", "-w", "-m", "immediate", "stop")

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._made += 1
        name = f"audit{self._made}"
        self.call("createdb", "-h", str(self.place), name)
        return f"postgresql://{self.user}@/{name}?host={self.place}"


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs are not installed")
    if os.getuid() == 0 and not (shutil.which("setpriv") and (_exists("postgres") or _exists("nobody"))):
        pytest.skip("PostgreSQL does not run as root, and there is no other user to run it as")
    place = Path(
        subprocess.check_output(["mktemp", "-d", "/tmp/pgXXXXXX"], text=True).strip()
    )  # sockets want a short path
    place.chmod(0o755)
    server = PostgresServer(programs, place)
    try:
        server.call("initdb", "-D", f"{place}/data", "-A", "trust", "-E", "UTF8", "--no-sync")
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(place)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A path or URL at which no store is yet."""
    if request.param == "sqlite":
        return str(tmp_path / "audit.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def store(place: str) -> Iterator[AuditStore]:
    opened = open_store(place)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[AuditStore]:
    opened = open_store(str(tmp_path / "audit.db"))
    yield opened
    opened.close()
