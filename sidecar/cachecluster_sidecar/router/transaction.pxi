# MULTI, EXEC and DISCARD. Commands are kept here and go to the engine in one piece, so that no connection has to be a
# client's own: nothing stands between them on a shared one. The engine's replies to MULTI and to each command are
# skipped; what EXEC answers is the reply.
#
# To a peer the piece goes as one request, which has one reply; so does a single command without keys:
#     CACHECLUSTER AT <slot> <w|r> <replies to skip> <the piece>

cdef bytes EXEC_WITHOUT_MULTI = b"-ERR EXEC without MULTI\r\n"
cdef bytes DISCARD_WITHOUT_MULTI = b"-ERR DISCARD without MULTI\r\n"
cdef bytes NESTED_MULTI = b"-ERR Command 'multi' not allowed inside a transaction\r\n"
cdef bytes EXECABORT = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
cdef bytes NO_ROOM = b"-ERR there is no room to queue this command: send smaller transactions, or fewer at a time\r\n"
cdef bytes CROSSSLOT_IN_MULTI = (
    b"-CROSSSLOT Keys in request don't hash to the same slot: all keys of a transaction must; give them the same"
    b" {hash tag}\r\n"
)
cdef bytes QUEUED = b"+QUEUED\r\n"
# Commands without keys that an engine answers in a transaction as the router does outside.
cdef tuple ANYWHERE = (b"ping", b"echo", b"time", b"unwatch")


@cython.final
cdef class Queue:
    """The commands of a client since its MULTI."""

    def __cinit__(self):
        self.frames = []
        self.slot = -1

    cdef void take(self, Client c, int slot, bint write, const char* frame, Py_ssize_t n):
        """Keep a command whose keys are in this slot (-1: it has none), or tell the client why not."""
        cdef Router router = c.router
        if slot >= 0 and self.slot >= 0 and slot != self.slot:
            router.counters.crossslot += 1
            c.refuse(CROSSSLOT_IN_MULTI)
            return
        if slot >= 0:
            self.slot = slot
        if not self.broken:
            if router.parked_bytes + router.queued_bytes + n + C_QUEUED_OVERHEAD > router.max_parked_bytes:
                c.refuse(NO_ROOM)
                return
            self.bytes += n + C_QUEUED_OVERHEAD
            router.queued_bytes += n + C_QUEUED_OVERHEAD
            self.frames.append(PyBytes_FromStringAndSize(frame, n))
            self.write = self.write or write
        c.reply(QUEUED)

    cdef void forget(self, Router router):
        """Keep nothing."""
        router.queued_bytes -= self.bytes
        self.bytes = 0
        self.frames.clear()

    cdef bytes body(self):
        """MULTI, the commands, EXEC."""
        return b"*1\r\n$5\r\nMULTI\r\n" + b"".join(self.frames) + b"*1\r\n$4\r\nEXEC\r\n"


cdef bint serve_transaction(Client c, Command* command):
    """MULTI begins a queue, EXEC sends it, DISCARD forgets it. False: not before everything outstanding is answered."""
    cdef Queue queue = c.queue
    cdef bytes body
    if command.name_len == 5:
        if queue is not None:
            c.refuse(NESTED_MULTI)
            return True
        c.queue = Queue.__new__(Queue)
        if c.tracking is not None:
            c.tracking.waiting.clear()
        if c.watching:
            c.queue.slot = c.watched
        c.reply(OK)
        return True
    if command.name_len == 4 and queue is not None and c.watching and c.head is not None:
        return False
    c.queue = None
    if command.name_len == 7:
        if queue is not None:
            queue.forget(c.router)
            c.forget_watch()
        c.reply(OK if queue is not None else DISCARD_WITHOUT_MULTI)
    elif queue is None:
        c.reply(EXEC_WITHOUT_MULTI)
    elif queue.broken:
        c.forget_watch()
        c.reply(EXECABORT)
    elif not c.watching and not queue.frames:
        c.reply(b"*0\r\n")
    else:
        if c.tracking is not None:
            note_executed(c)
        body = queue.body()
        replies = len(queue.frames) + 1
        queue.forget(c.router)
        if c.watching:
            execute_watched(c, queue.write, body, replies)
            return True
        slot = queue.slot if queue.slot >= 0 else c.router.any_slot()
        forward(c, slot, queue.write, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), replies)
    return True


cdef bint is_number(bytes digits, Py_ssize_t most):
    return digits.isdigit() and len(digits) <= most


cdef bint is_slot(bytes digits):
    return is_number(digits, 5) and int(digits) < 16384


cdef void serve_keyless(Client c, list arguments):
    """What a peer sends for the partition of a slot: a transaction, or a command without keys."""
    cdef bytes slot = arguments[2], replies = arguments[4], body = arguments[5]
    if not (is_slot(slot) and is_number(replies, 9)):
        c.refuse(b"-ERR CACHECLUSTER AT takes a slot, w or r, how many replies to skip, and what is to be executed\r\n")
        c.closing = True
        return
    forward(c, int(slot), arguments[3] == b"w", PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), int(replies))


cdef bytes head_for_peer(Request r, Py_ssize_t n):
    """What comes before the piece, of n bytes, in a request to a peer; a line end comes after it."""
    cdef list words = [b"CACHECLUSTER"]
    if r.link:
        words += [b"ON", b"%d" % r.link, b"new" if r.fresh else b"old"]
    else:
        words.append(b"AT")
    words += [b"%d" % r.slot, b"w" if r.write else b"r", b"%d" % r.queued]
    return b"*%d\r\n" % (len(words) + 1) + b"".join([b"$%d\r\n%s\r\n" % (len(it), it) for it in words]) + b"$%d\r\n" % n


cdef bint skip_reply(Request r, const char* frame, Py_ssize_t n):
    """A reply of the engine to MULTI, or to a command of the transaction: queued, or why not. Or to what stands before
    WAIT. False: it is neither."""
    cdef bint to_multi = r.to_skip == r.queued
    r.to_skip -= 1
    if is_wait(r):
        if frame[0] == c"-":
            r.refused = PyBytes_FromStringAndSize(frame + 1, n - 1)
        return frame[0] == c"-" or frame[0] == c":"
    if to_multi:
        return n == 5 and memcmp(frame, b"+OK\r\n", 5) == 0
    if frame[0] == c"-":
        if r.refused is None:
            r.refused = PyBytes_FromStringAndSize(frame + 1, n - 1)
        return True
    return n == 9 and memcmp(frame, b"+QUEUED\r\n", 9) == 0


cdef bytes abort_reason(Request r):
    """The reply to a transaction of which the engine refused a command when it was queued, or to a WAIT that it refused."""
    if is_wait(r):
        return b"-" + r.refused
    return b"-EXECABORT Transaction discarded because of: " + r.refused
