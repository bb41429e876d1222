"""The examples of README.md and docs/, run through redis-cli as a reader would.

A block marked `redis-cli` holds commands, `> ...`, each followed by its reply as
`redis-cli --no-raw` prints it. `...` in a reply stands for anything on its line; an execution id
stands for whatever id comes instead, also in the commands after it. A block marked `python` is run
by RG.PYEXECUTE and must have no error.
"""

import re
import subprocess

import pytest
from server import ROOT

pytestmark = pytest.mark.single("what the documentation shows is one server")

BLOCK = re.compile(r"^```(redis-cli|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IDENTIFIER = re.compile(r"[0-9a-f]{40}-\d+")
PAGES = [
    path
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if BLOCK.search(path.read_text())
]


def examples(text):
    """(command, expected reply) pairs of a block."""
    for part in re.split(r"^> ", text, flags=re.MULTILINE)[1:]:
        command, _, reply = part.partition("\n")
        yield command, reply.strip("\n")


def pattern(reply):
    """A regular expression for an expected reply, with a group for each id."""
    text = re.escape(reply).replace(re.escape("..."), "[^\n]*")
    return re.sub(r"[0-9a-f]{40}\\-\d+", r"([0-9a-f]{40}-\\d+)", text)


def redis_cli(env, *words, given):
    done = subprocess.run(
        ["redis-cli", "-p", str(env.server.port), "--no-raw", *words],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # It says how long a command took that took long.
    return re.sub(r"\n\(\d+\.\d+s\)$", "", done.stdout.strip("\n"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_examples_run_as_printed(env, page):
    known = {}
    for language, text in BLOCK.findall(page.read_text()):
        if language == "python":
            reply = redis_cli(env, "-x", "RG.PYEXECUTE", given=text)
            assert not re.search(r"^\(error\)|Traceback", reply), f"{text}\n{reply}"
            continue
        for command, expected in examples(text):
            typed = IDENTIFIER.sub(lambda found: known.get(found[0], found[0]), command)
            reply = redis_cli(env, given=typed + "\n")
            found = re.fullmatch(pattern(expected), reply)
            assert found, f"> {command}\nexpected:\n{expected}\ngot:\n{reply}"
            known.update(zip(IDENTIFIER.findall(expected), found.groups(), strict=True))
