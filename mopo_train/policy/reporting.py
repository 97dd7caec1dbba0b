"""Where else the log of a training goes: TensorBoard, Weights & Biases, MLflow, through transformers' integrations.

TensorBoard's files lie in ``logs/<policy>`` of what is trained; the others go where their own settings say
(``WANDB_MODE=offline``, ``MLFLOW_TRACKING_URI``).
"""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mopo_train.errors import MopoError

LOGS = "logs"
TENSORBOARD = "TENSORBOARD_LOGGING_DIR"


class Report(NamedTuple):
    """Of one training."""

    to: tuple[str, ...] = ()
    """Names of integrations."""
    name: str | None = None
    """Of the policy."""
    root: Path | None = None
    """What is trained; None: TensorBoard's own choice."""

    @contextmanager
    def place(self) -> Iterator[None]:
        """Tells TensorBoard where to write while the block runs, unless the user's environment does."""
        mine = self.root is not None and self.name is not None and TENSORBOARD not in os.environ
        if mine:
            os.environ[TENSORBOARD] = str(Path(self.root or "") / LOGS / str(self.name))
        try:
            yield
        finally:
            if mine:
                del os.environ[TENSORBOARD]


def check_integrations(names: Sequence[str]) -> None:
    """Raise MopoError for one whose package is missing, with the command that installs it."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            advice = "'mopo-suite[report]'" if name == "tensorboard" else name
            raise MopoError(f"--report-to {name}: the package {name} is not installed; pip install {advice}.")
