"""Runs histories: many seeds on several cores, one seed with its story, or the planted bugs.

::

    python -m tests.histories --seeds 2000 --jobs 2     # many; the first that fails is told and shrunk
    python -m tests.histories --seed 31 --story         # one, the whole story
    python -m tests.histories --mutants                 # each planted bug, and after how many seeds it is found
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from qingtu.store.duckdb import DuckStore
from tests.histories.faults import KINDS
from tests.histories.mutants import MUTANTS
from tests.histories.story import Violation
from tests.histories.world import World

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from multiprocessing.pool import Pool

_DUCKDB_EVERY: Final = 25
"""So many seeds have the real DuckDB store, in memory, instead of the model."""
_TOLD: Final = 30
_MUTANT_SEEDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a history ended.

    Attributes:
        seed: of the history.
        kinds: of faults that were on.
        invariant: that was broken, "" for none.
        what: happened, "" when all is well.
        story: its lines.
        digest: of the story: equal digests, equal histories.
    """

    seed: int
    kinds: tuple[str, ...]
    invariant: str
    what: str
    story: tuple[str, ...]
    digest: str


def run_seed(seed: int, kinds: Collection[str] | None = None, mutant: str | None = None, *, told: int = 0) -> Outcome:
    """Live through one history.

    Args:
        seed: decides everything.
        kinds: of faults; None lets the seed choose.
        mutant: a planted bug.
        told: keep so many of the last lines of the story; 0 keeps them only when it fails; -1 all.
    """
    invariant, what = "", ""
    with ExitStack() as stack:
        if mutant is not None:
            stack.enter_context(MUTANTS[mutant].planted())
        store = None
        if seed % _DUCKDB_EVERY == _DUCKDB_EVERY - 1:
            store = DuckStore(Path(":memory:"), "256MB", 1)
            stack.callback(store.close)
        world = World(seed, kinds, store)
        try:
            world.run()
        except Violation as violation:
            invariant, what = violation.invariant, str(violation)
        except Exception as error:  # noqa: BLE001 - whatever the code under test throws is told with its story
            invariant, what = "no-exception", f"no-exception: {type(error).__name__}: {error}"
    last = None if told < 0 else told or (_TOLD if invariant else 1)
    return Outcome(
        seed, tuple(world.faults.kinds), invariant, what, tuple(world.story.lines(last)), world.story.digest()
    )


def shrink(failed: Outcome, mutant: str | None = None) -> Outcome:
    """Leave fault kinds out one at a time, as long as the same invariant breaks; return the smallest found."""
    for kind in failed.kinds:
        fewer = [k for k in failed.kinds if k != kind]
        again = run_seed(failed.seed, fewer, mutant)
        if again.invariant == failed.invariant:
            failed = again
    return failed


def hush() -> None:
    """Let the code under test log only what cannot be: a history is full of warnings."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return 1 when something was found that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.histories", description="模拟历史 / simulated histories")
    parser.add_argument("--seeds", type=int, default=2000, help="多少个历史 / how many histories")
    parser.add_argument("--first", type=int, default=0, help="第一个种子 / first seed")
    parser.add_argument("--jobs", type=int, default=2, help="进程数 / processes")
    parser.add_argument("--seed", type=int, help="只运行这一个 / only this one")
    parser.add_argument("--story", action="store_true", help="讲述全过程 / tell all of it")
    parser.add_argument("--faults", help=f"故障种类, 逗号分隔 / kinds of faults: {', '.join(KINDS)}")
    parser.add_argument("--mutants", nargs="*", metavar="NAME", help="植入的缺陷 / planted bugs, all or some")
    asked = parser.parse_args(argv)
    kinds = None if asked.faults is None else [k for k in asked.faults.split(",") if k]
    if unknown := set(kinds or ()) - set(KINDS):
        parser.error(f"no such faults: {', '.join(sorted(unknown))} (allowed: {', '.join(KINDS)})")
    hush()
    console = Console()
    if asked.mutants is not None:
        if unknown := set(asked.mutants) - set(MUTANTS):
            parser.error(f"no such mutants: {', '.join(sorted(unknown))} (allowed: {', '.join(MUTANTS)})")
        return _mutants(asked.mutants or list(MUTANTS), asked.jobs, console)
    if asked.seed is not None:
        done = run_seed(asked.seed, kinds, told=-1 if asked.story else 0)
        _tell(done, console)
        return int(bool(done.invariant))
    return _many(range(asked.first, asked.first + asked.seeds), kinds, asked.jobs, console)


def _many(seeds: range, kinds: Collection[str] | None, jobs: int, console: Console) -> int:
    failed = []
    with _progress(console) as progress, multiprocessing.get_context("spawn").Pool(jobs, hush) as pool:
        task = progress.add_task("历史 / histories", total=len(seeds))
        for done in pool.imap_unordered(partial(run_seed, kinds=kinds), seeds, chunksize=4):
            progress.advance(task)
            if done.invariant:
                failed.append(done)
                progress.console.print(f"seed {done.seed}: {done.what[:200]}", markup=False, highlight=False)
    if failed:
        _tell(shrink(min(failed, key=lambda f: f.seed)), console)
    names = sorted({f.invariant for f in failed})
    console.print(f"{len(seeds)} histories, {len(failed)} failed {', '.join(names)}", markup=False, highlight=False)
    return int(bool(failed))


def _tell(done: Outcome, console: Console) -> None:
    for line in (*done.story, done.what or "all invariants hold / 一切不变量成立"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if done.invariant:
        faults = ",".join(done.kinds)
        console.print(
            f"again / 重演: python -m tests.histories --seed {done.seed} --faults '{faults}' --story",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip


def _mutants(names: Sequence[str], jobs: int, console: Console) -> int:
    table = Table(box=None)
    for title in ("mutant / 缺陷", "seeds / 种子数", "invariant / 不变量"):
        table.add_column(title, no_wrap=True)
    missed = 0
    with _progress(console) as progress, multiprocessing.get_context("spawn").Pool(jobs, hush) as pool:
        task = progress.add_task("缺陷 / mutants", total=len(names))
        for name in names:
            found = _first(pool, name, 2 * jobs)
            progress.advance(task)
            # A planted bug that only raises is broken itself, such as after a rename.
            missed += found is None or found.invariant == "no-exception"
            row = ("not found", "") if found is None else (str(found.seed + 1), found.invariant)
            table.add_row(name, *row)
            progress.console.print(f"{name}: {' '.join(row)}", markup=False, highlight=False)
    console.print(table)
    return int(bool(missed))


def _first(pool: Pool, name: str, batch: int) -> Outcome | None:
    """Return the first seed that finds a mutant; a few seeds at a time, so that the pool is free when it is found."""
    for start in range(0, _MUTANT_SEEDS, batch):
        one = partial(run_seed, kinds=MUTANTS[name].kinds, mutant=name)
        outcomes = pool.map(one, range(start, start + batch), chunksize=1)
        for done in outcomes:
            if done.invariant:
                return done
    return None


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


if __name__ == "__main__":
    sys.exit(main())
