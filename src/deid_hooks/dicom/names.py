"""Persons' names: the spellings that are one name, and the words of it (PS3.5, section 6.2)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from deid_hooks.records.model import make_readable

# Letters in names that Unicode doesn't count as accented, and what people type for them.
_PLAIN_LETTERS = str.maketrans({"ı": "i", "ł": "l", "ø": "o", "đ": "d"})
_APOSTROPHES = "\u02bb\u02bc"  # letters to Unicode
_TATWEEL = "\u0640"  # stretches an Arabic word and means nothing
_VOICED = "\u3099\u309a"  # combining, but in kana they make another letter


def fold(text: str) -> str:
    """A person's name as it is compared: ``DOE ^ JOHN^^`` and ``Doe^John`` are one.

    Case, spaces and what is empty at the end make no difference (PS3.5 6.2, PS3.4 C.2.2.2.1).
    """
    values = []
    for value in make_readable(text).casefold().split("\\"):
        groups = []
        for group in value.split("="):
            components = (" ".join(component.split()) for component in group.split("^"))
            groups.append("^".join(components).rstrip("^"))
        values.append("=".join(groups).rstrip("="))
    return "\\".join(values)


def split_name_forms(text: str) -> tuple[str, ...]:
    """What a person's name is compared as, folded: the whole, each value, each component group."""
    whole = fold(text)
    values = whole.split("\\")
    groups = (group for value in values for group in value.split("="))
    return tuple(dict.fromkeys((whole, *filter(None, values), *filter(None, groups))))


def split_name_words(text: str) -> frozenset[str]:
    """The folded words of a person's name, of all its components and component groups."""
    return frozenset(simplify_words(text).split())


def has_words(name: str, wanted: Iterable[str]) -> bool:
    """Whether a name has all these words of a search term; ``jo*`` is the beginning of one."""
    words = split_name_words(name)
    return all(
        any(word.startswith(want[:-1]) for word in words) if want.endswith("*") else want in words
        for want in wanted
    )


def simplify_words(text: str, keep: str = "") -> str:
    """A name in lower case, without accents, a space for all but letters, digits and ``keep``."""
    decomposed = unicodedata.normalize("NFKD", make_readable(text)).casefold()
    letters = []
    for character in unicodedata.normalize("NFKD", decomposed):
        category = unicodedata.category(character)
        if character in _VOICED or character in keep:
            letters.append(character)
        elif unicodedata.combining(character) or category == "Cf" or character == _TATWEEL:
            continue
        elif category[0] in "LMN" and character not in _APOSTROPHES:
            letters.append(character)
        else:
            letters.append(" ")
    return unicodedata.normalize("NFC", "".join(letters)).translate(_PLAIN_LETTERS)
