"""The table from method name to handler (PROTOCOL §4), and how a server adds its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, Final, TypeVar, get_type_hints

import attrs

from . import codec
from ._identity import ALL_SCOPES, SCOPES
from .errors import SettingsError
from .methods import METHODS

__all__ = ["LATER", "Method", "Registry", "needs_scopes"]

H = TypeVar("H", bound=Callable[..., Any])


class _Later:
    """The type of `LATER`."""

    def __repr__(self) -> str:
        return "LATER"


#: What a handler returns that answers through its request's `succeed` or `fail`.
LATER: Final = _Later()

#: What a method of the server's own needs that does not say: it may do anything.
_UNSAID: Final = frozenset({"write"})


def needs_scopes(*scopes: str) -> Callable[[H], H]:
    """Decorate a method of one's own with what a credential has to allow; ``write`` if undecorated.

    Raises:
        SettingsError: There is no such scope.
    """
    if not ALL_SCOPES.issuperset(scopes):
        raise SettingsError(f"{scopes!r}: the scopes are {', '.join(SCOPES)}")

    def decorate(handler: H) -> H:
        handler.needed_scopes = frozenset(scopes)  # type: ignore[attr-defined]
        return handler

    return decorate


def _as_it_is(params: dict[str, Any]) -> dict[str, Any]:
    return params


@attrs.frozen(kw_only=True)
class Method:
    """How a method is served.

    Attributes:
        params: The attrs class of its parameters; None takes the object as it is.
        result: The attrs class of its result; None if it has no form that is known.
        description: One line, for ``server.describe``.
        handler: ``(request, params)``. Its result is the answer, `LATER` if that comes by itself.
        scopes: What a credential has to allow, all of them.
        is_async: It waits: it is run as a task with a cancel scope.
        is_counted: It counts against ``maxInFlight`` while it is unanswered.
        is_reserved: It draws on the rate limit's reserve.
        while_draining: It still works after ``goaway``.
    """

    name: str
    params: type[Any] | None
    result: type[Any] | None
    handler: Callable[[Any, Any], Any]
    description: str = ""
    scopes: frozenset[str] = frozenset()
    is_async: bool = False
    is_counted: bool = True
    is_reserved: bool = False
    while_draining: bool = True

    @cached_property
    def read_params(self) -> Callable[[dict[str, Any]], Any]:
        """Makes the parameters of a request's object, or raises `InvalidRequestError`.

        Made when it is first used: those of all methods would be compiled at each start.
        """
        return _as_it_is if self.params is None else codec.make_reader(self.params)

    @property
    def is_free(self) -> bool:
        """Whether its answers are of somebody else's making: each is checked to be strict JSON."""
        return self.result is None


class Registry:
    """The methods of one server."""

    def __init__(self) -> None:
        self.methods: dict[str, Method] = {}

    def add(
        self,
        name: str,
        description: str = "",
        *,
        scopes: Iterable[str] = (),
        is_counted: bool = True,
        is_reserved: bool = False,
        while_draining: bool = True,
    ) -> Callable[[Callable[[Any, Any], Any]], Callable[[Any, Any], Any]]:
        """Decorate the handler of a method of the protocol; its shapes come from `METHODS`."""

        def decorate(handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
            params, result = METHODS[name]
            self.methods[name] = Method(
                name=name,
                params=params,
                result=result,
                handler=handler,
                description=description or _first_line(handler),
                scopes=frozenset(scopes),
                is_async=inspect.iscoroutinefunction(handler),
                is_counted=is_counted,
                is_reserved=is_reserved,
                while_draining=while_draining,
            )
            return handler

        return decorate

    def extended(self, custom: Mapping[str, Callable[[Any, Any], Any]]) -> Registry:
        """Make a registry with a server's own methods added.

        Args:
            custom: Name → function of ``(request, params)``, async or not. The annotation of
                ``params`` is the attrs class that it is checked against, else it is the object.

        Raises:
            SettingsError: A name does not begin with ``_``, or a function has another form.
        """
        registry = Registry()
        registry.methods = dict(self.methods)
        for name, handler in custom.items():
            if not name.startswith("_") or name == "_":
                raise SettingsError(
                    f"a method of one's own has a name that begins with '_', not {name!r}"
                )
            method = registry.methods[name] = Method(
                name=name,
                params=_params_class(name, handler),
                result=None,
                handler=handler,
                description=_first_line(handler),
                scopes=getattr(handler, "needed_scopes", _UNSAID),
                is_async=inspect.iscoroutinefunction(handler),
                while_draining=False,
            )
            _ = method.read_params  # a class that cannot be read is refused at the start
        return registry


def _first_line(handler: Callable[[Any, Any], Any]) -> str:
    return (inspect.getdoc(handler) or "").partition("\n")[0]


def _params_class(name: str, handler: Callable[[Any, Any], Any]) -> type[Any] | None:
    try:
        parameters = list(inspect.signature(handler).parameters.values())
        inspect.signature(handler).bind(None, None)
    except TypeError as exc:
        raise SettingsError(f"the method {name!r} is no function of (request, params)") from exc
    hint = get_type_hints(handler).get(parameters[1].name)
    return hint if isinstance(hint, type) and attrs.has(hint) else None
