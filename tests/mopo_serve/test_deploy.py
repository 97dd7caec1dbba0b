"""What ``deploy/`` holds fits the commands, and systemd and Docker can read it."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mopo_serve.cli import main
from mopo_serve.server import DRAIN_SECONDS

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNIT = DEPLOY / "mopo-serve.service"


def settings(unit: Path) -> dict[str, list[str]]:
    """The values of a unit file by name."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def compose() -> dict[str, Any]:
    found = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def parsed(words: list[str]) -> dict[str, Any]:
    """What ``mopo-serve WORDS`` would be called with; a usage error fails the test."""
    group = main.make_context("mopo-serve", words)
    with group:
        name, command, rest = main.resolve_command(group, words)
        assert command is not None
        return command.make_context(name, rest, parent=group).params


def test_the_units_command_is_one_that_exists() -> None:
    unit = settings(UNIT)
    program, *words = shlex.split(unit["ExecStart"][0])
    assert Path(program).name == "mopo-serve"
    options = parsed(words)
    assert (str(options["root"]), options["choices"], options["host"]) == (
        "/var/lib/mopo/family",
        ("vllm",),
        "127.0.0.1",
    )
    names = dict(value.split("=") for value in unit["Environment"])
    known = {option.envvar for option in main.commands["run"].params if getattr(option, "envvar", None)}
    assert {name for name in names if name.startswith("MOPO_")} <= known
    assert int(unit["TimeoutStopSec"][0]) > DRAIN_SECONDS
    assert unit["KillMode"] == ["mixed"]  # the audit's worker ends with its pipe, not by a signal


def test_composes_command_is_one_that_exists() -> None:
    gateway = compose()["services"]["gateway"]
    options = parsed(gateway["command"])
    assert (str(options["root"]), options["choices"], options["port"]) == ("/family", ("vllm",), 8000)
    places = {re.sub(r"^.*:(/[^:]+)(:ro)?$", r"\1", volume) for volume in gateway["volumes"]}
    assert {"/family", "/etc/mopo", "/var/lib/mopo"} == places
    assert str(options["audit_spill"]).startswith("/var/lib/mopo/")
    assert float(gateway["stop_grace_period"].removesuffix("s")) > DRAIN_SECONDS
    assert set(compose()["volumes"]) == {"keys", "state", "audit"}


def test_the_image_holds_every_package_and_extras_that_exist() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    project = (DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8")
    for package in ("mopo_train", "mopo_eval", "mopo_serve", "dashboards"):
        assert f"COPY {package} {package}" in dockerfile
    extras = re.search(r"ARG EXTRAS=(\S+)", dockerfile)
    assert extras is not None
    for extra in extras[1].split(","):
        assert re.search(rf"^{extra} = \[", project, re.M), extra
    assert "MOPO_KEYS=/etc/mopo/keys.json" in dockerfile


def test_systemd_can_read_the_unit(tmp_path: Path) -> None:
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("systemd is not installed")
    unit = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8")
    unit.write_text(text.replace("/opt/mopo/.venv/bin/mopo-serve", "/bin/true"))  # it must exist
    done = subprocess.run(
        [analyze, "verify", "--man=no", unit], capture_output=True, text=True, timeout=60, check=False
    )
    told = [line for line in done.stderr.splitlines() if unit.name in line]
    assert told == []


DURATION = {"type": "string", "pattern": r"^(\d+(ms|s|m|h))+$"}
COMPOSE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["services"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "volumes": {"type": "object", "additionalProperties": {"type": "null"}},
        "services": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["image"],
                "properties": {
                    "build": {"type": "object", "required": ["context"], "additionalProperties": {"type": "string"}},
                    "image": {"type": "string"},
                    "command": {"type": "array", "items": {"type": "string"}},
                    "environment": {"type": "object", "additionalProperties": {"type": "string"}},
                    "volumes": {
                        "type": "array",
                        "items": {"type": "string", "pattern": "^[^:]+(:[?].*)?:/[^:]+(:ro)?$"},
                    },
                    "ports": {"type": "array", "items": {"type": "string", "pattern": r"^\d+:\d+$"}},
                    "depends_on": {
                        "type": "object",
                        "additionalProperties": {
                            "properties": {"condition": {"enum": ["service_started", "service_healthy"]}}
                        },
                    },
                    "stop_grace_period": DURATION,
                    "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
                    "init": {"type": "boolean"},
                    "ulimits": {"type": "object", "additionalProperties": {"type": "integer"}},
                    "shm_size": {"type": "string", "pattern": "^[0-9]+[bkmg]b?$"},
                    "healthcheck": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "test": {"type": "array", "prefixItems": [{"enum": ["CMD", "CMD-SHELL"]}]},
                            "interval": DURATION,
                            "start_period": DURATION,
                        },
                    },
                    "deploy": {"type": "object", "required": ["resources"]},
                },
            },
        },
    },
}
"""The part of the Compose specification that ``compose.yaml`` uses; Docker itself is asked where it is installed."""


def test_the_compose_file_is_in_the_form_of_the_specification() -> None:
    found = compose()
    jsonschema.validate(found, COMPOSE, cls=jsonschema.Draft202012Validator)
    services = found["services"]
    assert set(services["gateway"]["depends_on"]) <= set(services)
    assert "healthcheck" in services["audit"]  # its condition waits for it
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    assert (
        set(re.findall(r"\$\{(\w+):\?", text))
        == set(re.findall(r"\$\{(\w+)", text))
        == {"MOPO_FAMILY", "AUDIT_PASSWORD"}
    )
    with pytest.raises(jsonschema.ValidationError, match="'port' was unexpected"):
        jsonschema.validate({"services": {"a": {"image": "b", "port": "80"}}}, COMPOSE)


def test_docker_can_read_the_compose_file() -> None:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    environment = os.environ | {"MOPO_FAMILY": "/families/one", "AUDIT_PASSWORD": "a-password"}
    command = [docker, "compose", "--file", str(DEPLOY / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
