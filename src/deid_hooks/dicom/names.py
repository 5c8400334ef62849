"""Persons' names: folding, the spellings that are one name, and its words (PS3.5, section 6.2)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from deid_hooks.records.model import fold, make_readable

_APOSTROPHES = "\u02bb\u02bc"  # letters to Unicode
_TATWEEL = "\u0640"  # stretches an Arabic word and means nothing
_VOICED = "\u3099\u309a"  # combining, but in kana they make another letter


def split_name_forms(text: str) -> tuple[str, ...]:
    """Return what a name is compared as, folded: the whole, each value, each component group."""
    whole = fold(text)
    values = whole.split("\\")
    groups = (group for value in values for group in value.split("="))
    return tuple(dict.fromkeys((whole, *filter(None, values), *filter(None, groups))))


def split_name_words(text: str) -> frozenset[str]:
    """Return the folded words of a name, of all its components and component groups."""
    return frozenset(simplify_words(text).split())


def has_words(name: str, wanted: Iterable[str]) -> bool:
    """Return whether a name has all these words of a term; ``jo*`` is the beginning of one."""
    words = split_name_words(name)
    return all(
        any(word.startswith(want[:-1]) for word in words) if want.endswith("*") else want in words
        for want in wanted
    )


def simplify_words(text: str, keep: str = "") -> str:
    """Return a name in lower case, without accents, with a space for what is no part of a word.

    Letters, digits and the characters in ``keep`` stay. Latin letters become those of ASCII, as
    people type them: ``Ærø`` and ``Aero`` are one. Other scripts are kept, for nobody would type
    what they sound like in another. Logs hold these words: whoever changes what a letter becomes
    adds a step to ``backends.tables.migrations`` that makes them anew.
    """
    decomposed = unicodedata.normalize("NFKD", make_readable(text)).casefold()
    letters = []
    for character in unicodedata.normalize("NFKD", decomposed):
        category = unicodedata.category(character)
        if character in _VOICED or character in keep:
            letters.append(character)
        elif unicodedata.combining(character) or category == "Cf" or character == _TATWEEL:
            continue
        elif category[0] in "LMN" and character not in _APOSTROPHES:
            letters.append(character if character.isascii() else _fold_letter(character))
        else:
            letters.append(" ")
    return unicodedata.normalize("NFC", "".join(letters))


@lru_cache(maxsize=4096)
def _fold_letter(letter: str) -> str:
    """Return the letters of ASCII for a Latin letter that Unicode does not take apart."""
    if not unicodedata.name(letter, "").startswith("LATIN "):
        return letter
    from anyascii import anyascii  # only such letters need it

    folded = str(anyascii(letter)).casefold()
    return folded if folded.isalpha() else letter  # a click is no exclamation mark
