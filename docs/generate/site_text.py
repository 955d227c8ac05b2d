"""Plain text as Markdown: what the generated pages of the site share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([*_|\[\]])")
_ARXIV = re.compile(r"\barXiv:?\s+(\d{4}\.\d{4,5})")


def escape(text: str) -> str:
    """Markdown that shows `text` as it is; what stands in backticks stays code, arXiv numbers become links."""
    parts = text.split("`")
    shown = ["`" + part.replace("|", "\\|") + "`" if i % 2 else _prose(part) for i, part in enumerate(parts)]
    return "".join(shown)


def _prose(text: str) -> str:
    shown = _SPECIAL.sub(r"\\\1", text).replace("<", "&lt;")  # Markdown cannot escape this one
    return _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", shown)


def paragraphs(text: str) -> str:
    """A docstring's paragraphs, escaped, one empty line between them."""
    return "\n\n".join(" ".join(escape(part).split()) for part in re.split(r"\n\s*\n", text.strip()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int | None = None) -> str:
    """A Markdown table.

    Args:
        head: the column titles.
        rows: cells that are Markdown already.
        numbers_from: the first column that is set flush right; None: none.
    """
    rule = ["---:" if numbers_from is not None and i >= numbers_from else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))
