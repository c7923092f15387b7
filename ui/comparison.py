"""What changed between two versions of an entry."""

import json
from difflib import unified_diff

from agentsys.ui.formatting import label_text
from agentsys.views.entries import EntryView


def version_diff(old: EntryView, new: EntryView) -> str:
    """Return the difference as unified-diff lines, of writer, label and value; empty where there is none."""
    names = (f"version {old.version}", f"version {new.version}")
    return "\n".join(unified_diff(_lines(old), _lines(new), *names, n=1_000, lineterm=""))


def _lines(entry: EntryView) -> list[str]:
    if entry.withheld:
        value = ["withheld"]
    elif entry.deleted:
        value = ["deleted"]
    else:
        value = json.dumps(entry.value, indent=2, ensure_ascii=False, sort_keys=True).splitlines()
    return [f"label: {label_text(entry.label)}", f"writer: {entry.writer}", *value]
