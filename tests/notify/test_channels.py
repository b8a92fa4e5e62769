"""Ways out: a signed webhook and real mail; hostile texts stay text; addresses and keys are shown nowhere."""

from __future__ import annotations

import hashlib
import hmac
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qingtu.clock import MINUTE, SECOND, ManualClock
from qingtu.errors import RetryLater, StartError
from qingtu.settings_notify import ChannelSettings, NotifySettings
from sinks.notify.channels import open_channel, scrubbed, secrets_of
from sinks.notify.messages import Message
from sinks.notify.templates import as_html, clean, compose, trial
from tests.notify.bench import STATIONS, T0, Bench, address, channels, opened, route, then
from tests.notify.test_delivery import attempt
from tests.notify.test_sink import AT_ONCE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.notify.receiver import Mailbox, Receiver

EVIL = "<img src=x onerror=alert(1)>\r\nBcc: evil@example.com\n\n.\n$who ${note} {0} %s \x1b[31m\u202e [a](http://evil)"


def channel(folder: Path, url: str, **more: object) -> ChannelSettings:
    """Settings of one channel."""
    return ChannelSettings.model_validate({"name": "c", "url_file": address(folder, "c", url), **more})


def mail(folder: Path, box: Mailbox, more: str = "") -> str:
    """Settings of a channel that sends mail."""
    file = address(folder, "mail", box.url)
    return f'[[notify.channels]]\nname = "mail"\nkind = "apprise"\nurl_file = "{file}"\n{more}\n'


def test_a_webhook_is_signed(tmp_path: Path, duty: Receiver) -> None:
    """HMAC-SHA-256 over time and bytes, computed here as a receiver would."""
    (tmp_path / "key").write_text("k3y-of-the-duty\n")
    text = AT_ONCE + channels(tmp_path, {"duty": duty.url}, f'secret_file = "{tmp_path}/key"') + route(["duty"])
    bench = Bench.of(tmp_path, text)
    bench.run(T0 + 2 * SECOND, opened())
    bench.close()
    at, digest = (part.partition("=")[2] for part in duty.headers[0]["Qingtu-Signature"].split(","))
    expected = hmac.new(b"k3y-of-the-duty", at.encode() + b"." + duty.raw[0], hashlib.sha256).hexdigest()
    assert digest == expected
    assert int(at) == bench.clock.now_us() // SECOND
    assert duty.headers[0]["Content-Type"] == "application/json"


def test_a_webhook_without_a_key_has_no_signature(tmp_path: Path, duty: Receiver) -> None:
    """Rather none than one that proves nothing."""
    open_channel(channel(tmp_path, duty.url), "both", ManualClock(T0)).send(trial("c", T0))
    assert "Qingtu-Signature" not in duty.headers[0]
    assert duty.bodies[0]["title"] == "青图测试通知 / Qingtu test notification"


def test_mail_comes_as_html_and_as_text(tmp_path: Path, box: Mailbox) -> None:
    """Through a real SMTP server, in both languages."""
    bench = Bench.of(tmp_path, AT_ONCE + mail(tmp_path, box) + route(["mail"]))
    bench.run(T0 + 2 * SECOND, opened())
    bench.run(T0 + 2 * MINUTE, then(opened(), "resolved"))
    bench.close()
    subjects = [found["Subject"] for found in box.mails]
    assert subjects == [
        "【红色】甲站 扬尘: 发生 / [Red] Alpha Dust: open", "【红色】甲站 扬尘: 已解除 / [Red] Alpha Dust: resolved",
    ]  # fmt: skip
    html = box.mails[0].get_body(("html",))
    assert html is not None
    assert "数值: 细颗粒物PM2.5 300 µg/m³ (限值 250)<br>" in html.get_content()
    assert "Value: PM2.5 mass concentration 300 µg/m³ (limit 250)" in html.get_content()
    assert box.recipients[0] == ["duty@example.cn"]


def test_a_mail_server_that_refuses_is_tried_again(tmp_path: Path, box: Mailbox) -> None:
    """A temporary refusal, then it takes it: one mail."""
    box.refuse = ["451 try again later"]
    bench = Bench.of(tmp_path, AT_ONCE + mail(tmp_path, box) + route(["mail"]))
    bench.run(T0 + 2 * SECOND, opened())
    assert box.mails == []
    assert bench.count("messages", "state = 'queued' AND error != ''") == 1
    bench.clock.advance(MINUTE)
    assert attempt(bench, "notify-mail") == ""
    bench.close()
    assert len(box.mails) == 1


def test_hostile_names_and_notes_stay_text(tmp_path: Path, box: Mailbox, duty: Receiver) -> None:
    """No header, no markup, no template, no control characters; what the person wrote is still to be read."""
    text = STATIONS.replace("甲站", '"<img src=x onerror=alert(2)>"').replace("Alpha", '"<b>$who</b>"')
    head = AT_ONCE + mail(tmp_path, box) + channels(tmp_path, {"duty": duty.url})
    bench = Bench.of(tmp_path, head + route(["mail", "duty"], 'states = ["open", "comment"]'), stations=text)
    bench.run(T0 + 2 * SECOND, opened())
    bench.run(T0 + MINUTE, then(opened(), "comment", 30, who="Li\r\nX: y", note=EVIL))
    bench.close()
    assert len(box.mails) == 2
    texts = []
    for found in box.mails:
        assert found["Bcc"] is None
        assert found["X"] is None
        assert found.defects == []
        html = found.get_body(("html",))
        assert html is not None
        texts.append(html.get_content())
        assert [mark for mark in ("<img", "<b>", "\x1b", "\u202e") if mark in texts[-1]] == []
    assert "&lt;img src=x onerror=alert(1)&gt; Bcc: evil@example.com" in texts[1]
    assert "<img src=x onerror=alert(2)>" in box.mails[0]["Subject"]
    assert "<b>$who</b>" in duty.titles()[0]
    assert "$who ${note} {0} %s [31m [a](http://evil)" in duty.bodies[1]["text"]
    assert box.recipients == [["duty@example.cn"]] * 2


@given(st.text())
def test_cleaned_text_is_one_printable_line_and_html_holds_no_markup(text: str) -> None:
    """For any text."""
    line = clean(text)
    assert line.isprintable()
    assert len(line.splitlines()) <= 1
    assert len(line) <= 300
    assert clean(line) == line
    body = as_html(line).removeprefix("<p>").removesuffix("</p>")
    assert not set('<>"') & set(body)


def test_a_template_of_ones_own(tmp_path: Path, duty: Receiver) -> None:
    """A fixed set of fields; a line whose fields are all empty is left out, one without fields stays."""
    head = AT_ONCE + "title_en = '$station: $value$unit ($$)'\ntext_en = ['Call 110', '$who $note', '$district']\n"
    bench = Bench.of(tmp_path, head + channels(tmp_path, {"duty": duty.url}) + route(["duty"]))
    bench.run(T0 + 2 * SECOND, opened())
    bench.close()
    assert (duty.titles(), duty.bodies[0]["text"]) == (["A: 300µg/m³ ($)"], "Call 110\n370202")


def test_languages() -> None:
    """One, the other, or both with Chinese first."""
    message = trial("c", T0)
    assert message.title("zh") == "青图测试通知"
    assert message.text("en") == "Channel c works; nothing is to be done."
    assert message.text("both") == f"{message.text('zh')}\n\n{message.text('en')}"
    assert Message.from_json(message.to_json()) == message
    row = {"fields": {}, "data": {}, "escalated": False}
    spec = NotifySettings(title_zh="题", title_en="title")
    both = compose("digest", "c", T0, [(["a"], 2), (["b"], 1)], [row] * 2, spec)
    assert (both.title_zh, both.title_en) == ("免打扰时段共 2 条, 最高: 题", "2 came in quiet hours, the worst: title")
    assert (both.text_zh, both.text_en) == ("黄色 1, 蓝色 1\n题\n题", "Yellow 1, Blue 1\ntitle\ntitle")


@pytest.mark.parametrize("kind", ["webhook", "apprise"])
def test_secrets_stand_in_no_error(tmp_path: Path, kind: str) -> None:
    """Neither of an address that is none, nor of one that cannot be reached."""
    for url in ("foo//Sup3rS3cret:pw@h", "https:///Sup3rS3cret", "Sup3rS3cret"):
        with pytest.raises(StartError) as wrong:
            open_channel(channel(tmp_path, url, kind=kind), "en", ManualClock(T0))
        assert "Sup3rS3cret" not in str(wrong.value)
        assert "url_file" in str(wrong.value)
    url = "http://127.0.0.1:9/Sup3rS3cret?key=Sup3rK3y"
    if kind == "apprise":
        url = "json://user:Sup3rS3cret@127.0.0.1:9/Sup3rK3y"
    with pytest.raises(RetryLater) as away:
        open_channel(channel(tmp_path, url, kind=kind), "en", ManualClock(T0)).send(trial("c", T0))
    assert "Sup3r" not in str(away.value)


def test_secrets_are_taken_out_of_what_libraries_say() -> None:
    """Also as they were written before they were quoted."""
    secrets = secrets_of("wecombot://abcd-1234/?x=%E4%B8%AA%E5%AF%86%E9%92%A5&a=b")
    assert scrubbed("POST /abcd-1234 failed for 个密钥 and a b", secrets) == "POST /*** failed for *** and a b"
    assert scrubbed("no route to 10.0.0.1", secrets_of("https://10.0.0.1/k3y")) == "no route to 10.0.0.1"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """By the key of the settings."""
    with pytest.raises(StartError, match=r"notify\.channels\.c\.url_file .*cannot be read"):
        open_channel(
            ChannelSettings.model_validate({"name": "c", "url_file": tmp_path / "none"}), "en", ManualClock(T0)
        )
    with pytest.raises(StartError, match="must hold one line"):
        open_channel(channel(tmp_path, "a b"), "en", ManualClock(T0))


def test_without_apprise_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the extra, or use the webhook, which needs nothing."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(StartError, match=r"pip install 'qingtu\[notify\]', or use kind = 'webhook'"):
        open_channel(channel(tmp_path, "json://127.0.0.1", kind="apprise"), "en", ManualClock(T0))
    open_channel(channel(tmp_path, "http://127.0.0.1:9"), "en", ManualClock(T0))


def test_an_address_whose_failures_would_count_as_success_is_refused(tmp_path: Path) -> None:
    """With optional=yes apprise would lose what was not taken."""
    with pytest.raises(StartError, match="without optional=yes"):
        open_channel(channel(tmp_path, "json://127.0.0.1/?optional=yes", kind="apprise"), "en", ManualClock(T0))


@pytest.mark.parametrize(
    "url", ["wecombot://12345678-abcd", "dingtalk://tokentokentoken123", "lark://tokentoken123", "mailtos://u:p@h.cn"]
)
def test_services_that_are_named_in_the_docs_are_known(tmp_path: Path, url: str) -> None:
    """Their addresses are accepted, and none gets markup but mail."""
    made = open_channel(channel(tmp_path, url, kind="apprise"), "en", ManualClock(T0))
    assert getattr(made, "_html") is url.startswith("mail")  # noqa: B009 - which kind it is, mypy need not know
