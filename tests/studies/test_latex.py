"""A study's tables in LaTeX and Markdown, by hand."""

from __future__ import annotations

from lifealign.studies.report.cells import Cell, Column, Table
from lifealign.studies.report.latex import escape, latex
from lifealign.studies.report.markdown import markdown


def test_latex_of_a_table_by_hand() -> None:
    table = Table(
        "t",
        "Title",
        "Note.",
        "Method",
        (Column("Last", "Acc, %"), Column("BWT", "Acc, %"), Column("Why", "", words=True)),
        (
            (
                "er_1",
                (Cell("61.50", 61.5, "60.00", "63.00", 1), Cell("-2.00", -2.0, spread="0.50"), Cell("5 % & more")),
            ),
            ("[x]", (Cell("60.00", 60.0, note="2 of 3 seeds"), Cell(None), Cell("+0.5*", 0.5))),
        ),
        {},
    )
    assert latex(table).splitlines() == [
        "% Title",
        "% Note.",
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{lrrl}",
        r"\toprule",
        r" & \multicolumn{2}{c}{Acc, \%} & \multicolumn{1}{c}{} \\",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}",
        r"Method & Last & BWT & Why \\",
        r"\midrule",
        r"er\_1 & $\mathbf{61.50}$ {\scriptsize $[60.00, 63.00]$} & $-2.00$ {\scriptsize $\pm 0.50$} & 5 \% \& more \\",
        r"{[}x] & $60.00$ {\scriptsize (2 of 3 seeds)} & -- & $+0.5^{*}$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_markdown_of_a_table_by_hand() -> None:
    columns = (Column("Last", "accuracy"), Column("BWT", "accuracy"), Column("config", words=True))
    rows = (
        ("replay", (Cell("90.0", 90.0, "85.0", "95.0", rank=1), Cell("-1.0", -1.0, spread="0.5"), Cell("lr=1e-3 | x"))),
        ("se_q", (Cell("50.0", 50.0, note="2 of 3"), Cell(None), Cell(None))),
    )
    table = Table("main", "Main <table>", "", "method", columns, rows, {})
    assert markdown(table).splitlines() == [
        r"**Main \<table\>**",
        "",
        "| method | accuracy Last | accuracy BWT | config |",
        "| --- | ---: | ---: | --- |",
        r"| replay | **90.0** \[85.0, 95.0\] | -1.0 ± 0.5 | lr=1e-3 \| x |",
        r"| se\_q | 50.0 (2 of 3) | - | - |",
    ]


def test_latex_escapes_what_it_would_read_as_a_command() -> None:
    assert escape("a_b%c&d#e$f{g}\\h^i~j\nk") == (
        r"a\_b\%c\&d\#e\$f\{g\}\textbackslash{}h\textasciicircum{}i\textasciitilde{}j k"
    )
