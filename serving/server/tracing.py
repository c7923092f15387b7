"""Spans of model calls for OpenTelemetry, named as its semantic conventions for generative AI have it.

They hold no prompts and no answers. Without an SDK they cost nothing, and the caller's trace still goes on to remote
engines. FastAPI itself traces the HTTP side. Sources: OpenTelemetry's semantic conventions, "Generative AI: spans";
W3C Trace Context; the ``gen_ai.latency`` names are vLLM's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentsys.errors import AgentsysError
from agentsys.serving.requests import GenerateRequest, Usage
from agentsys.serving.server.answers import Answer
from agentsys.serving.server.formats import finish_word

_TRACE_CONTEXT = TraceContextTextMapPropagator()


@contextmanager
def caller_context(headers: Mapping[str, str]) -> Iterator[None]:
    """Go on with the caller's trace, where nothing in front of this has done so."""
    if trace.get_current_span().get_span_context().is_valid:
        yield
        return
    token = context.attach(_TRACE_CONTEXT.extract(dict(headers)))
    try:
        yield
    finally:
        context.detach(token)


class CallSpan:
    """The span of one request's model calls, which its stream may outlive the handler of."""

    def __init__(self, operation: str, model: str, requests: Sequence[GenerateRequest] = ()) -> None:
        attributes: dict[str, str | int | float] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "agentsys",
            "gen_ai.request.model": model,
        }
        if requests:
            sampling, call = requests[0].sampling, requests[0].call
            attributes |= {
                "gen_ai.request.choice.count": len(requests),
                "gen_ai.request.max_tokens": sampling.max_tokens,
                "gen_ai.request.temperature": sampling.temperature,
                "gen_ai.request.top_p": sampling.top_p,
                "gen_ai.request.presence_penalty": sampling.presence_penalty,
                "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
            }
            if call is not None:
                named = {"workflow": call.workflow, "workflow.kind": call.kind, "workflow.stage": call.stage}
                attributes |= {f"agentsys.{name}": value for name, value in named.items() if value}
        tracer = trace.get_tracer("agentsys.serving")
        self.span: Span = tracer.start_span(f"{operation} {model}", kind=SpanKind.INTERNAL, attributes=attributes)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it the span that what is started meanwhile belongs to."""
        with trace.use_span(self.span, record_exception=False, set_status_on_exception=False):
            yield

    @contextmanager
    def measured(self) -> Iterator[CallSpan]:
        """Make it current, note what goes wrong, and end it."""
        try:
            with self.current():
                yield self
        except BaseException as error:
            self.failed(error)
            raise
        finally:
            self.end()

    def used(self, prompt_tokens: int) -> None:
        """Note the tokens of a prompt."""
        self.span.set_attribute("gen_ai.usage.input_tokens", prompt_tokens)

    def answered(self, answers: Sequence[Answer], usage: Usage) -> None:
        """Note tokens, reasons and times; the times of the slowest call."""
        self.span.set_attributes(
            {
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.output_tokens": usage.completion_tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
                "gen_ai.response.finish_reasons": [finish_word(answer.finish_reason) for answer in answers],
                "gen_ai.latency.time_in_queue": max(answer.timings.queued for answer in answers),
                "gen_ai.latency.time_to_first_token": max(answer.timings.first_token for answer in answers),
            }
        )

    def failed(self, error: BaseException) -> None:
        """Note what went wrong: its code, since its message may hold words of a prompt."""
        self.span.set_attribute("error.type", error.code if isinstance(error, AgentsysError) else type(error).__name__)
        self.span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        self.span.end()
