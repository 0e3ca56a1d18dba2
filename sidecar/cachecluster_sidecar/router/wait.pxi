# WAIT. An engine counts the copies that have acknowledged what a *connection* has written, and a client's writes went over
# connections that it shares. So WAIT goes to each partition that its client has written to, on a private connection, behind
# a message on the channel that nobody is told of (as those of commit.pxi): that is replicated, leaves nothing behind, and
# stands behind everything that the client has written. The reply is the least of the counts. What has been counted is not
# asked again until the client writes there, or wants more copies.

cdef bytes BEFORE_WAIT = encode_request([b"SPUBLISH", b"", b""])
# Above the number of a client's private connection stands, for WAIT, the partition's, counted from one.
cdef enum:
    C_WAIT_SHIFT = 48
MOST_COPIES = 1 << 31
"""More than there are: of a WAIT whose number of copies is none, for which the engine knows the error."""


cdef void note_write(Client c, int partition) noexcept nogil:
    """A command that may write is sent to this partition."""
    c.wrote[partition >> 6] |= <uint64_t>1 << (partition & 63)


cdef void note_copies(Client c, int partition, const char* reply):
    """So many copies have what the client has written there; it has written nothing since."""
    cdef uint64_t bit = <uint64_t>1 << (partition & 63)
    copies = strtoll(reply + 1, NULL, 10)
    if c.counted is None:
        c.counted = {}
    if c.wrote[partition >> 6] & bit:
        c.wrote[partition >> 6] &= ~bit
        c.counted[partition] = copies
    elif partition in c.counted:
        c.counted[partition] = max(copies, c.counted[partition])


cdef list to_be_counted(Client c, copies):
    """The partitions where the client has written since they were counted, or too few copies had it. If it has written
    nowhere, any one."""
    cdef Router router = c.router
    cdef dict counted = c.counted or {}
    cdef Partition p
    found = []
    for p in router.lines:
        if c.wrote[p.index >> 6] >> (p.index & 63) & 1 or counted.get(p.index, copies) < copies:
            found.append(p)
    return found if found or counted else [router.lines[router.any_slot() >> router.shift]]


cdef bint serve_wait(Client c, Command* command, const char* frame, Py_ssize_t n):
    """False: not before everything outstanding is answered."""
    cdef list arguments, asked
    cdef bytes piece, digits
    cdef Partition p
    cdef Split split
    cdef Request r
    if c.queue is not None:
        c.queue.take(c, -1, False, frame, n)
        return True
    if c.head is not None:
        return False
    if c.router.partitions == 0:
        c.refuse(NO_MAP)
        return True
    arguments = all_arguments(frame, c.scan.argc)
    digits = arguments[1]
    limit = blocking.limit_s(arguments)
    if c.leaving:
        limit = LEAVING_WAIT_S
        arguments = blocking.with_limit(arguments, limit)
    asked = to_be_counted(c, int(digits) if is_number(digits, 9) else MOST_COPIES)
    if not asked:
        c.reply(b":%d\r\n" % min(c.counted.values()))
        return True
    piece = BEFORE_WAIT + encode_request(arguments)
    split = new_split(c, command, len(asked))
    split.parent.blocks = True
    split.parent.started_ns = 0
    c.waits = []
    for number, p in enumerate(asked):
        r = new_part(c, split, number, p)
        r.keyless = r.fresh = r.blocks = True
        r.queued = 1
        r.link = <uint64_t>(p.index + 1) << C_WAIT_SHIFT | (2 * c.id + 1)
        if limit > 0:
            r.until = seconds() + limit
        c.waits.append(r)
    for r in list(c.waits):
        (<Partition>c.router.lines[r.partition]).submit(r, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
    c.barrier = True
    return True


cdef inline bint is_wait(Request r):
    """Is it a part of a WAIT, of a client here or at a peer?"""
    return r.link >> C_WAIT_SHIFT != 0


cdef bytes least_count(Split split):
    """The reply to WAIT."""
    cdef dict counted = split.parent.client.counted
    cdef bytes reply
    for reply in split.replies:
        if reply[0] != c":":
            return clean_error(b"ERR this is no count of copies: " + reply)
    return b":%d\r\n" % min(counted.values()) if counted else split.replies[0]


cdef bytes wait_with_time_left(bytes frame, double left_s):
    """The same piece, with the time that it still may take."""
    return BEFORE_WAIT + with_time_left(frame[len(BEFORE_WAIT) :], left_s)
