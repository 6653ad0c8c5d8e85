"""F6: the Nth write to the disk fails, N counting up until a stage succeeds, over publish and ingest.

What the engines write counts as what Python does: a small library stands before the C library's calls. It is compiled
by the machine's own compiler; without one these tests are skipped. FAULT_WRITES says which writes are tried: every second
by default, odd ones by a full disk and even ones by an error, so that each fails in one way; every one in both with 1.
The last is that with which the stage succeeds.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fault_book import bytes_of, republish, whole
from fault_ground import tree

fault = pytest.mark.fault
STEP = int(os.environ.get("FAULT_WRITES", "2"))
ERRORS = [(errno.ENOSPC, True), (errno.EIO, False)]
IDS = ["a full disk", "an error once"]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the library."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    built = tmp_path_factory.mktemp("shim") / "writes.so"
    source = Path(__file__).with_name("fault_writes.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(built), str(source), "-ldl"], check=True)
    return built


def writes(said: str) -> int:
    """Return how many writes the library saw."""
    return int(re.findall(r"^writes (\d+)$", said, flags=re.MULTILINE)[-1])


def moments(lasting: bool, count: int) -> list[int]:
    """Return which writes are to fail, and one more than there are."""
    return [*range(1 if lasting else STEP, count + 1, STEP), count + 1]


@fault("F6")
@pytest.mark.parametrize(("number", "lasting"), ERRORS, ids=IDS)
def test_the_nth_write_of_publish_fails(number, lasting, shim, book, fork, tmp_path):
    """Exit code 5 and the old table, or, where the write did not matter, the new one; never half of one, no litter."""
    republish()
    before, start = whole(), tmp_path / "start"
    shutil.copytree("data/publish", start, symlinks=True)
    forks = fork("publish", preload=shim)
    below = str(book.folder / "data")
    code, said = forks.run("publish", book.folder, 10**9, number, 0, below)
    assert code == 0, said
    count, after, right = writes(said), whole(), bytes_of(Path("data/publish"))
    assert count > 20
    ends = []
    for nth in moments(lasting, count):
        shutil.rmtree("data/publish")
        shutil.copytree(start, "data/publish", symlinks=True)
        code, said = forks.run("publish", book.folder, nth, number, int(lasting), below)
        ends.append(code)
        assert code in (0, 5), f"write {nth} of {count}: {said[-1500:]}"
        assert "Traceback" not in said
        assert whole() in (before, after), f"write {nth}"
        assert code == 5 or whole() == after, f"write {nth}"
        assert code == 0 or "MiB free" in said, said[-1500:]
        assert not [path for path in Path("data/publish").rglob("*") if path.name.startswith((".tmp-", ".current-"))]
        if len(ends) % 10 == 1:  # the next run heals it
            assert forks.run("publish", book.folder)[0] == 0
            assert bytes_of(Path("data/publish")) == right
    print(f"{count} writes, {ends.count(5)} ended with 5")
    assert ends.count(5) > len(ends) * (0.9 if lasting else 0.6)  # an engine writes some things once more by itself
    assert ends[-1] == 0


@fault("F6")
@pytest.mark.parametrize(("number", "lasting"), ERRORS, ids=IDS)
def test_the_nth_write_of_ingest_fails(number, lasting, shim, shop, fork, tmp_path):
    """Exit code 5 and no ledger that answers for what does not stand; the next run gives the bytes of one with room."""
    shop.accepted()
    right = shop.tables()
    shutil.rmtree("data/ingest")
    forks = fork("ingest", preload=shim)
    below = str(shop.folder / "data")
    code, said = forks.run("ingest", shop.folder, 10**9, number, 0, below, TMPDIR=str(shop.scratch))
    assert code == 0, said
    count, ends = writes(said), []
    assert count > 20
    for nth in moments(lasting, count):
        shutil.rmtree("data/ingest")
        code, said = forks.run("ingest", shop.folder, nth, number, int(lasting), below, TMPDIR=str(shop.scratch))
        ends.append(code)
        assert code in (0, 5), f"write {nth} of {count}: {said[-1500:]}"
        assert "Traceback" not in said
        assert list(shop.scratch.iterdir()) == []
        assert tree(shop.folder / "data/publish") == shop.published
        assert code == 5 or shop.tables() == right, f"write {nth}"
        if len(ends) % 10 == 1:
            assert forks.run("ingest", shop.folder, TMPDIR=str(shop.scratch))[0] == 0
            assert shop.tables() == right
    print(f"{count} writes, {ends.count(5)} ended with 5")
    assert ends.count(5) > len(ends) * (0.9 if lasting else 0.6)  # an engine writes some things once more by itself
    assert ends[-1] == 0
