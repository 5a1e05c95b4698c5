"""Figures, tables and formulas have numbers, and the text refers to them by these."""

from itertools import count

import nbformat
import pytest

from sa_lib.book.numbering import refer, with_formulas

TABLE = '<figure class="table" style="margin: 0"><figcaption>All of it.</figcaption></figure>'
DRAWING = "![A line.](../book/_static/drawings/rho.svg)\n\n*A line of\nnumbers.*"


def text(source):
    return nbformat.v4.new_markdown_cell(source)


def code(*shown, figure=""):
    outputs = [nbformat.v4.new_output("display_data", {
        "text/html" if value == TABLE else "text/markdown": value}) for value in shown]
    return nbformat.v4.new_code_cell("", outputs=outputs,
                                     metadata={"mystnb": {"figure": {"name": figure}}} if figure else {})


def referred(*cells):
    refer("05_attacks", cells)
    return [cell.source if cell.cell_type == "markdown" else
            "".join(value for output in cell.outputs for value in output.data.values()) for cell in cells]


def linked(number):
    return f'<a href="#table-{number.replace(".", "-")}">Table {number}</a>'


def test_a_text_names_the_next_figure_and_table_and_the_last():
    cells = [text("The figure\nbelow draws what the second table below counts. See **the table below**."),
             code(TABLE), code(figure="05_attacks-2"), code(TABLE), text("The figure above. The second table above.")]
    first, table, _, second, last = referred(*cells)
    assert first == f"{{numref}}`05_attacks-2` draws what {linked('5.2')} counts. See **{linked('5.1')}**."
    assert 'id="table-5-1"' in table and ">Table 5.1 </span>All of it." in table
    assert 'id="table-5-2"' in second
    assert last == f"{{numref}}`05_attacks-2`. {linked('5.1')}."


def test_what_a_cell_says_lies_between_the_tables_that_it_shows():
    shown, = referred(code(TABLE, "The table above, the table below.", TABLE))
    assert f"{linked('5.1')}, {linked('5.2')}." in shown


def test_a_drawing_is_a_figure_and_text_stands_before_and_behind_it():
    drawn, last = referred(text(f"The figure below:\n\n{DRAWING}\n\nThe figure above."), text("And the figure above."))
    assert drawn == ("{numref}`05_attacks-drawing-1`:\n\n```{figure} ../book/_static/drawings/rho.svg\n:alt: A line.\n"
                     ":name: 05_attacks-drawing-1\n\nA line of numbers.\n```\n\n{numref}`05_attacks-drawing-1`.")
    assert last == "And {numref}`05_attacks-drawing-1`."


@pytest.mark.parametrize("cells, at", [
    ([text("See the table above."), code(TABLE)], 0), ([code(TABLE), text("The\nfigure below.")], 1),
    ([text("The second table below."), code(TABLE)], 0)])
def test_the_words_stay_where_a_run_has_no_such_figure_or_table(cells, at):
    before = cells[at].source
    assert referred(*cells)[at] == before


def test_a_link_to_a_formula_has_its_number_behind_it():
    source = ("[ρ](05_attacks.ipynb#formula-2), and [its\nerror](05_attacks.ipynb#formula-1) in "
              "[chapter 5](05_attacks.ipynb)\n\n$$\nx\n$$\n")
    assert with_formulas("06_report_card", count(3), source) == (
        "[ρ](05_attacks.ipynb) {eq}`formula-05_attacks-2`, and [its\nerror](05_attacks.ipynb) "
        "{eq}`formula-05_attacks-1` in [chapter 5](05_attacks.ipynb)\n\n$$\nx\n$$ (formula-06_report_card-3)\n")
    assert with_formulas("05_attacks", count(1), source).startswith("ρ {eq}`formula-05_attacks-2`, and")
