"""Codes are unique and documented, and errors cross process boundaries."""

import pickle
import runpy
from pathlib import Path

from agentsys.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
GENERATOR = runpy.run_path(str(ROOT / "docs/generate.py"))


def test_codes_are_unique_and_every_error_has_a_remedy():
    codes = {}
    for kind in GENERATOR["every_error"]():
        own = kind.__dict__.get("code")
        assert own is not None, f"{kind.__name__} has no code of its own"
        assert codes.setdefault(own, kind) is kind, f"{own} is used by {codes[own].__name__} and {kind.__name__}"
        assert kind.remedy and kind.__doc__, kind.__name__
    assert len(codes) > 50


def test_the_pages_that_come_from_the_code_are_up_to_date():
    for page in ("errors", "modules", "cli"):
        assert (ROOT / f"docs/{page}.md").read_text() == GENERATOR[f"{page}_page"](), "run `make docs`"


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(ConfigurationError("model.nmae is unknown.", remedy="Write model.name.")))
    assert error.to_json() == {
        "code": "AGS-0100",
        "type": "ConfigurationError",
        "message": "model.nmae is unknown.",
        "remedy": "Write model.name.",
    }
