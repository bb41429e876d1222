"""Who may name whom, by the text of the sources."""

import re

import pytest
from server import ROOT

SOURCE = ROOT / "src"
RULES = {
    "engine": r"pyo3|redis_module|crate::(python|redis|cluster)",
    "cluster": r"pyo3|redis_module|crate::(python|redis)",
    "python": r"redis_module|crate::(redis|cluster)",
    "redis": r"pyo3",
}
UNSAFE = ("redis/raw/", "python/link.rs")


def code(text):
    """Without comments, which may name anything, and without the text of strings."""
    text = re.sub(r"'\\?\"'", "' '", text)
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text, flags=re.DOTALL)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r"//[^\n]*", "", text)


def names(pattern, files):
    """Where a word of the pattern stands."""
    found = []
    for file in files:
        for number, line in enumerate(code(file.read_text()).splitlines(), 1):
            if re.search(rf"\b(?:{pattern})\b", line):
                found.append(f"{file.relative_to(SOURCE)}:{number}: {line.strip()}")
    return found


def test_the_reader_of_sources():
    assert code("'\"' + '\\\"' + \"a\"") == "' ' + ' ' + \"\""
    assert code('let a = "pyo3"; // redis_module\nb /* pyo3 */ c') == 'let a = ""; \nb  c'


def test_there_are_sources():
    assert len(list(SOURCE.rglob("*.rs"))) > 5


@pytest.mark.parametrize("room", RULES)
def test_rooms(room):
    assert names(RULES[room], sorted((SOURCE / room).rglob("*.rs"))) == []


def test_only_the_borders_are_unsafe():
    files = [f for f in SOURCE.rglob("*.rs") if not str(f.relative_to(SOURCE)).startswith(UNSAFE)]
    assert names(r"unsafe|(?:allow|expect)\(unsafe_code", sorted(files)) == []


@pytest.mark.parametrize("room", ["engine", "cluster"])
def test_pure_rooms_forbid_unsafe(room):
    file = SOURCE / room / "mod.rs"
    assert "#![forbid(unsafe_code)]" in file.read_text()


def test_no_rust_in_tests():
    assert list((ROOT / "tests").rglob("*.rs")) == []
