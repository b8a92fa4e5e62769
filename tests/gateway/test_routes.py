"""Routes: what a topic says, and what is wrong with a route."""

from __future__ import annotations

from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.routes import CACHE_TOPICS, RouteTable, filter_of, takes_all
from qingtu.errors import ConfigError
from qingtu.settings import RouteSettings


def route(topic: str, **more: Any) -> RouteSettings:
    return RouteSettings(**{"name": "r", "topic": topic, **more})


@pytest.mark.parametrize(
    ("topic", "got", "says"),
    [
        ("qt/{network}/{device}/up", "qt/air/d1/up", ("air", "d1")),
        ("qt/{network}/{device}/up", "qt/air/d 1.é/up", ("air", "d 1.é")),
        ("qt/{network}/{device}/up", "qt/air//up", None),
        ("qt/{network}/{device}/up", "qt//d1/up", None),
        ("qt/{network}/{device}/up", "qt/air/d1/up/x", None),
        ("a.c/{network}/{device}", "abc/air/d1", None),
        ("{network}/{_}/{device}", "air/any/d1", ("air", "d1")),
        ("{network}/{_}/{device}", "air//d1", ("air", "d1")),
        ("{network}/{device}/{_*}", "air/d1", ("air", "d1")),
        ("{network}/{device}/{_*}", "air/d1/x/y/z", ("air", "d1")),
        ("{network}/{device}/{_*}", "air/d1/", ("air", "d1")),
        ("{network}/{device}", "air/d\n1", ("air", "d\n1")),
    ],
)
def test_what_a_topic_says(topic: str, got: str, says: tuple[str, str] | None) -> None:
    """Named parts are found; an empty device or network is no match."""
    match = RouteTable([route(topic)]).match(got)
    assert (match and (match.network, match.device)) == says


def test_the_first_route_that_matches_wins() -> None:
    """The order of the settings decides; the route's network stands in when the topic has none."""
    table = RouteTable(
        [route("qt/x/{device}", name="first", network="n"), route("qt/{network}/{device}", name="second")]
    )
    assert [(m.route.name, m.network) for t in ("qt/x/d", "qt/y/d") if (m := table.match(t))] == [
        ("first", "n"),
        ("second", "y"),
    ]


def test_a_shared_filter_is_subscribed_once_with_the_greater_qos() -> None:
    """Two routes that differ only in their names for levels share one subscription."""
    table = RouteTable(
        [
            route("a/{device}/{_}", network="n", qos=0),
            route("a/{_}/{device}", network="n", qos=1),
            route("b/{network}/{device}/{_*}"),
        ]
    )
    assert table.subscriptions() == [("a/+/+", 1), ("b/+/+/#", 1)]


@pytest.mark.parametrize(
    ("first", "second", "hidden"),
    [
        ("qt/{network}/{device}/up", "qt/home/{device}/up", True),
        ("qt/home/{device}/up", "qt/{network}/{device}/up", False),
        ("qt/{device}/{_*}", "qt/{network}/{device}/up", True),
        ("qt/{device}/{_*}", "qt/{device}", True),
        ("qt/{device}", "qt/{device}", True),
        ("a/{device}/{_}", "a/{_}/{device}", False),
        ("a/{_}/{device}", "a/{network}/{device}", True),
        ("a/{device}", "b/{device}", False),
    ],
)
def test_a_route_that_no_topic_reaches_is_refused(first: str, second: str, hidden: bool) -> None:
    """Settings that name it as if it worked would lose nothing, and say nothing, and its messages go elsewhere."""
    routes = [route(first, name="one", network="n"), route(second, name="two", network="n")]
    if not hidden:
        RouteTable(routes)
        return
    with pytest.raises(ConfigError) as caught:
        RouteTable(routes)
    [problem] = caught.value.problems
    assert (problem.key, problem.value) == ("routes.2.topic", repr(second))
    assert f"永远轮不到 / is never reached: route 'one' ({first})" in problem.message


_PATTERN = st.lists(st.sampled_from(["a", "{_}", "{network}", ""]), max_size=3).filter(
    lambda parts: parts.count("{network}") < 2
)


@given(_PATTERN, _PATTERN, st.booleans(), st.booleans(), st.lists(st.sampled_from(["a", "b", ""]), max_size=5))
def test_what_is_called_hidden_is_matched_before(
    one: list[str], two: list[str], rest_one: bool, rest_two: bool, topic: list[str]
) -> None:
    """Of no topic that a route matches is it said in vain that the route before it takes all."""
    first, second = (
        "/".join([*parts, "{device}", *(["{_*}"] if rest else [])])
        for parts, rest in ((one, rest_one), (two, rest_two))
    )
    text = "/".join(topic)
    if takes_all(first, second) and RouteTable([route(second, network="n")]).match(text):
        assert RouteTable([route(first, network="n")]).match(text)


levels = st.lists(st.sampled_from(["a", "b", "", "$x", "é"]), min_size=1, max_size=5)


@given(st.lists(st.sampled_from(["a", "{_}", "{network}"]), max_size=3, unique=True), st.booleans(), levels)
def test_a_match_was_subscribed_to(parts: list[str], rest: bool, topic: list[str]) -> None:
    """Whatever a route matches, its MQTT filter matches too (paho's matcher is the oracle)."""
    pattern = "/".join(["a", *parts, "{device}", *(["{_*}"] if rest else [])])
    text = "/".join(["a", *topic])
    matched = RouteTable([route(pattern, network="n")]).match(text)
    named = [i for i, part in enumerate(pattern.split("/")) if part in {"{device}", "{network}"}]
    full = all(i < len(text.split("/")) and text.split("/")[i] for i in named)
    assert (matched is not None) == (paho.topic_matches_sub(filter_of(pattern), text) and full)


@pytest.mark.parametrize(
    ("topic", "more", "words"),
    [
        ("qt/{network}/{device}/{x}", {}, "{x}"),
        ("qt/{network}/p{device}", {}, "whole level"),
        ("qt/{device}/{device}", {"network": "n"}, "only once"),
        ("{_*}/{device}", {"network": "n"}, "last"),
        ("qt/{device}", {}, "network must be given"),
        ("qt/{network}/{device}", {"redact": "nothing"}, "native"),
    ],
)
def test_wrong_routes_are_all_named(topic: str, more: dict[str, Any], words: str) -> None:
    """Every problem of every route at once, with what is allowed."""
    with pytest.raises(ConfigError) as caught:
        RouteTable([route(topic, **more), route("x/{device}", name="other")])
    first, second = caught.value.problems
    assert words in first.message
    assert (first.key.rpartition(".")[0], second.key) == ("routes.1", "routes.2.network")


def test_privacy_follows_the_network_or_the_route() -> None:
    """A private network is private on every route; the decoder's own redactor stands in."""
    table = RouteTable(
        [route("qt/{network}/{device}/up"), route("x/{network}/{device}", name="x", decoder="other"),
         route("p/{device}/{_}", name="p", network="park", redact="native")],
        frozenset({"community"}),
    )  # fmt: skip
    said = {
        t: m and (m.private, m.redactor)
        for t in ("qt/air/d/up", "qt/community/d/up", "x/community/d", "p/d/1")
        for m in [table.match(t)]
    }
    assert said == {
        "qt/air/d/up": (False, None),
        "qt/community/d/up": (True, "native"),
        "x/community/d": (True, None),
        "p/d/1": (True, "native"),
    }
    match = table.match("p/d/1")
    assert match is not None
    assert match.public_levels == frozenset({0, 1})
    assert [table.may_be_private(t) for t in ("p//x", "a/community", "q/d/1", "qt/air//up")] == [
        True,
        True,
        False,
        False,
    ]


def test_the_cache_is_bounded() -> None:
    """Invented topics do not grow memory, and answers stay right."""
    table = RouteTable([route("{network}/{device}")])
    for i in range(CACHE_TOPICS + 10):
        table.match(f"n/{i}")
    assert len(table._cache) <= CACHE_TOPICS
    match = table.match("n/5")
    assert match is not None
    assert match.device == "5"
