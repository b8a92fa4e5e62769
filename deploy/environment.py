"""Makes .venv from a hash-locked requirements file; what `make` calls before everything else. Standard library only.

    python3 deploy/environment.py requirements.lock

Done once per content of the file: a stamp in .venv remembers it. Qingtu itself is not installed but put on the path
(a .pth file and a small `qingtu` script), so nothing is built and nothing is downloaded that is not hash-locked. All
that is said goes to standard error: standard output belongs to the command that comes next.
"""  # noqa: INP001 - a script, run before there is anything to import

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
SCRIPT = """#!{python}
import sys

from qingtu.cli import main

sys.exit(main())
"""


def main(lock: str) -> None:
    """Make the environment hold what the lock file names, unless it does already."""
    content = (ROOT / lock).read_bytes()
    # the place counts as well: scripts of a moved folder name the old one
    mark = hashlib.sha256(content + str(VENV).encode()).hexdigest()
    stamp = VENV / f".{lock}.stamp"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == mark and PYTHON.exists():
        return
    if not _works():
        _say(f"建立环境 / making .venv with Python {sys.version.split()[0]}")
        venv.create(VENV, with_pip=True, clear=True)
    _install(lock, sum(1 for line in content.decode().splitlines() if re.match(r"[A-Za-z0-9]", line)))
    _put_on_path()
    stamp.write_text(mark, encoding="utf-8")


def _works() -> bool:
    """Return whether .venv is there, runs, and is new enough."""
    if not PYTHON.exists():
        return False
    test = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    tried = subprocess.run([PYTHON, "-c", test], check=False, stderr=subprocess.DEVNULL)  # noqa: S603
    return tried.returncode == 0


def _install(lock: str, count: int) -> None:
    # The lock is the whole answer. Left to resolve, an older pip takes the newest release for a dependency with an
    # extra (coverage[toml]) instead of the locked one, and then refuses it for its missing hash.
    options = ("--disable-pip-version-check", "--no-input", "--require-hashes", "--no-deps")
    command = [PYTHON, "-m", "pip", "install", *options, "-r", ROOT / lock]
    _say(f"安装依赖 / installing {count} packages of {lock}, each checked by its hash")
    said: list[str] = []
    done = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:  # noqa: S603
        assert pip.stdout is not None
        for line in pip.stdout:
            said.append(line)
            found = re.match(r"(?:Collecting|Requirement already satisfied:) ([\w.-]+)", line)
            if found:
                done += 1
                _show(f"  {done}/{count} {found[1]}")
            elif line.startswith("Installing"):
                _show("  正在写入 / unpacking")
    _show("")
    if pip.returncode:
        sys.stderr.writelines(said[-15:])
        _fail("依赖安装失败 / the packages could not be installed (see above): check the network, then run make again")


def _put_on_path() -> None:
    # The scheme by name: Debian's own Python has another default one, of which nothing is true in an environment.
    paths = sysconfig.get_paths("venv", vars={"base": str(VENV), "platbase": str(VENV)})
    Path(paths["purelib"], "qingtu.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    script = VENV / "bin" / "qingtu"
    script.write_text(SCRIPT.format(python=PYTHON), encoding="utf-8")
    script.chmod(0o755)


def _show(text: str) -> None:
    """Rewrite one line on a terminal; say nothing in a file."""
    if sys.stderr.isatty():
        width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
        sys.stderr.write(f"\r{text[:width]:<{width}}" + ("" if text else "\r"))
        sys.stderr.flush()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _fail(text: str) -> NoReturn:
    _say(text)
    sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
