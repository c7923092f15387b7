"""``agentsys models serve`` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.serving.server.scripted import ScriptedEngine, operated

COMMAND = [sys.executable, "-c", "from agentsys.cli.app import main; main()", "models", "serve", "--json"]
TOKEN = "a-token-of-some-length"


def run(*options: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *options], env={**os.environ, **extra}, capture_output=True, text=True, timeout=60)


@pytest.fixture
def server(smollm2_dir: Path) -> Iterator[str]:
    environment = {**os.environ, "AGENTSYS_SERVER__TOKEN": TOKEN, "AGENTSYS_MODEL__KV_CACHE_MIB": "64"}
    with subprocess.Popen(
        [*COMMAND, "--port", "0", "--model", str(smollm2_dir)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines = ""
        while not lines.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            lines += line
        yield json.loads(lines)["url"]
        process.send_signal(signal.SIGINT)
        process.wait(20)
        assert TOKEN not in process.stderr.read()


@pytest.mark.model
def test_the_official_client_talks_to_it_with_the_token_and_not_without(server: str, smollm2_dir: Path) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    with openai.OpenAI(base_url=server, api_key=TOKEN) as client:
        name = client.models.list().data[0].id
        answer = client.chat.completions.create(model=name, messages=messages, max_tokens=20, temperature=0)
        assert "Paris" in answer.choices[0].message.content
    with openai.OpenAI(base_url=server, api_key="wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_it_is_reached_at_an_address_of_ipv6() -> None:
    with operated(ScriptedEngine()) as (behind, _):
        command = [*COMMAND, "--port", "0", "--host", "::1", "--model", f"{behind}/v1#scripted"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                lines = ""
                while not lines.rstrip().endswith("}"):
                    line = process.stdout.readline()
                    assert line, process.stderr.read()
                    lines += line
                assert httpx.get(json.loads(lines)["url"] + "/models", timeout=20).status_code == 200
            finally:
                process.terminate()


def test_it_refuses_to_be_reached_from_other_machines_without_a_token() -> None:
    ended = run("--host", "0.0.0.0", "--port", "0")
    assert ended.returncode == 2
    assert "AGS-0704" in ended.stdout + ended.stderr
