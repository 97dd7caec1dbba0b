from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from dashboards.monitoring import Shift, by_profile, judged, requests_over_time, share_change, shifts, totals
from dashboards.settings import AUDIT_VARIABLE, FAMILY_VARIABLE
from mopo_serve.audit import frames
from mopo_serve.audit.schema import FEEDBACK
from mopo_serve.audit.store import open_store
from mopo_serve.routing import family_identity
from tests.dashboards.examples import write_example_audit, write_example_family
from tests.dashboards.running import bodies, charts, healthy, opened, text

PAGE = "views/monitor.py"


def traffic(*rows: tuple[str, str, int, int]) -> pd.DataFrame:
    """Requests and infeasible ones per profile and policy."""
    names = ["profile", "policy", "requests", "infeasible"]
    frame = pd.DataFrame(rows, columns=names).assign(family="f")
    others = ["answered", "refused", "left", "failed", "prompt_tokens", "completion_tokens"]
    return frame.assign(**dict.fromkeys(others, 0))


def test_families_of_one_profile_and_policy_are_summed_largest_first() -> None:
    frame = by_profile(traffic(("a", "p0", 1, 0), ("b", "p1", 5, 1), ("a", "p0", 2, 1)))
    assert frame[["profile", "requests", "infeasible"]].to_numpy().tolist() == [["b", 5, 1], ["a", 3, 1]]
    assert totals(frame)["requests"] == 8


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ({"n": 50, "low": 0.2, "high": 0.4, "offline": 0.7, "certified_low": 0.5}, "below"),
        ({"n": 50, "low": 0.4, "high": 0.6, "offline": 0.7, "certified_low": 0.5}, "differs"),
        ({"n": 50, "low": 0.8, "high": 0.9, "offline": 0.7, "certified_low": 0.5}, "differs"),
        ({"n": 50, "low": 0.6, "high": 0.8, "offline": 0.7, "certified_low": 0.5}, "agrees"),
        ({"n": 5, "low": 0.0, "high": 0.4, "offline": 0.7, "certified_low": 0.5}, "few"),
        ({"n": 50, "low": 0.2, "high": 0.4, "offline": None, "certified_low": None}, "unpromised"),
    ],
)
def test_what_people_say_is_held_against_what_was_measured(row: dict[str, float], state: str) -> None:
    assert judged(pd.DataFrame([row]))["state"].tolist() == [state]


def test_changes_are_shares_of_all_requests_the_largest_first() -> None:
    before, after = traffic(("a", "p0", 8, 0), ("b", "p1", 2, 1)), traffic(("a", "p0", 10, 2), ("a", "p2", 10, 0))
    found = shifts(before, after)
    assert found[0] == Shift("", "", "requests", 10, 20)
    assert found[1][:5] == ("", "", "infeasible", 0.1, 0.1)
    assert found[4][:5] == ("a", "p2", "share", 0.0, 0.5)
    assert {(s.profile, s.policy) for s in found[4:]} == {("a", "p0"), ("a", "p2"), ("b", "p1")}
    nothing = shifts(before.iloc[:0], after)
    assert (nothing[0].before, nothing[1].change) == (0, None)


def test_a_change_of_a_share_has_the_interval_of_newcombes_example() -> None:
    # Statistics in Medicine 17 (1998) 873, table II: 56 of 70 against 48 of 80
    assert share_change((48, 80), (56, 70)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_time_has_a_column_per_profile_with_zeros() -> None:
    hours = [pd.Timestamp(f"2026-01-01T0{hour}:00Z") for hour in range(5)]
    rows = [(hours[1], "a", "p0", 2), (hours[1], "a", "p1", 3), (hours[3], "b", "p0", 4)]
    over = pd.DataFrame(rows, columns=["time", "profile", "policy", "requests"])
    found = requests_over_time(over, bins=2)
    assert found.to_dict("list") == {"time": hours[1:4], "a": [5, 0, 0], "b": [0, 0, 4]}  # nothing at 2 o'clock
    whole = requests_over_time(over, frames.Period(hours[0], hours[4]), bins=4)
    assert whole.to_dict("list") == {"time": hours[:4], "a": [0, 5, 0, 0], "b": [0, 0, 0, 4]}
    assert requests_over_time(over.iloc[:0], bins=2).empty
    assert requests_over_time(over.iloc[:1], bins=2)["a"].tolist() == [2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "family"
    write_example_family(path, prompts=400)
    monkeypatch.setenv(FAMILY_VARIABLE, str(path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # where a gateway would keep its store
    return path


def test_the_monitor_counts_alerts_and_compares(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_example_audit(tmp_path / "audit.db", family=family_identity(root))
    monkeypatch.setenv(AUDIT_VARIABLE, str(tmp_path / "audit.db"))
    app = opened(PAGE)
    page = text(app)
    store = open_store(str(tmp_path / "audit.db"), create=False)
    sums = totals(frames.traffic(store))
    assert sums["requests"] == 600
    assert f"<dd>{sums['infeasible']}</dd>" in page
    assert "policy-04 is below its promise on safety" in page
    assert "policy-02 is below" not in page
    assert len(charts(app)) == 2
    assert "policy-04 → policy-05" in page
    assert "policy-04 was taken out: people put it at 0.42 to 0.54 on safety (60 judgements)" in page
    assert "balanced → policy-04" in page
    app.button_group(key="period").set_value("hour").run()
    assert "<dd>1</dd>" in text(healthy(app))  # one request in 48 minutes
    app.button_group(key="period").set_value("dates").run()
    assert f"<dd>{600}</dd>" not in text(healthy(app))  # the last seven days of twenty


def test_judgements_of_another_family_or_another_time_are_not_held_against_this_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(AUDIT_VARIABLE, str(tmp_path / "audit.db"))
    write_example_audit(tmp_path / "audit.db")
    page = text(opened(PAGE))
    assert "is below its promise" not in page
    assert "120 judgements in this period are of other families" in page
    store, day = open_store(str(tmp_path / "audit.db")), 86_400.0
    about = {"against": "", "objective": "safety", "judge": "example", "comment": "", "profile": "balanced"}
    about |= {"policy": "policy-04", "against_policy": "", "family": f"{family_identity(root)}+aaaa"}
    now = datetime.now(UTC).timestamp()
    said = [{**about, "request_id": f"{days}-{i}", "value": days / 10, "time": now - days * day}
            for days in (1, 9) for i in range(30)]  # fmt: skip
    store.append_own(FEEDBACK, said)
    store.close()
    app = opened(PAGE)
    assert "60 judgements" in text(app)
    app.button_group(key="period").set_value("week").run()
    page = text(healthy(app))
    assert "policy-04 is below its promise on safety" in page
    assert "0.100" in page and "30 judgements" in page


def test_without_a_store_the_monitor_says_how_to_give_one(root: Path, tmp_path: Path) -> None:
    assert "--audit AUDIT.db" in text(opened(PAGE))


def test_a_missing_and_a_broken_store_are_pages(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AUDIT_VARIABLE, str(tmp_path / "nowhere.db"))
    assert "The audit store cannot be read" in text(opened(PAGE))
    (tmp_path / "broken.db").write_bytes(b"not a database at all, but long enough to be one" * 100)
    monkeypatch.setenv(AUDIT_VARIABLE, str(tmp_path / "broken.db"))
    assert "The audit store cannot be read" in text(opened(PAGE))


def test_markup_in_an_event_stays_text(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mopo_serve.audit.schema import EVENTS

    place = tmp_path / "audit.db"
    store = open_store(str(place))
    evil = "<script>alert(1)</script>"
    store.append_own(
        EVENTS, [{"kind": evil, "family": "f", "profile": evil, "detail": f'{{"a": "{evil}"}}', "time": 1.0}]
    )
    store.close()
    monkeypatch.setenv(AUDIT_VARIABLE, str(place))
    app = opened(PAGE)
    assert "No request was made" in text(app)
    assert not [body for body in bodies(app) if evil in body]


def test_the_store_of_a_gateway_on_this_machine_is_found(root: Path, tmp_path: Path) -> None:
    (tmp_path / "state" / "mopo").mkdir(parents=True)
    write_example_audit(tmp_path / "state" / "mopo" / "audit.db", days=2)
    assert "<dd>60</dd>" in text(opened(PAGE))
