"""Settings from four places: flags, then ``TRIALOGUE_*`` variables, then a TOML file, then defaults.

An `Option` is one setting, the same in each place: ``drain_seconds`` in the file is
``--drain-seconds`` as a flag and ``TRIALOGUE_DRAIN_SECONDS`` as a variable. All are read by the
one parser of the option, and every error names the setting and where it was set.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, cast

import attrs

from ..core.errors import SettingsError

__all__ = ["Option", "Setting", "find_unknown_variables", "load_options", "write_config"]

PREFIX: Final = "TRIALOGUE_"
DEFAULT: Final = "default"
#: Comments of `write_config` begin here, or behind a longer value.
_COMMENT_COLUMN: Final = 44


def _same(value: Any) -> Any:
    return value


@attrs.frozen(kw_only=True)
class Option:
    """One setting.

    Attributes:
        name: As in the TOML file.
        help: A sentence or two for ``--help``.
        parse: Reads what was said: text, or what TOML has. Raises ValueError.
        check: Looks at what was read, where `parse` cannot know it. Raises ValueError.
        write: The reverse of `parse`; a TOML value, or None if there is nothing to write.
        show: As `write`, but fit to be seen: without passwords.
        default: The value where nothing is said.
        metavar: Stands for the value in ``--help``; empty for a flag that takes none.
        group: The heading in ``--help``.
        is_repeated: The flag may be given several times, and each adds to the list.
        is_positional: The flags are arguments without a name.
        is_file_only: It is a table, which no flag and no variable could hold.
    """

    name: str
    help: str
    parse: Callable[[Any], Any]
    check: Callable[[Any], object] = _same
    write: Callable[[Any], Any] = _same
    show: Callable[[Any], Any] | None = None
    default: Any
    metavar: str = ""
    group: str
    is_repeated: bool = False
    is_positional: bool = False
    is_file_only: bool = False

    @property
    def flag(self) -> str:
        """``--drain-seconds``."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """``TRIALOGUE_DRAIN_SECONDS``."""
        return PREFIX + self.name.upper()

    def read(self, said: Any, source: str) -> Setting:
        """Make a setting of what was said at one place.

        Raises:
            SettingsError: It cannot be used; says why, and where it was said.
        """
        try:
            value = self.parse(said)
            self.check(value)
        except ValueError as exc:
            raise self.error(str(exc), source) from None
        return Setting(option=self, value=value, source=source)

    def error(self, message: str, source: str) -> SettingsError:
        """Make the error for a value that cannot be used."""
        prefix = "" if message.startswith(self.name) else f"{self.name}: "
        return SettingsError(f"{prefix}{message} (set by {source})")


@attrs.frozen(kw_only=True)
class Setting:
    """An option's value, and where it came from."""

    option: Option
    value: Any
    source: str = DEFAULT

    def error(self, message: str) -> SettingsError:
        """Make the error for a value that turned out to be wrong later."""
        return self.option.error(message, self.source)


def load_options(
    options: Sequence[Option],
    *,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    config: str | None,
) -> dict[str, Setting]:
    """Find each option's value.

    Args:
        options: What may be set.
        flags: What the command line says, by the options' names; None and ``()`` say nothing.
        environ: The variables; an empty one says nothing.
        config: The TOML file, if there is one.

    Raises:
        SettingsError: A value cannot be used, or the file cannot be read.
    """
    file = _read_file(config, [option.name for option in options]) if config else {}
    found: dict[str, Setting] = {}
    for option in options:
        said = flags.get(option.name)
        if said is not None and said != ():
            source = "the command line" if option.is_positional else option.flag
            found[option.name] = option.read(said, source)
        elif environ.get(option.variable) and not option.is_file_only:
            found[option.name] = option.read(environ[option.variable], option.variable)
        elif option.name in file:
            found[option.name] = option.read(file[option.name], str(config))
        else:
            found[option.name] = Setting(option=option, value=option.default)
    return found


def find_unknown_variables(
    environ: Iterable[str], options: Sequence[Option], others: Collection[str] = ()
) -> dict[str, str | None]:
    """Find variables that look like settings and are none, each with what was perhaps meant."""
    known = {option.variable for option in options if not option.is_file_only} | set(others)
    return {
        name: _closest(name, known)
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known
    }


def _closest(word: str, words: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(word, list(words), n=1)), None)


def _read_file(path: str, names: Sequence[str]) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as exc:
        raise SettingsError(f"config: {path}: {exc.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"config: {path} is not valid TOML: {exc}") from None
    said: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in names:
            close = _closest(name, names)
            hint = f"; did you mean {close!r}?" if close else ""
            raise SettingsError(f"{path} sets {key!r}, which is no setting{hint}")
        said[name] = value
    return said


def write_config(settings: Iterable[Setting]) -> str:
    """Write settings as a TOML file that says of each where it came from.

    Passwords are masked; otherwise the text is a configuration that can be used as it is.
    """
    lines: list[str] = []
    group = None
    for setting in settings:
        if setting.option.group != group:
            group = setting.option.group
            lines += ["", f"# {group}"] if lines else [f"# {group}"]
        value = (setting.option.show or setting.option.write)(setting.value)
        if value is None:
            text = f"# {setting.option.name} ="
        else:
            text = f"{setting.option.name} = {_write_toml(value)}"
        lines.append(f"{text:<{_COMMENT_COLUMN}}  # {setting.source}")
    return "\n".join(lines)


def _write_key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else _write_toml(key)


def _write_toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value).items()
        inner = ", ".join(f"{_write_toml(key)} = {_write_toml(item)}" for key, item in members)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (tuple, list)):
        items = cast("Iterable[object]", value)
        return f"[{', '.join(_write_toml(item) for item in items)}]"
    if isinstance(value, Mapping):
        table = cast("Mapping[str, object]", value)
        lines = (f"{_write_key(key)} = {_write_toml(item)}" for key, item in table.items())
        return f"{{ {', '.join(lines)} }}" if table else "{}"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in text) + '"'
