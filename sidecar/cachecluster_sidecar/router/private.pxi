# Private connections: for commands that wait in an engine, where nothing may stand behind them, and for WATCH, which an
# engine keeps with the connection; also for what is large (large.pxi, upload.pxi). A client has at most one of each kind, numbered
# 2 * id (WATCH) and 2 * id + 1, and is
# not parsed while a command is under way on one, so that its order is kept.
#
# For a partition of another pod that pod's router makes the connection to the engine:
#     CACHECLUSTER ON <number> <new|old> <slot> <w|r> <replies to skip> <the piece>
#     CACHECLUSTER OFF <number>
#     CACHECLUSTER UNBLOCK <number> TIMEOUT|ERROR
# The reply to ON is a ticket, -CCHELD, as for replies that wait for acknowledgements; what comes later is the engine's
# reply, or -CCAGAIN (it was not executed and is to be sent again) or -CCGONE (`old`, and there is no such connection).
#
# When the gate is shut, what waits in the engine is ended by CLIENT UNBLOCK and sent again, with the time that is left,
# to whoever serves then: its reply, in the order of its connection, says whether it was executed. What was watched is
# lost sight of, and EXEC executes nothing.

cdef bytes NOT_EXECUTED = b"-CCAGAIN\r\n"
cdef bytes LINK_GONE = b"-CCGONE\r\n"
cdef bytes WATCH_IN_MULTI = b"-ERR WATCH inside MULTI is not allowed\r\n"
cdef bytes CROSSSLOT_IN_WATCH = (
    b"-CROSSSLOT Keys in request don't hash to the same slot: all keys that are watched must; give them the same"
    b" {hash tag}\r\n"
)
cdef bytes NO_COPIES = b":0\r\n"
cdef tuple NULL_ARRAYS = (b"*-1\r\n", b"_\r\n")
MAX_PRIVATE = 4096
"""Private connections to one engine, so that it has room for those of replicas and of the agent."""
PRIVATE_IDLE_S = 10.0
"""How long a private connection is kept without use."""
WAIT_IDLE_S = 1.0
"""The same for WAIT, of which a client has one for each partition."""
LEAVING_WAIT_S = 0.01
"""How long a command of a client that is to leave may still wait in an engine."""


cdef class Control(Backend):
    """To an engine, for CLIENT UNBLOCK."""

    cdef void greeted(self, bytes reply):
        self.flush()

    cdef void ended(self, str reason):
        cdef Partition p = <Partition>self.router.lines[self.target.partition]
        if p.control is self:
            p.control = None


cdef class Private(Relay):
    """A connection of one client to an engine."""

    cdef void went(self, Partition p):
        p.privately += 1

    cdef void left(self, Partition p):
        p.privately -= 1

    cdef void greeted(self, bytes reply):
        self.engine_id = reply.partition(b"\r\nid\r\n:")[2].partition(b"\r")[0]
        self.flush()
        self.let_go()

    cdef void ended(self, str reason):
        """Forget it; a command for which it could not even be made was not executed."""
        cdef Partition p = <Partition>self.router.lines[self.target.partition]
        cdef Request r
        cdef bytes frame
        self.stop(reason)
        self.forget(p)
        if self.is_ready or self.ending or self.only.closed:
            return
        self.target.no_apart_until = seconds() + NOT_APART_S
        r = self.unsent.pop()
        while r is not None:
            self.left(p)
            if r.large:
                keep_whole(r)
                frame = r.frame()
                if r.client.peer:
                    p.requests -= 1
                    p.submit(r, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
                else:
                    p.send_again(r)
                r = self.unsent.pop()
                continue
            self.router.counters.tryagain += 1
            self.router.fail(r, no_private_error(p.index, reason))
            r = self.unsent.pop()
        p.confirm_when_idle()
        p.left_flight()

    cdef bint is_free(self):
        return Relay.is_free(self) and self.unblocking is None

    cdef bint sends_back(self, const char* frame, Py_ssize_t n):
        """Does the engine say that the command waited in vain, without its client having asked to be told so?"""
        if self.asked_for and self.unblocking == b"ERROR":
            return False
        return n > 11 and memcmp(frame, b"-UNBLOCKED ", 11) == 0

    cdef void take_unblocked(self, Request r):
        """The command was not executed: it is sent again, unless its time is to be over."""
        cdef bytes reply
        if self.asked_for:
            reply = null_of(r)
            self.router.deliver(r, PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply))
        else:
            r.parked_at = 0
            self.give_back(r)

    cdef void answered(self):
        """A reply has come. A word to end its command may still be on its way, and must not meet another one."""
        if self.sent.head is None:
            self.filling = False
        if self.sent.head is None and not self.closed and (self.ending or self.unblocking is not None):
            self.lose("it is needed no more")

    cdef void unblock(self, bytes how, bint asked_for):
        """End what waits in the engine; said again and again, for it may not have come there yet."""
        if self.unsent.head is None and (not self.is_ready or self.sent.head is None):
            return
        self.unblocking = how
        self.asked_for = asked_for
        self.said_at = self.pause = 0
        self.look_after(seconds())
        self.router.hurry()

    cdef void end(self, bint patient):
        """Close it as soon as the engine has told what became of the command in flight; what was not sent is given back.
        What is passed on in pieces was executed: nobody waits for it, and it goes on as its client reads."""
        if self.under_way is not None:
            self.ending = True
            if self.only.closed:
                self.lose("its client is gone")
            return
        if self.ending:
            if not patient and self.cut_at == 0:
                self.cut_at = seconds() + GATE_DRAIN_S
            return
        self.ending = True
        if not self.is_ready or self.sent.head is None:
            self.lose("the gate was shut")
            return
        self.cut_at = 0 if patient else seconds() + GATE_DRAIN_S
        if self.unblocking is None:
            self.unblock(b"ERROR", False)

    cdef bint look_after(self, double now):
        """Whether the next look should come soon."""
        cdef Partition p = <Partition>self.router.lines[self.target.partition]
        if not self.is_ready:
            if now - self.heard > CONNECT_TIMEOUT_S:
                self.lose("it did not answer our greeting in time")
            return self.unblocking is not None and not self.closed
        if self.under_way is not None:
            self.look_at_reader(now)
        elif self.only.upload is not None and self.only.upload.link is self:
            look_at_upload(self.only, now)
        elif self.sent.head is None and self.unsent.head is None:
            if not self.watches and now - self.heard > (WAIT_IDLE_S if self.link >> C_WAIT_SHIFT else PRIVATE_IDLE_S):
                self.lose("it is not used")
        elif 0 < self.cut_at < now:
            self.lose("the gate was shut and the engine did not answer")
        else:
            if now - self.heard > self.router.silence and not p.may_serve():
                self.end(False)
            if self.unblocking is not None and self.sent.head is not None:
                self.say_unblock(p.controlled(self.target), now)
            return self.unblocking is not None
        return False

    cdef void say_unblock(self, Control control, double now):
        """CLIENT UNBLOCK, at growing intervals; nothing to an engine that does not answer."""
        if now - self.said_at < self.pause or not self.engine_id:
            return
        if control.sent.head is None or now - control.heard < CONNECT_TIMEOUT_S:
            self.said_at = now
            self.pause = min(2 * self.pause, GATE_DRAIN_S) if self.pause else TICK_BUSY_S
            control.say([b"CLIENT", b"UNBLOCK", self.engine_id, self.unblocking])


def no_private_error(int partition, str reason):
    """The reply to a command that needs a connection of its own, when none can be made."""
    return (
        f"-TRYAGAIN partition {partition}: no connection to its engine could be made for this command ({reason}); it was "
        "not executed, send it again\r\n"
    ).encode()


cdef void lose_sight(Request r):
    """The private connection of this command is there no more: what was watched may have changed since."""
    cdef Client c = r.client
    cdef bytes reply
    if c.peer:
        c.tell(r, LINK_GONE)
        return
    if r.queued:
        reply = NULL_ARRAYS[r.proto - 2]
    else:
        c.spoiled = True
        reply = OK
    c.router.fail(r, reply)


cdef void watch_failed(Request r):
    """WATCH, or the EXEC of one, was answered by an error: what was watched before is of no use."""
    cdef Client c = r.client
    if r.fresh or r.queued:
        c.forget_watch()
        c.end_link(r.link)
    else:
        c.spoiled = True


cdef bytes null_of(Request r):
    """The reply to a command whose time is over."""
    if is_wait(r):
        return NO_COPIES
    return NULL_ARRAYS[r.proto - 2]


cdef bint take_link_word(Request r, Target target, const char* frame, Py_ssize_t n):
    """A peer's word in place of a reply: it was not executed, or its private connection is gone. False: it is a reply."""
    cdef bytes reply = PyBytes_FromStringAndSize(frame, min(n, 16))
    cdef Partition p = <Partition>r.client.router.lines[r.partition]
    if reply != NOT_EXECUTED and reply != LINK_GONE:
        return False
    if r.client.closed:
        return True
    if reply == LINK_GONE:
        lose_sight(r)
    else:
        p.router.counters.retried += 1
        r.parked_at = 0
        p.send_again(r)
        if p.owner is target:
            p.hold_back()
        p.release()
    return True


cdef bytes with_time_left(bytes frame, double left_s):
    """A command that may wait, with the time that it still may."""
    cdef Py_ssize_t argc = int(frame[1 : frame.index(b"\r")])
    return encode_request(blocking.with_limit(all_arguments(PyBytes_AS_STRING(frame), argc), left_s))


cdef void serve_link(Client c, list arguments):
    """ON: what a peer sends for a private connection of one of its clients."""
    cdef bytes number = arguments[2], slot = arguments[4], replies = arguments[6], piece = arguments[7]
    cdef Partition p
    cdef Request r
    if not (is_number(number, 19) and is_slot(slot) and is_number(replies, 9) and int(number) > 0):
        c.refuse(b"-ERR CACHECLUSTER ON takes a number, new or old, a slot, w or r, how many replies to skip, and a piece\r\n")
        c.closing = True
        return
    p = admitted(c, int(slot))
    if p is None:
        return
    if not p.may_serve():
        refuse_peer(c, p)
        return
    r = expect(c, p, int(slot), arguments[5] == b"w")
    r.queued = int(replies)
    r.link = int(number)
    r.scans = r.queued > 0 and not is_wait(r)
    r.fresh = arguments[3] == b"new"
    c.give_ticket(r)
    p.submit(r, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))


cdef bint serve_alone(Client c, int slot, bint write, const char* frame, Py_ssize_t n, list arguments):
    """A command that may wait in the engine. False: not before everything outstanding is answered."""
    cdef Partition p
    cdef Request r
    cdef bytes hurried
    if c.queue is None and c.head is not None:
        return False
    p = admitted(c, slot)
    if p is None:
        return True
    if c.queue is not None:
        c.queue.take(c, slot, write, frame, n)
        return True
    r = expect(c, p, slot, write)
    r.link = 2 * c.id + 1
    r.fresh = r.blocks = True
    r.started_ns = 0
    limit = blocking.limit_s(arguments)
    if c.leaving:
        limit = LEAVING_WAIT_S
        hurried = encode_request(blocking.with_limit(arguments, limit))
        frame, n = PyBytes_AS_STRING(hurried), PyBytes_GET_SIZE(hurried)
    if limit > 0:
        r.until = seconds() + limit
    p.submit(r, frame, n)
    c.barrier = True
    return True


cdef bint serve_watch(Client c, int slot, const char* frame, Py_ssize_t n):
    """WATCH of keys in one slot. False: not before everything outstanding is answered."""
    cdef Partition p
    cdef Request r
    if c.queue is not None:
        c.refuse(WATCH_IN_MULTI)
        return True
    if c.head is not None:
        return False
    if c.watching and slot != c.watched:
        c.router.counters.crossslot += 1
        c.refuse(CROSSSLOT_IN_WATCH)
        return True
    p = admitted(c, slot)
    if p is None:
        return True
    r = expect(c, p, slot, False)
    r.link = 2 * c.id
    r.fresh = not c.watching
    c.watching = True
    c.watched = slot
    p.submit(r, frame, n)
    c.barrier = True
    return True


cdef void execute_watched(Client c, bint write, bytes body, int replies):
    """EXEC of a client that watches: on the connection that does, if it is still there."""
    cdef Router router = c.router
    cdef Partition p = <Partition>router.lines[c.watched >> router.shift]
    cdef Request r
    if c.spoiled or (c.cluster and not p.at_home()):
        c.forget_watch()
        c.reply(NULL_ARRAYS[c.proto - 2])
        return
    c.watching = False
    r = expect(c, p, c.watched, write)
    r.keyless = True
    r.queued = replies
    r.scans = True
    r.link = 2 * c.id
    p.submit(r, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
    c.barrier = True
