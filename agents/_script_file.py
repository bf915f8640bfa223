"""Reads a script from TOML. Every mistake is named by file, table and key."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, cast, get_args, get_origin

import attrs
import cattrs
from cattrs import Converter, transform_error
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from ..core.errors import SettingsError
from ._script import Script, ScriptedTurn
from ._speech import Chunking
from ._steps import (
    AwaitSteering,
    CallTool,
    Crash,
    Emit,
    EndMessage,
    Fail,
    Pace,
    Progress,
    Repeat,
    ReportUsage,
    Say,
    Step,
    Stop,
    Think,
    Together,
    Wait,
)

__all__ = ["parse_script", "read_script", "structure_script"]

T = TypeVar("T")

#: The key that says which kind a step is → the kind.
KINDS: Final[dict[str, type[Step]]] = {
    "say": Say,
    "think": Think,
    "end_message": EndMessage,
    "wait_seconds": Wait,
    "tool": CallTool,
    "together": Together,
    "steering_seconds": AwaitSteering,
    "repeat": Repeat,
    "emit": Emit,
    "input_tokens": ReportUsage,
    "output_tokens": ReportUsage,
    "stop": Stop,
    "fail": Fail,
    "crash": Crash,
}
#: At most so many mistakes in one message: the first is mostly the cause of the others.
_MOST_SHOWN: Final = 3
#: Lists whose items have a word of their own in messages.
_SINGULAR: Final = {"turns": "turn", "steps": "step"}


def read_script(path: str | os.PathLike[str]) -> Script:
    """Read a script file.

    Raises:
        SettingsError: It cannot be read, or has mistakes; names file, table and key.
    """
    try:
        source = Path(path).read_bytes()
    except OSError as exc:
        raise SettingsError(f"script {path}: {exc.strerror or exc}") from None
    return parse_script(source, name=os.fspath(path))


def parse_script(source: bytes, *, name: str) -> Script:
    """Make a script of the contents of a file, which is called ``name`` in messages.

    Raises:
        SettingsError: It has mistakes.
    """
    try:
        tables = tomllib.loads(source.decode())
    except UnicodeDecodeError as exc:
        raise SettingsError(f"script {name}: not UTF-8 at byte {exc.start}") from None
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"script {name}: not TOML: {exc}") from None
    except RecursionError:
        raise SettingsError(f"script {name}: nested too deeply") from None
    return structure_script(tables, name=name)


def structure_script(tables: Mapping[str, Any], *, name: str) -> Script:
    """Make a script of the tables of a file.

    Raises:
        SettingsError: They have mistakes.
    """
    try:
        return _converter.structure(tables, Script)
    except (cattrs.BaseValidationError, ValueError, TypeError) as exc:
        raise SettingsError(f"script {name}: {_explain(exc)}") from None


# -- structure -------------------------------------------------------------------------------


def _make_converter() -> Converter:
    # Not core.codec: a peer's unknown member may be of a later version and is ignored, while an
    # unknown key in a file is a slip of the pen. And names stay as they are written.
    converter = Converter(forbid_extra_keys=True)
    for kind, word, accepted in (
        (str, "a text", (str,)),
        (int, "a whole number", (int,)),
        (float, "a number", (float, int)),
        (bool, "true or false", (bool,)),
    ):
        converter.register_structure_hook(kind, _strict(kind, word, accepted))

    hooks: dict[Any, Callable[[Any, Any], Any]] = {}

    def structure_table(cls: type[T], value: Any) -> T:
        hook = hooks.get(cls)
        if hook is None:  # at the first use: the classes name each other
            hook = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True)
            hooks[cls] = hook
        return cast("T", hook(_table(value), cls))

    def structure_step(value: Any, _: Any) -> Step:
        if type(value) is str:
            return Say(value)
        return structure_table(_kind_of_step(value), value)

    def structure_progress(value: Any, _: Any) -> Progress:
        return Progress(value) if type(value) is str else structure_table(Progress, value)

    def structure_tool(value: Any, _: Any) -> CallTool:
        if _kind_of_step(value) is not CallTool:
            raise TypeError("expected a tool: only tools run together")
        return structure_table(CallTool, value)

    def structure_turn(value: Any, _: Any) -> ScriptedTurn:
        if type(value) is str:
            return ScriptedTurn(value)
        if type(value) is not dict:
            raise TypeError("expected a text or a table")
        table = cast("dict[str, Any]", value)
        if "say" in table:  # short for a turn of one step
            if "steps" in table:
                raise ValueError("say and steps: a turn has one of them")
            table = {**table, "steps": [table["say"]]}
            del table["say"]
        return structure_table(ScriptedTurn, table)

    def structure_list(cls: Any) -> Callable[[Any, Any], Any]:
        return _list_hook(converter, get_args(cls)[0])

    converter.register_structure_hook(Step, structure_step)
    converter.register_structure_hook(CallTool, structure_tool)
    converter.register_structure_hook(Progress, structure_progress)
    converter.register_structure_hook(ScriptedTurn, structure_turn)
    converter.register_structure_hook(Pace, lambda value, _: structure_table(Pace, value))
    converter.register_structure_hook(Script, lambda value, _: structure_table(Script, value))
    # Their validators say what is wrong in the words of a file, so values go there as they are.
    converter.register_structure_hook_func(
        lambda cls: cls in (Chunking, Chunking | None), lambda value, _: value
    )

    converter.register_structure_hook_func(_is_a(Mapping), lambda value, _: _table(value))
    converter.register_structure_hook_factory(_is_a(tuple), structure_list)
    return converter


def _is_a(origin: Any) -> Callable[[Any], bool]:
    return lambda cls: get_origin(cls) is origin


def _strict(
    kind: Callable[[Any], Any], word: str, accepted: tuple[type[Any], ...]
) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if type(value) not in accepted:
            raise TypeError(f"expected {word}")
        return kind(value)

    return hook


def _table(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise TypeError("expected a table")
    return cast("dict[str, Any]", value)


def _list_hook(converter: Converter, item: Any) -> Callable[[Any, Any], Any]:
    listed: Any = cast("Any", list)[item]

    def hook(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise TypeError("expected a list")
        return tuple(converter.structure(value, listed))

    return hook


def _kind_of_step(value: Any) -> type[Step]:
    if type(value) is not dict:
        raise TypeError("expected a text or a table")
    table = cast("dict[str, Any]", value)
    keys = [key for key in table if key in KINDS]
    kinds = {KINDS[key] for key in keys}
    if len(kinds) > 1:
        raise ValueError(f"{' and '.join(keys)} in one step: make them a step each")
    if not kinds:
        there = f"not just {', '.join(table)}" if table else "this one is empty"
        raise ValueError(f"a step has one of the keys {', '.join(KINDS)}; {there}")
    return kinds.pop()


# -- messages --------------------------------------------------------------------------------


def _explain(exc: BaseException) -> str:
    if isinstance(exc, cattrs.BaseValidationError):
        lines = transform_error(exc, path="", format_exception=_describe)
    else:
        lines = [_describe(exc, None)]
    shown = [_place_first(line) for line in lines[:_MOST_SHOWN]]
    if len(lines) > _MOST_SHOWN:
        shown.append(f"and {len(lines) - _MOST_SHOWN} more")
    return "; ".join(shown)


def _describe(exc: BaseException, _: type[Any] | None) -> str:
    match exc:
        case ForbiddenExtraKeysError():
            known = ", ".join(field.name for field in attrs.fields(exc.cl))
            if exc.cl is ScriptedTurn:
                known = f"say, {known}"
            unknown = " and ".join(repr(key) for key in sorted(exc.extra_fields))
            return f"unknown key {unknown}: there are {known}"
        case KeyError():
            return "the key is missing"
        case _:
            return str(exc)


def _place_first(line: str) -> str:
    """``expected a text @ .turns[0].steps[2].say`` → ``turn 1, step 3, say: expected a text``."""
    message, _, path = line.rpartition(" @ ")
    parts: list[str] = []
    for part in re.findall(r"\w+(?:\[\d+\])*", path):
        name, *indexes = re.split(r"[\[\]]+", part.rstrip("]"))
        places = " ".join(str(int(index) + 1) for index in indexes)
        parts.append(f"{_SINGULAR.get(name, name)} {places}" if places else name)
    return f"{', '.join(parts)}: {message}" if parts else message


_converter: Final = _make_converter()
