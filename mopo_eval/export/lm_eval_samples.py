"""lm-evaluation-harness' output: ``<policy>/samples_<task>_<time>.jsonl`` and ``results_<time>.json``.

As version 0.4.13 writes it for ``--log_samples``; objectives are metrics, samples of a prompt are documents of their
own since that format has one score for each.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mopo_eval.bootstrap import standard_error
from mopo_eval.export.records import Export, Sample
from mopo_eval.reliability import as_json
from mopo_train.family import write_whole

FILTER = "none"


def write_lm_eval(export: Export, out: Path) -> list[Path]:
    """Write both files; documents one at a time."""
    summary = export.results.summary
    time = datetime.fromisoformat(summary.created_at).strftime("%Y-%m-%dT%H-%M-%S.%f")
    directory = out / export.policy
    directory.mkdir(parents=True, exist_ok=True)
    samples = directory / f"samples_{export.name}_{time}.jsonl"
    partial = samples.with_name(samples.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for sample in export.samples():
            file.write(json.dumps(_document(export, sample), ensure_ascii=False) + "\n")
    partial.replace(samples)
    results = directory / f"results_{time}.json"
    write_whole(results, json.dumps(_results(export), ensure_ascii=False, indent=2) + "\n")
    return [samples, results]


def _document(export: Export, sample: Sample) -> dict[str, Any]:
    sampling, answer = export.results.summary.sampling, sample.answer
    doc: dict[str, Any] = {"id": sample.prompt.id, "prompt": sample.prompt.prompt, "category": sample.prompt.category}
    doc |= {"references": list(sample.references), "sample": answer["sample"]}
    target, response = (sample.references or ("",))[0], answer["response"] or ""
    asked = {"temperature": sampling.temperature, "max_gen_toks": sampling.max_tokens, "until": []}
    return {
        "doc_id": sample.place * sampling.samples + answer["sample"],
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": sample.prompt.text, "arg_1": asked}},
        "resps": [[response]],
        "filtered_resps": [response],
        "filter": FILTER,
        "metrics": list(sample.judgements),
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(sample.prompt.text),
        "target_hash": _hash(target),
        **{objective: row["score"] for objective, row in sample.judgements.items()},
    }


def _results(export: Export) -> dict[str, Any]:
    summary, task = export.results.summary, export.name
    table = export.results.table
    values = table.values[list(table.policies).index(export.policy)]  # (K, N)
    answers = summary.prompts * summary.sampling.samples
    scores: dict[str, Any] = {"name": task, "alias": task, "sample_len": answers}
    for objective, mean, error in zip(table.objectives, values.mean(axis=1), standard_error(values), strict=True):
        scores |= {f"{objective},{FILTER}": float(mean), f"{objective}_stderr,{FILTER}": float(error)}
    began = datetime.fromisoformat(summary.created_at).timestamp()
    sampling = {"temperature": summary.sampling.temperature, "max_gen_toks": summary.sampling.max_tokens, "until": []}
    config: dict[str, Any] = {
        "model": "mopo",
        "model_args": {"policy": export.policy, "run": summary.run},
        "gen_kwargs": sampling,
    }
    config |= {"batch_size": 1, "limit": None, "bootstrap_iters": 0, "random_seed": summary.sampling.seed}
    about = {"judges": summary.judges, **as_json(summary.reliability)}
    return {
        "results": {task: scores},
        "group_subtasks": {},
        "configs": {task: _task(task, table.objectives, sampling) | {"metadata": about}},
        "versions": {task: 0},
        "n-shot": {task: 0},
        "higher_is_better": {task: dict.fromkeys(table.objectives, True)},
        "n-samples": {task: {"original": answers, "effective": answers}},
        "config": config,
        "git_hash": None,
        "date": began,
        "model_source": "mopo",
        "model_name": export.policy,
        "model_name_sanitized": export.policy,
        "total_evaluation_time_seconds": str(summary.seconds),
    }


def _task(name: str, objectives: Sequence[str], sampling: dict[str, Any]) -> dict[str, Any]:
    metrics = [{"metric": each, "aggregation": "mean", "higher_is_better": True} for each in objectives]
    task = {"task": name, "dataset_path": "json", "output_type": "generate_until", "doc_to_text": "{{prompt}}"}
    return task | {"generation_kwargs": sampling, "metric_list": metrics, "num_fewshot": 0, "repeats": 1}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
