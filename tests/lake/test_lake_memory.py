"""Memory while a file far larger than the limit is profiled, measured on a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GIGABYTE = 10**9
MEASURE = """
import json, sys
from pathlib import Path
from agentsys.lake.lake import Lake
(file,) = Lake.open(sys.argv[1], cache=Path(sys.argv[2])).files
# Not ru_maxrss, which counts what the process that started this one held.
(peak,) = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps({"peak": peak, "rows": file.tables[0].rows, "types": [c.type for c in file.tables[0].columns]}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it so")
def test_profiling_a_gigabyte_stays_below_a_gibibyte(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    block = "".join(
        f'{number},2021-{number % 12 + 1:02d}-{number % 28 + 1:02d},"{number * 37 % 9_999_999:,}",'
        f"{number % 1000 / 10}%,customer note number {number * 7919} of the day\n"
        for number in range(100_000)
    )
    written = rows = 0
    with (lake / "ledger.csv").open("w", encoding="utf-8") as stream:
        stream.write("Ledger,,,,\n,,,,\nid,day,amount,share,note\n")
        while written < GIGABYTE:
            written += stream.write(block)
            rows += 100_000
    output = subprocess.check_output([sys.executable, "-c", MEASURE, str(lake), str(tmp_path / "cache")], text=True)
    measured = json.loads(output)
    assert measured["rows"] == rows
    assert measured["types"] == ["BIGINT", "DATE", "BIGINT", "DOUBLE", "VARCHAR"]
    assert measured["peak"] < 2**30
