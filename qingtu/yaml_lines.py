"""YAML files whose every value knows its line, so that a problem can point at what the user wrote.

PyYAML keeps the last of two equal keys in silence; here that is a problem.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from qingtu.errors import Problem
from qingtu.yaml_values import DEEPEST, Key, made_readable, too_deep

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Key", "SourceFile", "dotted", "written"]


class SourceFile:
    """One YAML file, read safely (no Python objects).

    Args:
        path: the file; it stands in problems as given.

    Attributes:
        name: the path as text.
        data: what the file holds; None when it is empty or cannot be parsed. What has no value is text.
        problems: what is wrong with the file as YAML.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.data: Any = None
        self.problems: list[Problem] = []
        self._root: yaml.Node | None = None
        self._unread: set[tuple[int, int]] = set()
        try:
            self._read(path.read_bytes().decode("utf-8"))
        except OSError as error:
            self._refuse(0, f"无法读取 / cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            self._refuse(0, f"不是 UTF-8 / is not UTF-8 at byte {error.start}")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._refuse(mark.line + 1 if mark else 0, f"不是 YAML / is not valid YAML: {error.problem}")
        except yaml.YAMLError as error:
            self._refuse(0, f"不是 YAML / is not valid YAML: {error}")

    def line(self, path: Sequence[Key]) -> int:
        """Return the 1-based line of the value at ``path``; of its nearest parent when it is absent.

        Of what an alias (``*name``) stands for, it is the line where the text stands.
        """
        return self._find(path)[0]

    def spot(self, path: Sequence[Key]) -> tuple[int, int]:
        """Return line and column where the text of the value at ``path`` begins: the same for all uses of an anchor."""
        return self._find(path)[1]

    def told(self, path: Sequence[Key]) -> bool:
        """Return whether :attr:`problems` say that there is no value at ``path``: nothing else is known of it."""
        return self.spot(path) in self._unread

    def problem(
        self, path: Sequence[Key], message: str, value: object = None, *, at: Sequence[Key] | None = None
    ) -> Problem:
        """Make a problem of the value at ``path``.

        Args:
            path: keys and list positions from the top of the file.
            message: what is wrong and what is allowed.
            value: what was found; cut to 80 characters.
            at: the path whose line is told, when it is another.
        """
        shown = "" if value is None else str(value)
        shown = f"{shown[:79]}…" if len(shown) > 80 else shown
        return Problem(self.name, self.line(path if at is None else at), dotted(path), shown, message)

    def _find(self, path: Sequence[Key]) -> tuple[int, tuple[int, int]]:
        node, line, spot = self._root, 1, (1, 1)
        for key in path:
            found = _child(node, key)
            if found is None:
                break
            at, node = found
            line, spot = at.start_mark.line + 1, (node.start_mark.line + 1, node.start_mark.column + 1)
        return line, spot

    def _read(self, text: str) -> None:
        if line := too_deep(text):
            self._refuse(line, f"嵌套过深 / nests deeper than {DEEPEST} levels, as no catalogue does")
            return
        loader = yaml.CSafeLoader(text)
        try:
            self._root = loader.get_single_node()
            if self._root is not None:
                self._find_duplicates(self._root, (), set())
                for fault in made_readable(self._root):
                    self.problems.append(self.problem(fault.path, fault.message, fault.value))
                    self._unread.add((fault.spot.line + 1, fault.spot.column + 1))
                self.data = loader.construct_document(self._root)
        finally:
            loader.dispose()

    def _refuse(self, line: int, message: str) -> None:
        self.problems.append(Problem(self.name, line, "file", "", message))

    def _find_duplicates(self, node: yaml.Node, path: tuple[Key, ...], seen: set[int]) -> None:
        if id(node) in seen or isinstance(node, yaml.ScalarNode):  # an alias may point back at its own parent
            return
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for position, item in enumerate(node.value):
                self._find_duplicates(item, (*path, position), seen)
            return
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines and name != "<<":
                text = f"键重复 / stands twice; first on line {lines[name]}"
                self.problems.append(Problem(self.name, line, dotted((*path, name)), "", text))
            lines.setdefault(name, line)
            self._find_duplicates(value, (*path, name), seen)


def dotted(path: Sequence[Key]) -> str:
    """Write a path as users read it.

    >>> dotted(("stations", 3, "position"))
    'stations[3].position'
    """
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def written(value: object) -> object:
    """Return a value as it is written in YAML on one line; words and numbers stay what they are.

    >>> written({"blue": 2, "red": [1, True]})
    '{blue: 2, red: [1, true]}'
    """
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {written(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(str(written(one)) for one in value)}]"
    return str(value).lower() if isinstance(value, bool) else value


def _child(node: yaml.Node | None, key: Key) -> tuple[yaml.Node, yaml.Node] | None:
    """Return (the node that carries the line, the value's node) of one step down, or None."""
    if isinstance(node, yaml.MappingNode):
        for name, value in reversed(node.value):  # of merged keys the last one counts
            if str(name.value) == str(key):
                # an anchor stands before its uses: a value that is older than its key is one
                return (value if value.start_mark.index < name.start_mark.index else name), value
    elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key], node.value[key]
    return None
