"""The source of a view as the page shows it: line by line, with the steps in each."""

from __future__ import annotations

import ast
import collections
import collections.abc as cabc
import dataclasses
import inspect
import re
import textwrap

TOKENS = re.compile(
    r'(?P<text>"""[^"]*"""|"[^"]*")'
    r"|(?P<comment>#.*)"
    r"|(?P<decorator>^@[\w.]+)"
    r"|(?P<keyword>\b(?:def|return|try|except|as|if|lambda|and|or|not|in|for)\b)"
    r"|(?P<step>\bstep\.\w+|\w+\.wait\b)"
    r"|(?P<number>\b\d+\b|\b(?:True|False|None)\b)"
)


@dataclasses.dataclass(frozen=True)
class Line:
    """A line in pieces, each with a kind such as ``"keyword"``, and its steps."""

    number: int
    pieces: list[tuple[str, str]]
    steps: list[str]


@dataclasses.dataclass(frozen=True)
class Source:
    """A view's source."""

    lines: list[Line]
    planned: list[str]
    """The steps that run whatever happens, in order."""


class Finder(ast.NodeVisitor):
    """Finds the steps in a view."""

    def __init__(self) -> None:
        self.lines: dict[int, list[str]] = collections.defaultdict(list)
        self.planned: list[str] = []
        self._callbacks: dict[str, str] = {}
        self._conditions = 0

    def visit_If(self, node: ast.If) -> None:
        """Treat the steps inside as conditional."""
        self._conditionally(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """Treat the steps inside as conditional."""
        self._conditionally(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Remember the name of the variable that holds a callback."""
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(
                    func=ast.Attribute(attr="callback"), args=[ast.Constant(value=id)]
                ),
            ):
                self._callbacks[name] = str(id)
            case _:
                self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Note the lines of a step's call."""
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="step")),
                args=[ast.Constant(value=str(id)), *_],
            ):
                self._note(id, node)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="wait")):
                self._note(self._callbacks[name], node)
            case _:
                self.generic_visit(node)

    def _conditionally(self, node: ast.AST) -> None:
        self._conditions += 1
        self.generic_visit(node)
        self._conditions -= 1

    def _note(self, id: str, call: ast.Call) -> None:
        for number in range(call.lineno, (call.end_lineno or call.lineno) + 1):
            self.lines[number].append(id)

        if not self._conditions:
            self.planned.append(id)


def read_source(view: cabc.Callable[..., object]) -> Source:
    """Read a view's source from its file."""
    lines, first = inspect.getsourcelines(inspect.unwrap(view))
    text = textwrap.dedent("".join(lines))
    finder = Finder()
    finder.visit(ast.parse(text))
    numbered = enumerate(text.splitlines(), 1)
    return Source(
        [Line(first + n - 1, cut(line), finder.lines[n]) for n, line in numbered],
        finder.planned,
    )


def cut(line: str) -> list[tuple[str, str]]:
    """Cut a line into pieces that are highlighted differently."""
    pieces, end = [], 0

    for found in TOKENS.finditer(line):
        pieces.append(("", line[end : found.start()]))
        pieces.append((found.lastgroup or "", found[0]))
        end = found.end()

    return [(kind, text) for kind, text in [*pieces, ("", line[end:])] if text]
