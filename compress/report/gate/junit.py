"""Writes junit.xml: the verdict as test results, one test case per family and one for the inputs."""

from __future__ import annotations

import dataclasses
import json
import re
from xml.etree import ElementTree

from compress.evaluation.gate.result import DivergenceVerdict, FamilyVerdict, GateReport

_ILLEGAL = re.compile(
    "[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)  # characters that XML 1.0 does not allow
_SUITE = "compress gate"


def render(report: GateReport) -> str:
    """Returns the XML document.

    A fail is a `failure`; an inconclusive or only reported family is `skipped`; unusable inputs are an `error`, and a
    candidate without usable scores is a `failure`, of the case `inputs`. The figures are in each case's `system-out`.
    """
    root = ElementTree.Element("testsuites", name=_SUITE)
    suite = ElementTree.SubElement(root, "testsuite", name=_SUITE)
    inputs = _case(suite, report, "inputs")
    if not report.families:
        kind = "error" if report.verdict == "unusable" else "failure"
        ElementTree.SubElement(inputs, kind, message=_legal("; ".join(report.reasons)))
    judged: dict[str, FamilyVerdict | DivergenceVerdict] = dict(report.families)
    if report.divergence is not None:
        judged["divergence"] = report.divergence
    for name, verdict in judged.items():
        case = _case(suite, report, name)
        row = dataclasses.asdict(verdict)
        if verdict.verdict == "fail":
            ElementTree.SubElement(case, "failure", message=_legal(verdict.reason))
        elif verdict.verdict != "pass":
            ElementTree.SubElement(case, "skipped", message=_legal(f"{verdict.verdict}: {verdict.reason}"))
        ElementTree.SubElement(case, "system-out").text = _legal(json.dumps(row, ensure_ascii=False))
    for tag, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        for element in (root, suite):
            element.set(attribute, str(len(suite.findall(f"./testcase/{tag}"))))
    for element in (root, suite):
        element.set("tests", str(len(suite.findall("./testcase"))))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


def _case(suite: ElementTree.Element, report: GateReport, name: str) -> ElementTree.Element:
    about = f"{_SUITE}.{report.suite['name']}" if report.suite else _SUITE
    return ElementTree.SubElement(suite, "testcase", classname=_legal(about), name=_legal(name), time="0")


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
