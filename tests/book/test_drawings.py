"""The drawings are those of their script, and can be read in every theme and on a phone."""

import importlib.util
import re
import xml.etree.ElementTree as ElementTree

import pytest

from runs import PROJECT

SPEC = importlib.util.spec_from_file_location("drawings", PROJECT / "tools" / "drawings.py")
drawings = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(drawings)


@pytest.mark.parametrize("name", drawings.DRAWINGS)
def test_a_drawing_is_the_one_of_its_script(name):
    assert (drawings.FOLDER / f"{name}.svg").read_text(encoding="utf-8") == drawings.svg(name)


@pytest.mark.parametrize("name", drawings.DRAWINGS)
def test_a_drawing_takes_all_colors_from_the_theme_and_has_text_for_a_phone(name):
    text = drawings.svg(name)
    svg = ElementTree.fromstring(text)
    assert svg.get("viewBox").startswith("0 0 480 ")
    assert set(re.findall(r"(?:fill|stroke):(\w+)", text)) <= {"var", "none"}
    for element in svg.iter("{http://www.w3.org/2000/svg}text"):
        assert int(element.get("font-size")) * 342 / 480 >= 9
        assert 0 <= float(element.get("x")) <= 480
    assert " id=" not in text, "two drawings on a page must not share an id"


def test_every_drawing_is_shown():
    shown = "".join(path.read_text(encoding="utf-8") for folder in ("notebooks", "book")
                    for path in (PROJECT / folder).glob("*.[pm][yd]"))
    assert [name for name in drawings.DRAWINGS if f"drawings/{name}.svg" not in shown] == []
