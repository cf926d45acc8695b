"""The known word nearest to a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache

_MAX_LENGTH = 64
"""Longer text is no typing mistake, and comparing it would take long."""


def nearest(word: str, known: Iterable[str], *, alike: float = 0.6) -> str | None:
    """The known word most like ``word``, 1.0 being equal but for case and dashes; or None."""
    if len(word) > _MAX_LENGTH:
        return None
    return _nearest(word, tuple(sorted(known)), alike)


@lru_cache(maxsize=1024)
def _nearest(word: str, known: tuple[str, ...], alike: float) -> str | None:
    plain = {_plain(name): name for name in known}
    found = get_close_matches(_plain(word), plain, n=1, cutoff=alike)
    return plain[found[0]] if found else None


def _plain(word: str) -> str:
    return word.strip().lower().replace("-", "_").replace(" ", "_")
