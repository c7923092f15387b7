"""Codes are unique, documented and picklable."""

import importlib
import pickle
import pkgutil
import re
from pathlib import Path

import agentsys
from agentsys.errors import AgentsysError, ConfigurationError

ROOT = Path(__file__).resolve().parents[2]


def every_error() -> list[type[AgentsysError]]:
    for module in pkgutil.walk_packages(agentsys.__path__, "agentsys."):
        importlib.import_module(module.name)
    found, queue = [], [AgentsysError]
    while queue:
        kind = queue.pop()
        found.append(kind)
        queue.extend(kind.__subclasses__())
    return [kind for kind in found if kind.__module__.startswith("agentsys")]


def test_codes_are_unique_and_documented():
    documented = set(re.findall(r"^### (AGS-\d{4})", (ROOT / "docs/errors.md").read_text(), re.MULTILINE))
    codes = {}
    for kind in every_error():
        own = kind.__dict__.get("code")
        assert own is not None, f"{kind.__name__} has no code of its own"
        assert codes.setdefault(own, kind) is kind, f"{own} is used by {codes[own].__name__} and {kind.__name__}"
        assert kind.remedy, kind.__name__
    assert set(codes) == documented


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(ConfigurationError("model.nmae is unknown.", remedy="Write model.name.")))
    assert error.to_json() == {
        "code": "AGS-0100",
        "type": "ConfigurationError",
        "message": "model.nmae is unknown.",
        "remedy": "Write model.name.",
    }
