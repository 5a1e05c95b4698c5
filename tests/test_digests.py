"""Digests: they change with every value and every piece of code, and with no piece of prose."""

import ast
import io
import keyword
import tokenize
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import sa_lib
from sa_lib import store
from sa_lib.store import code_text, fingerprint, tensor_digest
from sa_lib.store.digests import file_digest, text_digest

LIBRARY = Path(sa_lib.__file__).parent
SOURCES = {path.relative_to(LIBRARY).as_posix(): path.read_text(encoding="utf-8")
           for path in sorted(LIBRARY.rglob("*.py"))}

# Every feature of Python's syntax in which prose and code are hard to tell apart.
HARD = '''\
"""A module's docstring,
  of two lines."""; FIRST = 1
# A comment, with "quotes".

class Größe: "über"; ß = "straße"  # a docstring behind letters of two bytes

class Empty:
    """Only a docstring."""


def only_a_docstring():
    """Words."""


def nested(x, y=2):  # why
    """Docstring."""
    class Inner:
        \'\'\'Docstring.\'\'\'

        async def method(self):
            r"""Docstring \\d."""
            return "no docstring"
    call(1,  # inside a call

         # on a line of its own
         2, "#", \'\'\'not a comment #
  two spaces behind:  \n
  and an empty line\'\'\', f"""of {x:>{y}}  \n
  {"nested"!r} end""", (
        3,
    ))
    "a string, and no docstring"
    return x + \\
        y


def implicit():
    ("Two strings "
     # with a comment between them
     "are one docstring.")
    b"bytes are no docstring"
    f"{FIRST} is no docstring"
'''
# SHA-256 of `code_text(HARD)`, the same on Python 3.11, 3.12 and 3.13.
HARD_DIGEST = "be56abae8e602e48f5da94a8e55498780dc8676dd37f01f865e918111930007a"


def test_the_code_of_a_known_source_is_known():
    assert text_digest(code_text(HARD)) == HARD_DIGEST


# Prose is free -----------------------------------------------------------------------------------------------------

def tokens(source):
    return list(tokenize.generate_tokens(io.StringIO(source).readline))


def free_lines(source):
    """Numbers of the lines that end neither inside a string nor with a backslash."""
    return {token.start[0] for token in tokens(source) if token.type in (tokenize.NEWLINE, tokenize.NL)}


def docstrings(source):
    """The docstrings' nodes."""
    return [node.body[0] for node in ast.walk(ast.parse(source))
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node, clean=False) is not None]


def at_the_end_of_free_lines(source, text):
    free = free_lines(source)
    return "\n".join(line + text * (number in free) for number, line in enumerate(source.split("\n"), 1))


def with_comments(source):
    return at_the_end_of_free_lines(source, "  # Another 'comment'")


def with_trailing_spaces(source):
    return at_the_end_of_free_lines(source, " \t ")


def with_blank_lines(source):
    return at_the_end_of_free_lines(source, "\n\n   ")


def with_comment_lines(source):
    return at_the_end_of_free_lines(source, "\n# A line\n      # of its own")


def without_comments(source):
    lines = source.split("\n")
    for token in tokens(source):
        if token.type == tokenize.COMMENT:
            line = lines[token.start[0] - 1]
            lines[token.start[0] - 1] = line[:token.start[1]]
    return "\n".join(lines)


def with_other_docstrings(source):
    lines = [line.encode() for line in source.split("\n")]
    for node in sorted(docstrings(source), key=lambda node: node.lineno, reverse=True):
        rest = lines[node.end_lineno - 1][node.end_col_offset:]
        more = b"\n\n# and no comment   \n" if node.end_lineno > node.lineno else b""
        other = b'"""Quite "other" words: \xc3\xa9.' + more + b'"""'
        lines[node.lineno - 1:node.end_lineno] = [lines[node.lineno - 1][:node.col_offset] + other + rest]
    return b"\n".join(lines).decode()


def with_windows_line_ends(source):
    return source.replace("\n", "\r\n")


def with_old_line_ends(source):
    return source.replace("\n", "\r")


PROSE = [with_comments, with_trailing_spaces, with_blank_lines, with_comment_lines, without_comments,
         with_other_docstrings, with_windows_line_ends, with_old_line_ends, str.rstrip]


@pytest.mark.parametrize("edit", PROSE)
@pytest.mark.parametrize("name", [*SOURCES, "hard"])
def test_other_prose_is_the_same_code(name, edit):
    source = SOURCES.get(name, HARD)
    assert code_text(edit(source)) == code_text(source)


# Code is not -------------------------------------------------------------------------------------------------------

OPERATORS = {"+": "-", "-": "+", "*": "/", "/": "//", "//": "/", "@": "*", "<": "<=", "<=": "<", ">": ">=", ">=": ">",
             "==": "!=", "!=": "==", "&": "|", "|": "&", "%": "+", "+=": "-=", "|=": "&="}


def changes_of_code(source):
    """(first line, column, token, other token) of every name, number, string and operator outside docstrings."""
    prose = {number for node in docstrings(source) for number in range(node.lineno, node.end_lineno + 1)}
    changes = []
    for token in tokens(source):
        if token.start[0] in prose:
            continue
        if token.type == tokenize.NAME and token.string not in keyword.kwlist:
            changes.append((*token.start, token.string, f"{token.string}_"))
        elif token.type == tokenize.NUMBER:
            changes.append((*token.start, token.string, f"1{token.string}"))
        elif token.type == tokenize.OP and token.string in OPERATORS:
            changes.append((*token.start, token.string, OPERATORS[token.string]))
        elif token.type == tokenize.STRING:
            quote = 3 if token.string.endswith(('"""', "'''")) else 1
            changes.append((*token.start, token.string, f"{token.string[:-quote]}?{token.string[-quote:]}"))
    return changes


def changed(source, line, column, token, other):
    start = sum(len(text) + 1 for text in source.split("\n")[:line - 1]) + column
    assert source[start:start + len(token)] == token
    return source[:start] + other + source[start + len(token):]


CHANGES = [(name, change) for name, source in (("hard", HARD), *SOURCES.items())
           for change in changes_of_code(source)]


@settings(max_examples=300)
@given(st.sampled_from(CHANGES))
def test_a_changed_name_number_string_or_operator_is_other_code(choice):
    name, change = choice
    source = SOURCES.get(name, HARD)
    other = changed(source, *change)
    try:
        ast.parse(other)
    except SyntaxError:
        reject()  # such as f(-args) in place of f(*args) in a definition
    assert code_text(other) != code_text(source)


def test_every_change_of_the_hard_source_is_other_code():
    for change in changes_of_code(HARD):
        try:
            other = code_text(changed(HARD, *change))
        except SyntaxError:
            continue
        assert other != code_text(HARD), change


@pytest.mark.parametrize("one, other", [
    ("x = 1", "x = 2"), ("x = 1", "y = 1"), ("x = a + b", "x = a - b"), ("x = a < b", "x = a <= b"),
    ("f(1, 2)", "f(2, 1)"), ("if x:\n    y\nz", "if x:\n    y\n    z"), ("x = 'a'", "x = 'b'"), ("x = 1", "x = 1.0"),
    ("def f():\n    'd'\n    return 1", "def f():\n    'd'\n    return 2"),
    ("def f():\n    x = 1\n    'a'", "def f():\n    x = 1\n    'b'"), ("b'a'", "b'b'"), ("f'a'", "f'b'")])
def test_other_code_has_another_text(one, other):
    assert code_text(one) != code_text(other)


@pytest.mark.parametrize("prefix", ["", "f", "r", "b"])
@pytest.mark.parametrize("one, other", [
    ("a\n\nb", "a\nb"), ("a \nb", "a\nb"), ("a\n b", "a\nb"), ("a\n# b\n", "a\n# c\n"), ("a\n  \nb", "a\n\nb"),
    ("\n", "\n\n"), ("a # b\n", "a\n")])
def test_blank_lines_spaces_and_hashes_inside_a_string_count(prefix, one, other):
    one, other = (f'x = {prefix}"""{text}"""' for text in (one, other))
    assert code_text(one) != code_text(other)


def test_blank_lines_and_spaces_inside_nested_strings_count():
    one = 'x = f"""{f"{1}"} \n {2:>{3}}\n\n"""'
    assert code_text(one) != code_text(one.replace(" \n", "\n"))
    assert code_text(one) != code_text(one.replace("\n\n", "\n"))


def structure(source):
    """The syntax tree without docstrings and positions."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
                and ast.get_docstring(node, clean=False) is not None):
            del node.body[0]
    return ast.dump(tree)


PIECES = ["", '"', "'", "#", " ", "\n", "x", "1", "\t", ";", '"""', "# c", "é", "{", "}", "(", ")", "\n\n", "\r\n"]
EDITS = st.tuples(st.integers(0, len(HARD)), st.integers(0, 3), st.sampled_from(PIECES))


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@settings(max_examples=1500)
@given(st.lists(EDITS, min_size=1, max_size=3))
def test_equal_texts_are_equal_programs(edits):
    """After any edit: if the text is the same, so is the program without its docstrings."""
    other = HARD
    for start, length, piece in edits:
        other = other[:start] + piece + other[start + length:]
    try:
        program, text = structure(other), code_text(other)
    except SyntaxError:
        return
    if text == code_text(HARD):
        assert program == structure(HARD)


def test_a_source_that_is_no_python_is_refused():
    with pytest.raises(SyntaxError):
        code_text("def f(:\n    pass\n")


# Digests of modules, files, tensors and losses -----------------------------------------------------------------------

@pytest.fixture
def modules(tmp_path):
    """Two modules of one line each."""
    pair = [ModuleType("one"), ModuleType("two")]
    for module in pair:
        module.__file__ = str(tmp_path / f"{module.__name__}.py")
        Path(module.__file__).write_text("x = 1\n")
    return pair


def test_the_code_digest_changes_with_the_code_of_any_module(modules):
    digests = [store.code_digest(*modules)]
    for module in modules:
        Path(module.__file__).write_text("x = 2\n")
        digests.append(store.code_digest(*modules))
    assert len(set(digests)) == 3


@pytest.mark.parametrize("prose", ['"""Docstring."""\nx = 1\n', "x = 1  # a comment", "\r\n\r\nx = 1\r\n",
                                   "\n\nx = 1   \n\n"])
def test_the_code_digest_stays_the_same_with_other_prose(modules, prose):
    before = store.code_digest(*modules)
    Path(modules[0].__file__).write_bytes(prose.encode())
    assert store.code_digest(*modules) == before


def test_code_cannot_move_from_one_module_to_the_next_unnoticed(modules):
    one, two = (Path(module.__file__) for module in modules)
    one.write_text("x = 1\ny = 2\n")
    two.write_text("z = 3\n")
    before = store.code_digest(*modules)
    one.write_text("x = 1\n")
    two.write_text("y = 2\nz = 3\n")
    assert store.code_digest(*modules) != before


def test_only_modules_have_a_code_digest():
    with pytest.raises(TypeError, match=r"^modules\[1\] must be a module, got "):
        store.code_digest(store, "sa_lib.store")


def test_the_digest_of_a_file_is_its_sha_256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_digest(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "x") == text_digest("abc")


@pytest.mark.parametrize("other", [
    {"x": torch.zeros(2, 3), "y": torch.zeros(1)}, {"x": torch.zeros(6), "z": torch.zeros(1)},
    {"x": torch.zeros(6).int(), "y": torch.zeros(1)}, {"x": torch.zeros(6), "y": torch.full((1,), 1e-45)},
    {"x": torch.zeros(6), "y": -torch.zeros(1)}, {"x": torch.zeros(6)},
    {"y": torch.zeros(6), "x": torch.zeros(1)}])
def test_the_digest_tells_names_types_shapes_and_values_apart(other):
    assert tensor_digest({"x": torch.zeros(6), "y": torch.zeros(1)}) != tensor_digest(other)


def test_the_order_and_the_layout_of_tensors_do_not_matter():
    tensors = {"x": torch.arange(6.0).view(2, 3), "y": torch.zeros(1)}
    same = {"y": torch.zeros(1, requires_grad=True), "x": torch.arange(6.0).view(2, 3).T.contiguous().T}
    assert tensor_digest(tensors) == tensor_digest(same)


@pytest.mark.parametrize("bad", [{"x": torch.eye(2).to_sparse()}, {"x": torch.zeros(1, device="meta")},
                                 {"__metadata__": torch.zeros(1)}])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_tensors_without_plain_values_are_refused(bad):
    with pytest.raises(ValueError, match=f"^tensors must be dense and hold values, .*, got '{next(iter(bad))}' of "):
        tensor_digest(bad)


@pytest.mark.parametrize("bad", [{"x": 1.0}, {1: torch.zeros(1)}, [torch.zeros(1)]])
def test_only_tensors_by_name_have_a_digest(bad):
    with pytest.raises(TypeError, match="^tensors must "):
        tensor_digest(bad)


def test_a_fingerprint_is_each_value_and_the_norm_of_its_gradient():
    weights = [torch.tensor([3.0, 4.0], requires_grad=True), torch.tensor(2.0, requires_grad=True)]
    values = {"square": weights[0].square().sum() / 2, "product": weights[1] * weights[0][0]}
    assert fingerprint(values, weights) == {"square": ["1.25000e+01", "5.00000e+00"],
                                            "product": ["6.00000e+00", f"{13 ** 0.5:.5e}"]}


@pytest.mark.parametrize("values, weights, name", [
    ({"x": torch.ones(1)}, [torch.ones(1, requires_grad=True)], "values"),
    ({"x": torch.ones(2, requires_grad=True)}, [torch.ones(1, requires_grad=True)], "values"),
    ({}, [torch.ones(1)], "weights"), ({}, [], "weights")])
def test_a_loss_without_a_fingerprint_is_refused(values, weights, name):
    with pytest.raises(ValueError, match=f"^{name} must be .*, got "):
        fingerprint(values, weights)
