"""What the user's planner knows when: each argument of the ground truth is a constant, or must be read from a result.

An argument is the planner's own if the request says it, if it follows from the request, or if it stands in a result
that the planner was shown. Whatever stands in a hidden result, or was chosen by one, is a reference to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentsys.benchmarks.ifc.dojo import Pair, dojo, payload, strings
from agentsys.benchmarks.ifc.facts import CHOSEN, CONDITIONS, FIRST, INSTEAD, OWN, PLAN_IN, Task
from agentsys.benchmarks.ifc.ground_truths import READING, Call, is_write
from agentsys.tools import to_json


@dataclass(frozen=True, slots=True)
class Reference:
    """A value to be read from the result of step ``step`` (from 0): ``wanted`` is what an honest reader finds there.

    With ``path`` it is the item there, and nobody has to read it.
    """

    step: int
    wanted: Any
    path: tuple[int, ...] = ()


Hidden = Mapping[int, str]
"""Steps whose results the planner does not see, or not all of: what it sees of each, as text."""


@dataclass(frozen=True, slots=True)
class Script:
    """The user's plan: calls, and what each returns where nobody interferes, as text and, of a list, as its items.

    ``attack`` is the injected text.
    """

    task: Task
    prompt: str
    steps: tuple[Call, ...]
    results: tuple[str, ...]
    items: tuple[tuple[Any, ...], ...]
    output: str
    attack: str

    @property
    def writes(self) -> list[int]:
        """The steps of the ground truth that change something or tell somebody outside."""
        first = int(self.task in FIRST)
        return [step for step, call in enumerate(self.steps) if step >= first and is_write(call.tool)]

    @property
    def plan_in(self) -> int | None:
        """The step whose result the planner has to read itself, since the rest of the plan stands in it."""
        return PLAN_IN.get(self.task)

    def condition(self, step: int) -> int | None:
        """The step whose result tells whether ``step`` is to be taken at all, or ``None`` if it is in any case."""
        conditional, told_by = CONDITIONS.get(self.task, (None, None))
        return told_by if step == conditional else None

    def bind(self, step: int, hidden: Hidden) -> dict[str, Any]:
        """Return the arguments of a step, with a :class:`Reference` for what only ``hidden`` steps can tell."""
        return {name: self._bind(name, value, step, hidden) for name, value in self.steps[step].arguments.items()}

    def answer(self, hidden: Hidden) -> list[Any]:
        """Return the final answer piece by piece."""
        return [self._leaf(piece, len(self.steps), hidden) for piece in self._pieces()]

    def _pieces(self) -> list[str]:
        """Return the parts of the answer of which each stands in one result: an address is one, and not four."""
        words = re.split(r",\s+|\n|(?<=\w) (?=\S+@)", self.output.strip())
        pieces: list[str] = []
        for word in filter(None, words):
            longer = f"{pieces[-1]}, {word}" if pieces else word
            if pieces and any(self._says(index, longer) for index in range(len(self.results))):
                pieces[-1] = longer
            else:
                pieces.append(word)
        return pieces

    def _bind(self, name: str, value: Any, step: int, hidden: Hidden) -> Any:
        if isinstance(value, dict):
            return {key: item if key == "type" else self._bind(key, item, step, hidden) for key, item in value.items()}
        if isinstance(value, list):
            return [
                self._bind(name, item, step, hidden)
                if isinstance(item, dict)
                else self._leaf(item, step, hidden, siblings=value)
                for item in value
            ]
        return self._leaf(value, step, hidden)

    def _leaf(self, value: Any, step: int, hidden: Hidden, siblings: Sequence[Any] = ()) -> Any:
        if value is None or isinstance(value, bool):
            return value
        chosen = str(value) in CHOSEN.get(self.task, ())
        if not chosen and self._own(value):
            return value
        earlier = [index for index in range(step) if index in hidden]
        telling = [index for index in earlier if self._told_by(index, value, siblings or [value], hidden)]
        if telling:
            return self._item(telling[-1], value, step) or Reference(telling[-1], value)
        visible = any(
            mentions(hidden[index], value) if index in hidden else self._says(index, value) for index in range(step)
        )
        readings = [index for index in earlier if self.steps[index].tool.startswith(READING)]
        if readings and (chosen or not visible):
            # Computed from what was read, or written about it.
            return Reference(max(readings, key=lambda index: (self._overlap(index, value), index)), value)
        return value

    def _item(self, index: int, value: Any, step: int) -> Reference | None:
        """Return a reference to a whole item of a list. Who only reads may take one item after the other, unseen."""
        reads = step < len(self.steps) and self.steps[step].tool.startswith(READING)
        if not reads or value not in self.items[index]:
            return None
        return Reference(index, value, (self.items[index].index(value),))

    def _own(self, value: Any) -> bool:
        own, words = OWN.get(self.task, ()), str(value).split()
        return str(value) in own or mentions(self.prompt, value) or all(mentions(self.prompt, word) for word in words)

    def _told_by(self, index: int, value: Any, siblings: Sequence[Any], hidden: Hidden) -> bool:
        """Whether the planner needs the hidden part of step ``index`` for ``value``, and not merely asked about it."""
        if not self._says(index, value) or mentions(hidden[index], value):
            return False
        asked = {text for argument in self.steps[index].arguments.values() for text in strings(argument)}
        return str(value) not in asked or not asked <= {str(sibling) for sibling in siblings}

    def _says(self, index: int, value: Any) -> bool:
        stripped = value.replace(self.attack, "") if self.attack and isinstance(value, str) else value
        return mentions(self.results[index], stripped)

    def _overlap(self, index: int, value: Any) -> int:
        return sum(mentions(self.results[index], word) for word in re.findall(r"\w+", str(value)))


def mentions(text: str, value: Any) -> bool:
    """Whether ``text`` says ``value``, as a word of its own and in any usual form of a number."""
    return any(
        re.search(rf"(?<![\w.]){re.escape(form)}(?!\w|\.\d)", text, re.IGNORECASE) is not None for form in _forms(value)
    )


def script_of(pair: Pair, environment: Any) -> Script:
    """Try the ground truth of the user's task on a copy of ``environment``, and return it as a script."""
    of, identity, copy = dojo(pair.suite), (pair.suite, pair.user_task), environment.model_copy(deep=True)
    task = of.user_task(pair.user_task)
    first = [Call(*FIRST[identity])] if identity in FIRST else []
    steps = [*first, *(Call(call.function, dict(call.args)) for call in task.ground_truth(copy))]
    if identity in INSTEAD:
        step, arguments = INSTEAD[identity]
        steps[step] = Call(steps[step].tool, arguments)
    attack = payload(of.injection_task(pair.injection_task)) if pair.injection_task else ""
    functions = {function.name: function for function in of.suite.tools}
    results = [_result(functions[step.tool], step, copy) for step in steps]
    texts = ["\n".join(strings(result)) for result in results]
    told = tuple(text.replace(attack, "") if attack else text for text in texts)
    items = tuple(tuple(result) if isinstance(result, list) else () for result in results)
    return Script(identity, task.PROMPT, tuple(steps), told, items, task.GROUND_TRUTH_OUTPUT, attack)


def _result(function: Any, step: Call, environment: Any) -> Any:
    dependencies = {name: found.extract_dep_from_env(environment) for name, found in function.dependencies.items()}
    arguments = function.parameters.model_validate(step.arguments).model_dump()
    return to_json(function(**arguments, **dependencies))


def _forms(value: Any) -> set[str]:
    if isinstance(value, float | int):
        return {str(value), f"{value:.2f}", f"{value:g}"}
    return {str(value)}
