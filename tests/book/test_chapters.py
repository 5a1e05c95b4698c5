"""The parts that every chapter must have, read off its source; nothing is run."""

import ast
import re

import jupytext
import pytest

from runs import PROJECT
from sa_lib.book import notebooks
from sa_lib.book.numbering import DRAWING, PHRASE, STEPS

# The page in plain PyTorch: it has no exercises, as it has no library to say the solutions with.
PLAIN = "10_one_page"


def read(name):
    return jupytext.read(PROJECT / "notebooks" / f"{name}.py", fmt="py:percent").cells


@pytest.fixture(params=notebooks.chapters(PROJECT))
def cells(request):
    """The cells of a chapter."""
    return read(request.param)


@pytest.fixture(params=[name for name in notebooks.chapters(PROJECT) if name != PLAIN])
def chapter(request):
    """The cells of a chapter with exercises."""
    return read(request.param)


def prose(cells):
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def section(cells, title):
    """The cells from the heading `title` up to the next one of its level or above."""
    level = title.index(" ")
    inside, section = False, []
    for cell in cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else ():
            if re.match(rf"#{{1,{level}}} ", line):
                inside = line == title
        if inside:
            section.append(cell)
    return section


def test_a_chapter_opens_with_its_goals_its_needs_and_its_time(cells):
    opening = cells[0].source
    at = [opening.index(text) for text in ("\n**You will learn**\n\n- ", "\n**You need** ", "\n**It takes** ")]
    assert opening.startswith("# ")
    assert at == sorted(at)


def test_a_chapter_closes_with_takeaways_questions_exercises_and_things_to_try(chapter):
    headings = re.findall(r"^## (.*)$", "\n".join(prose(chapter)), re.MULTILINE)
    assert headings[-4:] == ["Takeaways", "Check yourself", "Exercises", "Try next"]
    assert re.search(r"^- ", section(chapter, "## Try next")[0].source, re.MULTILINE)


def test_the_findings_of_a_chapter_are_said_by_one_folded_cell(cells):
    for cell in (short := [cell for cell in cells if "in-short" in tags(cell)]):
        assert "remove-input" in tags(cell)
        assert re.search(r"\"\*\*In short\*\*\\n\\n\"", cell.source)
        assert len(re.findall(r"\"- ", cell.source)) == 3
    assert len(short) <= 1


def test_a_drawing_has_a_file_a_text_and_a_caption(cells):
    text = "\n\n".join(prose(cells))
    shown = re.findall(r"^!\[([^]]+)\]\(\.\./book/_static/drawings/(\w+)\.svg\)\n\n\*[^*]+\*$", text, re.MULTILINE)
    assert len(shown) == text.count("](../book/_static/drawings/")
    for alt, name in shown:
        assert len(alt) > 40
        assert (PROJECT / "book" / "_static" / "drawings" / f"{name}.svg").is_file()


def test_the_page_in_plain_pytorch_is_about_150_lines_without_the_library():
    cells = [cell for cell in read(PLAIN) if cell.cell_type == "code"]
    shown = [line for cell in cells if not tags(cell) & {"remove-cell", "remove-input"}
             for line in cell.source.splitlines() if line.strip()]
    assert len(shown) < 180
    assert not [cell for cell in cells if re.search(r"(?:import|from) sa_lib", cell.source)]


def test_a_chapter_asks_three_questions_whose_answers_are_folded_and_short(chapter):
    (asked,) = section(chapter, "## Check yourself")
    folded = re.findall(r"^<details><summary>(.+\?)</summary>\n\n([^<]+)\n\n</details>$", asked.source, re.MULTILINE)
    assert len(folded) == len(dict(folded)) == asked.source.count("<details>") == 3
    for _, answer in folded:
        assert 1 <= len(re.findall(r"[.?!](?=\s|$)", answer)) <= 3
        assert not re.search(r"\d+\.\d+|\d ?%", answer), "an answer quotes no result"


def test_every_exercise_says_how_hard_it_is(chapter):
    text = section(chapter, "## Exercises")[0].source
    assert "\nEasy takes about 10 minutes, medium about 20, and hard about 40.\n\n1. " in text
    _, *asked = re.split(r"^\d+\. ", text, flags=re.MULTILINE)
    assert [exercise for exercise in asked if not re.search(r"\((?:easy|medium|hard)\)\s*$", exercise)] == []


def test_every_exercise_has_a_solution_that_runs_folded(chapter):
    exercises = section(chapter, "## Exercises")
    asked = re.findall(r"^(\d+)\. \*\*", exercises[0].source, re.MULTILINE)
    solved = re.findall(r"^### Solution (\d+)$", "\n".join(prose(exercises)), re.MULTILINE)
    assert len(asked) >= 3
    assert asked == [str(n) for n in range(1, len(asked) + 1)]
    assert solved == asked
    for number in solved:
        code = [cell for cell in section(chapter, f"### Solution {number}") if cell.cell_type == "code"]
        assert code, f"solution {number} has no code"
        assert "chapter.say(" in code[-1].source, f"solution {number} shows no result of this run"
        assert [cell.source for cell in code if "hide-cell" not in tags(cell)] == []


def test_a_derivation_is_folded_and_has_the_blank_lines_that_its_markdown_needs(cells):
    text = "\n".join(prose(cells))
    opened = re.findall(r"^<details><summary>[^<]+</summary>\n\n", text, re.MULTILINE)
    assert len(opened) == text.count("<details")
    assert len(opened) == len(re.findall(r"\n\n</details>$", text, re.MULTILINE))


def said(cell):
    """The text that a cell says, with "{}" for each number of the run. The page in plain PyTorch shows Markdown."""
    (call,) = calls(cell.source, {"say", "Markdown"})
    if isinstance(call.args[0], ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in call.args[0].values)
    return re.sub(r"\{[^{}]*\}", "{}", ast.literal_eval(call.args[0]))


def test_takeaways_carry_numbers_of_the_run(cells):
    heading, takeaways = section(cells, "## Takeaways")
    assert heading.source == "## Takeaways"
    assert tags(takeaways) == {"remove-input", "takeaways"}
    bullets = said(takeaways).split("\n")
    assert 3 <= len(bullets) <= 5
    assert [bullet for bullet in bullets if not re.fullmatch(r"- .+[.]", bullet)] == []
    assert sum("{}" in bullet for bullet in bullets) >= 2


def test_takeaways_quote_no_result(cells):
    assert re.findall(r"\d+\.\d+|\d ?%", said(section(cells, "## Takeaways")[1])) == []


def test_prose_is_markdown_that_any_notebook_shows(cells):
    assert not re.search(r"^(?::::|```)\{|\{\w+(?::\w+)?\}`", "\n".join(prose(cells)), re.MULTILINE)


def test_no_line_of_prose_begins_as_a_comment(cells):
    assert not re.search(r"^[ \t]*%", "\n".join(prose(cells)), re.MULTILINE), "MyST drops a line that begins with %"


def test_code_that_is_shown_fits_the_page(cells):
    shown = [cell for cell in cells if cell.cell_type == "code" and not tags(cell) & {"remove-cell", "remove-input"}]
    wide = [line for cell in shown for line in re.sub(r"  # @param.*", "", cell.source).splitlines() if len(line) > 68]
    assert shown
    assert wide == []


def test_every_formula_that_a_text_links_is_there():
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (PROJECT / "notebooks").glob("*.py")}
    prose = [path.read_text(encoding="utf-8") for path in (PROJECT / "book").glob("*.md")]
    links = {link for text in [*texts.values(), *prose] for form in (
        r"(\d\d_\w+)\.ipynb#formula-(\d+)", r"formula-(\d\d_\w+)-(\d+)`") for link in re.findall(form, text)}
    assert len(links) >= 5
    for chapter, number in links:
        assert 1 <= int(number) <= len(re.findall(r"(?m)^# \$\$$", texts[chapter])) / 2, (chapter, number)


def test_a_figure_is_alone_in_its_cell(cells):
    """The site gives every output of the cell the figure's name, and a name must be there once."""
    figures = [cell.source for cell in cells if cell.cell_type == "code" and "show_figure(" in cell.source]
    assert [source[:60] for source in figures if re.search(r"chapter\.(say|show_table)\(", source)] == []


def calls(source, names):
    """The calls of functions of the page in a code cell, in their order."""
    tree = ast.parse(re.sub(r"^(\s*)%.*", r"\1pass", source, flags=re.MULTILINE))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)
             and getattr(node.func, "attr", getattr(node.func, "id", "")) in names]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def shown(cells):
    """(kind, text) of each text, figure and table, in their order; solutions are left out."""
    for cell in cells:
        if tags(cell) & {"hide-cell", "in-short"}:
            continue
        if cell.cell_type == "markdown":
            end = 0
            for drawing in DRAWING.finditer(cell.source):
                yield from (("text", cell.source[end:drawing.start()]), ("figure", drawing[2]))
                end = drawing.end()
            yield "text", cell.source[end:]
            continue
        for call in calls(cell.source, {"say", "show", "show_figure", "show_table", "show_markdown", "show_claims"}):
            title = ast.unparse(call.args[-1])[:60]
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            kind = {"show": "figure", "show_figure": "figure", "show_table": "table", "show_claims": "table"}.get(
                name, "text")
            yield kind, title if kind != "text" else " ".join(
                node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)
                and isinstance(node.value, str))


def test_the_text_names_every_figure_and_table(cells):
    parts = list(shown(cells))
    named = set()
    for position, (kind, text) in enumerate(parts):
        for phrase in PHRASE.finditer(text) if kind == "text" else ():
            steps, wanted, way = phrase.groups()
            order = range(position + 1, len(parts)) if way == "below" else range(position - 1, -1, -1)
            named.add([other for other in order if parts[other][0] == wanted][STEPS[steps] - 1])
    assert [part for position, part in enumerate(parts) if part[0] != "text" and position not in named] == []
