"""A validation as JUnit XML, which CI servers show as tests."""

from __future__ import annotations

import datetime
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from haste_compiler.errors import HasteError
from haste_compiler.files import replacing
from haste_compiler.validation.report import ValidationReport
from haste_compiler.validation.thresholds import Verdict

_CONTROL = {code: "\ufffd" for code in range(32) if chr(code) not in "\t\n\r"}
"""What XML can't hold."""


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        name: of the test.
        failed: why it failed, as the network fell short; empty where it didn't.
        error: why it couldn't be run; empty where it could.
        output: what it printed.
    """

    name: str
    failed: str = ""
    error: str = ""
    output: str = ""


def cases_of(report: ValidationReport, verdicts: Sequence[Verdict]) -> list[Case]:
    """A test for every output, which holds since the outputs are of the same kind, and one for every limit."""
    outputs = [
        Case(
            f"{output.name} {output.kind}",
            output=f"relative error {output.rel_error:.3e}, worst batch {output.worst_rel_error:.3e}, "
            f"top-1 agreement {'none' if output.agreement is None else f'{output.agreement:.6g}'}",
        )
        for output in report.outputs
    ]
    limits = [
        Case(
            f"{verdict.name} {verdict.sense} {verdict.limit:g}",
            verdict.missed,
            output=f"{verdict.name} {'none' if verdict.value is None else f'{verdict.value:.6g}'}",
        )
        for verdict in verdicts
    ]
    return outputs + limits


def write_junit(path: Path, network: str, cases: Sequence[Case], seconds: float, text: str = "") -> None:
    """Write tests as one suite, in the schema of the JUnit plugin of Jenkins, which other servers read, too.

    Args:
        path: of the file.
        network: becomes the tests' class.
        cases: the tests.
        seconds: that all took.
        text: the suite's output.

    Raises:
        HasteError: the file can't be written.
    """
    counts = {
        "tests": len(cases),
        "failures": sum(bool(case.failed) for case in cases),
        "errors": sum(bool(case.error) for case in cases),
    }
    numbers = {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", {"name": "haste validate", **numbers, "time": f"{seconds:.3f}"})
    started = datetime.datetime.now() - datetime.timedelta(seconds=seconds)
    about = {
        "name": "haste validate",
        **numbers,
        "skipped": "0",
        "time": f"{seconds:.3f}",
        "timestamp": started.isoformat(timespec="seconds"),
        "hostname": socket.gethostname() or "localhost",
    }
    suite = ElementTree.SubElement(root, "testsuite", about)
    for case in cases:
        attributes = {"name": _clean(case.name), "classname": _clean(network), "time": "0.000"}
        element = ElementTree.SubElement(suite, "testcase", attributes)
        for tag, message in (("failure", case.failed), ("error", case.error)):
            if message:
                first = _clean(message.splitlines()[0])
                ElementTree.SubElement(element, tag, {"message": first, "type": tag}).text = _clean(message)
        if case.output:
            ElementTree.SubElement(element, "system-out").text = _clean(case.output)
    if text:
        ElementTree.SubElement(suite, "system-out").text = _clean(text)
    ElementTree.indent(root)
    try:
        with replacing(path) as made:
            ElementTree.ElementTree(root).write(made, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise HasteError(f"{path} can't be written: {error.strerror or error}") from None


def _clean(text: str) -> str:
    return text.translate(_CONTROL)
