# Pub/sub. A router listens, for all its clients together, at every engine whose primary is on its pod, and at the router
# of every other pod, which passes on what its own engines tell. So a message is heard wherever it is published: by
# PUBLISH, by a script, in a transaction, or by an engine itself (keyspace notifications).
#
# A PING behind what is said to an engine or a peer shows when that is in effect: a subscription is confirmed when
# everybody confirms it; the gate of a partition is reported shut when everything published before was heard; and one that
# opens takes commands when its engine is listened to. Delivery is at most once, as in Redis: what is published while a
# connection is being made again is not heard.

cdef enum:
    CHANNEL = 0
    PATTERN = 1
    SHARD = 2
    KINDS = 3

cdef tuple PREFIXES = (b"", b"p", b"s")
cdef tuple HEADS = (b"*3\r\n", b">3\r\n")
cdef bytes PING_FRAME = b"*1\r\n$4\r\nPING\r\n"
cdef tuple PUBSUB_PONGS = (b"$4\r\npong\r\n", b"$0\r\n\r\n")
ATTACH_S = 0.25
"""How long commands wait at a gate that opened until its engine is listened to."""
MOST_NAMES = 1048576
"""Channels and patterns of one client."""


@cython.final
cdef class Pending:
    """A confirmation that waits until everybody who is listened to has confirmed."""

    cdef void heard(self):
        self.count -= 1
        if self.count == 0:
            self.told()

    cdef void told(self):
        cdef Client c = self.request.client
        c.unheard = None
        c.router.deliver(self.request, PyBytes_AS_STRING(self.reply), PyBytes_GET_SIZE(self.reply))


cdef class Feed(Backend):
    """A connection on which an engine, or the router of another pod, tells what is published there."""

    def __init__(self, Router router, Target target):
        Backend.__init__(self, router, target, 3)
        self.apart = self.control = self.listens = True
        self.early = []
        self.barriers = []

    cdef void greeted(self, bytes reply):
        """From now on, everything that anybody wants to hear."""
        early = self.early
        self.early = []
        self.ask(self.router.hub.everything(self.target.partition < 0), early)

    cdef void ask(self, bytes commands, list waiting):
        """Say something that is answered by pushes only; those who wait are told when it is in effect."""
        self.barriers.append(waiting)
        self.say_frame(commands + PING_FRAME)

    cdef void want(self, bytes commands, Pending pending):
        """Listen to more (nothing new: b"")."""
        if not self.is_ready:
            self.early.append(pending)
        elif commands:
            self.ask(commands, [pending])
        elif self.barriers:
            (<list>self.barriers[len(self.barriers) - 1]).append(pending)
        else:
            return
        pending.count += 1

    cdef void take_internal(self, Request r, const char* frame, Py_ssize_t n):
        if r.internal == HELLO_REPLY:
            Backend.take_internal(self, r, frame, n)
        else:
            self.tell(self.barriers.pop(0))

    cdef void tell(self, list waiting):
        for it in waiting:
            if isinstance(it, Pending):
                (<Pending>it).heard()
            else:
                (<Partition>it).heard_all()

    cdef void take_push(self, const char* frame, Py_ssize_t n):
        """A message, or the confirmation of a subscription, which PONG tells as well."""
        cdef int kind
        cdef Py_ssize_t at = 19, length
        if n > 18 and memcmp(frame, b">3\r\n$7\r\nmessage\r\n$", 18) == 0:
            kind = CHANNEL
            at = 18
        elif n > 19 and memcmp(frame, b">4\r\n$8\r\npmessage\r\n$", 19) == 0:
            kind = PATTERN
        elif n > 19 and memcmp(frame, b">3\r\n$8\r\nsmessage\r\n$", 19) == 0:
            kind = SHARD
        else:
            return
        if self.muted:
            return
        length = strtoll(frame + at, NULL, 10)
        while frame[at] != c"\n":
            at += 1
        self.router.hub.publish(
            kind, PyBytes_FromStringAndSize(frame + at + 1, length), frame, n, self.target.partition < 0
        )

    cdef void ended(self, str reason):
        cdef list waiting = self.early
        self.early = []
        for it in self.barriers:
            waiting = waiting + it
        self.barriers = []
        self.router.hub.lost(self)
        self.tell(waiting)

    cdef bint look_after(self, double now):
        """Whether it answers in time; it is asked now and then."""
        if now - self.heard > CONNECT_TIMEOUT_S:
            if not self.is_ready or self.sent.head is not None:
                self.lose("it was silent")
                return False
            if self.unsent.head is None:
                self.ask(b"", [])
        return True


class FeedProtocol(Feed, asyncio.BufferedProtocol):
    """A feed as asyncio wants it."""

    __slots__ = ()


@cython.final
cdef class Hub:
    """Who of this router's clients listens to what, and those who are listened to on their behalf."""

    def __cinit__(self, Router router):
        self.router = router
        self.listeners = ({}, {}, {})
        self.own = ({}, {}, {})
        self.feeds = {}
        self.retry_at = {}

    cdef bint active(self):
        return self.size() > 0

    cdef Py_ssize_t size(self):
        return len(self.listeners[CHANNEL]) + len(self.listeners[PATTERN]) + len(self.listeners[SHARD])

    cdef bytes everything(self, bint of_peer):
        """The commands that subscribe to all that is wanted. Peers are not asked for what only peers want."""
        cdef int kind
        cdef list commands = []
        for kind in range(KINDS):
            names = self.own[kind] if of_peer else self.listeners[kind]
            commands.append(command_for(b"SUBSCRIBE", kind, list(names)))
        return b"".join(commands)

    cdef void subscribe(self, Client c, int kind, list names):
        """SUBSCRIBE and its kin; the reply comes when the subscription is in effect."""
        cdef Pending pending = Pending.__new__(Pending)
        cdef Partition p
        cdef Feed feed
        cdef list new = [], new_own = [], replies = []
        cdef bytes commands
        if c.subs is None:
            c.subs = (set(), set(), set())
        c.unheard = set()
        for name in names:
            if name not in c.subs[kind]:
                (<set>c.subs[kind]).add(name)
                c.unheard.add((kind, name))
                self.add(c, kind, name, new, new_own)
            replies.append(confirmation(c, b"subscribe", kind, name))
        pending.request = c.append()
        pending.request.started_ns = 0
        pending.reply = b"".join(replies)
        pending.count = 1
        c.barrier = True
        self.listen()
        commands = command_for(b"SUBSCRIBE", kind, new)
        for p in self.router.lines:
            if p.feed is not None:
                p.feed.want(commands, pending)
        if not c.peer:
            commands = command_for(b"SUBSCRIBE", kind, new_own)
            for feed in list(self.feeds.values()):
                feed.want(commands, pending)
        pending.heard()

    cdef void add(self, Client c, int kind, bytes name, list new, list new_own):
        cdef dict listeners = self.listeners[kind], own = self.own[kind]
        if name not in listeners:
            listeners[name] = set()
            new.append(name)
        (<set>listeners[name]).add(c)
        if not c.peer:
            if name not in own:
                own[name] = 0
                new_own.append(name)
            own[name] += 1

    cdef void unsubscribe(self, Client c, int kind, list names):
        """UNSUBSCRIBE and its kin; no names: all."""
        cdef list replies = [], old = []
        if not names and c.subs is not None:
            names = sorted(c.subs[kind])
        for name in names:
            if c.subs is not None and name in c.subs[kind]:
                (<set>c.subs[kind]).remove(name)
                old.append(name)
            replies.append(confirmation(c, b"unsubscribe", kind, name))
        self.remove(c, kind, old)
        if c.subs is not None and not any(c.subs):
            c.subs = None
        c.reply(b"".join(replies) if replies else confirmation(c, b"unsubscribe", kind, None))

    cdef void leave(self, Client c):
        """It listens to nothing any more, and is told nothing."""
        cdef tuple subs = c.subs
        cdef int kind
        c.subs = c.unheard = None
        if subs is not None:
            for kind in range(KINDS):
                self.remove(c, kind, list(subs[kind]))

    cdef void remove(self, Client c, int kind, list names):
        cdef dict listeners = self.listeners[kind], own = self.own[kind]
        cdef list old = [], old_own = []
        cdef Partition p
        cdef Feed feed
        cdef bytes commands
        for name in names:
            (<set>listeners[name]).remove(c)
            if not listeners[name]:
                del listeners[name]
                old.append(name)
            if not c.peer:
                own[name] -= 1
                if own[name] == 0:
                    del own[name]
                    old_own.append(name)
        if old:
            commands = command_for(b"UNSUBSCRIBE", kind, old)
            for p in self.router.lines:
                if p.feed is not None and p.feed.is_ready:
                    p.feed.ask(commands, [])
        if old_own:
            commands = command_for(b"UNSUBSCRIBE", kind, old_own)
            for feed in self.feeds.values():
                if feed.is_ready:
                    feed.ask(commands, [])

    cdef void publish(self, int kind, bytes name, const char* frame, Py_ssize_t n, bint by_peer):
        """A message for those who listen; what a peer tells goes to no other peer."""
        cdef Client c
        listeners = (<dict>self.listeners[kind]).get(name)
        if listeners is None:
            return
        for c in <set>listeners:
            if c.closed or (by_peer and c.peer) or (c.unheard is not None and (kind, name) in c.unheard):
                continue
            c.push(frame, n)

    cdef void listen(self):
        """Listen to everybody to whom one should, and cannot be listening yet."""
        cdef Partition p
        cdef double now = seconds()
        for p in self.router.lines:
            if p.mine:
                self.listen_here(p, now)
        for uid, target in self.router.peers.items():
            if uid not in self.feeds and now >= <double>self.retry_at.get(uid, 0.0):
                self.feeds[uid] = feed = FeedProtocol(self.router, target)
                self.router.connect(feed)

    cdef void listen_here(self, Partition p, double now):
        if p.feed is None and p.engine is not None and now >= p.feed_retry_at:
            p.feed = FeedProtocol(self.router, p.engine)
            self.router.connect(p.feed)

    cdef void lost(self, Feed feed):
        """This one is listened to no more; it is tried again a moment later."""
        cdef Partition p
        cdef double again = seconds() + RETRY_MAX_S
        if feed.target.partition < 0:
            if self.feeds.get(feed.target.uid) is feed:
                del self.feeds[feed.target.uid]
                self.retry_at[feed.target.uid] = again
            return
        p = <Partition>self.router.lines[feed.target.partition]
        if p.feed is feed:
            p.feed = None
            p.feed_retry_at = again
            p.heard_all()

    cdef void forget_peer(self, str uid):
        """This pod is no member any more."""
        cdef Feed feed = self.feeds.get(uid)
        if feed is not None:
            feed.lose("the routes name it no more")
        self.retry_at.pop(uid, None)

    cdef void look_after(self, double now):
        """The tick: make feeds again, and close those that nobody needs."""
        cdef Partition p
        cdef Feed feed
        cdef bint active = self.active()
        for p in self.router.lines:
            if p.attaching and now > p.attach_until:
                p.heard_all()
            if p.feed is not None:
                if not active:
                    p.feed.lose("nobody listens")
                elif p.feed_due and 0 < p.cut_at < now:
                    p.feed.lose("the gate was shut and the engine did not answer")
                else:
                    p.feed.look_after(now)
        for feed in list(self.feeds.values()):
            if active:
                feed.look_after(now)
            else:
                feed.lose("nobody listens")
        if active:
            self.listen()


cdef bytes bulk(bytes text):
    return b"$%d\r\n%s\r\n" % (len(text), text)


cdef bytes command_for(bytes word, int kind, list names):
    """The request that subscribes or unsubscribes; b"" for no names."""
    if not names:
        return b""
    return encode_request([PREFIXES[kind].upper() + word, *names])


cdef bytes confirmation(Client c, bytes word, int kind, bytes name):
    """What a client is told of one name (None: there was none), with how many it has left."""
    cdef Py_ssize_t count = 0
    if c.subs is not None:
        count = len(c.subs[SHARD]) if kind == SHARD else len(c.subs[CHANNEL]) + len(c.subs[PATTERN])
    shown = NULLS[c.proto - 2] if name is None else bulk(name)
    return HEADS[c.proto - 2] + bulk(PREFIXES[kind] + word) + shown + b":%d\r\n" % count


cdef bint only_listens(Client c):
    """A RESP2 client that has subscribed may do little else."""
    return c.subs is not None and c.proto == 2 and not c.peer


cdef bint may_while_listening(Command* command):
    cdef bytes name = name_of(command)
    if command.kind == KIND_PUBSUB:
        return name.endswith(b"subscribe")
    return command.kind == KIND_LOCAL and name in (b"ping", b"quit", b"reset")


cdef bytes listening_error(Command* command):
    return (
        b"-ERR Can't execute '" + name_of(command) + b"': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET"
        b" are allowed in this context\r\n"
    )


cdef void serve_pubsub(Client c, Command* command, const char* frame, Py_ssize_t n):
    """PUBLISH, PUBSUB, and what begins and ends subscriptions."""
    cdef bytes name = name_of(command)
    cdef list arguments
    cdef int kind
    if not name.endswith(b"subscribe"):
        publish(c, command, frame, n)
        return
    if c.queue is not None:
        refuse_in_transaction(c, command)
        return
    arguments = all_arguments(frame, c.scan.argc)[1:]
    kind = PATTERN if name[0] == c"p" else SHARD if name.startswith(b"ss") or name.startswith(b"sun") else CHANNEL
    if name.endswith(b"unsubscribe"):
        c.router.hub.unsubscribe(c, kind, arguments)
    elif c.subs is not None and len(c.subs[kind]) + len(arguments) > MOST_NAMES:
        c.refuse(b"-ERR a client may have at most %d subscriptions of a kind\r\n" % MOST_NAMES)
    else:
        c.router.counters.answered += 1
        c.router.hub.subscribe(c, kind, arguments)


cdef void publish(Client c, Command* command, const char* frame, Py_ssize_t n):
    """PUBLISH goes to the engine of its channel's slot, from both ports: everybody listens to every engine, and one engine
    keeps the order of its channel. PUBSUB goes to any engine of this pod: all are listened to alike."""
    cdef Router router = c.router
    cdef Partition p
    cdef Request r
    cdef int slot
    if c.queue is not None:
        c.queue.take(c, -1, command.write, frame, n)
        return
    if router.partitions == 0:
        c.refuse(NO_MAP)
        return
    if command.write:
        slot = key_slot(frame + c.scan.head[1].at, c.scan.head[1].len)
    else:
        slot = router.any_slot()
    p = <Partition>router.lines[slot >> router.shift]
    r = expect(c, p, slot, command.write)
    r.keyless = True
    p.submit(r, frame, n)
