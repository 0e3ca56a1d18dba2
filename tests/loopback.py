"""Loopback addresses for tests that run side by side: every caller gets a block of its own."""

from __future__ import annotations

import ipaddress
import os
import random
import socket

BLOCK = 64
_random = random.Random(os.urandom(8))


def free_block(*ports: int) -> str:
    """The first of 64 loopback addresses that nobody else listens on (judged by the first of them and these ports)."""
    for _ in range(100):
        first = f"127.{_random.randint(2, 250)}.{_random.randint(0, 250)}.{BLOCK * _random.randint(0, 3) or 1}"
        if all(_is_free(first, port) for port in ports):
            return first
    raise RuntimeError("no free block of loopback addresses found")


def address(first: str, number: int) -> str:
    """Address `number` of a block."""
    return str(ipaddress.IPv4Address(first) + number)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as it:
        it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            it.bind((host, port))
        except OSError:
            return False
    return True
