"""A real console with the real engine, a small lake of real public files, and Chromium before it.

``AGENTSYS_TEST_SCREENSHOTS=FOLDER`` keeps the pictures that the tests take.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from agentsys.benchmarks.browser import browser, served_console
from agentsys.lake.local import lake_folder

FILES = ("airports.csv", "cars.json", "stocks.csv")
PATIENCE_MILLISECONDS = 180_000

APPROVING = """
from agentsys import NOBODY, EffectClass, Label, Policy, Workflow, tool


@tool(effect=EffectClass.IDEMPOTENT, audience=NOBODY, source=Label.trusted("user:owner"))
def publish(text: str) -> str:
    "Publish a text."
    return f"published {text}"


async def announce(context, text):
    return (await context.call("publish", text=text)).value


workflow = Workflow("announce", announce)
policy = Policy.of(asks=["publish"])
"""


@dataclass(frozen=True)
class Console:
    """A console that is served, its board and its lake."""

    url: str
    board: Path
    lake: Path


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="session")
def console(tmp_path_factory) -> Iterator[Console]:
    folder = tmp_path_factory.mktemp("console")
    lake = folder / "lake"
    lake.mkdir()
    for name in FILES:
        shutil.copy(lake_folder("package:vega_datasets/_data") / name, lake)
    with served_console("--lake", str(lake), board=folder / "board.db") as url:
        yield Console(url, folder / "board.db", lake)


@pytest.fixture
def approving(tmp_path) -> Iterator[Console]:
    """A console whose only tool a person is asked about."""
    file = tmp_path / "announcing.py"
    file.write_text(APPROVING)
    with served_console(str(file), board=tmp_path / "board.db") as url:
        yield Console(url, tmp_path / "board.db", tmp_path)


@pytest.fixture
def page(chromium) -> Iterator[Page]:
    with chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light") as context:
        opened = context.new_page()
        opened.set_default_timeout(PATIENCE_MILLISECONDS)
        yield opened


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    kept = os.environ.get("AGENTSYS_TEST_SCREENSHOTS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
