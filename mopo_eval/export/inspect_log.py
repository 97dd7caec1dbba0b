"""Inspect's EvalLog, version 2, as JSON: a file per policy (https://inspect.aisi.org.uk/eval-logs.html)."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mopo_eval.export.records import Export, Sample
from mopo_eval.reliability import as_json
from mopo_eval.scorecards import ObjectiveScore
from mopo_train.rows import read_prompt

VERSION = 2
STOPS = {"stop": "stop", "length": "max_tokens"}


def write_inspect(export: Export, out: Path) -> list[Path]:
    """Write ``<time>_<family>_<policy>.json``, a sample at a time."""
    summary = export.results.summary
    time = summary.created_at.replace(":", "-")
    path = out / f"{time}_{export.name}_{export.policy}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    head = {"version": VERSION, "status": "success", "eval": _spec(export), "plan": {}, "results": _results(export)}
    head["stats"] = {"started_at": summary.created_at, "completed_at": summary.created_at}
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "samples": [')
        for number, sample in enumerate(export.samples()):
            file.write((",\n" if number else "\n") + json.dumps(_sample(export, sample), ensure_ascii=False))
        file.write("\n]}\n")
    partial.replace(path)
    return [path]


def _spec(export: Export) -> dict[str, Any]:
    summary = export.results.summary
    ids = [prompt.id for prompt in export.results.prompts]
    return {
        "eval_id": _id(export, "eval"),
        "run_id": _id(export, "run"),
        "task_id": _id(export, "task"),
        "created": summary.created_at,
        "task": export.name,
        "task_version": 0,
        "model": f"mopo/policy/{export.policy}",
        "model_generate_config": {
            "temperature": summary.sampling.temperature,
            "max_tokens": summary.sampling.max_tokens,
            "seed": summary.sampling.seed,
        },
        "dataset": {"name": Path(summary.prompts_from).name or None, "samples": summary.prompts, "sample_ids": ids},
        "config": {"epochs": summary.sampling.samples},
        "metadata": {"run": summary.run, "engine": summary.engine, "judges": summary.judges}
        | as_json(summary.reliability),
    }


def _results(export: Export) -> dict[str, Any]:
    summary, card = export.results.summary, export.results.cards.get(export.policy)
    answers = summary.prompts * summary.sampling.samples
    scores = [_score(name, score, summary.prompts) for name, score in card.objectives.items()] if card else []
    return {"total_samples": answers, "completed_samples": answers, "scores": scores}


def _score(objective: str, score: ObjectiveScore, prompts: int) -> dict[str, Any]:
    values = {"mean": score.mean, "low": score.low, "high": score.high, "certified_low": score.certified_low}
    values["win_rate"] = score.win_rate.mean
    metrics = {name: {"name": name, "value": value} for name, value in values.items()}
    return {"name": objective, "scorer": score.judge, "scored_samples": prompts, "metrics": metrics}


def _sample(export: Export, sample: Sample) -> dict[str, Any]:
    answer, asked = sample.answer, sample.prompt.prompt
    said = {"role": "assistant", "content": answer["response"] or "", "source": "generate"}
    said["model"] = f"mopo/policy/{export.policy}"
    tokens = {"input_tokens": answer["prompt_tokens"], "output_tokens": answer["completion_tokens"]}
    tokens["total_tokens"] = sum(tokens.values())
    return {
        "id": sample.prompt.id,
        "epoch": answer["sample"] + 1,
        "input": asked if isinstance(asked, str) else read_prompt(asked),
        "target": list(sample.references) or "",
        "messages": [*read_prompt(asked), said],
        "output": {
            "model": said["model"],
            "choices": [{"message": said, "stop_reason": STOPS.get(answer["finish_reason"], "unknown")}],
            "usage": tokens,
        },
        "scores": {
            objective: {"value": row["score"], "explanation": row["evidence"], "metadata": {"label": row["label"]}}
            for objective, row in sample.judgements.items()
        },
        "metadata": {} if sample.prompt.category is None else {"category": sample.prompt.category},
    }


def _id(export: Export, what: str) -> str:
    """Stable, and Inspect's length."""
    seen = f"{what}\0{export.name}\0{export.results.summary.run}\0{export.policy if what != 'run' else ''}"
    return hashlib.sha256(seen.encode()).hexdigest()[:22]
