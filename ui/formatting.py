"""How values, times and labels are written for people. Nothing here depends on Streamlit."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from agentsys.blackboard.labels import Label

Tone = Literal["blue", "gray", "green", "orange", "red", "violet"]
"""A named colour of Streamlit, which has a light and a dark form of each."""

SHOWN_NAMES: Final = 3

_PUNCTUATION: Final = re.compile(r"([!-/:-@\[-`{-~])")
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, slots=True)
class Chip:
    """A short text with a colour; the text alone says everything."""

    text: str
    tone: Tone


def escape_markdown(text: str) -> str:
    """Return ``text`` so that Markdown shows it literally, on one line.

    What agents and files wrote must not become a link or an image: an image is fetched from wherever it points.
    """
    return _PUNCTUATION.sub(r"\\\1", " ".join(text.split()))


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units, ``2 h 5 min``; below ten seconds with a decimal."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    rest, parts = round(seconds), list[str]()
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
    return " ".join(part for part in parts[:2] if part)


def age_text(then: float, now: float) -> str:
    """Return how long ago the unix time ``then`` was, in its largest unit; a time in the future is now."""
    passed = int(now - then)
    for size, unit in _UNITS:
        if passed >= size:
            return f"{passed // size} {unit} ago"
    return "just now"


def clock_text(at: float) -> str:
    """Return a unix time as the time of day here."""
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")


def names_text(names: Sequence[str]) -> str:
    """Return the first names and how many more there are."""
    rest = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def label_chips(label: Label) -> tuple[Chip, Chip, Chip]:
    """Return who shaped the value, who may read it, and how much it can carry."""
    influencers = sorted(label.influencers)
    people_only = all(name.startswith("user:") for name in influencers)
    through = [f"{fact.influencer} through {fact.endorser}" for fact in sorted(label.endorsements)]
    shaped = f"influenced by {names_text([*influencers, *through]) or 'nobody'}"
    members = label.readers.members
    readers = "everyone" if members is None else names_text(sorted(members)) or "nobody"
    capacity = (
        "free text" if math.isinf(label.capacity) else f"{label.capacity:g} {'bit' if label.capacity == 1 else 'bits'}"
    )
    return (
        Chip(shaped, "blue" if people_only and not through else "orange"),
        Chip(f"readable by {readers}", "gray" if members is None else "violet"),
        Chip(f"carries {capacity}", "gray"),
    )


def label_text(label: Label) -> str:
    """Return the chips' texts as one line."""
    return " · ".join(chip.text for chip in label_chips(label))
