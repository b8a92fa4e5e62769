"""A hundred histories in the default suite; `make histories` runs thousands. See docs/histories.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.histories.faults import KINDS, Faults
from tests.histories.mutants import MUTANTS
from tests.histories.run import hush, main, run_seed, shrink

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Histories are full of warnings."""
    before = structlog.get_config()
    hush()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("first", range(0, 100, 10))
def test_every_promise_holds_in_every_history(first: int) -> None:
    """Whatever went wrong: nothing lost, nothing doubled, the end is that of the fault-free history."""
    for seed in range(first, first + 10):
        done = run_seed(seed)
        assert not done.invariant, "\n".join((*done.story, done.what))


def test_a_seed_replays_exactly() -> None:
    """The same events at the same moments, also in another process with other hashes of strings."""
    here = run_seed(8, told=-1)
    assert run_seed(8, told=-1) == here
    code = "from tests.histories.run import hush, run_seed; hush(); print(run_seed(8).digest)"
    there = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert there.stdout.split()[-1] == here.digest


def test_every_kind_of_fault_happens() -> None:
    """Over a few hundred seeds each kind is on in some, and in none of them all are."""
    chosen = [set(Faults(seed).kinds) for seed in range(300)]
    assert set.union(*chosen) == set(KINDS)
    assert not set.intersection(*chosen)


@pytest.mark.parametrize(
    "name", ["stale-puback", "puback-before-durable", "equal-bytes", "horizon-lost", "late-moves-latest",
             "own-outage-is-silence", "position-before-write", "refusal-drops-batch", "ledger-by-subtraction"],
)  # fmt: skip
def test_a_planted_bug_is_found(name: str) -> None:
    """The cheap ones; `make histories-mutants` looks for all."""
    assert any(run_seed(seed, mutant=name).invariant not in {"", "no-exception"} for seed in range(10))


def test_a_failure_is_shrunk_to_the_faults_that_it_needs() -> None:
    """Hashes that are lost in a crash need a crash; what has nothing to do with it is left out."""
    kinds = ["processor_crashes", "resends", "commands", "trims", "late_bursts"]
    failed = next(done for seed in range(50) if (done := run_seed(seed, kinds, "horizon-lost")).invariant)
    small = shrink(failed, "horizon-lost")
    assert small.invariant == failed.invariant
    assert "processor_crashes" in small.kinds
    assert len(small.kinds) < len(kinds)


def test_the_story_of_a_seed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """All events in order, and what came out; unknown faults are named with those allowed."""
    assert main(["--seed", "3", "--faults", "disconnects", "--story"]) == 0
    told = capsys.readouterr().out
    assert "faults: disconnects" in told
    assert told.index("devices: published") < told.index("from here on nothing goes wrong any more")
    with pytest.raises(SystemExit):
        main(["--seed", "3", "--faults", "gremlins"])
    assert "gremlins" in capsys.readouterr().err


def test_every_mutant_and_fault_stands_in_the_docs() -> None:
    """With its name."""
    page = (ROOT / "docs/histories.md").read_text("utf-8")
    assert [name for name in (*MUTANTS, *KINDS) if f"`{name}`" not in page] == []
