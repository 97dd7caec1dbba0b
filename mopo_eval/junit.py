"""Verdicts of ``gate`` as JUnit XML, which continuous integration reads.

A suite per profile and a test case per floor. Only elements and attributes that both common schemas know (Jenkins'
junit-10.xsd and Ant's JUnit.xsd), in the order that the stricter one asks for.
"""

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from mopo_eval.gate import FloorCheck, Verdict


def junit_xml(verdicts: Sequence[Verdict], *, run: str, confidence: float, made_at: str) -> str:
    """The document. ``run``: the evaluation that was decided on; ``made_at``: YYYY-MM-DDTHH:MM:SS, UTC."""
    suites = Element("testsuites")
    for index, verdict in enumerate(verdicts):
        cases = [_case(verdict, check) for check in verdict.checks]
        if verdict.outcome == "not measured" or not cases:
            cases.append(_selected(verdict))
        counts = {kind: sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error")}
        suite = SubElement(
            suites,
            "testsuite",
            {"id": str(index), "package": "mopo-eval.gate", "name": verdict.name}
            | {"timestamp": made_at, "hostname": "localhost", "time": "0"}
            | {"tests": str(len(cases)), "failures": str(counts["failure"]), "errors": str(counts["error"])},
        )
        properties = SubElement(suite, "properties")
        told = {"run": run, "confidence": f"{confidence:g}", "policy": verdict.selection.served or "none"}
        for name, value in told.items():
            SubElement(properties, "property", name=name, value=value)
        suite.extend(cases)
        lines = [verdict.selection.reason, *(check.sentence() for check in verdict.checks)]
        SubElement(suite, "system-out").text = "\n".join(lines)
        SubElement(suite, "system-err")
    indent(suites)
    return tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


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
