"""The serving layer as a LangChain chat model, without HTTP between them.

Inside a run, calls go through the acting agent's context: labelled, recorded, replayed, and refused where the model may
not learn the prompt. Elsewhere they go straight to the model. Tools are called by a grammar
(:mod:`agentsys.serving.server.tools`), so models that know no tool format can call them too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field, TypeAdapter

from agentsys.blackboard.labels import PUBLIC
from agentsys.current import current_context
from agentsys.labelled import Labelled
from agentsys.models import SAMPLING_FIELDS, Model, as_model
from agentsys.serving.client import ServingClient
from agentsys.serving.requests import Chunk, Constraint, GenerateRequest, SamplingParams
from agentsys.serving.server.schemas import ChatCompletionBody, ChatMessage
from agentsys.serving.server.tools import Toolbox, conversation

T = TypeVar("T")

ANY_GRAMMAR = frozenset({"json_schema", "lark", "regex"})
_MESSAGES = TypeAdapter(list[ChatMessage])


class EmbeddedChatModel(BaseChatModel):
    """A LangChain chat model over ``model``: a :class:`ServingClient`, a runtime's ``model``, or a scripted one.

    A call may be given, or bound to, ``max_tokens``, ``temperature``, ``top_p``, ``seed`` and the penalties of its own.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: Any
    name_of_model: str | None = None
    max_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.0, ge=0)

    def __init__(self, model: Any, **options: Any) -> None:
        """``options``: ``name_of_model`` among several, ``max_tokens``, ``temperature``."""
        super().__init__(model=as_model(model), **options)

    @property
    def _llm_type(self) -> str:
        return "agentsys"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with ``tools``; ``tool_choice`` is auto, any (or required), none, or a tool's name."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], tool_choice=tool_choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _wait_for(self._agenerate(messages, stop, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        toolbox = _toolbox(**kwargs)
        text = await self._ask(messages, toolbox, self._sampling(stop, kwargs), None)
        return ChatResult(generations=[ChatGeneration(message=await _answer(text, toolbox))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        toolbox, sampling = _toolbox(**kwargs), self._sampling(stop, kwargs)
        if toolbox is not None or current_context.get() is not None:
            # A call is shown when it is whole; a recorded answer comes whole.
            message = await _answer(await self._ask(messages, toolbox, sampling, None), toolbox)
            calls = [
                {"name": call["name"], "args": json.dumps(call["args"]), "id": call["id"], "index": index}
                for index, call in enumerate(message.tool_calls)
            ]
            yield ChatGenerationChunk(message=AIMessageChunk(content=message.content, tool_call_chunks=calls))
            return
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        asking = asyncio.create_task(self._ask(messages, None, sampling, lambda chunk: pieces.put_nowait(chunk.text)))
        asking.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                if run_manager is not None:
                    await run_manager.on_llm_new_token(piece)
                yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
            await asking
        finally:
            asking.cancel()

    async def _ask(
        self,
        messages: list[BaseMessage],
        toolbox: Toolbox | None,
        sampling: SamplingParams,
        on_chunk: Callable[[Chunk], None] | None,
    ) -> str:
        prompt = conversation(_MESSAGES.validate_python(_openai(messages)), toolbox)
        constraint = await self._constraint(toolbox)
        context = current_context.get()
        if context is not None:
            labelled: Labelled[str] = await context.generate(
                prompt, constraint=constraint, sampling=sampling, model=self.name_of_model
            )
            return labelled.value
        model: Model = self.model
        # Outside a run nobody but the caller decides where a prompt goes, by the model that it names.
        request = GenerateRequest(prompt, sampling, constraint, audience=PUBLIC)
        return (await model.generate(request, model=self.name_of_model, on_chunk=on_chunk)).text

    def _sampling(self, stop: list[str] | None, given: Mapping[str, Any]) -> SamplingParams:
        """Return what one call wants: what was given with it, or bound, goes before the model's own."""
        wanted: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        wanted |= {name: given[name] for name in SAMPLING_FIELDS if given.get(name) is not None}
        return SamplingParams(stop=tuple(stop or ()), **wanted)

    async def _constraint(self, toolbox: Toolbox | None) -> Constraint | None:
        if toolbox is None:
            return None
        kinds = ANY_GRAMMAR
        if isinstance(self.model, ServingClient):
            kinds = (await self.model.engine(self.name_of_model)).capabilities().constraints
        return toolbox.constraint(frozenset(kinds))


def _toolbox(tools: Any = None, tool_choice: Any = None, **_: Any) -> Toolbox | None:
    if not tools:
        return None
    choice = {"any": "required", True: "required", None: "auto"}.get(tool_choice, tool_choice)
    if isinstance(choice, str) and choice not in ("required", "auto", "none"):
        choice = {"type": "function", "function": {"name": choice}}
    messages = [{"role": "user", "content": ""}]
    body = ChatCompletionBody.model_validate({"messages": messages, "tools": tools, "tool_choice": choice})
    return Toolbox.of(body)


async def _answer(text: str, toolbox: Toolbox | None) -> AIMessage:
    call = toolbox.parse(text) if toolbox else None
    if call is None:
        return AIMessage(content=text)
    arguments = json.loads(call["function"]["arguments"])
    context = current_context.get()
    # Recorded in a run, so that a replay gives the call the same identifier.
    identifier = call["id"] if context is None else f"call_{await context.uuid()}"
    named = {"name": call["function"]["name"], "args": arguments, "id": identifier, "type": "tool_call"}
    return AIMessage(content="", tool_calls=[named])


def _openai(messages: list[BaseMessage]) -> Any:
    return convert_to_openai_messages(messages, text_format="string")


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in a thread of its own, since the caller's may be running an event loop."""
    with ThreadPoolExecutor(1) as thread:
        # With the caller's context variables, or a call inside a run would go around its record.
        return thread.submit(copy_context().run, asyncio.run, work).result()
