"""Where the pages are, relative to the entry script."""

from typing import Final

RUNS_PAGE: Final = "screens/runs.py"
RUN_PAGE: Final = "screens/run.py"
BLACKBOARD_PAGE: Final = "screens/blackboard.py"
ASK_PAGE: Final = "screens/ask.py"
APPROVALS_PAGE: Final = "screens/approvals.py"
SERVING_PAGE: Final = "screens/serving.py"
