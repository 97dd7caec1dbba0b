"""A family that an engine's stand-in can be asked about, with prompts and judges: what ``mopo-eval run`` takes."""

import json
from pathlib import Path

from mopo_train.family import write_family
from tests.families import family

JUDGES = {"helpfulness": "tests.mopo_eval.scoring.digit", "safety": "tests.mopo_eval.scoring.is_even"}


def measurable(place: Path, prompts: int) -> tuple[Path, list[str]]:
    """The family's directory, and the arguments that name it and its files."""
    root, made = place / "family", family()
    for policy in made.policies:
        if policy.adapter:
            (root / policy.adapter).mkdir(parents=True)
            (root / policy.adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    write_family(root, made)
    questions = [json.dumps({"id": f"p{i}", "prompt": f"Question {i}?"}) for i in range(prompts)]
    (place / "prompts.jsonl").write_text("\n".join(questions), encoding="utf-8")
    (place / "judges.yaml").write_text(json.dumps({"judges": JUDGES}), encoding="utf-8")
    files = ["--prompts", str(place / "prompts.jsonl"), "--judges", str(place / "judges.yaml")]
    return root, [str(root), *files, "--concurrency", "4"]
