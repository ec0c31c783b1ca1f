"""Check of text for use as a name: letters of all languages are allowed, control and reordering characters are not."""

import unicodedata

_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Embeddings, overrides and isolates, which change the order in which text is shown (Unicode TR 36, 2.5)."""
_DANGEROUS = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode categories: control characters, lone surrogates, separators of lines and paragraphs."""
_JOINER = "\u200d"


def is_plain(text: str) -> bool:
    """Return whether a text is a single line, shown in the order in which it is stored, with a visible character.

    Letters and marks of all languages are allowed, also the joiners that Persian, Hindi and emoji need (U+200C,
    U+200D), marks of direction, and spaces of any width.
    """
    categories = [unicodedata.category(char) for char in text]
    is_seen = any(category[0] not in "ZC" or category in ("Cn", "Co") for category in categories)
    return is_seen and _DANGEROUS.isdisjoint(categories) and _BIDI_CONTROLS.isdisjoint(text)


def as_plain(text: str) -> str:
    """Return a text without the characters that :func:`is_plain` forbids; empty if nothing visible is left."""
    kept = "".join(
        char for char in text if char not in _BIDI_CONTROLS and unicodedata.category(char) not in _DANGEROUS
    ).strip()
    return kept if is_plain(kept) else ""


def shortened(text: str, length: int) -> str:
    """Return a text cut to at most ``length`` characters, between whole letters, with an ellipsis at its end if cut."""
    if len(text) <= length:
        return text
    end = length - 1
    while end and (unicodedata.category(text[end])[0] == "M" or _JOINER in text[end - 1 : end + 1]):
        end -= 1
    return text[:end].rstrip() + "…"
