"""The house rules: short modules and functions, nothing left undone, all documented."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pathlib
import re

import click
import pytest
from flask import Flask

import flask_durable
from flask_durable import errors
from flask_durable import FlaskDurable
from flask_durable.config import Config
from flask_durable.config import PREFIX

MODULE_LINES = 350
FUNCTION_LINES = 50

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = pathlib.Path(flask_durable.__file__).parent
FOLDERS = ("flask_durable", "example_trip_booker", "docs", "tests")
TEXTS = {".css", ".html", ".js", ".py", ".rst", ".toml"}

modules = pytest.mark.parametrize(
    "path",
    sorted(PACKAGE.rglob("*.py")),
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)


def page(name: str) -> str:
    """Read a page of the docs, or all of them, where there are any."""
    paths = sorted((ROOT / "docs").glob(name))

    if not paths:
        pytest.skip(f"there is no docs/{name} here")

    return "\n".join(path.read_text() for path in paths)


@modules
def test_module_is_short(path: pathlib.Path) -> None:
    """A module fits in a head."""
    assert len(path.read_text().splitlines()) <= MODULE_LINES


@modules
def test_functions_are_short(path: pathlib.Path) -> None:
    """A function fits on a screen."""
    long = [
        f"{node.name}, line {node.lineno}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_left_undone(folder: str) -> None:
    """No note says that something is still to be done."""
    note = re.compile("TO" + r"DO\b")
    found = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in TEXTS and note.search(path.read_text())
    ]
    assert found == []


def test_public_names_exist() -> None:
    """``__all__`` has no name twice, and none that is missing."""
    assert len(set(flask_durable.__all__)) == len(flask_durable.__all__)
    missing = [n for n in flask_durable.__all__ if not hasattr(flask_durable, n)]
    assert missing == []


def test_errors_that_users_meet_are_public() -> None:
    """All of the library's own but one, which never leaves it."""
    found = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.DurableError)
    }
    assert found - set(flask_durable.__all__) == {"KeyTaken"}


def test_public_names_are_documented() -> None:
    """The API page has every public name."""
    text = page("api.rst")
    names = flask_durable.__all__
    assert [n for n in names if not re.search(rf"\b{n}\b", text)] == []


def test_options_of_endpoints_are_documented() -> None:
    """The API page, which has them by hand, has every one."""
    text = page("api.rst")
    options = list(inspect.signature(FlaskDurable.endpoint).parameters)[2:]
    known = [n for n in options if f" {n}=" in text and f":param {n}:" in text]
    assert known == options


def test_settings_are_documented() -> None:
    """The configuration page has every key."""
    text = page("configuration.rst")
    keys = {PREFIX + field.name.upper() for field in dataclasses.fields(Config)}
    assert keys - set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", text)) == set()


def test_documented_settings_exist() -> None:
    """No page speaks of a key that does not exist."""
    keys = {PREFIX + field.name.upper() for field in dataclasses.fields(Config)}
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", page("*.rst"))) - keys == set()


def test_commands_are_documented(tmp_path: pathlib.Path) -> None:
    """The docs have every command of ``flask durable``."""
    app = Flask(__name__, instance_path=str(tmp_path))
    app.config.update(SECRET_KEY="tests", TESTING=True)
    FlaskDurable(app)
    group = app.cli.commands.get("durable")

    if not isinstance(group, click.Group):
        pytest.skip("there are no commands")

    text = page("*.rst")
    names = sorted(group.commands)
    assert [n for n in names if not re.search(rf"durable {n}\b", text)] == []
