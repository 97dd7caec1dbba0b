"""``docs/scaling.md``: its tables are what its formulas give, its command lines are ones that exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mopo_serve.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
ENGINE = "python -m vllm.entrypoints.openai.api_server "
PARSE = """
import shlex, sys
try:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
except ImportError:
    from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
for line in sys.stdin:
    given = parser.parse_args(shlex.split(line))
    validate_parsed_serve_args(given)
    print("sizes", given.tensor_parallel_size, given.pipeline_parallel_size, given.data_parallel_size, given.headless)
"""


def numbers(row: str) -> list[float]:
    return [float(cell.strip().replace(",", "").removesuffix(" MB")) for cell in row.strip("|\n ").split("|")[1:]]


def test_gpu_hours_are_what_the_formula_gives() -> None:
    for name, parameters in (("0.6", 0.6e9), ("8", 8e9), ("32", 32e9), ("70", 70e9)):
        row = re.search(rf"^\| {name} billion .*$", PAGE, re.M)
        assert row is not None
        for pairs, hours in zip((1e4, 1e5, 1e6), numbers(row[0]), strict=True):
            operations = pairs * 2 * 512 * parameters * (4 * 1 * 7 + 2)
            assert hours == pytest.approx(operations / (989e12 * 0.35 * 3600), rel=0.015)


@pytest.mark.parametrize(
    ("name", "layers", "shapes"),
    [
        ("Qwen3-0.6B", 28, [(1024, 2048), (1024, 1024), (1024, 1024), (2048, 1024), (1024, 3072)]),
        ("Llama-3.1-8B", 32, [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 14336)]),
        ("Llama-3.1-70B", 80, [(8192, 8192), (8192, 1024), (8192, 1024), (8192, 8192), (8192, 28672)]),
    ],
)
def test_adapters_are_as_large_as_their_layers_say(name: str, layers: int, shapes: list[tuple[int, int]]) -> None:
    """Queries, keys, values, outputs, and three matrices of the feed-forward part, which have the last shape."""
    row = re.search(rf"^\| {re.escape(name)} .*$", PAGE, re.M)
    assert row is not None
    ends = sum(map(sum, [*shapes, shapes[-1], shapes[-1]]))
    for rank, megabytes in zip((8, 16, 64), numbers(row[0]), strict=True):
        assert megabytes == pytest.approx(2 * layers * rank * ends / 1e6, abs=0.6)


def test_the_suites_own_lines_are_commands_that_exist() -> None:
    lines = re.findall(r"^\s*mopo-serve .*$", PAGE, re.M)
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        group = main.make_context("mopo-serve", words)
        with group:
            name, command, rest = main.resolve_command(group, words)
            assert command is not None
            command.make_context(name, rest, parent=group)


@pytest.mark.vllm
def test_vllms_lines_are_ones_that_it_can_parse() -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    lines = [line.removeprefix(ENGINE) for line in PAGE.splitlines() if line.startswith(ENGINE)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", PARSE],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sizes = [line for line in done.stdout.splitlines() if line.startswith("sizes")]
    assert sizes == ["sizes 4 1 1 False", "sizes 4 2 1 False", "sizes 1 1 8 False", "sizes 1 1 8 True"]
