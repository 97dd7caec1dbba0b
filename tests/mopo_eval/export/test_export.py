"""Exports are read by the harnesses themselves, each in an environment of its own (``tests.clients``)."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mopo_eval.cli import main
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.results import read_results
from mopo_train.family import read_family
from tests.clients import program
from tests.families import OBJECTIVES, SCORES
from tests.mopo_eval.measured_family import asked, drawn_scores, trained_family, write_run

READ_INSPECT = """
import json, sys
from inspect_ai.log import list_eval_logs, read_eval_log, read_eval_log_samples
found = []
for info in list_eval_logs(sys.argv[1]):
    log = read_eval_log(info)
    samples = list(read_eval_log_samples(info))
    found.append({
        "model": log.eval.model, "status": log.status, "samples": len(samples), "epochs": log.eval.config.epochs,
        "means": {score.name: score.metrics["mean"].value for score in log.results.scores},
        "values": {name: sum(s.scores[name].value for s in samples) / len(samples) for name in samples[0].scores},
        "input": samples[0].input if isinstance(samples[0].input, str) else samples[0].input[0].text,
        "answer": samples[0].output.completion, "stop": str(samples[0].output.stop_reason),
    })
print(json.dumps(found))
"""
RUN_LM_EVAL = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager
place = sys.argv[1]
tracker = EvaluationTracker(output_path=place + "/out")
found = simple_evaluate("dummy", tasks=["tiny"], task_manager=TaskManager(include_path=place), log_samples=True,
                        bootstrap_iters=0)
samples = found.pop("samples")
tracker.save_results_aggregated(results=found, samples=samples)
tracker.save_results_samples(task_name="tiny", samples=samples["tiny"])
"""
TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {data_files: ROWS}
test_split: train
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {max_gen_toks: 5, until: ["x"]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run with two samples of twelve prompts, one of them a conversation."""
    family = tmp_path / "family"
    family.mkdir()
    trained_family(family)
    scores = np.repeat(drawn_scores(12), 2, axis=3)
    prompts = [*asked(11), EvaluationPrompt("talk", [{"role": "user", "content": "Question of a talk?"}])]
    write_run(family, scores, prompts)
    return family


def test_inspect_reads_every_policy_with_its_answers_and_scores(root: Path) -> None:
    python = program("inspect", "python")
    done = command(root / "evaluation" / "run-1", "--format", "inspect", "--json")
    assert done.exit_code == 0, done.output
    directory = Path(json.loads(done.stdout)["files"][0]).parent
    logs = {log["model"]: log for log in read_by(python, READ_INSPECT, directory)}
    assert set(logs) == {f"mopo/policy/{policy}" for policy in SCORES}
    results = read_results(root, read_family(root))
    for p, policy in enumerate(SCORES):
        log, card = logs[f"mopo/policy/{policy}"], results.cards[policy]
        assert (log["status"], log["samples"], log["epochs"], log["stop"]) == ("success", 24, 2, "stop")
        assert log["means"] == pytest.approx({name: card.objectives[name].mean for name in OBJECTIVES})
        means = results.table.scores[p].mean(axis=(1, 2)).tolist()
        assert log["values"] == pytest.approx(dict(zip(OBJECTIVES, means, strict=True)))
        assert (log["input"], log["answer"]) == ("Question 0?", f"Answer of {policy} to p0.")


def test_lm_eval_writes_the_same_fields(root: Path, tmp_path: Path) -> None:
    python = program("lm_eval", "python")
    rows = [{"question": "Is the river wide?", "answer": "yes"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "tiny.yaml").write_text(TASK.replace("ROWS", str(tmp_path / "rows.json")))
    read_by(python, RUN_LM_EVAL, tmp_path)
    (theirs,) = (tmp_path / "out").rglob("samples_tiny_*.jsonl")
    (their_results,) = (tmp_path / "out").rglob("results_*.json")
    assert command(root, "--format", "lm-eval", "--out", tmp_path / "ours").exit_code == 0
    (ours,) = (tmp_path / "ours" / "policy-00").glob("samples_family_*.jsonl")
    (our_results,) = (tmp_path / "ours" / "policy-00").glob("results_*.json")
    sample, known = first(ours), first(theirs)
    assert sample.keys() - set(OBJECTIVES) == known.keys() - {"exact_match"}
    assert {name: type(sample[name]) for name in known if name != "exact_match"} == {
        name: type(value) for name, value in known.items() if name != "exact_match"
    }
    assert sample["arguments"]["gen_args_0"].keys() == known["arguments"]["gen_args_0"].keys()
    results, expected = json.loads(our_results.read_text()), json.loads(their_results.read_text())
    assert {
        "results",
        "configs",
        "versions",
        "n-shot",
        "higher_is_better",
        "n-samples",
        "config",
        "date",
    } <= results.keys()
    assert results.keys() <= expected.keys()
    assert results["n-samples"].popitem()[1].keys() == expected["n-samples"].popitem()[1].keys()
    assert {key.partition(",")[2] for key in results["results"]["family"] if "," in key} == {"none"}


def test_samples_and_results_of_lm_eval_say_what_the_run_said(root: Path, tmp_path: Path) -> None:
    assert command(root, "--format", "lm-eval", "--out", tmp_path / "ours").exit_code == 0
    results = read_results(root, read_family(root))
    for p, policy in enumerate(SCORES):
        (path,) = (tmp_path / "ours" / policy).glob("samples_family_*.jsonl")
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert sorted(line["doc_id"] for line in lines) == list(range(24))
        for k, objective in enumerate(OBJECTIVES):
            found = [line[objective] for line in sorted(lines, key=lambda line: line["doc_id"])]
            assert found == results.table.scores[p, k].ravel().tolist()
        (path,) = (tmp_path / "ours" / policy).glob("results_*.json")
        task = json.loads(path.read_text())["results"]["family"]
        values = results.table.values[p]
        assert [task[f"{name},none"] for name in OBJECTIVES] == pytest.approx(values.mean(axis=1))
        errors = values.std(axis=1, ddof=1) / np.sqrt(12)
        assert [task[f"{name}_stderr,none"] for name in OBJECTIVES] == pytest.approx(errors)


def test_what_cannot_be_exported_is_a_message(root: Path) -> None:
    done = command(root / "evaluation" / "none", "--format", "inspect")
    assert done.exit_code == 1 and "no finished run 'none'" in done.stderr
    (root / "evaluation" / "run-1" / "responses.parquet").write_bytes(b"PAR1")
    done = command(root, "--format", "inspect")
    assert done.exit_code == 1 and "cannot read" in done.stderr and "Traceback" not in done.output


def first(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    return found


def read_by(python: Path, script: str, place: Path) -> Any:
    """What ``script`` prints as JSON, if anything, run by ``python`` with ``place`` as its argument."""
    done = subprocess.run(
        [str(python), "-c", script, str(place)], capture_output=True, text=True, timeout=300, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(place), "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hf")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    line = (done.stdout.splitlines() or ["null"])[-1]
    return json.loads(line) if line.startswith("[") else None
