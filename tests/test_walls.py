"""The walls of the house: the allowed imports, the length of functions, the language, and the reporting in chapters.

These tests read the sources without running them. They print their counts: pytest -s shows them.
"""

import ast
import io
import json
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
LIBRARY = {".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
           for path in sorted((PROJECT / "sa_lib").rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in LIBRARY.items()}
CHAPTERS = sorted((PROJECT / "notebooks").glob("[0-9]*.ipynb"))

# Limits.
FUNCTION_LINES = 60
RELATIVES_PER_THOUSAND = 1.0
SHOWN_LINES = 120
ONE_PAGE = {"10_one_page": 150}  # the whole idea without the library
REPORTING_SHARE = 0.7
PROSE = {"in-short": 15, "takeaways": 19}  # the tags of prose with numbers of the run
CONDITIONALS = 20


# Imports -----------------------------------------------------------------------------------------------------------

def imported(name):
    """The modules of the library that a module imports anywhere, inside functions too."""
    package = name if LIBRARY[name].stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in LIBRARY)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*start, *filter(None, [node.module])])
            inner = {f"{module}.{alias.name}" for alias in node.names} & LIBRARY.keys()
            yield from inner
            if module in LIBRARY and len(inner) < len(node.names):
                yield module


@pytest.mark.parametrize("name, modules", [
    ("sa_lib.residual", {"sa_lib.checks", "sa_lib.quantiles"}),
    ("sa_lib.store.archive", {"sa_lib.store.digests", "sa_lib.store.files"}),
    ("sa_lib.store.artifacts", {"sa_lib.checks", "sa_lib.settings", "sa_lib.store.archive", "sa_lib.store.digests",
                                "sa_lib.store.files"})])
def test_imports_are_found(name, modules):
    assert set(imported(name)) == modules


def test_the_library_never_imports_the_book():
    for name in LIBRARY:
        if not name.startswith("sa_lib.book"):
            assert not any(other.startswith("sa_lib.book") for other in imported(name)), name


def circle(graph):
    """The nodes of a circle in a graph, in order; an empty list if the graph has no circle."""
    done = set()

    def search(node, path):
        if node in path:
            return [*path[path.index(node):], node]
        if node in done:
            return []
        for other in graph[node]:
            if found := search(other, [*path, node]):
                return found
        done.add(node)
        return []

    return next(filter(None, (search(node, []) for node in graph)), [])


def test_a_circle_is_found():
    assert circle({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]}) == ["b", "d", "b"]
    assert circle({"a": ["b", "c"], "b": ["c"], "c": []}) == []


def test_no_modules_import_each_other_in_a_circle():
    assert " -> ".join(circle({name: set(imported(name)) for name in LIBRARY})) == ""


# Functions ---------------------------------------------------------------------------------------------------------

def lines_of(function):
    """Number of lines of a function, without its docstring."""
    count = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        count -= function.body[0].end_lineno - function.body[0].lineno + 1
    return count


def test_no_function_is_too_long():
    lengths = {f"{name}.{node.name}": lines_of(node) for name, tree in TREES.items() for node in ast.walk(tree)
               if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    longest = sorted(lengths, key=lengths.get, reverse=True)
    print("Longest functions:", ", ".join(f"{name} {lengths[name]}" for name in longest[:5]))
    assert {name: length for name, length in lengths.items() if length > FUNCTION_LINES} == {}


# Language ----------------------------------------------------------------------------------------------------------

def prose(source):
    """The docstrings and comments of a source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


@pytest.fixture(scope="module")
def words():
    """How often each word is in the docstrings and comments of each module."""
    return {name: Counter(re.findall(r"[a-z]+", " ".join(prose(path.read_text(encoding="utf-8"))).lower()))
            for name, path in LIBRARY.items()}


def test_docstrings_and_comments_name_things_and_actors(words):
    relatives = {name: sum(counts[word] for word in ("what", "who", "whoever")) for name, counts in words.items()}
    rate = 1000 * sum(relatives.values()) / sum(counts.total() for counts in words.values())
    print(f"what, who, whoever: {rate:.2f} in 1,000 words;", {name: n for name, n in relatives.items() if n})
    assert rate <= RELATIVES_PER_THOUSAND


def test_the_attacker_is_they(words):
    assert {name: counts[word] for name, counts in words.items() for word in ("he", "his", "him") if counts[word]} == {}


# Chapters ----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def cells():
    """The code cells of each chapter's derived notebook, as JSON."""
    return {path.stem: [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
                        if cell["cell_type"] == "code"] for path in CHAPTERS}


def lines(cell):
    return "".join(cell["source"]).splitlines()


def code_lines(cells):
    """Number of lines that are not blank."""
    return sum(bool(line.strip()) for cell in cells for line in lines(cell))


def is_shown(cell):
    """Whether Colab shows the code of a cell."""
    metadata = cell["metadata"]
    return metadata.get("cellView") != "form" and not metadata.get("jupyter", {}).get("source_hidden")


def test_a_chapter_in_colab_shows_little_code(cells):
    shown = {name: code_lines(filter(is_shown, chapter)) for name, chapter in cells.items()}
    print("Lines of code shown in Colab:", shown)
    assert {name: count for name, count in shown.items() if count > ONE_PAGE.get(name, SHOWN_LINES)} == {}


def tags(cell):
    return set(cell["metadata"].get("tags", []))


def test_ideas_outweigh_reporting(cells):
    every = [cell for chapter in cells.values() for cell in chapter]
    reporting = code_lines(cell for cell in every if tags(cell) & {"remove-input", "remove-cell"}
                           and not tags(cell) & PROSE.keys())
    idea = code_lines(cell for cell in every if tags(cell) <= {"hide-input"})
    print(f"Reporting: {reporting} lines, idea: {idea}, {reporting / idea:.2f}")
    assert reporting <= REPORTING_SHARE * idea


@pytest.mark.parametrize("tag", sorted(PROSE))
def test_the_findings_and_the_takeaways_of_a_chapter_are_short(cells, tag):
    """They are prose with numbers of the run, so their lines have a limit of their own."""
    lengths = {name: code_lines(cell for cell in chapter if tag in tags(cell)) for name, chapter in cells.items()}
    print(f"Lines, {tag}:", lengths)
    assert {name: count for name, count in lengths.items() if count > PROSE[tag]} == {}


def calls(chapter, *names):
    """The calls of functions of `sa_lib.chapter` in the cells of a chapter."""
    for cell in chapter:
        python = "\n".join(line for line in lines(cell) if not line.lstrip().startswith(("%", "!")))
        for node in ast.walk(ast.parse(python)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).removeprefix("chapter.") in names:
                yield node


def test_sentences_have_few_conditions(cells):
    conditionals = {name: sum(isinstance(node, ast.IfExp)
                              for call in calls(chapter, "say", "show_figure", "show_table")
                              for argument in (*call.args, *call.keywords) for node in ast.walk(argument))
                    for name, chapter in cells.items()}
    print("Conditional expressions in sentences, figures and tables:", sum(conditionals.values()), conditionals)
    assert sum(conditionals.values()) <= CONDITIONALS


def is_literal(template):
    """Whether a text is written out as it is: not put together by an f-string, `format`, a sum or another variable."""
    if isinstance(template, ast.IfExp):
        return is_literal(template.body) and is_literal(template.orelse)
    return isinstance(template, ast.Constant) and isinstance(template.value, str)


@pytest.mark.parametrize("text, literal", [
    ("'It is {x}.'", True), ("'one' 'text'", True), ("'a' if b else 'c'", True), ("f'It is {x}.'", False),
    ("'It ' + 'is'", False), ("'It is {}'.format(x)", False), ("' '.join(['It', 'is'])", False), ("text", False),
    ("'a' if b else f'{c}'", False)])
def test_a_literal_is_told_from_a_built_text(text, literal):
    assert is_literal(ast.parse(text, mode="eval").body) is literal


def test_no_template_is_built_by_another_template(cells):
    built = {name: [ast.unparse(template)[:60] for call in calls(chapter, "say")
                    for template in (*call.args[:1], *(k.value for k in call.keywords if k.arg == "template"))
                    if not is_literal(template)] for name, chapter in cells.items()}
    assert {name: templates for name, templates in built.items() if templates} == {}
