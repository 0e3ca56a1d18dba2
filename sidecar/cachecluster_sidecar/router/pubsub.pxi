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
ATTACH_S = 1.0
"""How long commands wait at a gate that opened until its engine is listened to. One that takes longer to answer would not
answer them sooner; shorter, and what is published first is not heard where a machine is busy."""
FEED_SILENCE_S = 5.0
"""After which a peer is not listened to any longer; an engine's socket tells its end."""
FEED_GREETING_S = 3.0
"""So long a subscription waits for a peer or an engine that was reached and does not greet; what it tells is not heard."""
NAMES_AT_ONCE = 1024
"""Channels or patterns in one command, of a client or of ours."""
MOST_NAMES = (16384, 128, 16384)
"""Channels, patterns and shard channels of one client; each pattern that fits multiplies what a feed carries."""
MOST_NAME_BYTES = 67108864
"""What the names take that a router listens to: their bytes, and about so many for each, and for each of its listeners."""
NAME_BYTES = 512
LISTENER_BYTES = 128
TOO_MANY_NAMES = (
    f"-ERR subscribe to at most {NAMES_AT_ONCE} names at once, and to at most {MOST_NAMES[0]} channels and "
    f"{MOST_NAMES[1]} patterns\r\n"
).encode()
NO_ROOM_FOR_NAMES = b"-ERR there is no room for more subscriptions on this pod\r\n"


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
        if c.tracking is not None:
            c.tracking.confirmed = True
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
        cdef list commands = self.router.hub.everything(self.target.partition < 0)
        early = self.early
        self.early = []
        for command in commands:
            self.ask(command, [])
        if self.router.hub.tracks(self.target.partition < 0):
            self.say_track(True)
        self.ask(b"", [self, *early])

    cdef void ask(self, bytes commands, list waiting):
        """Say something that is answered by pushes only; those who wait are told when it is in effect."""
        self.barriers.append(waiting)
        self.say_frame(commands + PING_FRAME)

    cdef void say_track(self, bint on):
        """Be told of changes, or no more; answered by a reply of its own."""
        if self.is_ready:
            self.barriers.append([])
            self.say_frame(TRACK if on else TRACK_NO_MORE)

    cdef void want(self, bytes commands, Pending pending):
        """Listen to more (nothing new: b""). Nobody waits for one that was lost and may not come back."""
        if not self.is_ready:
            if self.again:
                return
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
        elif frame[0] == c"-":
            text = PyBytes_FromStringAndSize(frame + 1, min(n - 3, 200))
            log.warning("%s cannot be listened to: %s", self.target.name, text.decode(errors="replace"))
            self.lose("it refused a subscription")
        else:
            self.tell(self.barriers.pop(0))
            if self.unsure and not self.barriers:
                self.unsure = False
                self.router.hub.all_changed(self.target.partition < 0)

    cdef void tell(self, list waiting):
        for it in waiting:
            if isinstance(it, Pending):
                (<Pending>it).heard()
            elif it is self:
                self.settle()
            else:
                (<Partition>it[0]).heard_all(it[1])

    cdef void settle(self):
        """What was wanted when it became ready is in effect: it is well again."""
        if not self.closed:
            self.settled = True
            self.again = False
            self.router.hub.retry_at.pop(self.target.uid, None)
            self.router.hub.all_changed(self.target.partition < 0)

    cdef void stop_waiting(self):
        """Nobody waits any longer for what it confirms."""
        cdef list waiting
        self.unsure = True
        for at in range(len(self.barriers)):
            waiting = self.barriers[at]
            self.barriers[at] = [it for it in waiting if not isinstance(it, Pending)]
            self.tell([it for it in waiting if isinstance(it, Pending)])

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
            if n > 20 and not self.muted and memcmp(frame, <const char*>INVALIDATE_HEAD, 20) == 0:
                self.router.hub.changed(frame, n, self.target.partition < 0)
            return
        length = strtoll(frame + at, NULL, 10)
        # Committers publish to the shard channel without a name, and for nobody.
        if self.muted or (kind == SHARD and length == 0):
            return
        while frame[at] != c"\n":
            at += 1
        self.router.hub.publish(
            kind, PyBytes_FromStringAndSize(frame + at + 1, length), frame, n, self.target.partition < 0
        )

    cdef void ended(self, str reason):
        cdef list waiting = self.early
        self.early = []
        for it in self.barriers:
            waiting += it
        self.barriers = []
        self.router.hub.lost(self)
        self.tell(waiting)

    cdef bint look_after(self, double now):
        """Whether it may still be listened to. A peer is asked now and then; an engine may be busy for long, and is the
        agent's to judge."""
        cdef double silent = now - self.heard
        if not self.is_ready:
            if silent > FEED_GREETING_S:
                self.lose("it did not answer our greeting in time")
        elif self.target.partition >= 0:
            if silent > FEED_SILENCE_S and self.sent.head is not None:
                self.stop_waiting()
        elif silent > CONNECT_TIMEOUT_S:
            if silent > FEED_SILENCE_S and self.sent.head is not None:
                self.lose("it was silent")
            elif self.sent.head is None and self.unsent.head is None:
                self.ask(b"", [])
        return not self.closed


@cython.final
cdef class Hub:
    """Who of this router's clients listens to what, and those who are listened to on their behalf."""

    def __cinit__(self, Router router):
        self.router = router
        self.listeners = ({}, {}, {})
        self.own = ({}, {}, {})
        self.feeds = {}
        self.retry_at = {}
        self.bytes = 0
        self.trackers = set()
        self.bcasters = set()
        self.tracking_peers = set()
        self.read = {}

    cdef bint active(self):
        return self.size() > 0 or self.tracks(False)

    cdef Py_ssize_t size(self):
        return len(self.listeners[CHANNEL]) + len(self.listeners[PATTERN]) + len(self.listeners[SHARD])

    cdef list everything(self, bint of_peer):
        """The commands that subscribe to all that is wanted. Peers are not asked for what only peers want."""
        cdef int kind
        cdef list commands = []
        for kind in range(KINDS):
            names = list(self.own[kind] if of_peer else self.listeners[kind])
            for at in range(0, len(names), NAMES_AT_ONCE):
                commands.append(command_for(b"SUBSCRIBE", kind, names[at : at + NAMES_AT_ONCE]))
        return commands

    cdef void subscribe(self, Client c, int kind, list names):
        """SUBSCRIBE and its kin; the reply comes when the subscription is in effect."""
        cdef Pending pending = Pending.__new__(Pending)
        cdef Partition p
        cdef Feed feed
        cdef list new = [], new_own = [], replies = []
        cdef bytes commands
        if c.subs is None:
            c.subs = (set(), set(), set())
        c.unheard = None if c.peer else set()
        for name in names:
            if name not in c.subs[kind]:
                (<set>c.subs[kind]).add(name)
                if c.unheard is not None:
                    c.unheard.add((kind, name))
                self.add(c, kind, name, new, new_own)
            replies.append(confirmation(c, b"subscribe", kind, name))
        pending.request = c.append()
        pending.request.started_ns = 0
        pending.reply = b"".join(replies)
        pending.count = 1
        c.barrier = True
        self.listen(True)
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
            self.bytes += NAME_BYTES + len(name)
            new.append(name)
        (<set>listeners[name]).add(c)
        self.bytes += LISTENER_BYTES + len(name)
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
            self.bytes -= LISTENER_BYTES + len(name)
            if not listeners[name]:
                del listeners[name]
                self.bytes -= NAME_BYTES + len(name)
                old.append(name)
            if not c.peer:
                own[name] -= 1
                if own[name] == 0:
                    del own[name]
                    old_own.append(name)
        for at in range(0, len(old), NAMES_AT_ONCE):
            commands = command_for(b"UNSUBSCRIBE", kind, old[at : at + NAMES_AT_ONCE])
            for p in self.router.lines:
                if p.feed is not None and p.feed.is_ready:
                    p.feed.ask(commands, [])
        for at in range(0, len(old_own), NAMES_AT_ONCE):
            commands = command_for(b"UNSUBSCRIBE", kind, old_own[at : at + NAMES_AT_ONCE])
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
            if not (by_peer and c.peer) and (c.unheard is None or (kind, name) not in c.unheard):
                c.push(frame, n)

    cdef void listen(self, bint hurried):
        """Listen to everybody to whom one should; to an engine that was lost at once if somebody waits for it."""
        cdef Partition p
        cdef Feed feed
        cdef double now = seconds()
        for p in self.router.lines:
            if p.mine and (hurried or now >= p.feed_retry_at):
                self.listen_here(p)
        for uid, target in self.router.peers.items():
            if uid not in self.feeds and now >= <double>self.retry_at.get(uid, 0.0):
                self.feeds[uid] = feed = Feed(self.router, target)
                feed.again = uid in self.retry_at
                self.router.connect(feed)

    cdef void listen_here(self, Partition p):
        if p.feed is None and p.engine is not None:
            p.feed = Feed(self.router, p.engine)
            p.feed.muted = p.read().gate_epoch == 0
            self.router.connect(p.feed)

    cdef void lost(self, Feed feed):
        """This one is listened to no more. If nobody wanted that, it is tried again a moment later."""
        cdef Partition p
        cdef double again = seconds() + RETRY_MAX_S
        if feed.settled:
            self.all_changed(feed.target.partition < 0)
        if feed.target.partition < 0:
            if self.feeds.get(feed.target.uid) is feed:
                del self.feeds[feed.target.uid]
                if not feed.dismissed:
                    self.retry_at[feed.target.uid] = again
            return
        p = <Partition>self.router.lines[feed.target.partition]
        if p.feed is feed:
            p.feed = None
            p.feed_retry_at = 0 if feed.dismissed else again
            p.feed_due = False
            p.confirm_when_idle()
            p.stop_attaching()

    cdef void dismiss(self, Feed feed, str reason):
        """Listen to it no more."""
        if feed is not None:
            feed.dismissed = True
            feed.lose(reason)

    cdef void forget_peer(self, str uid):
        """This pod is no member any more."""
        self.dismiss(self.feeds.get(uid), "the routes name it no more")
        self.retry_at.pop(uid, None)

    # -- CLIENT TRACKING

    cdef bint tracks(self, bint of_peer):
        """Is anybody to be told of changes? Peers are not asked for what only peers want."""
        return len(self.trackers) > 0 or (not of_peer and len(self.tracking_peers) > 0)

    cdef void say_track(self, bint of_peers, bint on):
        cdef Partition p
        cdef Feed feed
        if of_peers:
            for feed in list(self.feeds.values()):
                feed.say_track(on)
        else:
            for p in self.router.lines:
                if p.feed is not None:
                    p.feed.say_track(on)

    cdef void track(self, Client c, Tracking wanted):
        """CLIENT TRACKING ON; the reply comes when it is in effect."""
        cdef Pending pending = Pending.__new__(Pending)
        cdef Partition p
        cdef Feed feed
        cdef bint here = self.tracks(False), there = self.tracks(True)
        wanted.confirmed = c.tracking is not None and c.tracking.confirmed
        c.tracking = wanted
        (self.tracking_peers if c.peer else self.trackers).add(c)
        if wanted.bcast and not c.peer:
            self.bcasters.add(c)
        if not here:
            self.say_track(False, True)
        if not there and not c.peer:
            self.say_track(True, True)
        pending.request = c.append()
        pending.request.started_ns = 0
        pending.reply = OK
        pending.count = 1
        c.barrier = True
        self.listen(True)
        for p in self.router.lines:
            if p.feed is not None:
                p.feed.want(b"", pending)
        if not c.peer:
            for feed in list(self.feeds.values()):
                feed.want(b"", pending)
        pending.heard()

    cdef void untrack(self, Client c):
        """It is told of no change any more. What it has read is forgotten when it changes."""
        if c.tracking is None:
            return
        c.tracking = None
        self.bcasters.discard(c)
        (self.tracking_peers if c.peer else self.trackers).discard(c)
        if not c.peer and not self.trackers:
            self.say_track(True, False)
            self.read.clear()
            self.read_bytes = 0
        if not self.tracks(False):
            self.say_track(False, False)

    cdef void remember(self, uint64_t client, bytes key):
        """This client is about to read a key."""
        known = self.read.get(key)
        if known is None:
            self.read[key] = client
            self.read_bytes += TRACKED_BYTES + len(key)
        elif isinstance(known, set):
            if client not in known:
                (<set>known).add(client)
                self.read_bytes += READER_BYTES
        elif known != client:
            self.read[key] = {known, client}
            self.read_bytes += READER_BYTES

    cdef void make_room(self):
        """Those who have read what was read first are told that it has changed; before a command that reads, for what
        leaves behind it would be remembered by nobody."""
        while self.read_bytes > MOST_TRACKED_BYTES:
            self.tell_readers([next(iter(self.read))])

    cdef void tell_readers(self, list keys):
        """Tell those who have read these keys, and forget that."""
        cdef dict told = {}
        for key in keys:
            known = self.read.pop(key, None)
            if known is None:
                continue
            readers = known if isinstance(known, set) else (known,)
            self.read_bytes -= TRACKED_BYTES + len(key) + (len(readers) - 1) * READER_BYTES
            for number in readers:
                told.setdefault(number, []).append(key)
        for number, its in told.items():
            c = self.router.clients.get(number)
            if c is not None and (<Client>c).tracking is not None:
                self.invalidate(<Client>c, keys_reply(its))

    cdef void changed(self, const char* frame, Py_ssize_t n, bint by_peer):
        """An engine, or a peer for its engines, tells that keys have changed. What a peer tells goes to no other peer."""
        cdef Client c
        cdef list keys
        cdef dict replies = {}
        if frame[PyBytes_GET_SIZE(INVALIDATE_HEAD)] != c"*":
            self.all_changed(by_peer)
            return
        if not by_peer:
            for c in self.tracking_peers:
                if c.proto == 3:
                    c.push(frame, n)
        if not self.trackers:
            return
        keys = changed_keys(frame, n)
        self.tell_readers(keys)
        for c in self.bcasters:
            if not c.tracking.confirmed:
                continue
            reply = replies.get(c.tracking.prefixes)
            if reply is None:
                its = [key for key in keys if c.tracking.concerns(key)]
                reply = replies[c.tracking.prefixes] = keys_reply(its) if its else b""
            if reply:
                self.invalidate(c, reply)

    cdef void all_changed(self, bint by_peer):
        """Everything may have changed."""
        cdef Client c
        cdef bytes frame = INVALIDATE_HEAD + EVERYTHING
        self.read.clear()
        self.read_bytes = 0
        if not by_peer:
            for c in self.tracking_peers:
                if c.proto == 3:
                    c.push(PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
        for c in self.trackers:
            if c.tracking.confirmed and (c.tracking.bcast or not c.tracking.clean):
                c.tracking.clean = True
                self.invalidate(c, EVERYTHING)

    cdef void invalidate(self, Client c, bytes keys):
        """Tell a client, or the one that it redirects to."""
        cdef Tracking t = c.tracking
        cdef Client to
        if not t.redirect:
            if c.proto == 3:
                c.push_behind(INVALIDATE_HEAD + keys)
            return
        found = self.router.clients.get(t.redirect)
        if found is None:
            if c.proto == 3 and not t.broken:
                c.push_behind(b">2\r\n$21\r\ntracking-redir-broken\r\n:%d\r\n" % t.redirect)
            t.broken = True
            return
        to = <Client>found
        if to.proto == 3:
            to.push_behind(INVALIDATE_HEAD + keys)
        elif to.subs is not None:
            told = HEADS[0] + bulk(b"message") + bulk(INVALIDATE_CHANNEL) + (keys if keys != EVERYTHING else NULLS[0])
            to.push_behind(told)

    cdef void look_after(self, double now):
        """The tick: make feeds again, and close those that nobody needs."""
        cdef Partition p
        cdef Feed feed
        cdef bint active = self.active()
        for p in self.router.lines:
            if p.attaching and now > p.attach_until:
                p.stop_attaching()
            if p.feed is not None:
                if not active:
                    self.dismiss(p.feed, "nobody listens")
                elif p.feed_due and 0 < p.cut_at < now and max(p.feed_due_at, p.feed.heard) + GATE_DRAIN_S < now:
                    p.feed.lose("the gate was shut and the engine did not answer")
                elif p.feed.look_after(now) and p.is_deaf():
                    p.await_feed()
        for feed in list(self.feeds.values()):
            if active:
                feed.look_after(now)
            else:
                self.dismiss(feed, "nobody listens")
        if active:
            self.listen(False)


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


cdef bint serve_pubsub(Client c, Command* command, const char* frame, Py_ssize_t n):
    """PUBLISH, PUBSUB, and what begins and ends subscriptions. False: not before everything outstanding is answered."""
    cdef bytes name = name_of(command)
    cdef Hub hub = c.router.hub
    cdef list arguments
    cdef int kind
    cdef int muted = min(c.muted, 0)  # by CLIENT REPLY; confirmations are pushes
    if not name.endswith(b"subscribe"):
        publish(c, command, frame, n)
        return True
    if c.queue is not None:
        refuse_in_transaction(c, command)
        return True
    if c.head is not None:
        return False
    arguments = all_arguments(frame, c.scan.argc)[1:]
    kind = PATTERN if name[0] == c"p" else SHARD if name.startswith(b"ss") or name.startswith(b"sun") else CHANNEL
    if len(arguments) > NAMES_AT_ONCE:
        c.refuse(TOO_MANY_NAMES)
    elif name.endswith(b"unsubscribe"):
        c.muted = 0
        hub.unsubscribe(c, kind, arguments)
        c.muted = muted
    elif not c.peer and len(set(arguments).union(c.subs[kind] if c.subs is not None else ())) > MOST_NAMES[kind]:
        c.refuse(TOO_MANY_NAMES)
    elif not c.peer and hub.bytes + n + len(arguments) * (NAME_BYTES + LISTENER_BYTES) > MOST_NAME_BYTES:
        c.refuse(NO_ROOM_FOR_NAMES)
    else:
        c.router.counters.answered += 1
        c.muted = 0
        hub.subscribe(c, kind, arguments)
        c.muted = muted
    return True


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
