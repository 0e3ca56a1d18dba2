"""Looking at another pod on the operator's behalf: do its two ports answer, and which of its gates are open?

Only "refused" proves that nobody listens. Time-outs and unreachable hosts prove nothing and are told as such.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from .resp import ProtocolError, Reply, ReplyError, ReplyParser, encode

REFUSED, TIMEOUT, ANSWERED = "refused", "timeout", "answered"
BUDGET_S = 0.25


@dataclass(frozen=True, slots=True)
class Target:
    """The pod to look at: whoever else has its address by now must not be taken for it."""

    uid: str
    host: str
    cluster_port: int
    agent_port: int

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Target:
        """From the operator's `probe` message. KeyError or ValueError when malformed."""
        return cls(str(data["uid"]), str(data["host"]), int(data["clusterPort"]), int(data["agentPort"]))


async def probe(target: Target, token: str, budget_s: float = BUDGET_S) -> dict[str, Any]:
    """The `probed` message, without its id, within `budget_s` seconds."""
    agent = asyncio.create_task(_try_connect(target.host, target.agent_port, budget_s))
    cluster_port, gates = await _ask_gates(target, token, budget_s)
    return {"clusterPort": cluster_port, "agentPort": await agent, "gates": gates}


async def _try_connect(host: str, port: int, budget_s: float) -> str:
    try:
        async with asyncio.timeout(budget_s):
            _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return REFUSED
    except (OSError, TimeoutError):
        return TIMEOUT
    writer.close()
    return ANSWERED


async def _ask_gates(target: Target, token: str, budget_s: float) -> tuple[str, dict[str, list[int]] | None]:
    """What the cluster port answered, and the open gates there; None when this pod did not tell them."""
    outcome = TIMEOUT
    try:
        async with asyncio.timeout(budget_s):
            reader, writer = await asyncio.open_connection(target.host, target.cluster_port)
            outcome = ANSWERED
            try:
                writer.write(encode(("CACHECLUSTER", "HELLO", "2", token, target.uid)))
                writer.write(encode(("CACHECLUSTER", "GATES")))
                hello, gates = await _read_replies(reader, 2)
            finally:
                writer.close()
    except ConnectionRefusedError:
        return REFUSED, None
    except (OSError, TimeoutError, EOFError, ProtocolError):
        return outcome, None
    if isinstance(hello, ReplyError) or not isinstance(gates, list):
        return outcome, None
    return outcome, _parse_gates(gates)


async def _read_replies(reader: asyncio.StreamReader, count: int) -> list[Reply]:
    parser = ReplyParser()
    replies: list[Reply] = []
    while len(replies) < count:
        data = await reader.read(65536)
        if not data:
            raise EOFError("the connection ended")
        replies += parser.feed(data)
    return replies


def _parse_gates(gates: list[Reply]) -> dict[str, list[int]] | None:
    parsed = {}
    for gate in gates:
        words = gate.split() if isinstance(gate, bytes) else []
        try:
            partition, epoch, left_ms = (int(word) for word in words)
        except ValueError:
            return None
        parsed[str(partition)] = [epoch, left_ms]
    return parsed
