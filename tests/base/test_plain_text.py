from __future__ import annotations

import unicodedata

import pytest

from lib.base.plain_text import as_plain, is_plain, shortened

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
"""One emoji of five characters."""
NAMES = [
    "liver",
    "غده\u200cی تیروئید",
    "الكبد الأيسر",
    "क्ष\u200dय",
    "यकृत",
    "右\u3000腎",
    "肝脏",
    "ตับ",
    "כָּבֵד\u200f",
    "rein\u00a0gauche",
    unicodedata.normalize("NFD", "Läsion"),
    FAMILY,
    "❤\ufe0f",
    "a'b\"c",
]
DANGEROUS = [
    "a\nb",
    "a\x00",
    "a\x7f",
    "a\x85b",
    "a\u2028b",
    "a\u2029b",
    "\u202etxt.exe",
    "\u2066a\u2069",
    "a\ud800",
]


@pytest.mark.parametrize("text", NAMES)
def test_all_languages_are_plain(text: str) -> None:
    assert is_plain(text) and as_plain(text) == text


@pytest.mark.parametrize("text", DANGEROUS)
def test_what_misleads_or_breaks_out_is_not(text: str) -> None:
    assert not is_plain(text)
    assert is_plain(as_plain(text)), "only what is dangerous is taken out"


@pytest.mark.parametrize("text", ["", " ", "\u00a0\u3000", "\u200c", "\u200d\u200f"])
def test_nothing_to_be_seen_is_no_name(text: str) -> None:
    assert not is_plain(text) and as_plain(text) == ""


def test_a_long_text_ends_before_a_whole_letter() -> None:
    assert shortened("a" * 64, 64) == "a" * 64
    assert shortened("a" * 65, 64) == "a" * 63 + "…"
    assert shortened("a" * 62 + "e\u0301" + "b" * 9, 64) == "a" * 62 + "…"
    assert shortened("a" * 60 + FAMILY + "b", 64) == "a" * 60 + "…"
    assert len(shortened("क्ष" * 40, 64)) <= 64
