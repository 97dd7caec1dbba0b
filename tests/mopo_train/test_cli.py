"""Mistakes on the command line: a message and an exit status, never a traceback."""

import errno
import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from safetensors import SafetensorError

from mopo_train.cli import main
from mopo_train.console import CommandGroup

RUN = "run DATA --model m --out OUT --primary helpfulness --policies 1"
REFERENCE = "reference DATA --model scratch --out OUT"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    row = {"response_a": "Yes.", "response_b": "No.", "preferences": {"helpfulness": 1, "safety": 0}}
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{n}"} | row) + "\n" for n in range(9)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "command", ["sandbox --no-model --prompts 2 --held-out 2", REFERENCE, "plan DATA", "split DATA"]
)
@pytest.mark.parametrize(
    ("place", "named"), [("file", "/file"), ("file/under", "/file/"), ("/proc/nowhere/out", "/proc/nowhere")]
)
def test_a_place_that_cannot_be_written_is_named(
    command: str, place: str, named: str, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    out = str(tmp_path / place)  # an absolute place stays as it is
    arguments = [str(data) if word == "DATA" else word for word in command.replace("--out OUT", "").split()]
    result = CliRunner().invoke(main, [*arguments, "--out", out])
    assert (result.exit_code, named in result.stderr) == (1, True), result.output
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        (f"{RUN} --primary Helpfulness", 1, "primary: String should match"),
        (f"{RUN} --floor safety.win_rate=.5", 1, "data win rates, which have no measure, for example safety=0.5"),
        (f"{RUN} --tau nan", 2, "nan is not a finite number"),
        (f"{RUN} --learning-rate nan", 2, "nan is not a finite number"),
        (f"{RUN} --epsilon inf", 2, "inf is not a finite number"),
        ("sandbox --out OUT --tau nan", 2, "nan is not a finite number"),
        ("plan DATA --tau inf", 2, "inf is not a finite number"),
        (f"{REFERENCE} --learning-rate nan", 2, "nan is not a finite number"),
        (f"{REFERENCE} --hidden-size 256 --heads 3", 1, "the next size that fits is 258"),
        (f"{REFERENCE} --hidden-size 20 --heads 4", 1, "the next size that fits is 24"),
    ],
)
def test_values_that_cannot_be_used_are_explained(
    command: str, status: int, message: str, data: Path, tmp_path: Path
) -> None:
    paths = {"DATA": str(data), "OUT": str(tmp_path / "out")}
    result = CliRunner().invoke(main, [paths.get(word, word) for word in command.split()])
    assert (result.exit_code, message in result.stderr) == (status, True), result.output
    assert isinstance(result.exception, SystemExit)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


@pytest.fixture
def unnamed(tmp_path: Path) -> list[str]:
    """Two files that do not say what was judged, and opposite judgements in them."""
    names = []
    for name, (chosen, rejected) in {"first": ("Yes.", "No."), "second": ("No.", "Yes.")}.items():
        rows = [{"prompt": f"q{n}", "chosen": chosen, "rejected": rejected} for n in range(9)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        names.append(str(path))
    return names


NAMES = ["--objective", "helpfulness", "--objective", "safety"]


def test_a_plan_takes_names_for_labels_that_have_none(unnamed: list[str]) -> None:
    quick = ["--no-cross-fit", "--json"]
    wanted = CliRunner().invoke(main, ["plan", f"helpfulness={unnamed[0]}", f"safety={unnamed[1]}", *quick])
    given = CliRunner().invoke(main, ["plan", *unnamed, *NAMES, *quick])
    assert json.loads(given.stdout) == json.loads(wanted.stdout)
    assert json.loads(given.stdout)["objectives"] == ["helpfulness", "safety"]


@pytest.mark.parametrize(
    "command",
    [
        "run --model M --out OUT --primary helpfulness --policies 1",
        "baseline --model M --out OUT --method dpo",
        "plan --no-cross-fit",
        "label --candidates M --out OUT",
        "reference --model scratch --out OUT",
        "candidates --model M --out OUT",
    ],
)
def test_every_command_checks_the_names_that_it_is_given(command: str, unnamed: list[str], tmp_path: Path) -> None:
    (tmp_path / "M").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "M" / name).write_text("{}", encoding="utf-8")
    places = {"M": str(tmp_path / "M"), "OUT": str(tmp_path / "out")}
    words = [places.get(word, word) for word in command.split()]
    result = CliRunner().invoke(main, [*words, *unnamed, *NAMES, "--objective", "tact"])
    assert result.exit_code == 1, result.output
    assert "3 objectives (helpfulness, safety, tact) for 2 sources" in result.stderr


def test_a_reference_needs_texts_alone(unnamed: list[str], tmp_path: Path) -> None:
    sizes = "--steps 1 --hidden-size 32 --heads 1 --layers 1 --vocab-size 300 --max-length 64".split()
    (tmp_path / "bare.jsonl").write_text('{"prompt": "q", "response_a": "Yes.", "response_b": "No."}\n')
    for number, sources in enumerate([unnamed, [str(tmp_path / "bare.jsonl")]]):
        out = str(tmp_path / f"out-{number}")
        result = CliRunner().invoke(main, ["reference", *sources, "--model", "scratch", "--out", out, *sizes])
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "tool: no space left on device\n"),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "tool: no space left on device; make room and repeat the command\n",
        ),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),  # torch.save
            "tool: no space left on device; make room and repeat the command\n",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "there"), "tool: 'there': permission denied\n"),
    ],
)
def test_a_full_disk_and_a_forbidden_place_are_no_bugs(error: Exception, told: str) -> None:
    @click.group(cls=CommandGroup, name="tool")
    def tool() -> None:
        pass

    @tool.command()
    def write() -> None:
        raise error

    result = CliRunner().invoke(tool, ["write"])
    assert (result.exit_code, result.stderr) == (1, told)
