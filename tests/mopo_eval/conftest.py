"""Fixtures of the tests of measuring."""

import shutil
from pathlib import Path

import pytest

from mopo_train.family import write_family
from tests.families import family


@pytest.fixture
def unmeasured_root(tmp_path: Path) -> Path:
    """A family that was trained but not measured; its adapters are empty, which an attached engine does not mind."""
    made = family()
    for policy in made.policies:
        if policy.adapter:
            (tmp_path / policy.adapter).mkdir(parents=True)
            (tmp_path / policy.adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    write_family(tmp_path, made)
    return tmp_path


@pytest.fixture
def tiny_copy(tiny_family: Path, tmp_path: Path) -> Path:
    """The tiny family with real weights, not measured yet."""
    root = tmp_path / "family"
    shutil.copytree(tiny_family, root, ignore=shutil.ignore_patterns("scorecards", "profiles.yaml"))
    return root
