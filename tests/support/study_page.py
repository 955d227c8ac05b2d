"""A study's page and tables, parsed."""

from __future__ import annotations

from typing import Any

from lifealign.studies.report.cells import Table
from lifealign.studies.report.tables import all_tables
from lifealign.studies.report.write import checked


def table_named(results: dict[str, Any], name: str) -> Table:
    return next(t for section in all_tables(checked(results)).values() for t in section if t.name == name)
