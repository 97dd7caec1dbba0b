"""What decides a run's answers: runs that share a policy's weights, a prompt and the sampling share those answers.

So more prompts, more samples or a new member cost only the answers that are new. A running engine is taken to serve the
weights that lie in the family; what it serves cannot be seen.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mopo_eval.answer_store import AnswerStore, Grid
from mopo_eval.answers import AnswerKey, Sampling
from mopo_eval.evaluation import RESPONSES, SPOOL
from mopo_eval.judges.fingerprint import of_files
from mopo_eval.prompts import EvaluationPrompt, prompt_hash
from mopo_train.errors import FamilyError
from mopo_train.family import PolicyFamily, base_model_path, first_problem, write_whole

FILE = "drawn.json"


class Drawn(BaseModel):
    """The contents of ``evaluation/<run>/drawn.json``, which is there before the first answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policies: dict[str, str]
    """Digest of each policy's weights."""
    prompts: dict[str, str]
    """Hash of each prompt, by its id."""
    sampling: Sampling

    def shared(self, other: "Drawn") -> Callable[[AnswerKey], bool] | None:
        """Whether an answer of ``other`` is as good as one drawn for this run; None where no answer is.

        A sample's number decides its seed, so how many there are does not matter.
        """
        alike = self.sampling == other.sampling.model_copy(update={"samples": self.sampling.samples})
        policies = dict(self.policies.items() & other.policies.items())
        prompts = dict(self.prompts.items() & other.prompts.items())
        if not (alike and policies and prompts):
            return None
        return lambda key: key.policy in policies and key.prompt_id in prompts


def drawn(root: Path, family: PolicyFamily, prompts: Sequence[EvaluationPrompt], sampling: Sampling) -> Drawn:
    """What a run of ``family`` in ``root`` asks."""
    asked = {prompt.id: prompt_hash(prompt.prompt) for prompt in prompts}
    return Drawn(policies=weights(root, family), prompts=asked, sampling=sampling)


def weights(root: Path, family: PolicyFamily) -> dict[str, str]:
    """Per policy, a digest of the base model's files and its adapter's; of a model of the hub its name."""
    base = Path(base_model_path(root, family))
    files = sorted(file for file in base.iterdir() if file.suffix != ".md") if base.is_dir() else [base]
    below = of_files("base", files)
    return {
        policy.id: of_files(below, sorted((root / policy.adapter).glob("adapter_*")) if policy.adapter else [])
        for policy in family.policies
    }


def write_drawn(directory: Path, made: Drawn) -> None:
    """Write ``drawn.json``."""
    write_whole(directory / FILE, made.model_dump_json() + "\n")


def read_drawn(path: Path) -> Drawn:
    """The ``drawn.json`` at ``path``. Raises FamilyError for a damaged one."""
    try:
        return Drawn.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise FamilyError(f"'{path}' is damaged: {first_problem(error)}; delete it to ask again.") from error


def find_answers(root: Path, run: str, grid: Grid, drawn: Drawn, accepts: Callable[[str], bool]) -> AnswerStore:
    """Answers that ``run``, or another run that drew some of the same, has already; its own come first.

    Only those of engines whose kind ``accepts`` takes. Close it after use.
    """
    store = AnswerStore(grid)
    own = root / "evaluation" / run
    for path in sorted((root / "evaluation").glob(f"*/{FILE}")):
        if path.parent != own and (shared := drawn.shared(read_drawn(path))):
            _add(store, path.parent, shared, accepts)
    _add(store, own, lambda key: True, accepts)
    return store


def _add(
    store: AnswerStore, directory: Path, shared: Callable[[AnswerKey], bool], accepts: Callable[[str], bool]
) -> None:
    def takes(key: AnswerKey, kind: str) -> bool:
        return accepts(kind) and shared(key)

    store.add_table(directory / RESPONSES, directory.name, takes)
    if (directory / SPOOL).is_file():
        store.add_spool(directory / SPOOL, directory.name, takes)
