"""What a function takes: as JSON Schema for a model, and as a check of what the model gives.

Both are made of its signature and docstring, and of one attrs class with a field a parameter, so
that they cannot come apart. Names stay as they are in Python. Nothing is coerced.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin, get_type_hints

import attrs
import cattrs
from cattrs import Converter, cols, transform_error
from cattrs.gen import make_dict_structure_fn

from ..core._describe import SCALAR_SCHEMAS
from ..core._json import decode_strict, encode_json
from ..core.abc import ToolCall
from ..core.codec import take_scalars_strictly
from ..core.models import JsonObject

__all__ = ["Parameters", "find_function", "read_doc", "to_json"]

_SECTION: Final = re.compile(r"(Args|Arguments|Attributes|Returns|Raises|Yields|Examples?|Notes?):")
_ITEM: Final = re.compile(r"\*{0,2}(\w+)(?: *\([^)]*\))?: *(.*)")
#: Problems that a model is told of at once: enough to mend them, and no page of them.
_MAX_PROBLEMS: Final = 5


class Parameters:
    """The parameters of a function that a model may call.

    Attributes:
        schema: JSON Schema of them all, of type object.
        call_name: Of the parameter that is given the `ToolCall`, if there is one.

    Raises:
        TypeError: A model cannot call the function; says why, and of which parameter.
    """

    def __init__(self, function: Callable[..., Any], described: Mapping[str, str]) -> None:
        self.call_name: str | None = None
        fields: dict[str, Any] = {}
        properties: dict[str, Any] = {}
        required: list[str] = []
        for name, hint, default in _list_parameters(function):
            if hint is ToolCall:
                if self.call_name is not None:
                    raise TypeError(f"the parameters {self.call_name!r} and {name!r} are one call")
                self.call_name = name
                continue
            try:
                shown = _make_schema(hint)
            except TypeError as exc:
                raise TypeError(f"the parameter {name!r}: {exc}") from None
            if name in described:
                shown = {**shown, "description": described[name]}
            # Its class's own __init__ takes no ``self`` twice, and no ``_x`` beside ``x``.
            alias = f"argument_{len(fields)}"
            if default is inspect.Parameter.empty:
                required.append(name)
                fields[name] = attrs.field(type=hint, alias=alias)
            else:
                shown = _with_default(shown, default)
                fields[name] = attrs.field(type=hint, alias=alias, default=default)
            properties[name] = shown
        self.schema: JsonObject = _object_schema(properties, required)
        # Its name stands in no message.
        self._cls = attrs.make_class("Arguments", fields, frozen=True, kw_only=True)

    def read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Give the keyword arguments that a model's JSON stands for.

        Raises:
            ValueError: They do not fit; names each place, as ``arguments.lines[2]``.
        """
        try:
            read = cast("Any", _converter).structure(arguments, self._cls)
        except cattrs.BaseValidationError as exc:
            raise ValueError("; ".join(_find_problems(exc))) from exc
        return {field.name: getattr(read, field.name) for field in attrs.fields(self._cls)}


def find_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give what a `functools.partial` was made of; it has the name, the words and the types."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _list_parameters(function: Callable[..., Any]) -> Iterable[tuple[str, Any, Any]]:
    """Give each parameter's name, type and default."""
    made_of = find_function(function)
    asked = made_of if inspect.isroutine(made_of) else type(made_of).__call__
    asked = inspect.unwrap(asked)
    try:
        hints = get_type_hints(asked, include_extras=True)
    except NameError as exc:
        raise TypeError(f"an annotation cannot be read where it stands: {exc}") from exc
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"the parameter {name!r} cannot be given by its name")
        if name not in hints:
            hint = "; of a method it is made with its object: tool(thing.method)"
            raise TypeError(
                f"the parameter {name!r} has no annotation{hint if name == 'self' else ''}"
            )
        yield name, hints[name], parameter.default


def read_doc(doc: str | None) -> tuple[str, dict[str, str]]:
    """Give what a docstring says of the whole, and of each parameter or attribute by its name."""
    whole: list[str] = []
    items: dict[str, str] = {}
    section = item = None
    for line in inspect.cleandoc(doc or "").splitlines():
        heading = _SECTION.fullmatch(line)
        if heading is not None:
            section, item = heading[1], None
        elif section is None or (line and not line.startswith(" ")):
            # Behind a section, a line that is not indented is of the whole again.
            section = None
            whole.append(line)
        elif section in ("Args", "Arguments", "Attributes"):
            begun = _ITEM.fullmatch(line.strip()) if len(line) - len(line.lstrip()) <= 4 else None
            if begun is not None:
                item = begun[1]
                items[item] = begun[2]
            elif item is not None:
                items[item] = f"{items[item]} {line.strip()}".strip()
    return "\n".join(whole).strip(), items


# -- the schema ------------------------------------------------------------------------------


def _make_schema(kind: Any, inside: tuple[Any, ...] = ()) -> dict[str, Any]:
    """Make the JSON Schema of a type. Everything stands in its place: no model need follow a $ref.

    Raises:
        TypeError: A model cannot give a value of it.
    """
    if kind in SCALAR_SCHEMAS:
        return dict(SCALAR_SCHEMAS[kind])
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        said = [extra for extra in args[1:] if isinstance(extra, str)]
        schema = _make_schema(args[0], inside)
        return {**schema, "description": " ".join(said)} if said else schema
    if origin is Literal or _is_enum(kind):
        choices = [_raw(choice) for choice in _choices(kind)]
        for choice in choices:
            if isinstance(choice, (list, tuple, dict)) or not _is_json(choice):
                raise TypeError(f"a model cannot give {choice!r:.80}")
        return {"enum": choices}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_make_schema(arg, inside) for arg in args]}
    if _is_list(kind):
        return {"type": "array", "items": _make_schema(_item_type(kind), inside)}
    if _is_mapping(kind):
        values = _make_schema(_item_type(kind), inside)
        return {"type": "object", "additionalProperties": values} if values else {"type": "object"}
    if kind is ToolCall:
        raise TypeError("the call is given to a parameter that is annotated ToolCall, no more")
    if isinstance(kind, type) and attrs.has(kind):
        if kind in inside:
            raise TypeError(f"{kind.__name__} contains itself")
        return _make_class_schema(kind, (*inside, kind))
    name = kind.__name__ if isinstance(kind, type) and not args else str(kind)
    raise TypeError(f"a model cannot give {name!r}; see docs/agents.md")


def _make_class_schema(cls: type[Any], inside: tuple[Any, ...]) -> dict[str, Any]:
    whole, described = read_doc(cls.__doc__)
    hints = get_type_hints(cls, include_extras=True)
    properties: dict[str, Any] = {}
    fields = [field for field in attrs.fields(cls) if field.init]
    for field in fields:
        shown = _make_schema(hints[field.name], inside)
        if field.name in described:
            shown["description"] = described[field.name]
        properties[field.name] = _with_default(shown, field.default)
    required = [field.name for field in fields if field.default is attrs.NOTHING]
    schema = _object_schema(properties, required)
    return {**schema, "description": whole} if whole else schema


def _object_schema(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": dict(properties),
        "additionalProperties": False,
    }
    return {**schema, "required": list(required)} if required else schema


def _with_default(schema: dict[str, Any], default: Any) -> dict[str, Any]:
    """Tell a default that can be told in JSON: None says itself that there is none."""
    if default is attrs.NOTHING or isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return schema
    default = to_json(default)
    is_told = default is not None and _is_json(default)
    return {**schema, "default": decode_strict(encode_json(default))} if is_told else schema


def _is_json(value: Any) -> bool:
    """Whether a value comes back as it is; infinity, for one, does not."""
    try:
        return bool(decode_strict(encode_json(value)) == value)
    except (OverflowError, TypeError, ValueError):
        return False


# -- the check -------------------------------------------------------------------------------


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _is_choice(kind: Any) -> bool:
    return get_origin(kind) is Literal or _is_enum(kind)


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _is_list(kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return get_args(kind)[1:] == (...,)
    return kind in (list, tuple, Sequence) or get_origin(kind) in (list, Sequence)


def _is_mapping(kind: Any) -> bool:
    if get_origin(kind) in (dict, Mapping):
        return get_args(kind)[0] is str
    return kind in (dict, Mapping)


def _item_type(kind: Any) -> Any:
    """Give the type of what is in a list or mapping."""
    args = [arg for arg in get_args(kind) if arg is not ...]
    return args[-1] if args else Any


def _choices(kind: Any) -> Sequence[Any]:
    return tuple(kind) if _is_enum(kind) else get_args(kind)


def _raw(choice: Any) -> Any:
    return choice.value if isinstance(choice, Enum) else choice


@functools.cache
def _choice_hook(kind: Any) -> Callable[[Any, Any], Any]:
    # With its type: 1 is not True, though they are equal.
    choices: dict[tuple[type[Any], Any], Any] = {
        (type(_raw(choice)), _raw(choice)): choice for choice in _choices(kind)
    }
    words = ", ".join(str(_raw(choice)) for choice in choices.values())

    def hook(value: Any, _: Any) -> Any:
        try:
            return choices[type(value), value]
        except (KeyError, TypeError):
            raise TypeError(f"expected one of {words}") from None

    return hook


def _union_hook(kind: Any) -> Callable[[Any, Any], Any]:
    args = [arg for arg in get_args(kind) if arg is not type(None)]
    takes_none = len(args) < len(get_args(kind))

    def hook(value: Any, _: Any) -> Any:
        if value is None and takes_none:
            return None
        if len(args) == 1:
            return _converter.structure(value, args[0])
        for arg in args:
            try:
                return _converter.structure(value, arg)
            except Exception:  # noqa: BLE001 - any refusal; the last word is below
                continue
        raise TypeError("expected " + " or ".join(_name_type(arg) for arg in args))

    return hook


def _name_type(kind: Any) -> str:
    schema = _make_schema(kind)
    return str(schema.get("type") or " or ".join(map(str, schema.get("enum", ["something else"]))))


def _list_hook(kind: Any) -> Callable[[Any, Any], Any]:
    make: Any = cols.list_structure_factory(cast("Any", list)[_item_type(kind)], _converter)
    is_tuple = kind is tuple or get_origin(kind) is tuple

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise TypeError("expected a list")
        made: list[Any] = make(cast("list[Any]", value), list)
        return tuple(made) if is_tuple else made

    return hook


def _mapping_hook(kind: Any) -> Callable[[Any, Any], Any]:
    make = cast("Any", cols).mapping_structure_factory(
        cast("Any", dict)[str, _item_type(kind)], _converter, detailed_validation=True
    )
    return lambda value, _: make(_check_object(value), dict)


def _class_hook(cls: type[Any]) -> Callable[[Any, Any], Any]:
    make = make_dict_structure_fn(cls, _converter, _cattrs_forbid_extra_keys=True)
    return lambda value, _: make(_check_object(value), cls)


def _check_object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("expected an object")
    return cast("Mapping[str, Any]", value)


def _choice_or(strict: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    # A converter sees in an enum of texts or numbers first a text or a number.
    return lambda value, kind: (_choice_hook(kind) if _is_enum(kind) else strict)(value, kind)


def _check_none(value: Any, _: Any) -> None:
    if value is not None:
        raise TypeError("expected null")


def _make_converter() -> Converter:
    converter = Converter(detailed_validation=True)
    take_scalars_strictly(converter)
    for scalar in (str, int, float):
        hook = _choice_or(converter.get_structure_hook(scalar))
        converter.register_structure_hook(scalar, hook)
    converter.register_structure_hook(type(None), _check_none)
    converter.register_structure_hook_factory(attrs.has, _class_hook)
    converter.register_structure_hook_factory(_is_list, _list_hook)
    converter.register_structure_hook_factory(_is_mapping, _mapping_hook)
    converter.register_structure_hook_factory(_is_choice, _choice_hook)
    converter.register_structure_hook_factory(_is_union, _union_hook)
    return converter


_converter: Final = _make_converter()


def to_json(value: Any) -> Any:
    """Make JSON values of attrs classes and enums in a value; others stay as they are."""
    return _converter.unstructure(value)


def _find_problems(exc: cattrs.BaseValidationError) -> list[str]:
    problems: list[str] = []
    for line in transform_error(exc, path="arguments", format_exception=_describe):
        said, _, place = line.rpartition(" @ ")
        problems.append(f"{place}: {said}")
    more = len(problems) - _MAX_PROBLEMS
    return problems[:_MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])


def _describe(exc: BaseException, _: type[Any] | None) -> str:
    """Say what is wrong, for whoever wrote the arguments."""
    match exc:
        case KeyError():
            return "required"
        case cattrs.ForbiddenExtraKeysError():
            return f"there is no {', '.join(sorted(map(repr, exc.extra_fields)))}"
        case TypeError() | ValueError():
            return str(exc)  # ours, or of a validator of the tool's
        case _:
            return "not of this form"
