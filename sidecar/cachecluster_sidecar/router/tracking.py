"""The options of CLIENT TRACKING and CLIENT CACHING, with the engines' words for what is wrong with them.

Source: redis.io, CLIENT TRACKING; the texts are those of Redis 7.0 and Valkey.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .encode import error

if TYPE_CHECKING:
    from .core import Client, Tracking  # which imports this module

FLAGS = ("bcast", "optin", "optout", "noloop")
SYNTAX_ERROR = error("ERR syntax error")
NOT_INTEGER = error("ERR value is not an integer or out of range")
ANEW = "before disabling tracking for this client, and then re-enabling it with a different mode."


Wanted = dict[str, Any]
"""The options of ON, by name."""


def parse(known: Tracking | None, arguments: list[bytes], clients: Mapping[int, Client]) -> Wanted | bytes | None:
    """What ON asks for, an error to answer, or None for OFF. `clients` are the numbers of those that are connected to
    this router."""
    wanted: Wanted = dict.fromkeys(FLAGS, False) | {"redirect": 0, "prefixes": ()}
    rest = arguments[1:]
    while rest:
        option = rest.pop(0).decode(errors="replace").lower()
        if option in FLAGS:
            wanted[option] = True
        elif option == "prefix" and rest:
            wanted["prefixes"] = (*wanted["prefixes"], rest.pop(0))
        elif option == "redirect" and rest:
            if wanted["redirect"]:
                return error("ERR A client can only redirect to a single other client")
            number = rest.pop(0)
            if not number.isdigit() or len(number) > 18:
                return NOT_INTEGER
            if int(number) not in clients or clients[int(number)].peer:
                return error(
                    "ERR The client ID you want redirect to does not exist; it must be connected to the same pod, or "
                    "use RESP3, which needs no redirection"
                )
            wanted["redirect"] = int(number)
        else:
            return SYNTAX_ERROR
    match arguments[0].upper():
        case b"ON":
            reason = _conflict(known, wanted)
            return error(f"ERR {reason}") if reason else wanted | {"prefixes": _joined(known, wanted)}
        case b"OFF":
            return None
    return SYNTAX_ERROR


def _conflict(known: Tracking | None, wanted: Wanted) -> str | None:
    """What does not go together, or not with what is on already."""
    if wanted["prefixes"] and not wanted["bcast"]:
        return "PREFIX option requires BCAST mode to be enabled"
    if known is not None and known.bcast != wanted["bcast"]:
        return f"You can't switch BCAST mode on/off {ANEW}"
    if wanted["bcast"] and (wanted["optin"] or wanted["optout"]):
        return "OPTIN and OPTOUT are not compatible with BCAST"
    if wanted["optin"] and wanted["optout"]:
        return "You can't specify both OPTIN mode and OPTOUT mode"
    if known is not None and ((wanted["optin"] and known.optout) or (wanted["optout"] and known.optin)):
        return f"You can't switch OPTIN/OPTOUT mode {ANEW}"
    return _overlap(known.prefixes if known is not None else (), wanted["prefixes"])


def _overlap(known: tuple[bytes, ...], new: tuple[bytes, ...]) -> str | None:
    for at, prefix in enumerate(new):
        for which, others in (("an existing", known), ("another provided", new[at + 1 :])):
            for other in others:
                if prefix.startswith(other) or other.startswith(prefix):
                    one, two = prefix.decode(errors="replace"), other.decode(errors="replace")
                    return (
                        f"Prefix '{one}' overlaps with {which} prefix '{two}'. Prefixes for a single client must not "
                        "overlap."
                    )
    return None


def _joined(known: Tracking | None, wanted: Wanted) -> tuple[bytes, ...]:
    """A client's prefixes add up; without one it is told of all keys."""
    if not wanted["bcast"]:
        return ()
    return tuple(sorted({*(known.prefixes if known is not None else ()), *(wanted["prefixes"] or (b"",))}))


def caching_error(known: Tracking | None, arguments: list[bytes]) -> bytes | None:
    """Why CLIENT CACHING YES or NO is of no use now."""
    said = arguments[0].upper()
    if known is None:
        return error(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode "
            "with OPTIN or OPTOUT mode enabled"
        )
    if said == b"YES":
        return (
            None
            if known.optin
            else error("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
        )
    if said == b"NO":
        return (
            None
            if known.optout
            else error("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")
        )
    return SYNTAX_ERROR


def described(known: Tracking | None) -> dict[str, object]:
    """The reply to CLIENT TRACKINGINFO."""
    if known is None:
        return {"flags": {"off"}, "redirect": -1, "prefixes": []}
    flags = {"on", *(name for name in FLAGS if getattr(known, name))}
    if known.broken:
        flags.add("broken_redirect")
    if known.caching:
        flags.add("caching-yes" if known.caching > 0 else "caching-no")
    return {"flags": flags, "redirect": known.redirect, "prefixes": list(known.prefixes)}
