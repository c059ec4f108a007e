"""JUnit XML as CI servers read it."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from haste_compiler import HasteError
from haste_compiler.validation.junit import Case, write_junit

ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "time", "disabled"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "id", "package"},
    "testcase": {"name", "classname", "time", "status", "assertions"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "system-out": set[str](),
}
CHILDREN = {
    "testsuites": ["testsuite"],
    "testsuite": ["testcase", "system-out"],
    "testcase": ["failure", "error", "system-out"],
}
"""Of the schema of Jenkins' JUnit plugin, what is used here; children in this order."""


def check(element: ElementTree.Element) -> None:
    assert set(element.attrib) <= ATTRIBUTES[element.tag], element.attrib
    tags = [child.tag for child in element]
    assert tags == sorted(tags, key=CHILDREN.get(element.tag, []).index)
    for child in element:
        check(child)


def test_schema(tmp_path: Path) -> None:
    cases = [
        Case("output", output="relative error 0.1"),
        Case("agreement at least 0.9", failed="agreement is 0.5\nsecond line"),
        Case("validation", error="no <file> & no \x00 \x1b[31mcolour"),
    ]
    write_junit(tmp_path / "report.xml", "net.py:net", cases, 1.25, "a table")
    root = ElementTree.parse(tmp_path / "report.xml").getroot()
    check(root)
    (suite,) = root
    assert root.tag == "testsuites" and suite.attrib["timestamp"].count(":") == 2
    assert [suite.attrib[name] for name in ("tests", "failures", "errors", "skipped", "time")] == [
        "3",
        "1",
        "1",
        "0",
        "1.250",
    ]
    passed, failed, broken, text = suite
    assert text.text == "a table" and passed.attrib["classname"] == "net.py:net"
    assert failed[0].attrib["message"] == "agreement is 0.5" and failed[0].text == "agreement is 0.5\nsecond line"
    assert broken[0].attrib["message"] == "no <file> & no \ufffd \ufffd[31mcolour"


def test_a_file_that_cant_be_written(tmp_path: Path) -> None:
    with pytest.raises(HasteError, match="can't be written: No such file"):
        write_junit(tmp_path / "absent" / "report.xml", "net", [Case("output")], 0.0)
