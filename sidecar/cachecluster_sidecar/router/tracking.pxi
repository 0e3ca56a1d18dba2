# CLIENT TRACKING. Every engine that leads tells the feed of its pod's router which keys have changed (BCAST mode), and that
# router tells those of the other pods that have tracking clients; which client has read what is kept here. As with
# subscriptions, tracking is confirmed when everybody who is listened to has confirmed it.
#
# The word that a key has changed may overtake the reply that a client is about to keep: it leaves behind everything that
# is outstanding for that client. Where a change could have been missed, as with a new primary, everything is invalid.

cdef bytes TRACK = encode_request([b"CLIENT", b"TRACKING", b"ON", b"BCAST"])
cdef bytes TRACK_NO_MORE = encode_request([b"CLIENT", b"TRACKING", b"OFF"])
cdef bytes INVALIDATE_HEAD = b">2\r\n$10\r\ninvalidate\r\n"
cdef bytes INVALIDATE_CHANNEL = b"__redis__:invalidate"
cdef bytes EVERYTHING = b"_\r\n"
MOST_TRACKED_BYTES = 67108864
"""What the keys take that clients have read: their bytes, and about so many for each, and for each further reader."""
TRACKED_BYTES = 192
READER_BYTES = 64


@cython.final
cdef class Tracking:
    """What a client wants to be told of."""

    def __init__(self, bint bcast, bint optin, bint optout, bint noloop, uint64_t redirect, tuple prefixes):
        self.bcast = bcast
        self.optin = optin
        self.optout = optout
        self.noloop = noloop
        self.redirect = redirect
        self.prefixes = prefixes
        self.waiting = []

    cdef void begin(self, Client c):
        """A command comes: CLIENT CACHING is about the one behind it, or about a transaction."""
        c.router.hub.make_room()
        if self.just_said:
            self.just_said = False
        elif c.queue is None:
            self.caching = 0

    cdef void again(self):
        """The command is served again later."""
        self.just_said = self.just_said or self.caching != 0

    cdef bint remembers(self):
        """Is what is read now to be remembered?"""
        if self.bcast or not self.confirmed:
            return False
        return self.caching > 0 if self.optin else self.caching >= 0

    cdef bint concerns(self, bytes key):
        """Is this key one of those that the client wants to hear of in BCAST mode?"""
        return key.startswith(self.prefixes)


cdef void note_read(Client c, const char* key, Py_ssize_t n):
    """A command that reads this key is about to be sent, or queued."""
    cdef Tracking t = c.tracking
    cdef Partition p
    if not t.remembers() or c.router.partitions == 0:
        return
    p = <Partition>c.router.lines[key_slot(key, n) >> c.router.shift]
    if c.cluster and not p.at_home() and p.owner is not None:
        return
    t.clean = False
    if c.queue is not None:
        if not c.queue.broken:
            t.waiting.append(PyBytes_FromStringAndSize(key, n))
    else:
        c.router.hub.remember(c.id, PyBytes_FromStringAndSize(key, n))


cdef void note_executed(Client c):
    """What was queued is about to be sent."""
    cdef Tracking t = c.tracking
    t.clean = t.clean and not t.waiting
    for key in t.waiting:
        c.router.hub.remember(c.id, key)
    t.waiting.clear()


cdef list changed_keys(const char* frame, Py_ssize_t n):
    """The keys of an engine's push; None: all."""
    cdef Py_ssize_t at = PyBytes_GET_SIZE(INVALIDATE_HEAD), end, length
    cdef list keys = []
    if frame[at] != c"*":
        return None
    while at < n and frame[at] != c"\n":
        at += 1
    at += 1
    while at < n and frame[at] == c"$":
        length = strtoll(frame + at + 1, NULL, 10)
        while frame[at] != c"\n":
            at += 1
        keys.append(PyBytes_FromStringAndSize(frame + at + 1, length))
        at += length + 3
    return keys


cdef bytes keys_reply(list keys):
    """An array of keys."""
    return b"*%d\r\n" % len(keys) + b"".join([bulk(key) for key in keys])


cdef bint serve_tracking(Client c, Command* command, const char* frame):
    """CLIENT TRACKING and CLIENT CACHING. False: not before everything outstanding is answered."""
    cdef Hub hub = c.router.hub
    cdef list arguments
    cdef bint caching = name_of(command) == b"client|caching"
    if c.queue is not None:
        refuse_in_transaction(c, command)
        return True
    if c.head is not None and not caching:
        return False
    arguments = all_arguments(frame, c.scan.argc)[2:]
    c.router.counters.answered += 1
    if caching:
        error = tracking.caching_error(c.tracking, arguments)
        if error is None:
            c.tracking.caching = 1 if arguments[0].upper() == b"YES" else -1
            c.tracking.just_said = True
        c.reply(OK if error is None else error)
        return True
    wanted = tracking.parse(c.tracking, arguments, c.router.clients)
    if isinstance(wanted, bytes):
        c.refuse(wanted)
    elif wanted is None:
        hub.untrack(c)
        c.reply(OK)
    else:
        hub.track(c, Tracking(**wanted))
    return True
