"""Verdicts of ``gate`` as JUnit XML, which continuous integration reads.

A suite per profile and a test case per floor. Only elements and attributes that both common schemas know (Jenkins'
junit-10.xsd and Ant's JUnit.xsd), in the order that the stricter one asks for.
"""

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from mopo_eval.gate import FloorCheck, Verdict
from mopo_eval.reliability import Reliability, sentences


def undecided_xml(reason: str, *, made_at: str) -> str:
    """The document where nothing could be decided, for the ``reason`` given: one suite with one error."""
    case = Element("testcase", name="decide", classname="gate", time="0")
    SubElement(case, "error", message=reason, type="undecided").text = reason
    return _document([_suite("0", "gate", [case], {}, reason, made_at)])


def junit_xml(
    verdicts: Sequence[Verdict], known: Mapping[str, Reliability], *, run: str, confidence: float, made_at: str
) -> str:
    """The document. ``known``: of fitted judges, by objective; ``run``: the evaluation that was decided on.

    ``made_at``: YYYY-MM-DDTHH:MM:SS, UTC.
    """
    suites = []
    for index, verdict in enumerate(verdicts):
        cases = [_case(verdict, check) for check in verdict.checks]
        if verdict.outcome == "not measured" or not cases:
            cases.append(_selected(verdict))
        told = {"run": run, "confidence": f"{confidence:g}", "policy": verdict.selection.served or "none"}
        judged = {name: known[name] for name in verdict.objectives if name in known}
        lines = [verdict.selection.reason, *(check.sentence() for check in verdict.checks), *sentences(judged)]
        suites.append(_suite(str(index), verdict.name, cases, told, "\n".join(lines), made_at))
    return _document(suites)


def _document(suites: Sequence[Element]) -> str:
    root = Element("testsuites")
    root.extend(suites)
    indent(root)
    return tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(  # noqa: PLR0913 - the parts of a suite
    place: str, name: str, cases: Sequence[Element], told: Mapping[str, str], output: str, made_at: str
) -> Element:
    counts = {kind: sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error")}
    suite = Element(
        "testsuite",
        {"id": place, "package": "mopo-eval.gate", "name": name}
        | {"timestamp": made_at, "hostname": "localhost", "time": "0"}
        | {"tests": str(len(cases)), "failures": str(counts["failure"]), "errors": str(counts["error"])},
    )
    properties = SubElement(suite, "properties")
    for key, value in told.items():
        SubElement(properties, "property", name=key, value=value)
    suite.extend(cases)
    SubElement(suite, "system-out").text = output
    SubElement(suite, "system-err")
    return suite


def _case(verdict: Verdict, check: FloorCheck) -> Element:
    case = _named(verdict, f"{check.floor_name} >= {check.floor:g}")
    if check.outcome != "held":
        kind, cause = ("failure", "floor missed") if check.outcome == "missed" else ("error", "not measured")
        message = check.sentence() if verdict.policy is None else f"{verdict.policy}: {check.sentence()}"
        SubElement(case, kind, message=message, type=cause).text = verdict.selection.reason
    return case


def _selected(verdict: Verdict) -> Element:
    """Whether any policy could be selected: the case of a profile without floors or measurements."""
    case = _named(verdict, f"greatest {verdict.primary}")
    if verdict.outcome == "not measured":
        SubElement(case, "error", message=verdict.selection.reason, type="not measured")
    return case


def _named(verdict: Verdict, name: str) -> Element:
    return Element("testcase", name=name, classname=f"profile.{verdict.name}", time="0")
