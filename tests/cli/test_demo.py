"""`qingtu demo`, once with everything on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import command, environment


def _strays(folder: Path) -> list[str]:
    """Return command lines of processes that name a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in text:
            found.append(text)
    return found


def test_headless_demo_balances_and_every_fault_has_its_outcome(tmp_path: Path) -> None:
    """Standard output is the ledger alone; nothing is in flight, and no process or file is left."""
    ran = command("demo", "--for", "12s", "--json", "--faults", "demo", "--port", "0", cwd=tmp_path,
                  more={"TMPDIR": str(tmp_path)})  # fmt: skip
    assert ran.code == 0, ran.err
    ledger = ran.json
    assert ledger["balanced"] is True
    messages = ledger["messages"]
    assert messages["in_flight"] == 0
    assert messages["received"] == sum(messages.values()) - messages["received"]
    assert messages["stored"] > 80_000  # a whole day of the demonstration catalogue
    assert ledger["faults"]["unexpected"] == []
    for fault in ("loss", "duplicate", "garbage", "clock", "spike", "unit", "late", "stuck", "drift"):
        assert ledger["faults"]["injected"][fault] > 0, fault
    assert messages["duplicate"] == ledger["faults"]["injected"]["duplicate"]
    assert "#token=" in ran.err
    assert "demonstration" in ran.err
    assert list(tmp_path.iterdir()) == []
    assert _strays(tmp_path) == []


def test_interrupt_ends_the_demo_cleanly(tmp_path: Path) -> None:
    """Ctrl-C prints the ledger and leaves no process and no file."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qingtu.cli", "demo", "--history", "10m", "--port", "0"],
        cwd=tmp_path, env=environment({"TMPDIR": str(tmp_path)}), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        if line.startswith("Ctrl-C"):
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, "".join(told)
    assert "平衡 balanced" in out
    assert "在途 in flight" in out
    assert list(tmp_path.iterdir()) == []
    assert _strays(tmp_path) == []


def test_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    """Who presses Ctrl-C twice does not want to wait; the broker and the folder go all the same."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qingtu.cli", "demo", "--history", "24h", "--port", "0", "--json"],
        cwd=tmp_path, env=environment({"TMPDIR": str(tmp_path)}), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Ctrl-C"):
            break
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if "stopping" in line:
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    if process.returncode == 0:  # it had ended already when the second one came
        assert json.loads(out)["balanced"] is True
    else:
        assert process.returncode == 128 + signal.SIGINT
    assert _strays(tmp_path) == []
    assert [p for p in tmp_path.iterdir() if (p / "broker" / "pid.json").exists()] == []
