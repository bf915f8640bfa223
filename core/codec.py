"""attrs classes ↔ JSON values: the one cattrs converter. Pure: no trio, no clock.

Names are snake_case in Python and camelCase on the wire; a trailing underscore (``as_``) is
dropped. Members that are None are absent. Unknown members are ignored. Nothing is coerced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs import Converter, transform_error
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from ._json import JsonError, as_array, as_object, decode_strict, encode_json
from .errors import invalid_request

__all__ = [
    "NULLS",
    "JsonError",
    "camel_case",
    "decode_json",
    "encode_json",
    "make_reader",
    "structure",
    "take_scalars_strictly",
    "unstructure",
]

T = TypeVar("T")

decode_json = decode_strict

#: In the metadata of a class's member: it holds the names of those that are null on the wire, which
#: are not the same as absent there. It is not sent itself.
NULLS: Final = "nulls"


def camel_case(name: str) -> str:
    """``session_id`` → ``sessionId``; ``as_`` → ``as``."""
    head, *rest = name.rstrip("_").split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)


def _strict(kind: type[Any], word: str, *accepted: type[Any]) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if type(value) is kind:
            return value
        if type(value) not in accepted:
            raise TypeError(f"expected {word}")
        return kind(value)

    return hook


def take_scalars_strictly(converter: Converter) -> None:
    """Let a converter make no ``True`` of ``"no"``, and no 3 of 3.9; an integer is a number, too."""
    converter.register_structure_hook(str, _strict(str, "a string", str))
    converter.register_structure_hook(int, _strict(int, "an integer", int))
    converter.register_structure_hook(float, _strict(float, "a number", float, int))
    converter.register_structure_hook(bool, _strict(bool, "a boolean", bool))


def _is_tuple(cls: Any) -> bool:
    return get_origin(cls) is tuple


def _is_mapping(cls: Any) -> bool:
    return get_origin(cls) in (dict, Mapping) or cls in (dict, Mapping)


def _make_converter(*, detailed: bool) -> Converter:
    converter = Converter(detailed_validation=detailed)

    def overrides(cls: type[Any]) -> dict[str, Any]:
        return {
            field.name: override(
                rename=camel_case(field.name),
                omit_if_default=field.default is None,
                omit=NULLS in field.metadata or None,
            )
            for field in attrs.fields(cls)
        }

    def tuple_hook(cls: Any) -> Callable[[Any, Any], Any]:
        (item, _) = get_args(cls)
        structure_item = converter.get_structure_hook(item)
        list_of_items: Any = list.__class_getitem__(item)

        def hook(value: Any, _: Any) -> Any:
            elements = as_array(value)
            if elements is None:
                raise TypeError("expected a list")
            if detailed:
                # Through cattrs' own list, which notes the index of what does not fit.
                elements = converter.structure(elements, list_of_items)
                return tuple(elements)
            return tuple(structure_item(element, item) for element in elements)

        return hook

    def mapping_hook(cls: Any) -> Callable[[Any, Any], Any]:
        args = get_args(cls)
        item = args[1] if args else Any
        structure_item = None if item is Any else converter.get_structure_hook(item)

        def hook(value: Any, _: Any) -> Any:
            members = as_object(value)
            if members is None:
                raise TypeError("expected an object")
            if structure_item is None:
                return members
            return {name: structure_item(element, item) for name, element in members.items()}

        return hook

    def structure_class(cls: type[Any]) -> Callable[[Any, Any], Any]:
        make: Callable[[Any, Any], Any] = make_dict_structure_fn(
            cls, converter, _cattrs_detailed_validation=detailed, **overrides(cls)
        )
        nulls = _find_nulls(cls)
        if nulls is not None:
            make = _noting_nulls(cls, nulls, make)
        if any(field.default is attrs.NOTHING for field in attrs.fields(cls)):
            return make

        # With every member optional, a list or a text without them would pass for an object.
        def make_of_object(value: Any, kind: Any) -> Any:
            if as_object(value) is None:
                raise TypeError("expected an object")
            return make(value, kind)

        return make_of_object

    def unstructure_class(cls: type[Any]) -> Callable[[Any], Any]:
        make = make_dict_unstructure_fn(cls, converter, **overrides(cls))
        nulls = _find_nulls(cls)
        if nulls is None:
            return make
        return lambda value: {
            **make(value),
            **{camel_case(name): None for name in sorted(getattr(value, nulls))},
        }

    converter.register_structure_hook_factory(attrs.has, structure_class)
    converter.register_unstructure_hook_factory(attrs.has, unstructure_class)
    converter.register_structure_hook_factory(_is_tuple, tuple_hook)
    converter.register_structure_hook_factory(_is_mapping, mapping_hook)
    # JSON values inside the classes are JSON already.
    converter.register_unstructure_hook_func(_is_mapping, lambda value: value)
    take_scalars_strictly(converter)
    converter.register_structure_hook_func(lambda cls: cls == str | int, _structure_request_id)
    return converter


def _find_nulls(cls: type[Any]) -> str | None:
    """Name the member that holds the names of those that are null, if there is one."""
    return next((field.name for field in attrs.fields(cls) if NULLS in field.metadata), None)


def _noting_nulls(
    cls: type[Any], nulls: str, make: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Any]:
    names = {camel_case(field.name): field.name for field in attrs.fields(cls)}
    del names[camel_case(nulls)]

    def make_noting(value: Any, kind: Any) -> Any:
        made = make(value, kind)
        found = frozenset(names[name] for name in names.keys() & value if value[name] is None)
        return attrs.evolve(made, **{nulls: found}) if found else made

    return make_noting


def _structure_request_id(value: Any, _: Any) -> str | int:
    if type(value) is str or type(value) is int:
        return value
    raise TypeError("expected a string or an integer")


# Detailed validation names every place, and is twice as slow: it is asked only after a refusal.
_fast: Final = _make_converter(detailed=False)
_detailed: Final = _make_converter(detailed=True)
_writers: Final[dict[type[Any], Callable[[Any], Any]]] = {}
_readers: Final[dict[type[Any], Callable[[Any], Any]]] = {}


def structure(value: Any, cls: type[T]) -> T:
    """Make a ``cls`` of a JSON value.

    Raises:
        InvalidRequestError: It does not fit; ``data["issues"]`` names each place.
    """
    if attrs.has(cls) and type(value) is not dict:
        raise invalid_request([{"path": "$", "message": "expected an object"}])
    reader: Callable[[Any], T] | None = _readers.get(cls)
    if reader is None:
        reader = _readers[cls] = make_reader(cls, place="")
    return reader(value)


def make_reader(cls: type[T], *, place: str = "params") -> Callable[[Any], T]:
    """Make the function that makes a ``cls`` of a JSON value: of an object, if it is a class.

    It raises as `structure` does, with the places of issues counted from ``place``.
    """
    hook = _fast.get_structure_hook(cls)

    def read(value: Any) -> T:
        try:
            result: T = hook(value, cls)
        except Exception as exc:
            raise invalid_request(_find_issues(value, cls, place)) from exc
        return result

    return read


def unstructure(value: Any) -> Any:
    """Make a JSON value of an attrs class, or of a tuple or mapping of them."""
    cls = value.__class__
    writer = _writers.get(cls)
    if writer is None:
        # The hook of a class never changes; asking for it costs as much as using it.
        writer = _fast.get_unstructure_hook(cls) if attrs.has(cls) else _fast.unstructure
        _writers[cls] = writer
    return writer(value)


def _find_issues(value: Any, cls: type[Any], place: str) -> list[dict[str, str]]:
    try:
        _detailed.structure(value, cls)
    except cattrs.BaseValidationError as exc:
        lines = transform_error(exc, path=place or "$", format_exception=_describe)
        issues: list[dict[str, str]] = []
        for line in lines:
            message, _, path = line.rpartition(" @ ")
            issues.append({"path": _wire_path(path), "message": message})
        return issues
    except Exception as exc:  # noqa: BLE001 - any refusal
        return [{"path": place or "$", "message": _describe(exc, None)}]
    return [{"path": place or "$", "message": "invalid"}]


def _describe(exc: BaseException, kind: type[Any] | None) -> str:
    """Say what is wrong in the peer's words, never in an unexpected exception's."""
    match exc:
        case KeyError():
            return "required"
        case TypeError() if str(exc).startswith("expected "):
            return str(exc)
        case _ if choices := _choices(kind):
            return f"expected one of {', '.join(choices)}"
        case _:
            return "not of this form"


def _choices(kind: Any) -> list[str]:
    """List the words of a Literal, or of one inside an Optional."""
    if get_origin(kind) is Literal:
        return [str(word) for word in get_args(kind)]
    return [word for arg in get_args(kind) for word in _choices(arg)]


def _wire_path(path: str) -> str:
    """Write a path of Python names with the wire's; quoted keys are the peer's own."""
    return re.sub(r"[a-z_0-9]+(?![^\[]*\])", lambda match: camel_case(match[0]), path)
