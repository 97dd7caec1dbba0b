"""What the preference data hold and what they cannot support, as ``mopo-train check`` found it."""

from pathlib import Path

import pandas as pd
import streamlit as st

from dashboards import comparisons, markup
from dashboards.catalogue import Catalogue
from dashboards.datacheck import FILE, Document, find_check, find_sources, read_check, run_check
from dashboards.errors import DataCheckError
from dashboards.frames import FamilyView, file_state
from dashboards.markup import Cell
from dashboards.views import shared
from mopo_train.check.problems import relation

RELATIONS = ["apart", "agree", "unknown", "unseen"]
BIASES = ["first_preferred", "longer_preferred"]


def show(view: FamilyView) -> None:
    """The page."""
    t = shared.words()
    sources, path = find_sources(view.root, view.family), find_check(view.root, view.family)
    try:
        document = _read(str(path), file_state(path)) if path else None
        if sources is not None and not shared.settings().read_only:
            label = t("data.again") if document else t("data.now")
            if st.button(label, icon=":material/rule:", type="secondary" if document else "primary", key="check"):
                with st.spinner(t("data.checking")):
                    document = run_check(sources, view.root / FILE)
    except DataCheckError as error:
        st.html(markup.help_page(t("data.failed"), str(error)))
        return
    if document is None:
        command = f"mopo-train check {' '.join(view.family.data.source)} --json > {view.root / FILE}"
        st.html(markup.help_page(t("data.unchecked"), t("data.unchecked_text"), [command]))
        return
    show_document(document, t)


@st.cache_data(max_entries=4, show_spinner=False)
def _read(path: str, state: tuple[str, int, int] | None) -> Document:
    """``state`` is part of the key only: a changed file is read again."""
    return read_check(Path(path))


def show_document(document: Document, t: Catalogue) -> None:
    """Everything that was found."""
    st.html(markup.verdict(trade(document, t), problems_told(document, t), feasible=True))
    names = ["rows", "prompts", "responses", "annotators"]
    st.html(markup.figures([(t(f"data.count_{name}"), f"{document[name]:,}") for name in names if name in document]))
    show_objectives(document, t)
    show_biases(document, t)
    show_relations(document, t)
    show_problems(document, t)


def trade(document: Document, t: Catalogue) -> str:
    """Which objectives pull apart, in a sentence."""
    kinds: dict[str, list[str]] = {}
    for key in document.get("labelled_on_both", {}):
        kinds.setdefault(relation(document, key), []).append(_pair(key, t))
    parts = [] if "apart" in kinds else [t("data.nothing_pulls")]
    parts += [t(f"data.relation_{kind}", pairs=t.listed(kinds[kind])) for kind in RELATIONS if kind in kinds]
    return " ".join(parts)


def problems_told(document: Document, t: Catalogue) -> str:
    """How many things to look at."""
    count = len(document["problems"])
    return t.number(count, "data.problem_count") if count else t("data.no_problem")


def show_objectives(document: Document, t: Catalogue) -> None:
    """Coverage and agreement per objective."""
    st.header(t("data.coverage"), anchor=False)
    heads = [Cell(t("word.objective")), Cell(t("data.labelled"), "number"), Cell(t("data.prompts"), "number")]
    heads += [Cell(t("data.ties"), "number"), Cell("α", "number", "Krippendorff")]
    heads += [Cell(t("data.twice"), "number"), Cell(t("data.per_response"), "number")]
    rows = []
    for name, facts in document["objectives"].items():
        share = f"{facts['labelled'] / document['rows']:.0%}" if document["rows"] else ""
        alpha = facts.get("agreement")
        cells = [Cell(t.title(name)), Cell(f"{facts['labelled']:,}", "number", share)]
        cells += [Cell(f"{facts[key]:,}" if key in facts else "–", "number") for key in ("prompts", "ties")]
        cells.append(Cell("–" if alpha is None else f"{alpha:.2f}", "number"))
        cells.append(Cell(f"{facts['labelled_twice']:,}" if "labelled_twice" in facts else "–", "number"))
        per = facts.get("comparisons_per_response")
        rows.append([*cells, Cell("–" if per is None else f"{per:.1f}", "number")])
    shared.table(heads, rows, t("data.coverage"))
    shared.note(t("data.alpha"))
    shared.download(pd.json_normalize([{"objective": k, **v} for k, v in document["objectives"].items()]), "check")


def show_biases(document: Document, t: Catalogue) -> None:
    """How often the first and the longer answer is preferred; a half is no bias."""
    rows = [
        {"label": t.title(name), "policy": t(f"data.bias_{bias}"), "mean": found["value"]}
        | {"low": found["low"], "high": found["high"], "n": found["rows"]}
        for name, facts in document["objectives"].items()
        for bias in BIASES
        if (found := facts.get(bias))
    ]
    if not rows:
        return
    st.header(t("data.biases"), anchor=False)
    shared.note(t("data.biases_note"))
    frame = pd.DataFrame(rows)
    order = [t(f"data.bias_{bias}") for bias in BIASES]
    figure = comparisons.grouped_chart(frame, t("data.share"), order=order, mark=0.5)
    shared.chart(figure, "biases", t("data.biases_alt", names=t.listed(frame["label"].drop_duplicates())))
    heads = [Cell(t("word.objective")), Cell(t("data.bias")), Cell(t("data.share"), "number")]
    shared.table(
        [*heads, Cell(t("data.strict"), "number")],
        [
            [
                Cell(row["label"]),
                Cell(row["policy"]),
                Cell(f"{row['mean']:.3f}", "number", t.interval(row["low"], row["high"])),
                Cell(f"{row['n']:,}", "number"),
            ]
            for row in rows
        ],
        t("data.biases"),
    )
    shared.download(frame.rename(columns={"label": "objective", "policy": "bias"}), "biases")


def show_relations(document: Document, t: Catalogue) -> None:
    """Conflict between objectives."""
    both = document.get("labelled_on_both", {})
    if not both:
        return
    st.header(t("data.conflicts"), anchor=False)
    shared.note(t("data.conflicts_note"))
    rows = []
    for key, count in both.items():
        share, rank = document["conflict"].get(key), document["rank_correlation"].get(key)
        ends = document.get("rank_correlation_interval", {}).get(key)
        interval = t.interval(ends[0], ends[1]) if ends else ""
        cells = [Cell(_pair(key, t)), Cell(f"{count:,}", "number")]
        cells.append(Cell("–" if share is None else f"{share:.1%}", "number"))
        rows.append([*cells, Cell("–" if rank is None else f"{rank:.2f}".replace("-", "−"), "number", interval)])
    heads = [Cell(t("data.pair")), Cell(t("data.strict"), "number"), Cell(t("data.conflict"), "number")]
    shared.table([*heads, Cell(t("data.rank"), "number")], rows, t("data.conflicts"))


def show_problems(document: Document, t: Catalogue) -> None:
    """What to look at, with the command's own words."""
    if not document["problems"]:
        return
    st.header(t("data.problems"), anchor=False)
    rows = []
    for problem in document["problems"]:
        kind = problem["kind"].replace("-", "_")
        key = f"data.kind_{kind}"
        name = t(key) if key in t else problem["kind"]
        examples = t.listed(str(row) for row in problem.get("examples", []))
        rows.append([Cell(name), Cell(f"{problem['rows']:,}", "number"), Cell(problem["message"]), Cell(examples)])
    heads = [Cell(t("data.problem")), Cell(t("data.count_rows"), "number"), Cell(t("monitor.detail"))]
    shared.table([*heads, Cell(t("data.examples"))], rows, t("data.problems"))


def _pair(key: str, t: Catalogue) -> str:
    return t("data.and", first=t.objective(key.split("|")[0]), second=t.objective(key.split("|")[1]))


if __name__ == "__main__":
    opened = shared.opened("data.heading")
    if opened is not None:
        show(opened)
