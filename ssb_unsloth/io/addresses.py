"""A vLLM server's address, as it stands in a recipe or behind a command: what it means, and which two are one."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass

from ..errors import UserError
from .credentials import refuse_credentials

PORTS = {"http": 80, "https": 443}
FORM = "http://HOST:PORT/v1[#NAME]"


@dataclass(frozen=True)
class Address:
    """`http://HOST:PORT/v1`, or `http://HOST:PORT/v1#NAME` for one of several models or adapters served there."""

    root: str  # what paths as /v1/models are put behind
    served: str  # the name behind the #; empty where none was given
    host: str  # in small letters
    port: int

    @property
    def server(self) -> tuple[str, int, str]:
        """The same for all spellings of one address: host, port and path."""
        return self.host, self.port, urllib.parse.urlsplit(self.root).path


def server_address(given: str, key: str) -> Address:
    """What was given by the recipe's or command's `key`.

    Raises:
        UserError: it is no http(s)://HOST[:PORT][/PATH][#NAME], or holds a password or a key.
    """
    address, _, served = given.partition("#")
    refuse_credentials(given, key)
    try:
        parts = urllib.parse.urlsplit(address)
        host = (parts.hostname or "").rstrip(".")
        host.encode("idna")  # as the system's resolver does
        right = parts.scheme in PORTS and bool(host) and parts.port != 0
        right = right and address.isascii() and address.isprintable() and not set(address) & set(" ?\\")
    except ValueError:  # a port that is no number, brackets that do not close, a name with a part that is none
        right = False
    if not right:
        raise UserError(f"{key}: {address!r} is no server's address; expected {FORM}.")
    root = address.rstrip("/").removesuffix("/v1").rstrip("/")
    return Address(root, served, host, parts.port or PORTS[parts.scheme])


def is_server(name: str) -> bool:
    """Whether a model's name is the address of a server."""
    return name.startswith(("http://", "https://"))
