"""A table of a study's report as LaTeX: a tabular with booktabs rules, to be included in a document's table."""

from __future__ import annotations

from lifealign.studies.report.cells import Cell, Table

_SIGNS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": r"\textminus{}",
    "…": r"\ldots{}",
    "[": "{[}",  # after the end of a row it would open an argument
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}


def escape(text: str) -> str:
    """Escape text, so that LaTeX prints it unchanged, on one line."""
    return "".join(_SIGNS.get(sign, sign) for sign in " ".join(text.split()))


def latex(table: Table) -> str:
    """The table as a tabular; what is better than all others of its column is bold, an interval in brackets."""
    kinds = "".join("l" if column.words else "r" for column in table.columns)
    lines = [f"% {_comment(line)}" for line in (table.title, table.note) if line]
    lines += [r"% needs \usepackage{booktabs}", rf"\begin{{tabular}}{{l{kinds}}}", r"\toprule"]
    if above := table.above():
        heads, rules, at = [""], [], 2
        for label, span in above:
            heads.append(rf"\multicolumn{{{span}}}{{c}}{{{escape(label)}}}")
            rules.append(rf"\cmidrule(lr){{{at}-{at + span - 1}}}")
            at += span
        lines += [_row(heads), " ".join(rules)]
    lines += [_row([escape(table.first), *(escape(column.label) for column in table.columns)]), r"\midrule"]
    for name, cells in table.rows:
        lines += [r"\midrule"] if table.starts_apart(name) and name != table.rows[0][0] else []
        marks = table.marks(name)
        lines.append(_row([escape(name) + (rf"\textsuperscript{{{marks}}}" if marks else ""), *map(_cell, cells)]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [
        rf"\par {{\scriptsize \textsuperscript{{{letter}}} {escape(remark)}}}"
        for remark, letter in table.footnotes().items()
    ]
    return "\n".join([*lines, ""])


def _comment(text: str) -> str:
    return " ".join(text.split())


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    if cell.text is None:
        return "--"
    number = cell.value is not None
    # A hyphen is no minus sign, in numbers only.
    inner = cell.text.replace("*", "^{*}")
    text = f"${inner}$" if number else escape(cell.text)
    if cell.rank:
        text = rf"$\mathbf{{{inner}}}$"
    if cell.spread:
        text += rf" {{\scriptsize $\pm {cell.spread}$}}"
    if cell.low and cell.high:
        text += rf" {{\scriptsize $[{cell.low}, {cell.high}]$}}"
    if cell.note:
        text += rf" {{\scriptsize ({escape(cell.note)})}}"
    return text
