# Large replies. What a client is told in more than LARGE_BYTES is not kept until it is complete: it is passed on in pieces,
# as fast as the client takes them, on a connection of its own, so that nobody waits for it: to the engine here
# (private.pxi), or to the router of the pod where the primary is (passage.pxi), which has one to its engine.
#
# A connection that clients share cannot wait for one of them. So a large reply that comes there to the only command that
# its client has outstanding, and that reads nothing but its key, is dropped, and asked for again apart. Command and key are
# remembered, and the next time it is asked for apart at once. Replies to others are kept until they are complete: to commands
# in the midst of a pipeline, for the order would be lost; to what writes, has more arguments, is a script, a transaction or
# a part of a split command.
#
# A peer is told -CCLARGE <partition> in place of such a reply, if no write that it sent stands behind the read in the engine.
# As with -CCGATE all that it has sent, and sends, for this partition is refused until RESUME, so that its order is kept: it
# sends the read again as its client's only command, on a connection of that one's own, or, in a pipeline, as
# CACHECLUSTER AT, whose reply is kept whole.
#
# With its first piece a command is over for gates and hand-overs: it was executed. The client is not read until the last.

cdef bytes REPLY_LOST = (
    b"-TRYAGAIN the connection to the engine ended before the reply could leave; this command changed nothing, send it"
    b" again\r\n"
)


cdef enum:
    KEPT_WHOLE = -1              # for Request.large: no more to be asked for apart

NOT_APART_S = 5.0
"""How long what is large is kept whole after a connection of a client's own could not be made there."""


cdef class Relay(Backend):
    """A connection of one client's own."""

    def get_buffer(self, sizehint):
        if self.under_way is not None and self.rest.len == 0:
            return self.router.piece_view
        return Backend.get_buffer(self, sizehint)

    cdef Py_ssize_t take_replies(self, const char* p, Py_ssize_t n):
        cdef Py_ssize_t done = 0
        if self.under_way is not None:
            done = self.pass_on(p, n)
            if self.under_way is not None or self.closed:
                return done
        return done + Backend.take_replies(self, p + done, n - done)

    cdef Py_ssize_t take_large(self, const char* p, Py_ssize_t n, bint late):
        """Begin to pass it on. 0: it is kept until it is complete."""
        cdef Request r = self.sent.head
        cdef Partition of
        if late or r is None or not r.large or p[0] == c">" or r.client.head is not r:
            return 0
        reply_scan_reset(&self.scan)
        self.sent.pop()
        self.under_way = r
        r.client.source = self
        of = <Partition>self.router.lines[r.partition]
        self.left(of)
        of.taken()
        self.allowed = self.target.partition < 0 or not (self.router.sync and of.commit.holds(r))
        if not self.allowed:
            of.commit.hold(r, p, 0)
        if of.inflight == 0:
            of.left_flight()
        return self.pass_on(p, n)

    cdef Py_ssize_t pass_on(self, const char* p, Py_ssize_t n):
        """Give the client what has come; returns how much."""
        cdef Request r = self.under_way
        cdef Client c = r.client
        cdef Py_ssize_t passed
        if not self.allowed or c.write_paused:
            self.pause()
            return 0
        passed = pass_reply(&self.scan, p, n)
        if passed < 0:
            self.lose("it sent what is no reply")
            return n
        buf_add(&c.out, p, passed)
        c.touch()
        if self.scan.pending == 0:
            reply_scan_reset(&self.scan)
            self.under_way = c.source = None
            c.deliver(r, p, 0)
            self.answered()
        return passed

    cdef void pause(self):
        """Take nothing from the engine."""
        if not self.closed and not self.transport.is_closing():
            self.transport.pause_reading()

    cdef void go_on(self):
        """The client takes more, or the reply may leave now."""
        cdef Py_ssize_t done
        if self.closed or not self.allowed or self.only.write_paused:
            return
        if self.rest.len > 0:
            done = self.take_replies(self.rest.p, self.rest.len)
            buf_consume(&self.rest, done)
            if self.rest.len == 0:
                buf_free(&self.rest)
        if not self.closed and not self.transport.is_closing():
            self.transport.resume_reading()

    cdef void stop(self, str reason):
        """The connection is being lost: a client that has been given a part of a reply must not take it for the whole."""
        cdef Client c = self.only
        if self.under_way is None:
            return
        self.under_way = c.source = None
        if self.allowed and not c.closed:
            log.warning("client %d has a part of a large reply, the rest does not come (%s): disconnected", c.id, reason)
            c.closing = True
            c.transport.abort()

    cdef void look_at_reader(self, double now):
        """Disconnect a client that has taken nothing for too long: the engine keeps the reply for it."""
        if not self.allowed or now - self.heard <= UNREAD_S:
            return
        if not self.only.write_paused:
            self.lose("it was silent in the midst of a reply")
        else:
            log.warning("client %d does not read a large reply: disconnected", self.only.id)
            self.only.cut(&self.router.counters.slow_readers)

    cdef void answered(self):
        """A reply has come, or was passed on."""

    cdef void forget(self, Partition p):
        """It is lost: nobody finds it any more."""
        p.privates.discard(self)
        if self.only.links is not None and self.only.links.get(self.link) is self:
            del self.only.links[self.link]

    cdef bint is_free(self):
        """May its client begin something on it?"""
        return self.idle() and not self.filling and not self.ending

    cdef void end(self, bint patient):
        """It is needed no more, or must not be used any longer."""

    cdef bint look_after(self, double now):
        """Whether the next look should come soon."""
        return False


cdef bint is_relayed(Request r, Py_ssize_t n):
    """Whether this was not a reply to it, but the word, without bytes, that a reply which was held may leave."""
    cdef Client c = r.client
    cdef Relay b = c.source
    if b is None or b.under_way is not r:
        if n > 0:
            return False
        c.router.fail(r, REPLY_LOST)
        return True
    if n > 0:
        b.under_way = c.source = None
        b.lose("its reply may not leave")
        return False
    b.allowed = True
    b.go_on()
    return True


cdef bint may_ask_apart(Request r):
    """May this command, which has been sent, be asked again on a connection of its client's own? Its reply has to depend
    on its key alone, for by that it is remembered."""
    cdef Client c = r.client
    cdef Partition p = <Partition>c.router.lines[r.partition]
    return c.head is r and c.tail is r and is_plain_read(r) and not is_shared_peer(c) and p.passes_pieces()


cdef bint is_plain_read(Request r):
    """Does its reply depend on its key alone?"""
    cdef Command* command
    if r.write or r.split is not None or r.keyless or r.link or r.tag or r.mute or r.large:
        return False
    if memcmp(PyBytes_AS_STRING(r.chunk) + r.at, b"*2\r\n", 4):
        return False
    command = entry_of(r)
    return command != NULL and command.one_key


cdef bint is_shared_peer(Client c):
    """A router of another pod, which sends what its clients sent?"""
    return c.peer and not c.passage


cdef bint may_tell_peer(Backend b, Request r):
    """May a peer be told to ask again for what this command reads? Not if a write of the same peer stands behind it, for
    the order would be lost; then the next time it is told before the engine is asked."""
    cdef Request other
    if not (r.client.pieces and is_shared_peer(r.client)) or not is_plain_read(r):
        return False
    remember_large(r.client.router, number_of(r), r.slot)
    for other in of_client(r.client, b):
        if other.write:
            return False
    return True


cdef void tell_peer(Backend b, Request r):
    """In place of the reply; the reads behind it are refused."""
    cdef Request other
    for other in of_client(r.client, b):
        other.unwanted = True
    r.client.gate(r.partition)
    r.client.router.fail(r, b"-CCLARGE %d\r\n" % r.partition)


cdef list of_client(Client c, Backend b):
    """Its commands that are unanswered there."""
    cdef list found = []
    cdef Line line
    cdef Request r
    for line in (b.sent, b.unsent):
        r = line.head
        while r is not None:
            if r.client is c:
                found.append(r)
            r = r.follower
    return found


cdef Command* entry_of(Request r):
    """Of one that was sent, so that it is in the table."""
    cdef bytes name = all_arguments(PyBytes_AS_STRING(r.chunk) + r.at, 1)[0]
    return r.client.router.table.find(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))


cdef int64_t number_of(Request r):
    """By what it would be remembered."""
    cdef bytes frame = r.frame()
    return large_number(entry_of(r), all_arguments(PyBytes_AS_STRING(frame), 2)[1])


cdef void prefer_apart(Request r):
    """It has a large reply: it goes apart, now and the next time."""
    cdef int64_t number = number_of(r)
    remember_large(r.client.router, number, r.slot)
    set_apart(r, number)


cdef void ask_apart(Request r):
    """Ask again what has a large reply, which is its client's only command."""
    cdef Partition p = <Partition>r.client.router.lines[r.partition]
    cdef bytes frame = r.frame()
    prefer_apart(r)
    r.parked_at = 0
    p.requests -= 1
    p.submit(r, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))


cdef bint goes_apart(Request r):
    """Of one that is sent again: has it turned out meanwhile that its reply is large?"""
    cdef int64_t number
    if not may_ask_apart(r):
        return False
    number = number_of(r)
    if number not in r.client.router.large:
        return False
    set_apart(r, number)
    return True


cdef void set_apart(Request r, int64_t number):
    """It goes on a connection of its client's own, and what comes behind it waits."""
    cdef Client c = r.client
    c.barrier = True
    if not c.blocked:
        c.block()
    r.large = number
    r.link = 2 * c.id + 1
    r.fresh = True
    r.started_ns = 0


cdef void keep_whole(Request r):
    """It can have no connection of its client's own: it is asked as others are, and its reply kept, here and by a peer."""
    cdef Partition p = <Partition>r.client.router.lines[r.partition]
    r.link = 0
    r.fresh = False
    r.large = KEPT_WHOLE
    r.keyless = not p.mine and p.owner is not None and p.owner.pieces


cdef int64_t large_number(Command* command, bytes key):
    """By what a command on a key is remembered. Two that share it have the same fate, which harms neither."""
    return hash((command.index, key)) or 1


cdef void remember_large(Router router, int64_t number, int slot):
    if number in router.large:
        return
    while len(router.large) >= MOST_LARGE:
        forget_large(router, next(iter(router.large)))
    router.large[number] = slot
    router.large_in[slot] += 1


cdef void forget_large(Router router, int64_t number):
    cdef object slot = router.large.pop(number, None)
    if slot is not None:
        router.large_in[<int>slot] -= 1


cdef bint is_large(Client c, Command* command, int slot, const char* frame):
    """Had this read a large reply before, which can be passed on in pieces?"""
    cdef Partition p = <Partition>c.router.lines[slot >> c.router.shift]
    cdef Arg key = c.scan.head[1]
    if c.scan.argc != 2 or command.write or c.queue is not None or c.muted or not p.passes_pieces():
        return False
    if c.peer and not (p.mine and (c.pieces or c.passage)):
        return False
    return large_number(command, PyBytes_FromStringAndSize(frame + key.at, key.len)) in c.router.large


cdef bint serve_large(Client c, int slot, const char* frame, Py_ssize_t n):
    """Such a read. False: not before everything outstanding is answered."""
    cdef Partition p
    cdef Request r
    cdef Arg key = c.scan.head[1]
    if c.head is not None and not is_shared_peer(c):
        return False
    p = admitted(c, slot)
    if p is not None and is_shared_peer(c):
        c.gate(p.index)
        c.reply(b"-CCLARGE %d\r\n" % p.index)
    elif p is not None:
        r = expect(c, p, slot, False)
        set_apart(r, large_number(c.command, PyBytes_FromStringAndSize(frame + key.at, key.len)))
        p.submit(r, frame, n)
    return True
