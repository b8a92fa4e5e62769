"""What is wrong with a value in a request is told in Chinese and English."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.web.conftest import Running


@pytest.mark.parametrize(
    ("path", "zh", "en"),
    [
        ("alerts?state=actve", "query.state: 须为其一", "query.state: must be one of active, all"),
        ("alerts?limit=0", "query.limit: 不得小于 1", "query.limit: must be at least 1"),
        ("series?station=A", "query.property: 缺少", "query.property: is missing"),
        ("series?station=A&property=pm25&from_ms=x", "query.from_ms: 须为整数", "must be a whole number"),
    ],
)
def test_a_wrong_value_is_told_in_two_languages(run: Running, path: str, zh: str, en: str) -> None:
    """Each in its own words: which parameter, and what is allowed."""
    answer = run.http.get(f"/api/{path}")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "bad_request")
    assert zh in error["zh"]
    assert en in error["en"]
    assert not re.search(r"[\u4e00-\u9fff]", error["en"])
    assert " / " in error["fields"][0]["message"]


def test_a_wrong_body_is_told_in_two_languages(run: Running) -> None:
    """A field that there is not, and two choices at once."""
    answer = run.post("alerts/mute", {"for_s": 1, "statoin": "A"})
    assert (answer.status_code, answer.json()["error"]["zh"]) == (422, "请求有误: body.statoin: 没有此字段")
    error = run.post("quarantine/redrive", {}).json()["error"]
    assert "请给出" in error["zh"]
    assert "all: true" in error["en"]
    assert "请给出" not in error["en"]
