"""What the MCP conformance suite asks of a server, served by our real face.

``python -m agentsys.benchmarks.mcp_fixture`` prints its port. It serves on this machine without a token, since the
suite cannot send one.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import NOBODY, PUBLIC, Label
from agentsys.protocols.app import FaceOptions, create_app
from agentsys.protocols.mcp.published import DOCUMENTS, PROMPTS
from agentsys.protocols.mcp.schema import arguments_model
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.testing import ScriptedModel
from agentsys.tools import Tool, tool

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
SILENCE = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="
IMAGE = {"type": "image", "data": PIXEL, "mimeType": "image/png"}
SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def harmless(name: str, answer: Any) -> Tool:
    """Return a tool without arguments that gives ``answer``."""

    def give() -> Any:
        return answer

    give.__doc__ = f"Answers as the suite asks of {name}."
    return tool(name=name, effect=EffectClass.PURE, audience=NOBODY)(give)


@tool(effect=EffectClass.PURE, audience=NOBODY)
def test_error_handling() -> str:
    """Fails."""
    raise ValueError("This tool intentionally returns an error for testing.")


def resource(uri: str, mime_type: str, text: str) -> dict[str, Any]:
    """Return an embedded resource."""
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": text}}


def tools() -> list[Tool]:
    """Return the tools that our face can serve as the suite asks."""
    mixed = ["Multiple content types test:", IMAGE, resource("test://mixed", "application/json", '{"test": "data"}')]
    schema = Tool(
        name="json_schema_2020_12_tool",
        function=lambda **arguments: arguments,
        parameters=arguments_model("json_schema_2020_12_tool", SCHEMA_2020_12),
        effect_class=EffectClass.PURE,
        consequential=False,
        audience=NOBODY,
        source=None,
        description="Tool with JSON Schema 2020-12 features",
    )
    return [
        harmless("test_simple_text", "This is a simple text response for testing."),
        harmless("test_image_content", IMAGE),
        harmless("test_audio_content", {"type": "audio", "data": SILENCE, "mimeType": "audio/wav"}),
        harmless("test_embedded_resource", resource("test://embedded-resource", "text/plain", "An embedded resource.")),
        harmless("test_multiple_content_types", mixed),
        harmless("test_tool_with_progress", "Done."),
        test_error_handling,
        schema,
    ]


def publish(board: Board) -> None:
    """Put the suite's prompts and documents on the board, for everyone."""
    argument = {"required": True, "values": ["paris", "park", "party"]}
    embedded = resource("{resourceUri}", "text/plain", "Embedded resource content for testing.")
    prompts: dict[str, Any] = {
        "test_simple_prompt": ([], ["This is a simple prompt for testing."]),
        "test_prompt_with_arguments": (["arg1", "arg2"], ["Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"]),
        "test_prompt_with_embedded_resource": (["resourceUri"], [embedded, "Please process the resource above."]),
        "test_prompt_with_image": ([], [IMAGE, "Please analyze the image above."]),
    }
    documents: dict[str, Any] = {
        "text": {"uri": "test://static-text", "mimeType": "text/plain", "text": "The content of the text resource."},
        "binary": {"uri": "test://static-binary", "mimeType": "image/png", "blob": PIXEL},
    }
    transaction = board.begin("user:owner")
    label = Label.trusted(readers=PUBLIC)
    for name, (arguments, contents) in prompts.items():
        messages = [{"role": "user", "content": content} for content in contents]
        value: dict[str, Any] = {
            "description": f"The suite's {name}.",
            "arguments": [argument | {"name": each} for each in arguments],
        }
        value["messages"] = messages
        transaction.put(PROMPTS, name, value, type="prompt", label=label)
    for name, document in documents.items():
        transaction.put(DOCUMENTS, name, document, type="document", label=label)
    board.commit(transaction)


async def main() -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with Board.open(":memory:") as board:
        publish(board)
        supervisor = RunSupervisor(Runtime(board, ScriptedModel(str), tools=tools()))
        app = create_app(supervisor, FaceOptions(url=f"http://127.0.0.1:{port}", mcp=True))
        print(port, flush=True)
        await uvicorn.Server(uvicorn.Config(app, log_level="error")).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(main())
