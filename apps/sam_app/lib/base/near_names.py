"""Which known name was meant by an unknown one, for messages."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

_NO_OTHERS: Mapping[str, Sequence[str]] = {}


def meant(name: str, known: Iterable[str], others: Mapping[str, Sequence[str]] = _NO_OTHERS) -> str | None:
    """Return the known name that was most likely meant; None if none is likely.

    Args:
        name: As it was given, in any case, with any of ``_``, ``-`` and spaces between its words.
        known: The names that there are.
        others: Known names by what other programs call the same, in lower case without what separates words; a name
            that is not among ``known`` is passed over. They go before what is merely spelt alike.
    """
    by_form = {_form(one): one for one in known}
    form = _form(name)
    called = [one for one in others.get(form, ()) if _form(one) in by_form]
    near = [_form(one) for one in called] or get_close_matches(form, by_form, n=1)
    return by_form[near[0]] if near else None


def unknown(name: str, known: Iterable[str], others: Mapping[str, Sequence[str]] = _NO_OTHERS) -> str:
    """Return the end of a sentence about an unknown name: the name that was meant, else all that there are."""
    names = list(known)
    likely = meant(name, names, others)
    return f"did you mean {likely}?" if likely else f"there are {', '.join(names)}"


def _form(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in "_- ")
