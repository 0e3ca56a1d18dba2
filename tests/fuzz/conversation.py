"""One input of the fuzzer for whole conversations: what clients, engines, a peer and the agent do to one router.

Each byte chooses what happens next, with the bytes after it as arguments: a client sends a command or bytes of the
input, an engine answers some of what it got, or breaks, a peer refuses, gates shut and open, primaries move. Engines
answer with a digest of the command. Whatever happens, no exception is swallowed, an engine's answer reaches the command
that it answers, in its turn, and in the end every command of a client that is still connected has one reply, and
nothing is left in flight.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from tests.fuzz.servers import COUNTED, KEYS, MEMBERS, SCANNED, Server, answer, results, tag_of, told_at
from tests.unit.router_conversation import request
from tests.unit.router_in_process import PARTITIONS, World

from cachecluster_core.slots import slot_of_key
from cachecluster_sidecar.router.answers import Answers
from cachecluster_sidecar.router.feeds import ReplyFeed
from cachecluster_sidecar.router.resp import ProtocolError, encode_request, split_requests

TOKEN = b"token"
TOO_MANY = b"-ERR max number of clients reached\r\n"
TAGGED = re.compile(rb"\*2\r\n\$\d+\r\n(\d+)\r\n(?=\*1\r\n\$8\r\n)")
"""A reply of HSCAN, or one in the reply of EXEC, up to its cursor."""
SHOWN = re.compile(rb"\+\d+\.\d{6} \[0 127\.0\.0\.1:50000\] \"")
"""How a line of MONITOR begins."""
NULLS = (b"*-1\r\n", b"_\r\n")
COMMANDS: list[Callable[[str, str], bytes]] = [
    lambda a, b: request("GET", a),
    lambda a, b: request("SET", a, b),
    lambda a, b: request("MGET", a, b, a),
    lambda a, b: request("MSET", a, "1", b, "2"),
    lambda a, b: request("DEL", a, b),
    lambda a, b: request("RENAME", a, b),
    lambda a, b: request("PING"),
    lambda a, b: request("HELLO", "3"),
    lambda a, b: request("MULTI"),
    lambda a, b: request("EXEC"),
    lambda a, b: request("CLIENT", "SETNAME", a),
    lambda a, b: request("CLIENT", "LIST"),
    lambda a, b: request("INFO"),
    lambda a, b: request("CLUSTER", "SLOTS"),
    lambda a, b: request("EVAL", "return 1", "1", a),
    lambda a, b: request("RESET"),
    lambda a, b: request("QUIT"),
    lambda a, b: request("NONSENSE", a),
    lambda a, b: b"get %s\r\n" % a.encode(),
    lambda a, b: request("CACHECLUSTER", "HELLO", "2", TOKEN, "uid-0"),
    lambda a, b: request("CACHECLUSTER", "RESUME", "0"),
    lambda a, b: request("CACHECLUSTER", "GATES"),
    lambda a, b: request("DBSIZE"),
    lambda a, b: request("KEYS", "*"),
    lambda a, b: request("DISCARD"),
    lambda a, b: request("BLPOP", a, "0"),
    lambda a, b: request("BLPOP", a, "0.001"),
    lambda a, b: request("WATCH", a),
    lambda a, b: request("WATCH", a) + request("GET", a) + request("MULTI") + request("SET", a, b) + request("EXEC"),
    lambda a, b: request("UNWATCH"),
    lambda a, b: request("CLIENT", "UNBLOCK", str(len(a))),
    lambda a, b: request("CLIENT", "UNBLOCK", str(len(b)), "ERROR"),
    lambda a, b: on(a, b"5", b"new", request("BLPOP", a, "0")),
    lambda a, b: on(a, b"4", b"new", request("WATCH", a)),
    lambda a, b: on(a, b"4", b"old", request("WATCH", a)),
    lambda a, b: request("CACHECLUSTER", "OFF", "5"),
    lambda a, b: request("CACHECLUSTER", "UNBLOCK", "5", "TIMEOUT"),
    lambda a, b: request("PUBLISH", a, b),
    lambda a, b: request("MULTI") + request("GET", a) + request("DEL", a, b) + request("EXEC"),
    lambda a, b: request("CLIENT", "TRACKING", "ON"),
    lambda a, b: request("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", a),
    lambda a, b: request("CLIENT", "TRACKING", "ON", "OPTIN") + request("CLIENT", "CACHING", "YES") + request("GET", a),
    lambda a, b: request("CLIENT", "TRACKING", "OFF"),
    lambda a, b: request("CLIENT", "REPLY", "ON"),
    lambda a, b: request("WAIT", "1", "0"),
    lambda a, b: request("SET", a, b) + request("WAIT", "2", "5"),
    lambda a, b: request("MONITOR"),
    lambda a, b: request("HSCAN", a, "0"),
    lambda a, b: request("HSCAN", a, str(1 << 46 | tag_of("uid-0.run"))) + request("SSCAN", b, "77"),
    lambda a, b: request("MULTI") + request("HSCAN", a, "0") + request("GET", a) + request("EXEC"),
    lambda a, b: request("WATCH", a) + request("MULTI") + request("ZSCAN", a, "5") + request("EXEC"),
    lambda a, b: request("CLUSTER", "COUNTKEYSINSLOT", str(slot_of_key(a.encode()))),
    lambda a, b: request("CLUSTER", "GETKEYSINSLOT", str(slot_of_key(a.encode())), "1"),
    lambda a, b: request("CACHECLUSTER", "PIECES"),
    lambda a, b: request("CACHECLUSTER", "HELLO", "3", TOKEN, "uid-0", "PASSAGE"),
]


def on(key: str, number: bytes, fresh: bytes, piece: bytes) -> bytes:
    """What a peer sends for a private connection."""
    slot = b"%d" % slot_of_key(key.encode())
    return encode_request([b"CACHECLUSTER", b"ON", number, fresh, slot, b"w", b"0", piece])


TAGS = {tag_of(process) for process in ("", "uid-0.run", "uid-1.run")}


def check(data: bytes) -> None:
    """Raises AssertionError for what must not be."""
    with _NothingIsSwallowed():
        conversation = _Conversation(data)
        conversation.run()
        conversation.end()


class _NothingIsSwallowed:
    """Compiled code that cannot raise prints what was raised in it, and goes on; here it fails."""

    def __enter__(self) -> None:
        self._first: BaseException | None = None
        self._before = sys.unraisablehook
        sys.unraisablehook = self._note

    def _note(self, unraisable: Any) -> None:
        self._first = self._first or unraisable.exc_value or AssertionError(str(unraisable))

    def __exit__(self, kind: object, error: BaseException | None, where: TracebackType | None) -> None:
        sys.unraisablehook = self._before
        if self._first is not None:
            raise AssertionError(f"swallowed: {self._first!r}") from self._first


class _Talker:
    """A client: what it has sent, and what it got."""

    def __init__(self, world: World, cluster: bool) -> None:
        self.transport = world.client(cluster)
        self.sent = b""
        self.ended = False

    def send(self, data: bytes) -> None:
        if not self.ended and not self.transport.ended:
            self.sent += data
            self.transport.feed(data)

    def look(self, all_answered: bool = False) -> None:
        """Every reply is the next command's, and none is missing if `all_answered`."""
        frames = [it for it in ReplyFeed().feed(self.transport.written) if it != TOO_MANY and not it.startswith(b">")]
        replies = [it for it in frames if not SHOWN.match(it)]
        assert len(replies) == len(frames) or b"MONITOR" in self.sent.upper(), frames
        try:
            commands = [words for words in split_requests(self.sent)[0] if words != []]
        except ProtocolError:
            return
        assert len(replies) <= len(commands), (commands, replies)
        assert len(replies) == len(commands) or not all_answered or self.transport.ended, (commands, replies)
        queue: list[list[bytes]] = []
        for words, reply in zip(commands, replies, strict=False):
            if words is not None:
                self._judge(words, reply, queue)
            if reply == b"+QUEUED\r\n":
                queue.append(words)
            elif words is not None and words[0].lower() in (b"exec", b"discard", b"reset"):
                queue = []

    def _judge(self, words: list[bytes], reply: bytes, queue: list[list[bytes]]) -> None:
        """An engine's answer is to this command, or to what was queued before it; the words between routers are for
        peers only."""
        assert b"failed to answer" not in reply, (words, reply)
        if words[:2] == [b"CACHECLUSTER", b"ON"] and not reply.startswith(b"-"):
            words = split_requests(words[-1])[0][-1]  # its reply came before the ticket for it could leave
        name = words[0].lower()
        reply = TAGGED.sub(without_cursor, reply)
        if name == b"wait" and reply.startswith(b":"):
            assert reply in (b":0\r\n", b":1\r\n"), (words, reply)
        if name == b"cluster" and reply.startswith(b":") and words[1].upper() == b"COUNTKEYSINSLOT":
            there = [key for key in KEYS if slot_of_key(key.encode()) == int(words[2])]
            assert int(reply[1:]) in (0, len(there)), (words, reply)
        if name in MEMBERS and reply.startswith(b"*"):
            assert reply == answer(words), (words, reply)
        kind = b"*" if name == b"mget" else b":" if name in COUNTED else b"$8\r\n"
        if name in (b"dbsize", b"keys") and reply.startswith((b":", b"*")):
            assert int(reply[1 : reply.index(b"\r")]) <= PARTITIONS, (words, reply)
        elif name in (b"exec", b"blpop") and reply in NULLS:
            assert name == b"blpop" or b"WATCH" in self.sent.upper(), (queue, reply)
        elif name == b"exec" and reply.startswith(b"*"):
            assert reply == results(queue), (queue, reply)
        elif reply.startswith((kind, b"$8\r\n")):
            assert reply == answer(words), (words, reply)
        if reply.startswith(b"-CC"):
            assert b"CACHECLUSTER" in self.sent.upper(), (words, reply)


def without_cursor(told: re.Match[bytes]) -> bytes:
    """The cursor that a client got tells which process it is of, or that it was all."""
    cursor = int(told[1])
    assert cursor == 0 or (cursor % 65536 in TAGS and cursor >> 16 in (0, SCANNED)), told
    return told_at(0)


class _Listener:
    """A client that subscribes and does nothing else: every name is confirmed once, and only then heard."""

    def __init__(self, world: World, cluster: bool) -> None:
        self.transport = world.client(cluster)
        self.asked: list[bytes] = []
        self.ended = False

    def say(self, word: str, *names: str) -> None:
        self.asked += [word.lower().encode()] * len(names)
        self.transport.feed(request(word, *names))

    def look(self, all_answered: bool = False) -> None:
        frames = ReplyFeed().feed(self.transport.written)
        told = [it.split(b"\r\n")[2] for it in frames if it.startswith((b"*", b">"))]
        if TOO_MANY in frames:
            return
        confirmed = [word for word in told if word != b"message"]
        assert confirmed == self.asked[: len(confirmed)], (confirmed, self.asked)
        assert len(confirmed) == len(self.asked) or not all_answered, (confirmed, self.asked)
        assert b"message" not in told or b"subscribe" in told[: told.index(b"message")], told


class _Conversation:
    """Reads the input as a list of events."""

    def __init__(self, data: bytes) -> None:
        self._bytes: Iterator[int] = iter(data)
        self.world = World(max_clients=4, answer=Answers(lambda: TOKEN))
        self.clients = [_Talker(self.world, cluster=False), _Talker(self.world, cluster=True)]
        self.listeners = [_Listener(self.world, cluster=False)]
        self.servers: list[Server] = []
        self.generations = [1] * PARTITIONS
        self.epoch = 1
        self.events = (
            self.send_command,
            self.send_command,
            self.send_bytes,
            self.turn,
            self.connect,
            self.answer_some,
            self.answer_some,
            self.refuse,
            self.say_bytes,
            self.break_connection,
            self.shut_or_open,
            self.move_primary,
            self.wait,
            self.tick,
            self.leave,
            self.come,
            self.listen,
            self.tell,
        )

    def byte(self) -> int:
        """The next byte of the input; 0 beyond its end."""
        return next(self._bytes, 0)

    def run(self) -> None:
        for chosen in self._bytes:
            self.events[chosen % len(self.events)]()
            for server in self.servers:
                server.look()
        for client in (*self.clients, *self.listeners):
            client.look()

    def client(self) -> _Talker:
        return self.clients[self.byte() % len(self.clients)]

    def server(self) -> Server | None:
        return self.servers[self.byte() % len(self.servers)] if self.servers else None

    # -- what may happen

    def send_command(self) -> None:
        chosen = self.byte()
        keys = KEYS[chosen % 4], KEYS[chosen // 4 % 4]
        self.client().send(COMMANDS[self.byte() % len(COMMANDS)](*keys))

    def send_bytes(self) -> None:
        client = self.client()
        client.send(bytes(self.byte() for _ in range(self.byte() % 64)))

    def turn(self) -> None:
        self.world.loop.turn()

    def wait(self) -> None:
        self.world.loop.wait()

    def tick(self) -> None:
        self.world.router.tick()

    def connect(self) -> None:
        """Connections that the router has asked for are made, or fail."""
        dialled, self.world.dialled[:] = list(self.world.dialled), []
        for backend in dialled:
            if self.byte() % 8 == 7:
                backend.failed("refused")
            else:
                self.servers.append(Server(backend))
        self.world.loop.turn()

    def answer_some(self) -> None:
        server = self.server()
        for _ in range(self.byte() % 4 + 1):
            if server is not None:
                server.answer()

    def refuse(self) -> None:
        server = self.server()
        if server is not None:
            server.refuse()

    def say_bytes(self) -> None:
        """Garbage: the connection is given up, or waits for the rest of what looks like a reply."""
        server = self.server()
        said = bytes(self.byte() for _ in range(self.byte() % 16))
        if server is not None:
            server.speak(b"?" + said)

    def break_connection(self) -> None:
        server = self.server()
        if server is not None:
            self.servers.remove(server)
            server.backend.connection_lost(None)

    def shut_or_open(self) -> None:
        partition, how = self.byte() % PARTITIONS, self.byte() % 3
        if how < 2:
            self.generations[partition] += 1
        self.epoch += how == 1
        self.world.set_gate(partition, self.generations[partition], self.epoch if how else 0, 1000.0)
        self.world.router.use_gate(partition, self.generations[partition])

    def move_primary(self) -> None:
        chosen = self.byte()
        primaries = [("uid-0", "uid-1", None)[chosen >> 2 * n & 3 if chosen >> 2 * n & 3 < 3 else 0] for n in (0, 1)]
        copies = [n for n in (0, 1) if not chosen >> 4 + n & 1]
        instead = {"uid-1": "uid-0" if chosen & 64 else "uid-1", "uid-0": "uid-2" if chosen & 128 else "uid-0"}
        announced, more = [pod and instead[pod] for pod in primaries], self.byte()
        stands_in = [announced[n] == "uid-0" or bool(more & 1 << n) for n in (0, 1)]
        self.world.use_routes(copies, *primaries, announced=announced, stands_in=stands_in)

    def leave(self) -> None:
        client = self.client()
        if not client.ended:
            client.ended = True
            client.transport.protocol.connection_lost(None)

    def come(self) -> None:
        if len(self.clients) < 6:
            self.clients.append(_Talker(self.world, cluster=bool(self.byte() & 1)))

    def listen(self) -> None:
        """A listener says something, or goes and another one comes."""
        how, listener = self.byte(), self.listeners[-1]
        names = KEYS[how // 4 % 4], KEYS[how // 16 % 4]
        if how % 4 < 3:
            listener.say(("SUBSCRIBE", "SUBSCRIBE", "UNSUBSCRIBE")[how % 4], *names)
        elif len(self.listeners) < 4:
            listener.ended = True
            listener.transport.protocol.connection_lost(None)
            self.listeners.append(_Listener(self.world, cluster=bool(how & 4)))

    def tell(self) -> None:
        """What is published or changed somewhere."""
        server, chosen = self.server(), self.byte()
        key = KEYS[chosen % 4].encode()
        if server is not None and server.backend.proto == 3 and chosen & 4:
            changed = b"*1\r\n$%d\r\n%s\r\n" % (len(key), key) if chosen & 8 else b"_\r\n"
            server.speak(b">2\r\n$10\r\ninvalidate\r\n" + changed)
        elif server is not None and server.backend.proto == 3:
            server.speak(b">3\r\n$7\r\nmessage\r\n$%d\r\n%s\r\n$1\r\nx\r\n" % (len(key), key))

    # -- in the end

    def end(self) -> None:
        """Engines and peers go, what waits is given up, clients go: nothing may be left."""
        for server in self.servers:
            server.backend.connection_lost(None)
        self.world.loop.turn()
        self.world.router.give_up_parked(True)
        while self.world.router.metrics()["parked"] or self.world.dialled:  # what waited behind a HELLO, or waits alone
            for backend in self.world.dialled[:]:
                self.world.dialled.remove(backend)
                backend.failed("the end")
            self.world.router.tick()
            self.world.loop.wait()
        for client in (*self.clients, *self.listeners):
            client.look(all_answered=not client.ended)
        for client in (*self.clients, *self.listeners):
            if not client.ended:
                client.ended = True
                client.transport.protocol.connection_lost(None)
        self.world.use_routes([0, 1])
        for backend in self.world.dialled:
            backend.failed("the end")
        for partition in range(PARTITIONS):
            self.generations[partition] += 1
            self.world.set_gate(partition, self.generations[partition], 0)
            self.world.router.use_gate(partition, self.generations[partition])
        self.world.loop.wait()
        self.world.router.tick()
        left = self.world.router.metrics()
        gone = ("clients", "peers", "parked", "parkedBytes", "held", "waiting", "private")
        assert [left[name] for name in gone] == [0] * len(gone), left
        for partition, generation in enumerate(self.generations):
            assert (partition, generation) in self.world.confirmed, self.world.confirmed[-6:]
