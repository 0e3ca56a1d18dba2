"""What stands in for engines and peers when conversations are fuzzed: the other end of a router's connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any
from zlib import crc32

from tests.unit.router_in_process import PARTITIONS, Transport, key_of

from cachecluster_core.slots import partition_of_key
from cachecluster_sidecar.router.core import Passage
from cachecluster_sidecar.router.resp import split_requests

KEYS = [key_of(0), key_of(1), key_of(0) + "{", "{" + key_of(1) + "}x"]
MEMBERS = (b"hscan", b"sscan", b"zscan")
SCANNED = 1 << 30
"""The cursor with which an engine of ours goes on after the first step."""
LARGE = b"$1100000\r\n" + bytes(1_100_000) + b"\r\n"
COUNTED = (b"del", b"unlink", b"exists", b"touch")


def tag_of(process: str) -> int:
    """Which the router gives to the cursors of a process."""
    return 1 + crc32(process.encode()) % 65535


def told_at(cursor: int) -> bytes:
    """What is answered to HSCAN, up to its cursor."""
    return b"*2\r\n$%d\r\n%d\r\n" % (len(str(cursor)), cursor)


def answer(words: list[bytes], cursor: int = 0) -> bytes:
    """What an engine of ours says to a command; where it tells a cursor, this one."""
    name = words[0].lower()
    if name in MEMBERS:
        if not words[2].isdigit() or int(words[2]) >> 64:
            return b"-ERR invalid cursor\r\n"
        digest = crc32(b"\0".join([name, words[1], *words[3:]]))
        return told_at(cursor) + b"*1\r\n$8\r\n%08x\r\n" % digest
    if name == b"scan":
        keys = b"".join(b"$%d\r\n%s\r\n" % (len(key), key.encode()) for key in KEYS)
        return told_at(SCANNED if words[1] == b"0" else 0) + b"*%d\r\n" % len(KEYS) + keys
    if name == b"wait":
        return b":1\r\n"
    if name == b"spublish" and words[1:] == [b"", b""]:
        return b":0\r\n"
    if name == b"mget":
        return b"*%d\r\n" % (len(words) - 1) + b"".join(answer([b"get", key]) for key in words[1:])
    if name in COUNTED:
        return b":%d\r\n" % (len(words) - 1)
    if name in (b"mset", b"watch", b"unwatch"):
        return b"+OK\r\n"
    if name == b"dbsize":
        return b":1\r\n"
    if name == b"keys":
        return b"*1\r\n$1\r\nk\r\n"
    told = words[1:-1] if name == b"blpop" else words[1:]  # the router may shorten how long it waits
    return b"$8\r\n%08x\r\n" % crc32(b"\0".join([name, *told]))


def results(queue: list[list[bytes]], say: Callable[[list[bytes]], bytes] = answer) -> bytes:
    """What EXEC answers."""
    return b"*%d\r\n" % len(queue) + b"".join(map(say, queue))


class Server:
    """The other end of a connection of the router's: an engine, or a peer."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.transport = Transport(backend)
        self._got = b""
        self.pending: deque[list[bytes]] = deque()
        self._queue: list[list[bytes]] | None = None
        self._tickets: deque[tuple[int, bytes]] = deque()
        self._last_ticket = 0
        backend.greet(b"")
        self._is_peer = backend.target.uid is not None
        self._refusals = 0
        self.transport.feed(b"+OK pieces\r\n" if self._is_peer else b"*2\r\n$2\r\nid\r\n:7\r\n")

    def look(self) -> None:
        """Take what came."""
        data, self.transport.written = self._got + self.transport.written, b""
        found, self._got = split_requests(data)
        self.pending.extend(found)

    def answer(self) -> None:
        """To the next command, if there is one."""
        if self.pending:
            self.speak(self._answer(self.pending.popleft()))
        elif self._tickets:
            self._tell(self._tickets[0][1])

    def _tell(self, reply: bytes) -> None:
        """What the first ticket was given for."""
        ticket, _ = self._tickets.popleft()
        self.speak(b">2\r\n:%d\r\n" % ticket + reply)

    def refuse(self) -> None:
        """A peer's gate is not open, what it would tell is large, or what waited did so in vain. From an engine the
        first is a script's error, and what is large comes."""
        if not self.pending:
            if self._tickets:
                self._tell((b"-CCAGAIN\r\n", b"-CCGONE\r\n")[self._tickets[0][0] % 2])
            return
        words = self.pending[0]
        if words[0] == b"BLPOP" and self._queue is None:
            self.pending.popleft()
            self.speak(b"-UNBLOCKED by a change of role\r\n")
        elif words[0] not in (b"CACHECLUSTER", b"CLIENT", b"MULTI", b"EXEC"):
            self.pending.popleft()
            self._refusals += 1
            large = words[0] == b"GET" and self._refusals % 2 and not isinstance(self.backend, Passage)
            if large and not self._is_peer:
                self.speak(LARGE)
                return
            partition = partition_of_key(words[1] if len(words) > 1 else b"", PARTITIONS)
            self.speak((b"-CCLARGE %d\r\n" if large else b"-CCGATE %d\r\n") % partition)

    def _answer(self, words: list[bytes]) -> bytes:
        queue = self._queue
        match words:
            case [b"CACHECLUSTER", b"AT", _, _, b"0", command]:
                return self._say(split_requests(command)[0][0])
            case [b"CACHECLUSTER", b"AT", _, _, skipped, piece]:
                inner = split_requests(piece)[0]
                assert len(inner) == int(skipped) + 1 and (inner[0], inner[-1]) == ([b"MULTI"], [b"EXEC"]), inner
                return results(inner[1:-1], self._say)
            case [b"CACHECLUSTER", b"ON", _, _, _, _, skipped, piece]:
                inner = split_requests(piece)[0]
                assert len(inner) == int(skipped) + 1, inner
                self._last_ticket += 1
                alone = inner[-1] if inner[-1] != [b"EXEC"] else None  # WAIT has a message before it
                told = results(inner[1:-1], self._say) if alone is None else self._say(alone)
                self._tickets.append((self._last_ticket, told))
                return b"-CCHELD %d\r\n" % self._last_ticket
            case [b"CACHECLUSTER", *_] | [b"CLIENT", b"TRACKING", *_]:
                return b"+OK\r\n"
            case [b"SUBSCRIBE" | b"UNSUBSCRIBE", *_]:
                return b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"
            case [b"PING"] if queue is None:
                return b"+PONG\r\n"
            case [b"CLIENT", b"UNBLOCK", _, _]:
                return b":1\r\n"
            case [b"MULTI"]:
                assert queue is None, "a transaction in a transaction"
                self._queue = []
                return b"+OK\r\n"
            case [b"EXEC"]:
                assert queue is not None, "the end of a transaction that did not begin"
                self._queue = None
                return results(queue, self._say)
        if queue is not None:
            queue.append(words)
            return b"+QUEUED\r\n"
        return self._say(words)

    def _say(self, words: list[bytes]) -> bytes:
        """Cursors of members are an engine's own; a peer's are of the process there."""
        if self.backend.target.uid is not None:
            return answer(words, SCANNED << 16 | tag_of("uid-1.run"))
        if words[0].lower() in MEMBERS and words[2].isdigit() and not int(words[2]) >> 64:
            assert int(words[2]) in (0, SCANNED), words
            return answer(words, SCANNED if words[2] == b"0" else 0)
        return answer(words)

    def speak(self, data: bytes) -> None:
        if not self.transport.ended:
            self.transport.feed(data)
