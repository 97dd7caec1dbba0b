"""judges.yaml: which judge scores which objective, and how.

A judge is the dotted name of a Python callable, the name of a built-in judge, or a mapping with its ``kind``:

    judges:
      helpfulness: {kind: llm, url: "http://127.0.0.1:8001", model: judge, mode: compare, rubric: "Is the ..."}
      safety: safety
      factuality: {kind: reference, match: overlap}
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from mopo_eval.judges.callables import load_callable
from mopo_eval.judges.case import Judge
from mopo_eval.judges.choices import ChoiceJudge, Metric
from mopo_eval.judges.claims import LlmClaims, ModelClaims
from mopo_eval.judges.classifier import ClassifierJudge
from mopo_eval.judges.llm import LlmJudge, LlmSettings
from mopo_eval.judges.preference import PreferenceJudge
from mopo_eval.judges.reference import Match, ReferenceJudge
from mopo_eval.judges.safety import RefusalJudge, StanceJudge
from mopo_eval.prompts import beside_data
from mopo_eval.strict_yaml import load_strictly
from mopo_train.errors import JudgeError
from mopo_train.family import PolicyFamily, first_problem


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class StanceSettings(_Settings):
    """Refuses what is harmful and answers what is harmless; prompts say which by "harmful": true or false."""

    kind: Literal["safety"]

    def load(self) -> Judge:
        """The judge."""
        return StanceJudge()


class RefusalSettings(_Settings):
    """Refusals, in full or in part."""

    kind: Literal["refusal"]

    def load(self) -> Judge:
        """The judge."""
        return RefusalJudge()


class ReferenceSettings(_Settings):
    """Agreement with the prompts' "references"."""

    kind: Literal["reference"]
    match: Match = "overlap"

    def load(self) -> Judge:
        """The judge."""
        return ReferenceJudge(f"reference:{self.match}", self.match)


class ChoiceSettings(_Settings):
    """TruthfulQA's MC1 or MC2 by log-probabilities: "references" (the best first) against "incorrect"."""

    kind: Literal["multiple-choice"]
    metric: Metric = "mc1"
    template: str | None = Field(default=None, pattern=r"\{prompt\}")
    """Plain text with {prompt} where the question stands; the conversation as policies see it without one."""

    def load(self) -> Judge:
        """The judge."""
        told = {"template": self.template}
        name = self.metric if self.template is None else _title(self.metric, "template", told)
        return ChoiceJudge(name, self.metric, self.template)


class ClaimSettings(_Settings):
    """Each sentence of an answer against the prompt's "references": by a language model, or one fitted to ``data``."""

    kind: Literal["claims"]
    url: str | None = Field(default=None, pattern=r"^https?://.+")
    model: str | None = None
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    max_tokens: int = Field(default=512, ge=16)
    structured: bool = True
    logprobs: bool = True
    api_key_variable: str | None = None
    concurrency: int = Field(default=16, ge=1)
    data: list[str] = []
    """Files of rows with right and wrong answers ("references", "incorrect") to fit a small model to."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.url is None) == (not self.data) or (self.url is None) != (self.model is None):
            raise ValueError("give 'url' and 'model' of a language model, or 'data' to fit a small model to")
        return self

    def load(self) -> Judge:
        """The judge."""
        if self.url is None or self.model is None:
            fitted = {"data": self.data, "seed": self.seed}
            return ModelClaims(_title("claims", "fitted", fitted), tuple(self.data), self.seed)
        same = {"temperature", "max_tokens", "structured", "logprobs", "seed"}
        settings = LlmSettings(self.model, "", **self.model_dump(include=same))
        name = _title("claims", self.model, settings._asdict())
        url = self.url.rstrip("/").removesuffix("/v1")
        return LlmClaims(name, LlmJudge(name, settings, url, self.api_key_variable, self.concurrency))


class ClassifierSettings(_Settings):
    """A sequence classifier or reward model of transformers."""

    kind: Literal["classifier"]
    model: str
    label: str | None = None
    batch_size: int = Field(default=16, ge=1)
    max_length: int = Field(default=1024, ge=2)

    def load(self) -> Judge:
        """The judge."""
        decides = {"model": self.model, "label": self.label, "max_length": self.max_length}
        return ClassifierJudge(
            _title("classifier", self.model, decides), self.model, self.label, self.batch_size, self.max_length
        )


class LlmJudgeSettings(_Settings):
    """A language model behind an OpenAI-compatible endpoint."""

    kind: Literal["llm"]
    url: str = Field(pattern=r"^https?://.+")
    """With or without /v1 at the end."""
    model: str
    rubric: str = Field(min_length=1)
    mode: Literal["grade", "compare"] = "grade"
    scale: int = Field(default=5, ge=2, le=9)
    """One digit, so that a grade is one token."""
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    max_tokens: int = Field(default=512, ge=16)
    structured: bool = True
    logprobs: bool = True
    seed: int = Field(default=0, ge=0)
    api_key_variable: str | None = None
    """Environment variable with the endpoint's key; a key itself has no place in a file."""
    concurrency: int = Field(default=16, ge=1)

    def load(self) -> Judge:
        """The judge."""
        settings = LlmSettings(**{name: getattr(self, name) for name in LlmSettings._fields})
        name = _title("llm", self.model, settings._asdict())
        url = self.url.rstrip("/").removesuffix("/v1")
        return LlmJudge(name, settings, url, self.api_key_variable, self.concurrency)


class PreferenceJudgeSettings(_Settings):
    """A small model fitted to preference data here: for machines without a hub."""

    kind: Literal["preference-model"]
    data: list[str] = Field(min_length=1)
    """As ``mopo-train`` takes it."""
    objective: str
    """Of the data; usually the one that is judged."""
    encoder: str | None = None
    """Directory or hub name of a transformers model; a small one from scratch without it."""
    seed: int = Field(default=0, ge=0)

    def load(self) -> Judge:
        """The judge."""
        decides = self.model_dump(mode="json")
        return PreferenceJudge(
            _title("preference-model", self.objective, decides), self.data, self.objective, self.encoder, self.seed
        )


JudgeSettings = Annotated[
    StanceSettings
    | RefusalSettings
    | ReferenceSettings
    | ChoiceSettings
    | ClaimSettings
    | ClassifierSettings
    | PreferenceJudgeSettings
    | LlmJudgeSettings,
    Field(discriminator="kind"),
]
_READER: TypeAdapter[JudgeSettings] = TypeAdapter(JudgeSettings)
BUILT_IN = ("safety", "refusal", "reference", "multiple-choice")
"""Kinds that need no further settings, so their name alone is enough."""


def load_judge(given: Any) -> Judge:
    """The judge that an entry of judges.yaml, or a name on a command line, describes. Raises JudgeError."""
    if isinstance(given, str):
        if given.isidentifier() and given not in BUILT_IN:
            raise JudgeError(
                f"'{given}' does not name a judge; built in are {', '.join(BUILT_IN)}. Others are written "
                "package.module.function, or on a command line judges.yaml:OBJECTIVE."
            )
        if given not in BUILT_IN:
            return load_callable(given)
        given = {"kind": given}
    try:
        return _READER.validate_python(given).load()
    except ValidationError as error:
        kinds = "python name, safety, refusal, reference, multiple-choice, claims, classifier, preference-model, llm"
        raise JudgeError(f"{given!r:.200} describes no judge ({kinds}): {first_problem(error)}.") from error


def named_judge(given: str) -> Judge:
    """The judge that a command line names: as in judges.yaml, or ``FILE.yaml:OBJECTIVE``. Raises JudgeError."""
    path, _, objective = given.rpartition(":")
    if not path.endswith((".yaml", ".yml")):
        return load_judge(given)
    entries = _entries(Path(path))
    if objective not in entries:
        raise JudgeError(f"'{path}' has no judge for '{objective}'; it has: {', '.join(map(str, entries))}.")
    return load_judge(entries[objective])


def read_judges(path: Path, objectives: Iterable[str]) -> dict[str, Any]:
    """What YAML ``judges: {objective: ...}`` in ``path`` says of each of ``objectives``, in their order.

    Objectives may lack a judge, but not all. Raises JudgeError.
    """
    judges = _entries(path)
    known = list(objectives)
    if unknown := sorted(str(name) for name in judges if name not in known):
        raise JudgeError(
            f"'{path}' has a judge for '{unknown[0]}', which is not an objective of this family; "
            f"known: {', '.join(known)}"
        )
    return {name: judges[name] for name in known if name in judges}


def _entries(path: Path) -> dict[str, Any]:
    try:
        content = load_strictly(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise JudgeError(f"cannot read judges from '{path}': {error}") from error
    judges = content.get("judges") if isinstance(content, dict) else None
    if not isinstance(judges, dict) or not judges or not all(isinstance(v, str | dict) for v in judges.values()):
        raise JudgeError(f"'{path}' names no judges; write\njudges:\n  OBJECTIVE: package.module.function")
    return judges


def judges_path(family: PolicyFamily, given: Path | None) -> Path:
    """The judges file: ``given``, or judges.yaml beside the training data. Raises JudgeError where there is none."""
    path = given or beside_data(family, "judges.yaml")
    if path is None:
        raise JudgeError(
            f"no judges given, and no judges.yaml beside the training data ({', '.join(family.data.source)}); name a "
            "file 'judges: {objective: package.module.function}' with --judges, or collect answers with --answers-only."
        )
    return path


def load_judges(entries: Mapping[str, Any]) -> dict[str, Judge]:
    """The loaded judge of every objective. Raises JudgeError."""
    return {objective: load_judge(entry) for objective, entry in entries.items()}


def _title(kind: str, model: str, decides: Mapping[str, Any]) -> str:
    """Readable, and different for settings that may judge differently."""
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]
    return f"{kind}:{model}#{digest}"
