"""What the Ask page puts to a server: its workflows' inputs, example questions, and the same as a command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agentsys.blackboard.entries import Json
from agentsys.errors import AgentsysError
from agentsys.lake.agents import DATA_REQUEST
from agentsys.lake.ask import ASK
from agentsys.protocols.http.schemas import AgentDocument

EXAMPLES: Final = {
    "files.airports": "How many airports are there in the state TX?",
    "files.cars": "What is the highest horsepower of any car whose origin is Japan?",
    "files.stocks": "What was the highest stock price of the symbol GOOG?",
}
"""Questions to the demo lake, by the agent that can answer them."""

LAKE_COMMAND: Final = "agentsys console --lake DIR"


class InputUnreadable(AgentsysError):
    """What was written is no input of the workflow."""

    code = "AGS-0750"
    remedy = "Write JSON, or take the mark from `The input is JSON`."


@dataclass(frozen=True, slots=True)
class Question:
    """What is put to which workflow; ``text`` is as a person wrote it."""

    workflow: str
    text: str
    as_json: bool = False

    @property
    def input(self) -> Json:
        """The workflow's input. Raises :class:`InputUnreadable`."""
        if self.workflow == ASK:
            if not self.text:
                raise InputUnreadable("There is no question yet.", remedy="Write what you want to know of the data.")
            return {"question": self.text}
        if not self.as_json:
            return self.text
        try:
            read: Json = json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise InputUnreadable(f"The input is no JSON: {error}.") from error
        return read

    @property
    def command(self) -> str:
        """What asks the same from the command line."""
        if self.workflow == ASK:
            # What begins with a dash would be read as an option.
            options_end = ["--"] if self.text.startswith("-") else []
            return shlex.join(["agentsys", "ask", "--lake", "DIR", *options_end, self.text])
        text = self.text if self.as_json else json.dumps(self.text, ensure_ascii=False)
        return shlex.join(["agentsys", "runs", "start", self.workflow, "--input", text])


def examples_for(agents: Iterable[str]) -> list[str]:
    """Return the example questions that one of the agents can answer."""
    present = set(agents)
    return [question for agent, question in EXAMPLES.items() if agent in present]


def tables_of(agents: Iterable[AgentDocument]) -> list[dict[str, str]]:
    """Return the tables that agents answer questions from: each one's name, and what it holds."""
    rows = []
    for agent in sorted(agents, key=lambda agent: agent.name):
        if DATA_REQUEST in agent.interests:
            name, _, holds = agent.profile.partition(": ")
            rows.append({"table": name if holds else agent.name, "what it holds": holds or agent.profile})
    return rows


def in_order(workflows: Iterable[str]) -> list[str]:
    """Return workflows as they are offered: questions over data first."""
    return sorted(workflows, key=lambda name: (name != ASK, name))
