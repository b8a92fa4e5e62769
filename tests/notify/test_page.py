"""docs/notify.md: its settings load, its table happens, its webhook is what is sent, its check accepts it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from qingtu.clock import HOUR, MINUTE, SECOND
from qingtu.settings_notify import FIELDS
from sinks.notify.messages import KINDS
from tests.notify.bench import T0, Bench, address, opened, then

if TYPE_CHECKING:
    from tests.notify.receiver import Receiver

PAGE = (Path(__file__).parents[2] / "docs" / "notify.md").read_text(encoding="utf-8")
MIDNIGHT = T0 - 8 * HOUR
LEVELS = {"blue": 1, "yellow": 2, "orange": 3, "red": 4}


def block(language: str) -> str:
    """The first block of a language."""
    return PAGE.split(f"```{language}\n")[1].split("```")[0]


def example(folder: Path, duty: Receiver, boss: Receiver) -> Bench:
    """The settings of the page, with files of this test."""
    (folder / "secret").write_text("k3y")
    text = block("toml").removeprefix('sinks = ["notify"]\n')
    text = text.replace("/etc/qingtu/notify-duty-url", str(address(folder, "duty", duty.url)))
    text = text.replace("/etc/qingtu/notify-boss-url", str(address(folder, "boss", boss.url)))
    return Bench.of(folder, text.replace("/etc/qingtu/notify-duty-secret", str(folder / "secret")))


def test_the_table_happens(tmp_path: Path, duty: Receiver, boss: Receiver) -> None:
    """Row by row: each channel gets what stands there, and nothing else."""
    rows = re.findall(r"^\| (\d\d):(\d\d) \| ([^|]*) \|([^|]*)\|([^|]*)\|$", PAGE, re.MULTILINE)
    assert len(rows) == 12
    bench, last, known = example(tmp_path, duty, boss), 0, {}
    for hour, minute, what, to_duty, to_boss in rows:
        at = MIDNIGHT + int(hour) * HOUR + int(minute) * MINUTE
        at += 24 * HOUR if at < last else 0
        last = at
        name, _, rest = what.partition(" ")
        state, _, level = rest.partition(" ")
        put = []
        if state == "open":
            known[name] = opened(name, LEVELS[level], at, value=200.0, limit=150.0)
            put = [known[name]]
        elif name != "tick":
            put = [then(known[name], state, (at - known[name].time_us) / SECOND, who="Li")]
        before = len(duty.bodies), len(boss.bodies)
        bench.run(at + (MINUTE if put else 0), *put)
        assert duty.titles()[before[0] :] == [one for one in [to_duty.strip()] if one], what
        assert boss.titles()[before[1] :] == [one for one in [to_boss.strip()] if one], what
    bench.close()
    first = duty.bodies[0]
    shown: dict[str, Any] = orjson.loads(block("json"))
    assert {**first, "id": "ID"} == shown
    space: dict[str, Any] = {}
    exec(block("python"), space)
    assert space["genuine"](b"k3y", duty.headers[0]["Qingtu-Signature"], duty.raw[0])
    assert not space["genuine"](b"k3y", duty.headers[0]["Qingtu-Signature"], duty.raw[0] + b" ")


@pytest.mark.parametrize("names", [FIELDS, KINDS, ("Qingtu-Signature", "Qingtu-Delivery")])
def test_every_name_is_on_the_page(names: tuple[str, ...]) -> None:
    """Fields of templates, kinds of messages, headers."""
    assert [name for name in names if not re.search(rf"`{name}(`|:)", PAGE)] == []
