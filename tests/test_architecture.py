"""The architecture, held against the source: who may import whom, and what stays light."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["mopo_train", "mopo_eval", "mopo_serve", "dashboards"]  # each may import those before it
HEAVY = {"torch", "transformers", "peft", "datasets", "vllm", "streamlit", "pandas", "scipy", "pyarrow", "plotly"}


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that an import anywhere in ``tree`` names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", LAYERS)
def test_packages_import_only_the_layers_before_them(package: str) -> None:
    later = set(LAYERS[LAYERS.index(package) + 1 :])
    for path in sources(package):
        named = {module.partition(".")[0] for module in imports(ast.parse(path.read_text(encoding="utf-8")))}
        assert not named & later, f"{path} imports {named & later}"


@pytest.mark.parametrize("package", LAYERS)
def test_streamlit_is_imported_by_the_app_and_its_pages_alone(package: str) -> None:
    for path in sources(package):
        if path == ROOT / "dashboards" / "app.py" or path.parent == ROOT / "dashboards" / "views":
            continue
        named = {module.partition(".")[0] for module in imports(ast.parse(path.read_text(encoding="utf-8")))}
        assert "streamlit" not in named, path


@pytest.mark.parametrize("package", LAYERS[1:])
def test_torch_is_imported_at_module_level_by_training_alone(package: str) -> None:
    for path in sources(package):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        named = {module.partition(".")[0] for module in imports(top)}
        assert not named & {"torch", "transformers", "peft", "vllm"}, path


@pytest.mark.parametrize(
    "module",
    [
        "mopo_train.family",
        "mopo_eval.scorecards",
        "mopo_eval.profiles",
        "mopo_eval.selection",
        "mopo_serve.gateway",
        "mopo_serve.audit.frames",
        "dashboards.frames",
        "dashboards.charts",
    ],
)
def test_artifacts_are_read_without_torch(module: str) -> None:
    code = f"import sys, {module}; print({{'torch', 'transformers', 'vllm', 'streamlit'}} & set(sys.modules) or '')"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("module", ["mopo_train.cli", "mopo_eval.cli", "mopo_serve.cli", "dashboards.cli"])
def test_help_is_printed_without_heavy_imports(module: str) -> None:
    code = (
        f"import sys; from {module} import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as done:\n    assert not done.code\n"
        f"print('heavy:', *sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "Usage:" in done.stdout
    assert done.stdout.strip().splitlines()[-1].strip() == "heavy:"


def test_every_package_runs_as_a_module_under_the_name_of_its_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    for command, function in scripts.items():
        told = [sys.executable, "-m", function.partition(".")[0], "--version"]
        done = subprocess.run(told, check=True, capture_output=True, text=True)
        assert done.stdout.startswith(f"{command}, version")


def test_every_package_has_mirroring_tests() -> None:
    for package in LAYERS:
        assert list((ROOT / "tests" / package).rglob("test_*.py")), package
