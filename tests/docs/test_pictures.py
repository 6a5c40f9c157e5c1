"""The pictures of how-it-works.md are those that their program draws, for light and for dark pages."""

import re
import runpy

import pytest
from pages import ROOT

pytestmark = pytest.mark.engines()

PICTURES = runpy.run_path(str(ROOT / "docs" / "pictures.py"))


def test_pictures_are_those_of_their_program() -> None:
    for name, draw in PICTURES["DRAWN"].items():
        assert (PICTURES["FOLDER"] / name).read_text() == draw(), "run: python docs/pictures.py"
    assert PICTURES["lifetime"]() != PICTURES["slots"]()


def test_pictures_have_a_colour_of_each_kind_for_both_modes() -> None:
    light, dark = PICTURES["STYLE"].split("@media (prefers-color-scheme: dark)")
    kinds = re.compile(r"^\s*([.\w]+) \{[^}]*#", re.MULTILINE)
    assert set(kinds.findall(light)) == set(kinds.findall(dark))
    assert {".paper", "text", ".kernel"} <= set(kinds.findall(light))
