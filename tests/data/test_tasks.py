"""Reports of what became of rows; what importing the data modules costs."""

from __future__ import annotations

import json
import subprocess
import sys

from lifealign.data.tasks import DataReport


def test_import_is_light():
    code = (
        "import sys, lifealign.data.tasks, lifealign.data.cleaning, lifealign.data.check, lifealign.data.recipes;"
        "print(sorted({'torch', 'datasets', 'pandas', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_report_lines_and_json():
    report = DataReport(
        "f.jsonl", 40, 24, {"equal answers": (4, 17, 220), "duplicate row": tuple(range(1, 14))}, {"mended": (9,)}
    )
    assert report.lines() == [
        "f.jsonl: read 40 rows, kept 24",
        "dropped 3 rows: equal answers (rows 4, 17, 220)",
        "dropped 13 rows: duplicate row (rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more)",
        "repaired 1 row: mended (row 9)",
    ]
    assert DataReport.from_json(json.loads(json.dumps(report.to_json()))) == report
