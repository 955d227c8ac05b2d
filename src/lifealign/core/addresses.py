"""Addresses to listen on, for the page and the server that commands start. Imports no torch."""

from __future__ import annotations

import re
import socket

from lifealign.core.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that no other machine can reach."""
_PORT = re.compile(r":\d+\Z")


def check_address(host: str, allow_remote: bool, risk: str) -> None:
    """Refuse an address that others can reach, unless it is explicitly allowed.

    Args:
        host: address to listen on.
        allow_remote: whether other machines may reach it.
        risk: the risk of allowing it, for the message.

    Raises:
        ConfigError: the address does not fit `allow_remote`; the message names the option.
    """
    if host not in LOOPBACK and not allow_remote:
        raise ConfigError(
            f"--host {host}: others could reach it; give one of {', '.join(LOOPBACK)}, or allow it with --allow-remote "
            f"({risk})"
        )
    if host in LOOPBACK and allow_remote:
        raise ConfigError(f"--allow-remote: other machines cannot reach {host}; give --host too, e.g. 0.0.0.0")


def names_loopback(host: str) -> bool:
    """Whether a request's `Host` header names this machine.

    Another name comes from a foreign page whose name was made to point here (DNS rebinding).
    """
    return _PORT.sub("", host).strip("[]") in LOOPBACK


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; from now on an early client waits for the server instead of being refused.

    Raises:
        ConfigError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol by name: asyncio sends without delay (TCP_NODELAY) only where a socket names it. Without, an answer of two
    # parts waits 40 ms for the client's acknowledgement of the first.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(128)
    except OSError as error:
        found.close()
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen on this address: {error.strerror or error}; give another"
        ) from None
    return found


def url_of(host: str, port: int) -> str:
    """The address of a server in a URL; of this machine's name where it listens on every address."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"
