"""Every strategy's docstring has the parts that its page on the site is made of."""

from __future__ import annotations

import inspect
import re

import pytest

from lifealign.strategies import STRATEGIES


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_docstring_has_a_first_line_a_paper_and_costs(name: str) -> None:
    first, *rest = re.split(r"\n\s*\n", inspect.getdoc(STRATEGIES[name]) or "")
    assert "\n" not in first and first.endswith(".")
    assert any(re.search(r"arXiv \d{4}\.\d{4,5}|ICLR \d{4}|^No paper:", " ".join(part.split())) for part in rest)
    assert any(part.startswith("Kept: ") for part in rest)
    assert any(part.startswith("Cost: ") for part in rest)
