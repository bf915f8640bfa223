"""A model with tools as an agent: it is asked, its calls are run, it is asked again, until done."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import attrs

from ..core.abc import AgentOptions, Excerpt, Turn
from ..core.errors import BudgetExceededError, SettingsError, WireError
from ..core.models import Message, MessageKind, TokenUsage
from ._calls import make_loggable
from ._subagents import SubAgents
from ._toolbox import Toolbox, ToolLike, ToolStep
from ._window import Gauge, summarize
from .model import Model, ModelReply, ModelRequest
from .tools import ApprovalPolicy, ToolSource

__all__ = ["ToolLike", "ToolLoop"]

log = logging.getLogger("trialogue.turn")


class ToolLoop:
    """An agent that answers by a model with tools. Serve it, or call it from an agent of your own.

    In each step the model is asked; its text is written as it comes. The calls that it makes stand
    in its message, and are run in their order, each with its start, progress and end in the log;
    those in a row that may run beside others do so. What was steered into the turn is taken before
    each step. A tool that fails is the model's business: it is told so as the result.

    What has been done is known by the log alone, so that the agent goes on after a restart where
    that ends, see `Turn.attempt`.

    Of a session's configuration it takes ``system_prompt``, ``model`` (where there are others),
    ``temperature``, ``max_tokens``, and ``tools``, the names of those that the model is given.

    Args:
        model: Who is asked.
        tools: Functions, tools and sources of tools. A plain function becomes a tool that is
            ``unsafe``.
        agents: Other agents of the server, by name, each with a line on what it is good for: the
            model can have them work for it (`Turn.run_child`), several side by side.
        system_prompt: Where the session's configuration has none.
        temperature: The same.
        max_tokens: Of one answer of the model; the same.
        approvals: Which tools somebody is asked about before they run: ``never``, ``unsafe`` (what
            is declared so, or not at all), ``always``.
        approvals_by_tool: The same of single tools, by name; it goes before what they declare.
        approval_seconds: How long an approval is waited for; then the tool does not run. None is
            for ever.
        client_tool_seconds: How long an answer is waited for to the call of a client's tool; then
            the model is told that nobody answered: the client may have gone. None is for ever.
        max_steps: How often the model is asked in one turn. A turn that comes to it ends with
            ``stop_reason`` ``maxSteps``.
        compact_at: The share of the model's window that a conversation may take before its oldest
            part is summarised, by the model; None never does that.
        window_tokens: The window, where the model does not say its own.
        max_threads: How many tools that block may run at once, of all turns.
        description: A line for ``server.describe``.

    Raises:
        SettingsError: Two tools have one name, or a number is none.
    """

    #: After a restart it may be called again for a turn whose calls ran when the server stopped.
    resumable: Final = True

    def __init__(
        self,
        model: Model,
        *,
        tools: Iterable[ToolLike] = (),
        agents: Mapping[str, str] | None = None,
        system_prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        approvals: ApprovalPolicy = "unsafe",
        approvals_by_tool: Mapping[str, ApprovalPolicy] | None = None,
        approval_seconds: float | None = None,
        client_tool_seconds: float | None = 600.0,
        max_steps: int = 50,
        compact_at: float | None = 0.8,
        window_tokens: int | None = None,
        max_threads: int = 16,
        description: str | None = None,
    ) -> None:
        for name, number in (("max_steps", max_steps), ("max_threads", max_threads)):
            if number < 1:
                raise SettingsError(f"{name} is 1 or more, not {number!r}")
        if client_tool_seconds is not None and not client_tool_seconds > 0:
            raise SettingsError(
                f"client_tool_seconds is more than 0, or None, not {client_tool_seconds!r}"
            )
        if compact_at is not None and not 0 < compact_at <= 1:
            raise SettingsError(f"compact_at is a share from 0 to 1, not {compact_at!r}")
        if window_tokens is not None and window_tokens < 1:
            raise SettingsError(f"window_tokens is 1 or more, not {window_tokens!r}")
        self.compact_at = compact_at
        self.window_tokens = window_tokens
        self.model = model
        self.system_prompt = system_prompt
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.max_steps = max_steps
        self._tools = Toolbox(
            [*tools, SubAgents(agents)] if agents else tools,
            policy=approvals,
            policies=approvals_by_tool or {},
            approval_seconds=approval_seconds,
            client_tool_seconds=client_tool_seconds,
            max_threads=max_threads,
        )
        self._held = tuple(self._tools.sources)
        self.__doc__ = description or f"The model {model.name}."

    @property
    def options(self) -> AgentOptions:
        """What it takes of a session's configuration; the tools are those that there are now."""
        options = AgentOptions(
            names=frozenset({"model", "system_prompt", "tools", "temperature", "max_tokens"}),
            tools={
                name: found.spec.description.partition("\n")[0]
                for name, found in self._tools.find_tools().items()
            },
        )
        if self.model.has_siblings:
            return options
        return attrs.evolve(options, names=options.names - {"model"})

    def add_source(self, source: ToolSource) -> None:
        """Take the tools of a source too. Who gives it holds its lifespan, round this one's."""
        self._tools.sources.append(source)

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Hold what the model and the sources of tools need."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.model.lifespan())
            for source in self._held:
                await stack.enter_async_context(source.lifespan())
            yield

    async def __call__(self, turn: Turn) -> None:
        """Run one turn."""
        gauge = self._make_gauge()
        step = self._tools.open(turn)
        await step.run_all(turn.pending_calls)  # of an earlier attempt
        for left in range(self.max_steps - _count_steps(turn), 0, -1):
            await _take_steering(turn)
            step = self._tools.open(turn)
            reply = await self._ask(turn, step, gauge)
            if not reply.tool_calls:
                if turn.waiting_steering:
                    continue
                turn.stop_reason = None if reply.stop_reason == "end" else reply.stop_reason
                return
            if left > 1:
                await step.run_all(reply.tool_calls)
                continue
            for call in reply.tool_calls:  # a call without a result would confuse any model
                await step.refuse(call, f"Not run: a turn has {self.max_steps} steps.")
        turn.stop_reason = "maxSteps"

    def _make_request(self, turn: Turn, step: ToolStep) -> ModelRequest:
        config = turn.config
        return ModelRequest(
            messages=turn.messages,
            system=self.system_prompt if config.system_prompt is None else config.system_prompt,
            tools=step.specs,
            model=config.model,
            temperature=self.temperature if config.temperature is None else config.temperature,
            max_tokens=self.max_tokens if config.max_tokens is None else config.max_tokens,
        )

    async def _ask(self, turn: Turn, step: ToolStep, gauge: Gauge | None) -> ModelReply:
        """Ask the model once, and complete its message."""
        request = self._make_request(turn, step)
        if (
            gauge is not None
            and gauge.is_full(request)
            and await self._compact(turn, request, gauge)
        ):
            request = self._make_request(turn, step)
        if gauge is not None:
            request = gauge.fit(request)
        ends_thinking = False

        async def write(text: str, *, kind: MessageKind = "text") -> None:
            nonlocal ends_thinking
            if text:
                ends_thinking = kind == "reasoning"
            await turn.write(text, kind=kind)

        await turn.check_budget()
        reply = await self.model.ask(request, write)
        if ends_thinking:
            turn.complete_message()  # its calls belong to an answer, and not to a thought
        self._report(turn, reply.usage)
        reply = attrs.evolve(reply, tool_calls=make_loggable(reply.tool_calls))
        turn.complete_message(reply.tool_calls)
        return reply

    def _report(self, spender: Turn | Excerpt, usage: TokenUsage) -> None:
        """Say what a model took."""
        spender.report_usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            model=spender.config.model or self.model.name,
            cost=usage.cost,
        )

    async def summarize(self, messages: Excerpt) -> str:
        """Let the model summarise messages, for ``session.compact``."""
        gauge, config = self._make_gauge(), messages.config
        return await summarize(
            self.model,
            messages,
            system=self.system_prompt if config.system_prompt is None else config.system_prompt,
            model_name=config.model,
            limit=None if gauge is None else gauge.summary_limit,
            report=partial(self._report, messages),
            admit=messages.check_budget,
        )

    def _make_gauge(self) -> Gauge | None:
        window = self.window_tokens or self.model.window_tokens
        if window is None or self.compact_at is None:
            return None
        return Gauge(window, self.compact_at)

    async def _compact(self, turn: Turn, request: ModelRequest, gauge: Gauge) -> bool:
        """Let the model summarise the oldest part of a conversation that nears its window."""

        async def ask_model(messages: Sequence[Message]) -> str:
            turn.emit("_compacting", {"turnId": turn.id, "messages": len(messages)})
            return await summarize(
                self.model,
                messages,
                system=request.system,
                model_name=request.model,
                limit=gauge.summary_limit,
                report=partial(self._report, turn),
                admit=turn.check_budget,
            )

        keep = gauge.count_kept(request)
        try:
            return await turn.compact(ask_model, keep_last=keep)
        except BudgetExceededError:
            raise
        except Exception as exc:
            # Or no turn of this session would ever come through again.
            log.warning(
                "the model could not summarise, and an extract stands in: %s",
                exc,
                exc_info=None if isinstance(exc, WireError) else exc,
            )
            return await turn.compact(keep_last=keep)


def _count_steps(turn: Turn) -> int:
    """Count the steps that the log has of this turn: those whose answers had calls."""
    if turn.attempt == 1:
        return 0
    return sum(bool(m.tool_calls) for m in turn.messages if m.turn_id == turn.id)


async def _take_steering(turn: Turn) -> None:
    """Take what was said meanwhile into the conversation."""
    while turn.waiting_steering:
        await turn.next_steering()
