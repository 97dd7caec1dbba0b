import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from huggingface_hub import ModelCard, ModelCardData
from markdown_it import MarkdownIt

from mopo_eval.cli import main
from mopo_eval.profiles import write_profiles
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.results import read_results
from mopo_eval.scorecards import read_scorecards
from mopo_train.family import REFERENCE, read_family
from tests.families import OBJECTIVES, PROFILES, SCORES
from tests.mopo_eval.measured_family import asked, drawn_scores, trained_family, write_run

PROMPTS = 120
HOSTILE = (
    "_a_ *b* __c__ www.evil.example "
    "x\\|<img src=x onerror=alert(1)>|`</code><script>alert(2)</script>\n---\n# Owned\n\n"
    "[a](javascript:alert(3)) ![b](http://evil.example/b.png) <http://evil.example> &lt;b&gt; "
    "\u202e{{ 7 }} $x$ ~~~ */\r"
)


class Elements(HTMLParser):
    """Names and attributes of the elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["card", *map(str, arguments)])


def cards(root: Path, *options: object) -> dict[str, str]:
    """Text of the cards by policy."""
    done = command(root, *options)
    assert done.exit_code == 0, done.output
    directory = root / "cards"
    return {path.parent.name: path.read_text(encoding="utf-8") for path in directory.glob("*/README.md")}


def hub(card: str) -> ModelCardData:
    """What the hub's own reader finds in the front matter."""
    data = ModelCard(card).data
    assert isinstance(data, ModelCardData)
    return data


def rendered(card: str) -> Elements:
    body = ModelCard(card).text
    return Elements(MarkdownIt("commonmark", {"html": True}).enable("table").render(body))


def tables(card: str, title: str) -> list[list[str]]:
    """Cells of the rows of the table under the heading ``title``."""
    part = card.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    return rows[2:]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    trained_family(tmp_path)
    write_profiles(tmp_path / "profiles.yaml", PROFILES, "for tests")
    write_run(tmp_path, drawn_scores(PROMPTS), asked(PROMPTS))
    return tmp_path


def test_every_policy_gets_a_card_that_the_hub_reads(root: Path) -> None:
    made = cards(root)
    assert set(made) == set(SCORES)
    for policy, text in made.items():
        data = hub(text)
        assert data.library_name == ("transformers" if policy == REFERENCE else "peft")
        assert data.base_model == (None if policy == REFERENCE else "base")
        assert data.license is None
        assert data.model_name == policy
        assert data.eval_results


def test_the_front_matter_has_the_scorecards_numbers(root: Path) -> None:
    known = read_scorecards(root, read_family(root))
    for policy, text in cards(root).items():
        results = hub(text).eval_results
        assert results is not None
        values: dict[str, Any] = {each.metric_type: each for each in results}
        assert len(values) == len(OBJECTIVES) * (1 if policy == REFERENCE else 2)
        for name, score in known[policy].objectives.items():
            told = values[f"{name}_judge_score"]
            assert told.metric_value == score.mean
            assert told.metric_args == {
                "low": score.low,
                "high": score.high,
                "certified_low": score.certified_low,
                "confidence": 0.95,
                "prompts": PROMPTS,
                "judge": f"test.{name}",
            }
            assert told.dataset_revision == "run-1"
            if policy != REFERENCE:
                assert values[f"{name}_win_rate"].metric_value == score.win_rate.mean


def test_the_tables_have_the_numbers_of_the_family(root: Path) -> None:
    family, text = read_family(root), cards(root)["policy-02"]
    policy, card = family.policy("policy-02"), read_scorecards(root, family)["policy-02"]
    measured = {row[0]: row[1:] for row in tables(text, "Measured")}
    trained = {row[0]: row[1:] for row in tables(text, "What it was trained for")}
    for name, score in card.objectives.items():
        rate = score.win_rate
        assert measured[name] == [
            f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]",
            f"{score.certified_low:.3f}",
            f"{rate.mean:.3f} [{rate.low:.3f}, {rate.high:.3f}]",
            f"{rate.certified_low:.3f}",
            str(PROMPTS),
        ]
        assert trained[name][2] == f"{policy.predicted[name]:.4f}"
    # tests.families: policy-02 has index 3, a floor of 0.5 + 0.05 * 3 and a multiplier of 0.4 * 3 on safety, which is
    # predicted at 0.95, robust at 0.01 and bounded at 0.02 less.
    assert trained["safety"] == ["0.6500", "1.2000", "0.9500", "0.9400", "0.9300", "+0.2900"]
    assert trained["helpfulness"][::5] == ["–", "–"]


def test_failures_are_counted_by_category(root: Path) -> None:
    results = read_results(root, read_family(root))
    rows = tables(cards(root)["policy-00"], "Failures by category")
    scores = results.table.scores[list(SCORES).index("policy-00"), :, :, 0]  # (objectives, prompts)
    categories = np.array([prompt.category for prompt in results.prompts])
    assert len(rows) == len(OBJECTIVES) * 4
    for category, objective, mean, poor in rows:
        chosen = np.full(PROMPTS, True) if category == "all prompts" else categories == category
        values = scores[OBJECTIVES.index(objective), chosen]
        assert mean.startswith(f"{values.mean():.3f} [")
        assert poor == f"{(values < 0.5).sum()} of {len(values)}"


def test_profiles_that_select_the_policy_are_named_with_their_unit(root: Path) -> None:
    made = cards(root)
    told = rendered(made["policy-02"]).text
    assert (
        "closest: greatest helpfulness; floors: safety ≥ 0.99 (judge score); not held; this policy is its fallback"
        in told
    )
    assert "No threshold profile of the family selects this policy" in made["policy-03"]


def test_hashes_are_those_of_the_files(root: Path) -> None:
    (root / "base").mkdir()
    (root / "base" / "model.safetensors").write_bytes(b"weights")
    (root / "run.json").write_text(json.dumps({"model": "m", "model_fingerprint": "f" * 64, "more": 1}))
    text = rendered(cards(root)["policy-01"]).text
    for name in ("base/model.safetensors", "policies/policy-01/adapter_model.safetensors"):
        assert f"SHA-256 of {name}: {hashlib.sha256((root / name).read_bytes()).hexdigest()}." in text
    assert f"fingerprint {'f' * 64}" in text
    assert "0" * 64 in text  # the data's
    assert "not known" not in text.replace("License: not known", "")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("/home/ann/pairs.jsonl", "pairs.jsonl"),
        ("safety=/home/ann/data/", "safety=data"),
        (r"C:\Users\ann\pairs.jsonl", "pairs.jsonl"),
        ("~/pairs.jsonl", "pairs.jsonl"),
        ("data/pairs.jsonl", "data/pairs.jsonl"),
        ("owner/name", "owner/name"),
    ],
)
def test_a_card_tells_no_directory_of_the_machine_that_made_it(root: Path, source: str, told: str) -> None:
    family = json.loads((root / "family.json").read_text())
    family["base_model"], family["data"]["source"] = source, [source]
    (root / "family.json").write_text(json.dumps(family))
    (root / "run.json").write_text(json.dumps({"model": source, "model_fingerprint": "f" * 64}))
    text = cards(root)["policy-01"]
    assert hub(text).base_model == told
    assert "ann" not in text
    page = rendered(text).text
    assert f"Data: {told}; 600 pairs" in page
    assert f"Trained from {told}, fingerprint" in page


def test_what_is_not_known_is_said(root: Path) -> None:
    text = cards(root)["policy-01"]
    assert "Hash of the base model: not known" in text
    assert "License: not known" in text
    assert "not measured" in tables(text, "Judges")[0]
    licensed = cards(root, "--license", "apache-2.0")["policy-01"]
    assert hub(licensed).license == "apache-2.0"
    assert "License: apache-2.0" in licensed


def test_limits_follow_from_the_run(root: Path) -> None:
    path = root / "evaluation" / "run-1" / "run.json"
    summary = json.loads(path.read_text())
    summary |= {"cut": {"policy-00": 7}, "empty": {"policy-00": 3}, "judges": {"safety": "test.safety"}}
    path.write_text(json.dumps(summary))
    judged = root / "evaluation" / "run-1" / "judgements.parquet"
    import pandas as pd

    rows = pd.read_parquet(judged)
    rows[rows["objective"] == "safety"].to_parquet(judged, index=False)
    for card in (root / "scorecards").glob("*.json"):
        content = json.loads(card.read_text())
        content["objectives"] = {"safety": content["objectives"]["safety"]}
        card.write_text(json.dumps(content))
    limits = cards(root)["policy-00"].split("## Limits")[1]
    assert "7 of 120 answers were cut at 256 tokens" in limits
    assert "3 of 120 answers were empty" in limits
    assert "Not measured: helpfulness, factuality" in limits


def test_small_categories_and_dominated_policies_are_limits(root: Path) -> None:
    few = [EvaluationPrompt(f"p{i}", f"Question {i}?", "rare" if i < 3 else "common") for i in range(PROMPTS)]
    write_run(root, drawn_scores(PROMPTS), few)
    made = cards(root)
    assert "Fewer than 30 prompts in: rare" in made["policy-01"]
    dominated = "another is at least as good on every objective and better on one"
    assert dominated in made["policy-03"]
    assert dominated not in made["policy-02"]


def test_hostile_names_stay_text(root: Path) -> None:
    family = json.loads((root / "family.json").read_text())
    family["base_model"] = family["package_version"] = family["policies"][1]["kind"] = HOSTILE
    family["data"]["source"], family["data"]["sha256"] = [HOSTILE], HOSTILE
    family["config"] = {HOSTILE: HOSTILE}
    (root / "family.json").write_text(json.dumps(family))
    hostile = [EvaluationPrompt(f"p{i}", f"Question {i}?", HOSTILE) for i in range(PROMPTS)]
    write_run(root, drawn_scores(PROMPTS), hostile)
    path = root / "evaluation" / "run-1" / "run.json"
    summary = json.loads(path.read_text())
    summary["judges"] = dict.fromkeys(OBJECTIVES, HOSTILE)
    summary |= {"prompts_from": HOSTILE, "engine": HOSTILE}
    path.write_text(json.dumps(summary))
    text = cards(root)["policy-00"]
    assert "\u202e" not in text
    data = hub(text)
    assert data.model_name == "policy-00"
    assert data.base_model is not None and "<U+202E>" in data.base_model
    page = rendered(text)
    inert = {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "code"}
    assert {tag for tag, _ in page.found} == inert
    assert not any(attributes for _, attributes in page.found)
    assert "<img src=x onerror=alert(1)>" in page.text and "[a](javascript:alert(3))" in page.text
    assert len([tag for tag, _ in page.found if tag == "h1"]) == 1
    widths = [len(re.findall("<t[hd]>", row)) for row in str(MarkdownIt().enable("table").render(text)).split("<tr>")]
    assert set(widths[1:]) == {4, 6, 7}  # no cell was ended early


def test_one_policy_and_another_directory(root: Path, tmp_path: Path) -> None:
    done = command(root, "--policy", "policy-01", "--out", root / "policies", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"cards": {"policy-01": str(root / "policies" / "policy-01" / "README.md")}}
    assert (root / "policies" / "policy-01" / "README.md").is_file()
    read_family(root)
    assert not (root / "cards").exists()


def test_somebody_elses_file_is_kept_and_our_own_is_renewed(root: Path) -> None:
    first = cards(root)
    theirs = root / "cards" / "policy-03" / "README.md"
    assert cards(root) == first
    theirs.write_text("# Mine")
    ours = root / "cards" / "policy-00" / "README.md"
    ours.unlink()
    done = command(root)
    assert done.exit_code == 1
    assert "may be somebody's work" in done.stderr
    assert theirs.read_text() == "# Mine"
    assert not ours.exists()  # all or nothing


@pytest.mark.parametrize("arguments", [["--policy", "none"], ["--policy", "../policy-00"], ["--license", "a\nb"]])
def test_bad_options_are_messages(root: Path, arguments: list[str]) -> None:
    done = command(root, *arguments)
    assert done.exit_code in {1, 2}
    assert "Traceback" not in done.output
    assert not (root / "cards").exists()


def test_a_policy_that_was_not_measured_has_no_card(root: Path) -> None:
    family = json.loads((root / "family.json").read_text())
    family["policies"].append(family["policies"][1] | {"id": "policy-09"})
    (root / "family.json").write_text(json.dumps(family))
    assert "policy-09" not in cards(root)
    done = command(root, "--policy", "policy-09")
    assert done.exit_code == 1
    assert "was not measured" in done.stderr


def test_a_family_without_measurements_is_an_error(tmp_path: Path) -> None:
    trained_family(tmp_path)
    done = command(tmp_path)
    assert done.exit_code == 1
    assert "mopo-eval run" in done.stderr


def test_a_directory_that_cannot_be_written_is_a_message(root: Path) -> None:
    (root / "file").write_text("")
    done = command(root, "--out", root / "file")
    assert done.exit_code == 1
    assert "Traceback" not in done.output
