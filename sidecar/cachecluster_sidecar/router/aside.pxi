# Reads that a replica answers in its primary's place, where `spec.reads` allows it: the copy on this pod while its agent
# says that it may be read (READABLE_NS of the pod table), or one on another pod of this zone, whose router is asked by
#     CACHECLUSTER NEAR <slot> <the read>
# and answers -CCFAR when its copy may not be read.
#
# They go on connections of their own, so that gates, parking and what counts as in flight at the primary know nothing of
# them. What a replica could not answer in time, or may not have answered when its reply comes, goes to the primary as if
# it had just come.
#
# A client's own commands keep their order: while a write of it is not answered its reads go to the primary, and a write
# waits until what it has asked of replicas is answered.

cdef bytes FAR = b"-CCFAR\r\n"
# An error that lies with the client. Any other the primary may not have: a replica may be loading, or be of a version that
# does not know the command.
cdef tuple OWN_ERRORS = (b"-WRONGTYPE ", b"-ERR syntax error", b"-ERR value is not", b"-ERR wrong number of arguments")
# What routers answer whose copy may not be read, or that do not know NEAR.
cdef tuple REFUSALS = (b"-CCFAR", b"-CCGATE ", b"-ERR unknown CACHECLUSTER ")


cdef class Reader(Backend):
    """A connection to a copy that answers reads."""

    cdef void went(self, Partition p):
        """Nothing of the primary's is in flight."""

    cdef void left(self, Partition p):
        """Nor was it."""

    cdef void add_wrapped(self, Request r, const char* frame, Py_ssize_t n):
        """For a peer, which is told that the copy there will do."""
        cdef bytes slot = b"%d" % r.slot
        buf_add_bytes(&self.out, b"*4\r\n$12\r\nCACHECLUSTER\r\n$4\r\nNEAR\r\n$%d\r\n%s\r\n$%d\r\n" % (len(slot), slot, n))
        r.at = self.out.len
        buf_add(&self.out, frame, n)
        buf_add(&self.out, b"\r\n", 2)

    cdef void cannot_wrap(self, Request r, const char* frame, Py_ssize_t n):
        r.chunk = PyBytes_FromStringAndSize(frame, n)
        r.at = 0
        r.len = n
        self.give_back(r)

    cdef void take_reply(self, Request r, const char* frame, Py_ssize_t n, list late):
        cdef Partition p
        cdef bint near = self.target.uid is not None
        if r.internal != NOT_INTERNAL:
            self.take_internal(r, frame, n)
            return
        p = <Partition>self.router.lines[r.partition]
        if near and frame[0] == c"-" and begins_with(frame, n, REFUSALS):
            p.near_after = seconds() + NEAR_PAUSE_S
            self.give_back(r)
        elif (not near and not p.readable()) or (frame[0] == c"-" and not begins_with(frame, n, OWN_ERRORS)):
            self.give_back(r)
        else:
            self.router.counters.replica_reads += not r.client.peer
            self.router.deliver(r, frame, n)

    cdef void give_back(self, Request r):
        """The primary is to answer this one."""
        cdef Partition p = <Partition>self.router.lines[r.partition]
        cdef bytes frame
        if r.client.closed:
            return
        if r.client.peer:
            self.router.fail(r, FAR)
        elif r.client.cluster and not p.at_home() and p.owner is not None:
            self.router.fail(r, self.router.moved(r.slot, p))
        else:
            frame = r.frame()
            r.keyless = False
            p.requests -= 1
            p.submit(r, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))


cdef bint begins_with(const char* frame, Py_ssize_t n, tuple heads):
    cdef bytes head
    for head in heads:
        if n >= PyBytes_GET_SIZE(head) and memcmp(frame, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head)) == 0:
            return True
    return False


cdef inline bint is_outstanding(Client c, uint64_t number):
    """Is the client's request of this number, or one before it, not answered yet? 0 is none."""
    return number > c.came - c.outstanding


cdef bint may_read_aside(Client c):
    """May replicas answer what this client reads now? Not what it reads to write by it, or is to be told of."""
    return not (
        c.wants_primary
        or c.peer
        or (c.cluster and not c.read_only)
        or c.queue is not None
        or c.watching
        or c.tracking is not None
        or is_outstanding(c, c.last_write)
    )


cdef bint read_aside(Client c, int slot, const char* frame, Py_ssize_t n):
    """Send a read to a copy that may answer it in its primary's place; False: it is to go to the primary."""
    cdef Partition p
    cdef Backend b
    cdef Request r
    if c.router.partitions == 0 or not may_read_aside(c):
        return False
    p = <Partition>c.router.lines[slot >> c.router.shift]
    b = p.aside(c.proto, not c.cluster)
    if b is None:
        return False
    r = c.append()
    r.slot = slot
    send_aside(r, p, b, frame, n)
    return True


cdef bint read_part_aside(Client c, Split split, int number, Partition p, bytes frame):
    """The same for one part of a command."""
    cdef Backend b = p.aside(c.proto, not c.cluster)
    if b is None:
        return False
    send_aside(new_part(c, split, number, p), p, b, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
    return True


cdef void send_aside(Request r, Partition p, Backend b, const char* frame, Py_ssize_t n):
    cdef bint near = b.target.uid is not None
    r.client.last_aside = r.client.came
    r.partition = p.index
    r.keyless = near
    p.requests += 1
    if r.split is None:
        if near:
            p.router.counters.forwarded += 1
        else:
            p.router.counters.local += 1
    b.add(r, frame, n)


cdef void serve_near(Client c, list arguments):
    """A peer in this zone asks the copy here."""
    cdef bytes slot = arguments[2], frame = arguments[3]
    cdef Router router = c.router
    cdef Partition p
    cdef Backend b = None
    cdef Request r
    if not is_slot(slot):
        c.refuse(b"-ERR CACHECLUSTER NEAR takes a slot and a read\r\n")
        c.closing = True
        return
    if router.partitions and router.replica_reads:
        p = <Partition>router.lines[int(slot) >> router.shift]
        b = p.aside(c.proto, False)
    if b is None:
        c.refuse(FAR)
        return
    r = c.append()
    r.slot = int(slot)
    r.partition = p.index
    router.counters.relayed += 1
    b.add(r, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))


cdef bint is_about_reads(Client c, list arguments):
    """A client says who may answer its reads."""
    return not is_nobody(c) and c.queue is None and names_reads(arguments)


cdef bint names_reads(list arguments):
    return len(arguments) == 3 and arguments[1].upper() == b"READS"
