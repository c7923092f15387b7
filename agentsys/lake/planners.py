"""How a model writes a query plan: under a grammar narrowed to the question, under one of SQL, or freely."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from agentsys.context import Context
from agentsys.labelled import Labelled
from agentsys.lake.lake import Lake
from agentsys.lake.profiles import Family
from agentsys.lake.queries.focused_grammar import focused_constraint
from agentsys.lake.queries.grammar import sql_constraint
from agentsys.serving.requests import Constraint, Message, SamplingParams


@dataclass(frozen=True, slots=True)
class Offer:
    """What one family agent offered: its family's name, its bid's score, its schema as text."""

    family: str
    score: float
    schema: str


class Planner(Protocol):
    """Chooses among offers and writes a plan over the chosen ones."""

    attempts: int

    async def choose(self, context: Context, question: str, offers: Sequence[Offer]) -> list[str]:
        """Return the families to grant to the plan."""
        ...

    async def plan(
        self, context: Context, question: str, offers: Sequence[Offer], refused: Sequence[tuple[str, str]]
    ) -> Labelled[str]:
        """Return a plan as text; ``refused`` are earlier plans with what was wrong with them."""
        ...


_EXAMPLES: Final = (
    (
        "people(name, height, country)",
        "Who is the tallest person?",
        "SELECT name FROM people ORDER BY height DESC LIMIT 1",
    ),
    (
        "sales(city, product, amount, year)",
        "How many sales were there in the city Paris?",
        "SELECT count(*) FROM sales WHERE city = 'Paris'",
    ),
    ("orders(id, price, day)", "What was the lowest price of any order?", "SELECT min(price) FROM orders"),
    (
        "people(name, height, country)",
        "What is the average height of the people from Spain?",
        "SELECT avg(height) FROM people WHERE country = 'Spain'",
    ),
    ("budget(month, cost, staff)", "What did everything cost in total?", "SELECT sum(cost) FROM budget"),
    (
        "houses(street, rooms, age)",
        "How many houses are in the street Elm?",
        "SELECT count(*) FROM houses WHERE street = 'Elm'",
    ),
    ("rivers(river, length, depth)", "What is the depth of the deepest river?", "SELECT max(depth) FROM rivers"),
    ("trees(kind, height, age)", "What was the average age of the trees?", "SELECT avg(age) FROM trees"),
    ("war(month, killed, captured)", "How many people were killed in total?", "SELECT sum(killed) FROM war"),
    (
        "pages(book, words, year)",
        "In which year was the number of words highest?",
        "SELECT year FROM pages ORDER BY words DESC LIMIT 1",
    ),
)
_MAX_PLAN_TOKENS: Final = 1024
_SHOWN_COLUMNS: Final = 24


class FocusedPlanner:
    """For small models: one family, one statement, a grammar in which only the question's own words are conditions.

    The model is asked to choose a family only where bids are within ``margin`` of the best.
    """

    attempts = 1

    def __init__(self, lake: Lake, *, margin: float = 0.05) -> None:
        self._lake = lake
        self._margin = margin

    async def choose(self, context: Context, question: str, offers: Sequence[Offer]) -> list[str]:
        close = [offer for offer in offers if offer.score >= (1 - self._margin) * offers[0].score]
        if len(close) == 1:
            return [close[0].family]
        listed = "\n\n".join(offer.schema for offer in close)
        names = "|".join(re.escape(offer.family) for offer in close)
        prompt = f"{listed}\n\nWhich table answers this question: {question}\nAnswer with the table's name."
        chosen = await context.generate(prompt, constraint=Constraint("regex", names))
        return [chosen.value]

    async def plan(
        self, context: Context, question: str, offers: Sequence[Offer], refused: Sequence[tuple[str, str]]
    ) -> Labelled[str]:
        families = [self._lake.family(offer.family) for offer in offers]
        messages = [Message("system", "You write one SQL query for a question about a table.")]
        for table, asked, sql in _EXAMPLES:
            messages += [Message("user", f"Table: {table}\nQuestion: {asked}"), Message("assistant", sql)]
        tables = ", ".join(_heading(family) for family in families)
        messages.append(Message("user", f"Table: {tables}\nQuestion: {question}"))
        sampling = SamplingParams(max_tokens=_MAX_PLAN_TOKENS)
        return await context.generate(messages, constraint=focused_constraint(families, question), sampling=sampling)


class FreePlanner:
    """For capable models: every offered family, any plan the sandbox accepts, and a few corrections."""

    attempts = 3

    async def choose(self, context: Context, question: str, offers: Sequence[Offer]) -> list[str]:
        return [offer.family for offer in offers]

    async def plan(
        self, context: Context, question: str, offers: Sequence[Offer], refused: Sequence[tuple[str, str]]
    ) -> Labelled[str]:
        messages = _conversation(FREE_INSTRUCTIONS, question, offers, refused)
        return await context.generate(messages, sampling=SamplingParams(max_tokens=_MAX_PLAN_TOKENS))


class GrammarPlanner(FreePlanner):
    """For local models of some size: every offered family, one statement that a grammar of SQL keeps right in form."""

    attempts = 2

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    async def plan(
        self, context: Context, question: str, offers: Sequence[Offer], refused: Sequence[tuple[str, str]]
    ) -> Labelled[str]:
        families = [self._lake.family(offer.family) for offer in offers]
        messages = _conversation(GRAMMAR_INSTRUCTIONS, question, offers, refused)
        sampling = SamplingParams(max_tokens=_MAX_PLAN_TOKENS)
        return await context.generate(messages, constraint=sql_constraint(families, question), sampling=sampling)


FREE_INSTRUCTIONS: Final = """\
Answer the question with a query plan over the tables described, in DuckDB's SQL.
Write either one SELECT, or a JSON object {"steps": [{"name": "first", "sql": "SELECT …"}, …]} in which a later step
may read an earlier one as a table; the last step's result is the answer. Each table has a column _file, the name of the
file that a row came from. Return only what was asked for: the fewest columns and rows, rounded as the question says.
If data is missing, write {"need": "words that describe it"} instead; more tables may then be offered.
Write nothing but the plan."""


GRAMMAR_INSTRUCTIONS: Final = """\
Answer the question with one SELECT over the tables described. Return only what was asked for: the fewest columns and
rows, rounded as the question says."""


def _conversation(
    instructions: str, question: str, offers: Sequence[Offer], refused: Sequence[tuple[str, str]]
) -> list[Message]:
    schemas = "\n\n".join(offer.schema for offer in offers)
    messages = [Message("system", instructions), Message("user", f"{schemas}\n\nQuestion: {question}")]
    for text, fault in refused:
        messages += [Message("assistant", text), Message("user", f"That failed: {fault}\nWrite a corrected plan.")]
    return messages


def _heading(family: Family) -> str:
    return f"{family.name}({', '.join(column.name for column in family.columns[:_SHOWN_COLUMNS])})"
