"""A table of a study's report as Markdown, for a README or an issue."""

from __future__ import annotations

from lifealign.studies.report.cells import Cell, Table

_SIGNS = {sign: "\\" + sign for sign in "\\`*_[]<>|"}


def escape(text: str) -> str:
    """Escape text, so that Markdown shows it unchanged, on one line."""
    return "".join(_SIGNS.get(sign, sign) for sign in " ".join(text.split()))


def markdown(table: Table) -> str:
    """The table with its title and note; what is better than all others of its column is bold, an interval in brackets.

    Markdown has one line of headings, so a heading above several columns is repeated in each of theirs.
    """
    heads = [f"{column.above} {column.label}".strip() for column in table.columns]
    rules = ["---" if column.words else "---:" for column in table.columns]
    lines = [f"**{escape(table.title)}**", ""]
    lines += [escape(table.note), ""] if table.note else []
    lines += [_row([escape(head) for head in (table.first, *heads)]), _row(["---", *rules])]
    for name, cells in table.rows:
        marks = table.marks(name)
        lines.append(_row([escape(name) + (f" <sup>{marks}</sup>" if marks else ""), *map(_cell, cells)]))
    for remark, letter in table.footnotes().items():
        lines += ["", f"<sup>{letter}</sup> {escape(remark)}"]
    return "\n".join([*lines, ""])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    if cell.text is None:
        return "-"
    text = escape(cell.text)
    text = f"**{text}**" if cell.rank else text
    text += f" ± {cell.spread}" if cell.spread else ""
    if cell.low and cell.high:
        text += f" \\[{cell.low}, {cell.high}\\]"
    return text + (f" ({escape(cell.note)})" if cell.note else "")
