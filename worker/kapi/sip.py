"""Reading the two headers a transfer leaves on a call: Referred-By and Referred-To (contract §2.4).

Both are caller-made text; nothing here raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

_BRACKETED: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^"<])*<([^>]*)>?')
_ANY_BRACKET: Final = re.compile(r"<([^>]*)")
_SCHEME: Final = re.compile(r"\s*(sips?|tel):", re.IGNORECASE)
_REPLACES: Final = re.compile(r"(?:^|[?&;<\s])replaces\s*=\s*([^;&>]*)", re.IGNORECASE)
_ESCAPED_SEMICOLON: Final = re.compile("%3B", re.IGNORECASE)
_PORT: Final = re.compile(r":\d*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Referrer:
    """Who transferred: ``realm`` is empty for ``tel:``."""

    user: str = ""
    realm: str = ""


def parse_referrer(header: str) -> Referrer:
    """The address in a Referred-By header.

    Takes ``sip:``, ``sips:``, ``tel:`` and a bare ``user@realm``, with or without brackets, display
    name, password, port and parameters. The realm keeps its letter case.
    """
    bracketed = _BRACKETED.match(header) or _ANY_BRACKET.search(header)
    uri = (bracketed[1] if bracketed else header).strip()
    scheme = _SCHEME.match(uri)
    rest = uri[scheme.end() :] if scheme else uri
    if scheme and scheme[1].lower() == "tel":
        return Referrer(user=_until(rest, ";?").strip())
    userinfo, at, host = rest.partition("@")
    if not at:
        return Referrer(realm=_host(rest)) if scheme else Referrer()
    return Referrer(user=unquote(userinfo.partition(":")[0]), realm=_host(host))


def parse_replaces(referred_to: str) -> tuple[str, ...]:
    """The call id in the ``Replaces`` header of a Referred-To URI, in the forms to look it up by.

    First as written, then unescaped once when that differs (``+`` stays). Empty without Replaces.
    The value ends at ``;``, also at an escaped one, at ``&`` or at ``>``.
    """
    match = _REPLACES.search(referred_to)
    if match is None:
        return ()
    written = _ESCAPED_SEMICOLON.split(match[1])[0].strip()
    forms = (written, unquote(written).strip())
    return tuple(form for form in dict.fromkeys(forms) if form)


def strip_scheme(uri: str) -> str:
    """``user@realm`` of a URI that may carry ``sip:`` or ``sips:``."""
    scheme = _SCHEME.match(uri)
    return uri[scheme.end() :] if scheme else uri


def _host(text: str) -> str:
    host = _until(text, ";?>").strip()
    return host if host.endswith("]") else _PORT.sub("", host)


def _until(text: str, stops: str) -> str:
    for index, char in enumerate(text):
        if char in stops:
            return text[:index]
    return text
