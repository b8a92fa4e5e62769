"""What stands in a YAML file but has no value: a thirteenth month, a number without digits, an anchor inside itself.

PyYAML stops at the first of them with whatever exception its conversion happens to raise. Here each is told with its
place and becomes text, so that it hides nothing else of its file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import yaml

Key = str | int

DEEPEST: Final = 64
"""Levels that a file may nest; a catalogue needs ten. PyYAML calls itself once for each, and a file could kill us."""
_TAG: Final = "tag:yaml.org,2002:"
_TEXT: Final = f"{_TAG}str"
_LARGEST: Final = 2**64 - 1
_SMALLEST: Final = -(2**63)
"""Whole numbers beyond these have no place in JSON as we archive it, nor in any field."""

_OR_QUOTED: Final = "correct it, or write it in quotes if it is text"
_MOMENT: Final = f"没有这个时间, 文本须加引号 / is read by YAML as a date or time, and there is no such: {_OR_QUOTED}"
_NUMBER: Final = f"不是数值, 文本须加引号 / is read by YAML as a number, and is none: {_OR_QUOTED}"
_SAYS: Final = {
    f"{_TAG}timestamp": _MOMENT,
    f"{_TAG}int": _NUMBER,
    f"{_TAG}float": _NUMBER,
    f"{_TAG}value": "有特殊含义, 须加引号 / has a meaning of its own in YAML: write it in quotes",
    f"{_TAG}merge": "有特殊含义, 须加引号 / has a meaning of its own in YAML: write it in quotes",
}
_OTHER: Final = "YAML 标记不适用 / does not fit its YAML tag: allowed are text, numbers, true and false, without a tag"
_TOO_LARGE: Final = (
    f"整数过大, 编号须加引号 / whole numbers must be from {_SMALLEST} to {_LARGEST}: "
    "write it in quotes if it is an identifier"
)
_ROUND: Final = "锚点在自身之内 / is an anchor that stands inside itself: write the values out"
# what PyYAML's conversions raise at a wrong text, besides its own errors
_RAISED: Final = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class Fault:
    """A place without a value.

    Attributes:
        path: keys and list positions from the top of the file.
        spot: the mark of the node there.
        value: what is written there.
        message: what is wrong and what is allowed, "中文 / English".
    """

    path: tuple[Key, ...]
    spot: yaml.Mark
    value: str
    message: str


def too_deep(text: str) -> int:
    """Return the 1-based line on which a text nests deeper than :data:`DEEPEST`, 0 when none does.

    Raises:
        yaml.YAMLError: the text is no YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                return event.start_mark.line + 1 if event.start_mark else 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return 0


def made_readable(root: yaml.Node) -> list[Fault]:
    """Turn every node that has no value into text, and return them; each once, however often an anchor is used."""
    walk = _Walk()
    walk.visit(root, ())
    return walk.faults


@dataclass(slots=True)
class _Walk:
    faults: list[Fault] = field(default_factory=list)
    _constructor: yaml.constructor.SafeConstructor = field(default_factory=yaml.constructor.SafeConstructor)
    _seen: set[int] = field(default_factory=set)
    _around: set[int] = field(default_factory=set)

    def visit(self, node: yaml.Node, path: tuple[Key, ...]) -> None:
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            self._judge(node, path)
            return
        self._around.add(id(node))
        if isinstance(node, yaml.MappingNode):
            node.value = [(name, self._entry(name, value, path)) for name, value in node.value]
        else:
            node.value = [self._child(item, (*path, i), node.start_mark) for i, item in enumerate(node.value)]
        self._around.discard(id(node))

    def _entry(self, name: yaml.Node, value: yaml.Node, path: tuple[Key, ...]) -> yaml.Node:
        inside = (*path, str(name.value))
        if name.tag != f"{_TAG}merge":
            self.visit(name, inside)
        return self._child(value, inside, name.end_mark)

    def _child(self, node: yaml.Node, path: tuple[Key, ...], mark: yaml.Mark) -> yaml.Node:
        """Return the node, or text in the place of one that stands around itself."""
        if id(node) not in self._around:
            self.visit(node, path)
            return node
        self.faults.append(Fault(path, mark, "", _ROUND))
        return yaml.ScalarNode(_TEXT, "", mark, mark)

    def _judge(self, node: yaml.ScalarNode, path: tuple[Key, ...]) -> None:
        if node.tag == _TEXT:
            return
        try:
            value = self._constructor.construct_object(node)
        except _RAISED:
            self._constructor = yaml.constructor.SafeConstructor()  # it would take the node for one inside itself
            said = _SAYS.get(node.tag, _OTHER)
        else:
            if not isinstance(value, int) or _SMALLEST <= value <= _LARGEST:
                return
            said = _TOO_LARGE
        self.faults.append(Fault(path, node.start_mark, node.value, said))
        node.tag = _TEXT
