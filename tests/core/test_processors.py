"""Who may learn a prompt: readers, and the processors the owner named."""

import pytest

from agentsys.blackboard.labels import OWNER, Label, Readers
from agentsys.gateway import Allow, Deny, Gateway
from agentsys.policy.policy import Policy
from agentsys.runtime import Runtime
from agentsys.settings import load_settings
from agentsys.tools import ToolRegistry

PRIVATE = Label.trusted(OWNER)
SERVER = Readers.of("model-server:models.example.org")


@pytest.mark.parametrize(
    ("policy", "audience", "verdict"),
    [
        (Policy(), SERVER, Deny),
        (Policy.of(processors=["model-server:models.example.org"]), SERVER, Allow),
        (Policy.of(processors=["model-server:other.example.org"]), SERVER, Deny),
        (Policy.of(processors=["model-server:models.example.org"]), Readers(None), Deny),
    ],
)
def test_a_prompt_reaches_only_readers_and_processors(policy: Policy, audience: Readers, verdict: type) -> None:
    assert isinstance(Gateway(policy, ToolRegistry()).decide_disclosure("the prompt", PRIVATE, audience), verdict)


async def test_the_settings_model_server_is_a_processor(tmp_path) -> None:
    flags = {"model.name": "https://models.example.org/v1#m", "board.path": tmp_path / "board.db"}
    runtime = Runtime.from_settings(load_settings(flags, environment={}).settings)
    assert runtime.policy.processors == {"model-server:models.example.org"}
    await runtime.close()
