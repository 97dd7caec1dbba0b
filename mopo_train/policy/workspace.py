"""The directory of a family in training: begun, continued, finished, or somebody else's.

run.json records what was asked for, the data's digest and the model's fingerprint before anything is trained;
a run continues only under the same record. Everything in progress lies in ``.work`` and goes when the family is whole,
except log-probabilities of its policies.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from mopo_train import __version__
from mopo_train.errors import FamilyError
from mopo_train.family import DataSummary, first_problem, write_whole
from mopo_train.policy.models import find_model, fingerprint, load_tokenizer

RECORD = "run.json"
MADE = (
    "family.json",
    "plan.json",
    "plan.html",
    RECORD,
    "policies",
    "training",
    "base",
    "scorecards",
    "evaluation",
    "cards",
    "logs",
    ".work",
)
"""What a run or a measurement of its policies makes. ``profiles.yaml`` belongs to the user and is never touched."""
WORK = ".work"
CLEARING = RECORD + ".clearing"
"""There while an earlier family is being deleted: what is left beside it is ours, and not whole."""


class RunRecord(BaseModel):
    """The contents of run.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    package_version: str
    config: dict[str, Any]
    """Resolved, with the seed."""
    data_sha256: str
    model: str
    """As given."""
    model_fingerprint: str

    @classmethod
    def of(cls, config: BaseModel, data: DataSummary, model: str) -> "RunRecord":
        """What a run with ``config`` on ``data`` and ``model`` was asked for. Raises ModelError."""
        return cls(
            package_version=__version__,
            config=config.model_dump(mode="json"),
            data_sha256=data.sha256,
            model=model,
            model_fingerprint=fingerprint(model),
        )


class Workspace(NamedTuple):
    """A family directory that is open for training."""

    root: Path
    work: Path
    """Checkpoints; log-probabilities of finished policies."""
    base: str
    """Where to load the base model from."""
    base_name: str
    """How family.json and the adapters name it: ``base`` or a hub name."""


def check_place(root: Path, sources: Sequence[str | Path], model: str) -> None:
    """Raise FamilyError where ``root`` cannot be written to: a file, or entangled with the data or the model."""
    if root.exists() and not root.is_dir():
        raise FamilyError(f"'{root}' is a file; give a directory to write to.")
    here = root.resolve()
    inputs = [("data", Path(str(source).partition("=")[2] or str(source))) for source in sources]
    for what, given in [*inputs, ("model", Path(model).expanduser())]:
        if not given.exists():
            continue
        there = given.resolve()
        if there.is_relative_to(here) or (there.is_dir() and here.is_relative_to(there)):
            raise FamilyError(
                f"the output directory '{root}' and the {what} '{given}' lie inside one another; give --out a "
                "directory of its own."
            )


def is_finished(root: Path, record: RunRecord) -> bool:
    """True if ``root`` holds the finished family of ``record``, False if one may be begun or continued there.

    Raises FamilyError where it holds a family, finished or begun, of another record, or somebody's other files.
    """
    if (root / CLEARING).exists():
        return False
    finished = (root / "family.json").exists()
    if not (root / RECORD).exists() and not finished:
        _refuse_strange(root)
        return False
    old = _read(root)
    changes = _changes(old, record)
    if not finished and old.package_version != record.package_version:
        changes.append(f"mopo-suite was {old.package_version}, now {record.package_version}")
    if changes:
        raise FamilyError(
            f"'{root}' holds {'a finished family' if finished else 'a family in training'} made with other settings "
            f"({'; '.join(changes)}). Repeat the command as it was, name another directory, or use --force."
        )
    return finished


@contextmanager
def only_writer(root: Path) -> Iterator[None]:
    """Let no other process train in ``root``, made if need be, while the block runs, where the system can tell.

    Raises FamilyError where one does.
    """
    root.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FamilyError(f"another mopo-train is training in '{root}'; wait for it or stop it.") from error
        except OSError:  # some network file systems hold no directories
            pass
        yield
    finally:
        os.close(descriptor)


def begin(root: Path, record: RunRecord, *, force: bool) -> None:
    """Write run.json; with ``force``, or after a kill while that deleted, delete first what an earlier run made.

    Raises FamilyError where there is nothing of an earlier run, but somebody's other files.
    """
    if force or (root / CLEARING).exists():
        if not _is_ours(root):
            _refuse_strange(root)
        root.mkdir(parents=True, exist_ok=True)
        (root / CLEARING).touch()
        for name in MADE:
            if name == WORK:
                _clear_work(root)
            elif (root / name).is_dir():
                shutil.rmtree(root / name)
            else:
                (root / name).unlink(missing_ok=True)
    write_whole(root / RECORD, record.model_dump_json(indent=2) + "\n")
    (root / CLEARING).unlink(missing_ok=True)


def _is_ours(root: Path) -> bool:
    """True where a run began: the names in `MADE` alone are no proof, a user may have a directory called so."""
    if (root / "family.json").exists() or (root / CLEARING).exists():
        return True
    try:
        _read(root)
    except FamilyError:
        return False
    return True


def _refuse_strange(root: Path) -> None:
    strange = sorted(path.name for path in root.glob("*") if path.name not in {"profiles.yaml", RECORD + ".partial"})
    if strange:
        raise FamilyError(f"'{root}' holds other files ({', '.join(strange[:3])}) and no family; give a new directory.")


def open_workspace(root: Path, model: str) -> Workspace:
    """Copy a local base model into the family, once and whole. Raises ModelError for one that cannot be served."""
    work = root / WORK
    work.mkdir(parents=True, exist_ok=True)
    source = find_model(model)
    if source is None:
        return Workspace(root, work, model, model)
    base = root / "base"
    if not base.exists():
        partial = work / "base"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for file in source.iterdir():
            if file.is_file():
                shutil.copyfile(file, partial / file.name)
        load_tokenizer(model).save_pretrained(partial)  # with a chat template, which engines need
        partial.rename(base)
    return Workspace(root, work, str(base), "base")


def check_shared(workspace: Workspace) -> None:
    """Raise FamilyError in a process of a `distributed.group` that does not see what its leader wrote."""
    if not (workspace.root / RECORD).is_file():
        raise FamilyError(
            f"'{workspace.root}' is not the same directory on all machines; name one on a file system that they share."
        )


def clear_finished(workspace: Workspace) -> None:
    """Delete what only a run in progress needs."""
    _clear_work(workspace.root)


def _clear_work(root: Path) -> None:
    for path in (root / WORK).glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.startswith("log-probabilities-"):
            path.unlink()


def _read(root: Path) -> RunRecord:
    path = root / RECORD
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else "it is missing"
        raise FamilyError(
            f"'{path}' does not say how this family was made ({reason}); give another directory, or --force to replace "
            "a finished family."
        ) from error


def _changes(old: RunRecord, new: RunRecord) -> list[str]:
    """What differs, in words."""
    changes = []
    if old.data_sha256 != new.data_sha256:
        changes.append("the data has changed")
    if old.model_fingerprint != new.model_fingerprint:
        changes.append(f"the model was '{old.model}'" if old.model != new.model else "the model's files have changed")
    before, now = old.config, json.loads(json.dumps(new.config))
    changes += [
        f"{name} was {before.get(name)}, now {now.get(name)}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    return changes
