"""Tools: what a model may call, made of Python functions or brought by a source.

    @tool(effect="none", parallel=True)
    async def read_file(path: str, lines: int = 100) -> str:
        \"\"\"Read the beginning of a file.

Args:
            path: Relative to the project.
            lines: How many, from the first.
        \"\"\"

What the model is told comes of the signature and the docstring, and what it gives is checked
against the same. `ToolLoop` calls tools; an agent of one's own can do so by `Tool.call`.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    cast,
    overload,
    runtime_checkable,
)

import attrs
import trio

from ..core.abc import ToolCall
from ..core.errors import AgentError
from ..core.models import Effect, JsonObject
from ._schema import Parameters, find_function, read_doc, to_json
from .model import ToolSpec

__all__ = [
    "ApprovalPolicy",
    "FunctionTool",
    "TakesTools",
    "Tool",
    "ToolError",
    "ToolSource",
    "tool",
]

P = ParamSpec("P")
R = TypeVar("R")

#: Which tools somebody is asked about before they run: none, those that are ``unsafe``, or all.
ApprovalPolicy: TypeAlias = Literal["never", "unsafe", "always"]

#: What all providers take.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ToolError(AgentError):
    """A tool could not do it. Raise it in a tool with a message for the model.

    Of any other exception the model learns nothing but that there was one: its text may say more
    than a stranger should know. The server's log has it.
    """


class Tool(ABC):
    """What a model may call.

    Attributes:
        spec: What the model is told of it.
        effect: What running it a second time does. ``none``: nothing, it only looks.
            ``idempotent``: no more than the first. ``unsafe``: who knows.
        parallel: It may run beside other calls that may.
        timeout_seconds: Longer than this it fails; the model is told so. `math.inf` is for ever.
        approval: Its own policy, where the loop's is not meant for it.

    Raises:
        ValueError: The name is none that all providers take, or the time is none.
    """

    def __init__(
        self,
        spec: ToolSpec,
        *,
        effect: Effect = "unsafe",
        parallel: bool = False,
        timeout_seconds: float = math.inf,
        approval: ApprovalPolicy | None = None,
    ) -> None:
        if not _NAME.fullmatch(spec.name):
            raise ValueError(f"a tool's name has up to 64 of A-Z a-z 0-9 _ -, not {spec.name!r}")
        if not timeout_seconds > 0:
            raise ValueError(f"the tool {spec.name!r} needs some time, not {timeout_seconds!r} s")
        self.spec = spec
        self.effect: Effect = effect
        self.parallel = parallel
        self.timeout_seconds = timeout_seconds
        self.approval: ApprovalPolicy | None = approval

    @property
    def name(self) -> str:
        """As the model calls it."""
        return self.spec.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @abstractmethod
    async def run(self, call: ToolCall, threads: trio.CapacityLimiter) -> Any:
        """Run it, and give a JSON value.

        Args:
            call: Its arguments are what the model said, not checked yet.
            threads: For what does not wait but block.

        Raises:
            ToolError: It could not; the model is told why.
        """

    def check(self, arguments: JsonObject) -> None:  # noqa: B027 - many have nothing to refuse
        """Refuse arguments that `run` would, without running; nobody is asked about such a call.

        Raises:
            ToolError: They do not fit; names the places.
        """

    async def call(self, call: ToolCall, threads: trio.CapacityLimiter) -> Any:
        """As `run`, within its time.

        Raises:
            ToolError: It took longer, too.
        """
        result: Any = None
        with trio.move_on_after(self.timeout_seconds) as scope:
            result = await self.run(call, threads)
        if scope.cancelled_caught:
            raise ToolError(f"{self.name} was not done within {self.timeout_seconds:g} s")
        return result


class ToolSource(ABC):
    """Tools that may come and go, such as those of another process."""

    @property
    @abstractmethod
    def tools(self) -> Sequence[Tool]:
        """Those that there are now."""

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Hold what the tools need; entered once, before the server listens."""
        return nullcontext()


@runtime_checkable
class TakesTools(Protocol):
    """An agent that can be given tools when it has been made already, as a command line does."""

    def add_source(self, source: ToolSource) -> None:
        """Take the tools of a source. Who gives it holds its lifespan, round the agent's."""


class FunctionTool(Tool, Generic[P, R]):
    """A function as a tool. By `tool`. It can be called like the function, too."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        description: str | None = None,
        **options: Any,
    ) -> None:
        made_of = find_function(function)
        name = name or str(getattr(made_of, "__name__", type(made_of).__name__))
        if inspect.isclass(made_of) or not callable(function):
            raise TypeError(f"{function!r:.80} is no function that a tool could be made of")
        if inspect.isasyncgenfunction(made_of):
            raise TypeError(f"the tool {name!r} is a generator, and has to return its result")
        whole, described = read_doc(inspect.getdoc(made_of))
        try:
            self._parameters = Parameters(function, described)
        except TypeError as exc:
            raise TypeError(f"no model could call {name!r}: {exc}") from exc
        spec = ToolSpec(
            name=name,
            description=whole if description is None else description,
            schema=self._parameters.schema,
        )
        super().__init__(spec, **options)
        self._function = function
        self._is_async = any(
            inspect.iscoroutinefunction(asked) for asked in (made_of, type(made_of).__call__)
        )
        functools.update_wrapper(self, made_of)
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself."""
        return self._function(*args, **kwargs)

    def check(self, arguments: JsonObject) -> None:
        self._read(arguments)

    def _read(self, arguments: JsonObject) -> dict[str, Any]:
        try:
            return self._parameters.read(arguments)
        except ValueError as exc:
            raise ToolError(f"The arguments of {self.name} do not fit: {exc}") from exc

    async def run(self, call: ToolCall, threads: trio.CapacityLimiter) -> Any:
        given = self._read(call.arguments)
        function = cast("Callable[..., Any]", self._function)
        call_name = self._parameters.call_name
        if self._is_async:
            if call_name is not None:
                given[call_name] = call
            result = await function(**given)
        else:
            if call_name is not None:
                given[call_name] = attrs.evolve(
                    call, report_progress=_from_thread(call.report_progress)
                )
            # What is cancelled goes on in its thread, and keeps its place among the threads: so
            # there are never more of them, however many hang.
            # In a list, since Trio lets no thread give it a coroutine.
            [result] = await trio.to_thread.run_sync(
                lambda: [function(**given)], limiter=threads, abandon_on_cancel=True
            )
            if inspect.isawaitable(result):
                # Of a decorator's, say, that is not async round a function that is.
                result = await result
        return to_json(result)


def _from_thread(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function that can be called in a thread too, also in one that nobody waits for."""

    def call(*args: Any, **kwargs: Any) -> None:
        if trio.lowlevel.in_trio_task():
            function(*args, **kwargs)
            return
        try:
            trio.from_thread.run_sync(functools.partial(function, *args, **kwargs))
        except trio.RunFinishedError:
            pass  # nobody is there any more to be told

    return call


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    effect: Effect = "unsafe",
    parallel: bool = False,
    timeout_seconds: float = math.inf,
    approval: ApprovalPolicy | None = None,
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a tool of the function below: ``@tool``, or ``@tool(effect="none", …)``.

    Its parameters are what can be written in JSON: ``str``, ``int``, ``float``, ``bool``, ``None``,
    ``Literal``, enums, lists, dicts by texts, unions of them, and attrs classes of them. A
    parameter of type `ToolCall` is given the call, for its id and for `ToolCall.report_progress`.
    ``Annotated[int, "…"]`` describes a parameter, as the docstring's ``Args`` does.

    A function that is not async runs in a thread. When it is cancelled, or past its time, nobody
    waits for it any more, and what it returns is dropped.

    Args:
        function: Async or not. It returns a JSON value, or attrs classes and enums in one.
        options: Of `Tool`, and the ``name`` and ``description`` if they are not the function's.

    Raises:
        TypeError: A model could not call it: names the parameter.
        ValueError: An option is wrong.
    """
    if function is None:
        return functools.partial(FunctionTool, **options)
    return FunctionTool(function, **options)
