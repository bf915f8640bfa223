"""What a command is made of: parameters, help, exit codes. Alone knows cyclopts.

A command is a function whose parameters are `Annotated` with what `option` gives; it returns the
exit code. `Environ` marks the parameter ``environ`` through which it gets the environment, `Argv`
that of ``argv``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, TypeVar

import attrs
import cyclopts
from cyclopts import App, Group, Parameter

from ._exits import EXIT_USAGE, UsageError

if TYPE_CHECKING:
    from ._options import Option

__all__ = [
    "Argv",
    "CommandGroup",
    "Environ",
    "given_flags",
    "make_app",
    "option",
    "parse",
    "takes_flags",
]

F = TypeVar("F", bound=Callable[..., int])

#: The environment, which `main` is given.
Environ: TypeAlias = Annotated[Mapping[str, str], Parameter(parse=False)]
#: The arguments, as `main` is given them: what runs the same command again.
Argv: TypeAlias = Annotated[Sequence[str], Parameter(parse=False)]


def option(
    help: str,  # noqa: A002 - it is that
    *,
    name: str | None = None,
    metavar: str | None = None,
    group: str | None = None,
) -> Parameter:
    """Describe a parameter, in its annotation.

    Args:
        help: For ``--help``.
        name: Of the flag; by default the parameter's. A short one may follow: ``--plain -p``.
        metavar: What stands for the value in the help.
        group: The heading in the help.
    """
    told: dict[str, Any] = {"help": help, "negative": (), "show_default": False}
    if name is not None:
        told["name"] = name.split()
    if metavar is not None:
        told["metavar"] = metavar
    if group is not None:
        told["group"] = _group(group)
    return Parameter(**told)


def takes_flags(options: Iterable[Option]) -> Callable[[F], F]:
    """Give a command a flag for each option, in its parameter ``flags``: see `given_flags`."""

    def decorate(function: F) -> F:
        function.__annotations__["flags"] = _make_flags(options)
        return function

    return decorate


def given_flags(flags: Any) -> dict[str, Any]:
    """Take what was said, by the options' names, and not read yet. What was not said is not there."""
    said = {} if flags is None else attrs.asdict(flags, recurse=False)
    return {name: value for name, value in said.items() if value not in (None, ())}


def _make_flags(options: Iterable[Option]) -> Any:
    attributes: dict[str, Any] = {}
    for each in options:
        if each.is_positional or each.is_file_only:
            continue
        hint: Any = str | None
        if each.is_repeated:
            hint = tuple[str, ...]
        elif not each.metavar:
            hint = bool | None
        told = option(
            each.help + _default_of(each),
            name=each.flag,
            metavar=each.metavar or None,
            group=each.group,
        )
        default: Any = () if each.is_repeated else None
        annotation: Any = Annotated[hint, told]
        attributes[each.name] = attrs.field(default=default, type=annotation)
    flags = attrs.make_class("Flags", attributes, frozen=True, kw_only=True)
    return Annotated[flags | None, Parameter(name="*")]


def _default_of(each: Option) -> str:
    """Write the default behind the help, if there is one to speak of."""
    written: Any = each.write(each.default) if each.default is not None else ""
    if each.is_repeated:
        written = " ".join(written)
    return f" [{written}]" if written not in ("", False, {}) else ""


_groups: Final[dict[str, Group]] = {}


def _group(name: str) -> Group:
    """Keep the headings in the order in which they are first named."""
    if name not in _groups:
        _groups[name] = Group(name, sort_key=len(_groups))
    return _groups[name]


@attrs.frozen
class CommandGroup:
    """A command that has commands.

    Attributes:
        summary: For its ``--help``.
        commands: Each one's name, with where it is (``module:function``, imported only when it
            is asked for) and what it does, in a line. A group may stand in a function's place.
    """

    summary: str
    commands: Mapping[str, tuple[str, str]]


def make_app(
    name: str, group: CommandGroup, argv: Sequence[str], version: str | None = None
) -> App:
    """Make the parser of what is asked for.

    Args:
        name: Of the program.
        group: Its commands.
        argv: What will be parsed: only what that names is imported.
        version: For ``--version``.
    """
    app = App(
        name=name,
        help=_unfold(group.summary),
        help_format="plaintext",
        version=version,
        version_flags=("--version",) if version else (),
    )
    for command, (path, line) in group.commands.items():
        if list(argv[:1]) != [command]:
            app.command(path, name=command, help=line)
            continue
        asked = _import(path)
        if isinstance(asked, CommandGroup):
            app.command(make_app(command, asked, argv[1:]))
        else:
            app.command(asked, name=command, help=_unfold(asked.__doc__ or line))
    return app


def _import(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _unfold(text: str) -> str:
    """Give each paragraph of a docstring as one line: the terminal is not as wide as the source."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _find_program(app: App, argv: Sequence[str]) -> str:
    """Write the command that is asked for, as far as there is one: ``trialogue sessions show``."""
    words = [app.name[0]]
    for word in argv:
        if word.startswith("-") or word not in app:
            break
        words.append(word)
        app = app[word]
    return " ".join(words)


def parse(app: App, argv: Sequence[str], environ: Mapping[str, str]) -> Callable[[], int | None]:
    """Find out what is asked for.

    Returns:
        What does it, and gives the exit code.

    Raises:
        UsageError: Says what is wrong with the arguments, and where there is help.
    """
    try:
        return _parse(app, argv, environ)
    except UsageError as exc:
        raise UsageError(f"{exc} Try '{_find_program(app, argv)} --help'.") from None


def _parse(app: App, argv: Sequence[str], environ: Mapping[str, str]) -> Callable[[], int | None]:
    _check_command(app, argv)
    try:
        command, bound, unparsed = app.parse_args(
            list(argv), exit_on_error=False, print_error=False, help_on_error=False
        )
    except cyclopts.CycloptsError as exc:
        raise UsageError(" ".join(str(exc).split())) from None
    offered = {"environ": environ, "argv": argv}
    given = {name: offered[name] for name in unparsed if name in offered}
    run = partial(command, *bound.args, **bound.kwargs, **given)
    if getattr(command, "__name__", "") == "help_print" and not {"--help", "-h"} & set(argv):
        # Nothing was asked for: that there is help is all we can say.
        return lambda: run() or EXIT_USAGE
    return run


def _check_command(app: App, argv: Sequence[str]) -> None:
    """Refuse a word that is no command: the library would import every command to say so."""
    known = [name for name in app if not name.startswith("-")]
    if not known or not argv:
        return
    if argv[0] in known:
        _check_command(app[argv[0]], argv[1:])
    elif argv[0] not in app:
        close = get_close_matches(argv[0], list(app), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."
        kind = "option" if argv[0].startswith("-") else "command"
        raise UsageError(f"There is no {kind} {argv[0]!r}: {hint}")
