"""The page: which sections there are and what stands in them. Numbers are taken over, never computed here."""

from collections.abc import Sequence
from pathlib import Path

from mopo_eval.comparison import Comparison, power_sentence
from mopo_eval.examples import Example
from mopo_eval.figures import Rate
from mopo_eval.gate import Verdict
from mopo_eval.page.markup import Cell, items, paragraph, quotation, section, table, text
from mopo_eval.page.scatter import Point, scatter
from mopo_eval.page.style import STYLE
from mopo_eval.reliability import column
from mopo_eval.report import Report, pairs_that_matter, summary_sentences, warnings
from mopo_eval.scorecards import Estimate
from mopo_train.family import REFERENCE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The browser's own guard: even if something foreign were interpreted, it could run and load nothing."""
LONGEST_PROMPT, LONGEST_ANSWER, LONGEST_EVIDENCE = 1_200, 2_000, 400


def report_page(report: Report) -> str:
    """The whole file."""
    title = f"Evaluation of {report.name}"
    parts = [
        _head(report, title),
        _front(report),
        _scores(report),
        _profiles(report.verdicts),
        _categories(report),
        _examples(report),
        _changes(report.changes, report.no_changes),
        _reading(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(report: Report, title: str) -> str:
    summary = report.results.summary
    sampling = summary.sampling
    facts = [
        f"run {summary.run}",
        summary.created_at,
        f"{summary.prompts} prompts" + (f" of {Path(summary.prompts_from).name}" if summary.prompts_from else ""),
        f"{len(summary.policies)} policies",
        f"engine {summary.engine}",
        f"temperature {sampling.temperature:g}, at most {sampling.max_tokens} tokens, seed {sampling.seed}",
    ]
    warned = warnings(report)
    return (
        f"<h1>{text(title)}</h1>"
        + paragraph(" · ".join(facts), "facts")
        + items(summary_sentences(report), "summary")
        + (items(warned, "warnings") if warned else "")
    )


def _front(report: Report) -> str:
    summary = report.results.summary
    pairs = pairs_that_matter(report)
    figures = "".join(
        "<figure>"
        + scatter(_points(report, *pair), (f"{pair[0]} (judge score)", f"{pair[1]} (judge score)"))
        + "</figure>"
        for pair in pairs
    )
    parts = [
        paragraph(
            f"Dots are means, bars are {summary.confidence:.0%} intervals; filled: on the front, hollow: dominated, "
            "diamond: the reference. Better is up and to the right.",
            "note",
        ),
        f'<div class="figures">{figures}</div>' if pairs else paragraph("One objective was measured: nothing to draw."),
    ]
    drawn = {frozenset(pair) for pair in pairs}
    names = report.objectives
    plain = [f"{a} and {b}" for i, a in enumerate(names) for b in names[i + 1 :] if frozenset((a, b)) not in drawn]
    if plain:
        parts.append(paragraph(f"Not drawn, since one policy has the best mean on both: {'; '.join(plain)}.", "note"))
    if summary.front_probability:
        likely = ", ".join(f"{policy} {share:.2f}" for policy, share in summary.front_probability.items())
        parts.append(paragraph(f"Probability of being on the front, over resamples of the prompts: {likely}."))
    if summary.hypervolume:
        point = ", ".join(f"{name} {value:g}" for name, value in summary.hypervolume.reference_point.items())
        volume = summary.hypervolume
        ends = f" [{volume.low:.4f}, {volume.high:.4f}]" if volume.high < 1 else ""  # older runs recorded none
        parts.append(
            paragraph(
                f"Hypervolume {volume.value:.4f}{ends}: the share of the box from the reference point ({point}) to 1 "
                "in every objective that some policy's means reach."
            )
        )
    return section("The front", *parts, name="front")


def _points(report: Report, x: str, y: str) -> list[Point]:
    front = set(report.results.summary.front)
    return [
        Point(policy, card.objectives[x], card.objectives[y], policy in front) for policy, card in report.cards.items()
    ]


def _scores(report: Report) -> str:
    summary = report.results.summary
    columns = [Cell("policy"), *(_objective(report, name) for name in report.objectives)]
    scores, rates = [], []
    for policy, card in report.cards.items():
        named = Cell(policy, "on the front" if policy in summary.front else "dominated")
        found = [card.objectives[name] for name in report.objectives]
        scores.append([named, *(_estimate(score) for score in found)])
        known = Cell("0.500", "by definition")
        rates.append([named, *(known if policy == REFERENCE else _estimate(score.win_rate) for score in found)])
    about = f"mean [{summary.confidence:.0%} interval by prompt], certified lower bound; {summary.prompts} prompts"
    return section(
        "Scores",
        table(columns, scores, f"Judge score, 0 to 1: {about}"),
        table(columns, rates, f"Win rate against the reference on the same prompts, 0.5 is parity, ties half: {about}"),
        *_figures(report),
        name="scores",
    )


def _objective(report: Report, objective: str) -> Cell:
    """Above numbers on ``objective``: with what is known of a judge that was fitted here."""
    known = report.results.summary.reliability.get(objective)
    return Cell(objective, known.brief if known else "")


def _figures(report: Report) -> list[str]:
    """Shares that judges tell beside their scores, a table per objective."""
    summary = report.results.summary
    told = [(each.objective, each.policy, each.name, each.rate) for each in summary.figures]
    for one in summary.stances:
        kinds = {"harmful compliance": one.harmful_compliance, "refusal of harmful prompts": one.refusal}
        kinds["over-refusal of harmless ones"] = one.over_refusal
        told += [(one.objective, one.policy, name, rate) for name, rate in kinds.items()]
    tables = []
    for objective in dict.fromkeys(each[0] for each in told):
        rates = {(policy, name): rate for of, policy, name, rate in told if of == objective}
        names = list(dict.fromkeys(name for _, name in rates))
        rows = [
            [Cell(policy), *(_rate(rates.get((policy, name))) for name in names)]
            for policy in dict.fromkeys(policy for policy, _ in rates)
        ]
        title = f"{column(objective, summary.reliability)}: shares of prompts [{summary.confidence:.0%} interval]"
        tables.append(table([Cell("policy"), *(Cell(name) for name in names)], rows, title))
    return tables


def _rate(rate: Rate | None) -> Cell:
    if rate is None:
        return Cell("–", "too few prompts")
    return Cell(f"{rate.mean:.3f}", f"[{rate.low:.3f}, {rate.high:.3f}]\n{rate.n} prompts")


def _profiles(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return section("Profiles", paragraph("The family has no profiles."), name="profiles")
    columns = [Cell(name) for name in ("profile", "", "floor", "served by", "certified low", "margin")]
    rows = []
    for verdict in verdicts:
        near = f"closest: {verdict.policy}" if verdict.policy and not verdict.selection.policy else ""
        served = Cell(verdict.selection.served or "none", near)
        if not verdict.checks:
            rows.append([Cell(verdict.name), _outcome(verdict.outcome), Cell("no floor"), served, Cell(""), Cell("")])
        for check in verdict.checks:
            low = "–" if check.certified_low is None else f"{check.certified_low:.3f}"
            margin = "–" if check.margin is None else _signed(check.margin)
            floor = Cell(f"{check.objective} ≥ {check.floor:g}", check.unit)
            rows.append([Cell(verdict.name), _outcome(check.outcome), floor, served, Cell(low), Cell(margin)])
    told = [f"{verdict.name}: {verdict.selection.reason}." for verdict in verdicts]
    caption = "Floors of profiles.yaml, the organisation's among them, against certified lower bounds of this run"
    return section("Profiles", table(columns, rows, caption), items(told, "note"), name="profiles")


def _categories(report: Report) -> str:
    if not report.categories:
        return section("By category", paragraph("The prompts have no categories."), name="categories")
    sizes = {score.category: score.n for score in report.categories}
    parts = [
        paragraph(
            f"Judge score: mean [{report.results.summary.confidence:.0%} interval of that category alone], and the "
            "share of answers that the judge scored below 0.5.",
            "note",
        )
    ]
    if report.categories_left_out:
        parts.append(paragraph(f"The {report.categories_left_out} smallest categories are left out.", "note"))
    found = {(score.objective, score.policy, score.category): score for score in report.categories}
    for objective in report.objectives:
        columns = [
            Cell("policy"),
            *(Cell(category, f"{n} prompt{'s' if n > 1 else ''}") for category, n in sizes.items()),
        ]
        rows = []
        for policy in report.cards:
            row = [Cell(policy)]
            for category in sizes:
                score = found[objective, policy, category]
                note = f"[{score.low:.3f}, {score.high:.3f}]\nbelow 0.5: {score.poor:.0%}"
                row.append(Cell(f"{score.mean:.3f}", note))
            rows.append(row)
        title = column(objective, report.results.summary.reliability)
        parts.append(table(columns, rows, f"{title[:1].upper()}{title[1:]}, judge score"))
    return section("By category", *parts, name="categories")


def _examples(report: Report) -> str:
    parts = [
        paragraph(
            "The lowest scores of the policies on the front, a prompt once per objective. Prompts over "
            f"{LONGEST_PROMPT:,} and answers over {LONGEST_ANSWER:,} characters are shortened; invisible characters "
            "are written as <U+…>.",
            "note",
        )
    ]
    for objective, examples in report.worst.items():
        parts.append(f"<h3>{text(objective)}</h3>" + "".join(_example(example) for example in examples))
    return section("Worst answers", *parts, name="worst")


def _example(example: Example) -> str:
    aside = [f"{example.objective}, judge score"]
    aside += [f"sample {example.sample}"] if example.sample else []
    aside += [f"category {example.prompt.category}"] if example.prompt.category else []
    aside += ["cut at the token limit"] if example.cut else []
    aside += [f"prompt {example.prompt.id}"]
    why = " – ".join(part for part in (example.label, example.evidence) if part)
    return (
        f'<article class="example"><header><span>{example.score:.3f}</span><span>{text(example.policy)}</span>'
        f"<span>{text(' · '.join(aside), 400)}</span></header>"
        + '<div class="pair">'
        + quotation("Prompt", example.prompt.text, LONGEST_PROMPT)
        + quotation("Answer", example.response, LONGEST_ANSWER)
        + "</div>"
        + (quotation("Judge", why, LONGEST_EVIDENCE) if why else "")
        + "</article>"
    )


def _changes(changes: Comparison | None, why: str) -> str:
    title = "What changed since the last run"
    if changes is None:
        return section(title, paragraph(why), name="changes")
    columns = [Cell(name) for name in ("policy", "objective", "before", "now", "difference", "p (Holm)", "")]
    rows = []
    for each in changes.differences:
        change = each.difference
        verdict = Cell(power_sentence(each) or "changed", "", "" if not each.distinguishable else _tone(change.mean))
        rows.append(
            [Cell(each.policy), Cell(each.objective), Cell(f"{each.first:.3f}"), Cell(f"{each.second:.3f}")]
            + [Cell(_signed(change.mean), f"[{_signed(change.low)}, {_signed(change.high)}]")]
            + [Cell(f"{each.p_adjusted:.2g}"), verdict]
        )
    volume = changes.volume_difference
    caption = f"Judge scores, this run minus {changes.names[0]}: {changes.used}; {changes.confidence:.0%} intervals"
    return section(
        title,
        paragraph(
            f"P-values are adjusted for {len(rows)} comparisons (Holm); at most {1 - changes.confidence:.2g} counts as "
            "a change. The intervals stand each for itself."
        ),
        paragraph(
            f"Hypervolume: {changes.volumes[0].value:.4f} before, {changes.volumes[1].value:.4f} now, difference "
            f"{_signed(volume.value)} [{_signed(volume.low)}, {_signed(volume.high)}]."
        ),
        table(columns, rows, caption),
        items(changes.notes, "note") if changes.notes else "",
        name="changes",
    )


def _reading(report: Report) -> str:
    summary = report.results.summary
    judges = "; ".join(f"{name}: {judge}" for name, judge in summary.judges.items())
    told = [
        "Judge score: what the judge gave, 0 to 1, averaged over the samples of a prompt and then over prompts.",
        "Win rate: the share of prompts on which the judge scored the policy above the reference, ties counted half.",
        f"Interval: two-sided, {summary.confidence:.0%} for each number alone, clustered by prompt"
        + (", conservative." if summary.conservative else "."),
        "Certified lower bound: holds for all policies and objectives at once with "
        f"{summary.confidence:.0%} confidence, so it stays valid for floors chosen after seeing the scores.",
        f"Judges: {judges}. How well they agree with people was not measured here.",
        "All of it is about prompts like these, answered with these settings, and scored by these judges.",
    ]
    return section("How to read this", items(told), name="reading")


def _estimate(score: Estimate) -> Cell:
    return Cell(f"{score.mean:.3f}", f"[{score.low:.3f}, {score.high:.3f}]\ncertified {score.certified_low:.3f}")


def _outcome(outcome: str) -> Cell:
    return Cell(outcome, "", "good" if outcome == "held" else "bad")


def _tone(change: float) -> str:
    return "good" if change > 0 else "bad"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
