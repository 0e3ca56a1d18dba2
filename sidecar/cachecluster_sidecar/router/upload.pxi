# Large requests. A write of one key that is above LARGE_REQUEST_BYTES goes to the engine as it comes, in pieces, as fast as
# the engine takes them, on a connection of its client's own: to the engine here (private.pxi), or to the router of the pod
# where the primary is (passage.pxi), which does the same. Its client has nothing else outstanding then.
#
# The last line end of the request is kept back: it is the execution. Only that goes the way of every command, when the rest
# has come: it waits for the gate, or is refused. Until then nothing is in flight, and what ends the private connection, as
# a gate that shuts, executes nothing: the rest is dropped as it comes, and the client is told to send it again.
#
# Where that cannot begin, because the gate is not open or the primary cannot be reached, a request is kept until it is
# complete, as all others are: in a transaction, of clients that track keys or are shown to others. On a passage that comes to
# a shut gate it is dropped as it comes, and refused.

cdef bytes LINE_END = b"\r\n"
cdef bytes UPLOAD_LOST = (
    b"-TRYAGAIN the primary changed, or the connection to its engine was lost, while this large request was received; it was"
    b" not executed, send it again\r\n"
)
cdef bytes NO_LONGER_GRANTED = b"-NOPERM this is not permitted since the rules of this user have changed\r\n"


@cython.final
cdef class Upload:
    """A large request on its way to the engine."""


cdef bint begins_upload(Client c, const char* frame):
    """Begin to pass on the request that is being received, if that may be done now."""
    cdef Router router = c.router
    cdef Command* command
    cdef Partition p
    cdef int slot
    cdef bint takes
    if c.scan.index < 2 or router.partitions == 0 or is_special(c) or c.scan.want > router.request_max:
        return False
    command = router.table.find(frame + c.scan.head[0].at, c.scan.head[0].len)
    if command == NULL or not command.one_key or not command.write or wrong_arity(command, c.scan.argc):
        return False
    if not is_granted(c, command, frame + c.scan.head[1].at, c.scan.head[1].len):
        return False
    slot = key_slot(frame + c.scan.head[1].at, c.scan.head[1].len)
    p = <Partition>router.lines[slot >> router.shift]
    takes = takes_upload(c, p)
    if not takes and (not c.passage or (p.mine and p.may_serve())):
        return False
    if c.head is not None:
        c.barrier = True
        c.block()
        return False
    c.upload = Upload.__new__(Upload)
    c.upload.command = command
    c.upload.key = PyBytes_FromStringAndSize(frame + c.scan.head[1].at, c.scan.head[1].len)
    c.upload.slot = slot
    c.upload.partition = p
    c.upload.link = upload_link(c, p) if takes else None
    c.upload.came_at = seconds()
    request_scan_reset(&c.scan)
    return True


cdef bint takes_upload(Client c, Partition p):
    """Can it go where the primary is now?"""
    if p.parks() or (p.owner.ready(c.proto) is None and not c.passage) or not p.passes_pieces():
        return False
    if not p.mine:
        return not c.cluster
    return p.may_serve() and (c.passage or not (c.router.sync and p.commit.has_too_few()))


cdef bint is_special(Client c):
    """Is more to be done with what it sends than to pass it on?"""
    return (
        is_shared_peer(c)
        or c.over_limit
        or c.leaving
        or c.queue is not None
        or c.subs is not None
        or c.tracking is not None
        or c.router.monitors is not None
    )


cdef bint is_granted(Client c, Command* command, const char* key, Py_ssize_t n):
    """May it do this, judged by command and key alone?"""
    cdef Account account = c.account
    if account is None:
        return True
    if account.user is None:
        return False
    if account.plain and (<const char*>account.allowed)[command.index]:
        return True
    return begins_as_granted(account, command, key, n)


cdef Relay upload_link(Client c, Partition p):
    """The client's own connection, for a request of which only a part is sent for now."""
    cdef uint64_t number = 2 * c.id + 1
    cdef Backend b = c.links.get(number) if c.links is not None else None
    cdef Relay link = None
    if b is not None and b.apart and not b.closed and b.target is p.owner and b.proto == c.proto:
        if (<Relay>b).is_free():
            link = <Relay>b
    if link is None:
        c.end_link(number)
        if c.links is None:
            c.links = {}
        link = c.links[number] = p.make_relay(c, number)
    link.filling = True
    return link


cdef Py_ssize_t pass_upload(Client c, const char* p, Py_ssize_t n):
    """Give the engine what has come of it; returns how many bytes are done with. When it is complete it is over."""
    cdef Upload upload = c.upload
    cdef Relay link = upload.link
    cdef Py_ssize_t passed
    if link is not None and link.closed:
        if upload.bytes == 0:
            # Its connection could not be made, and nothing was passed on: as if it had not begun.
            c.upload = None
            return 0
        link = upload.link = None
    if link is not None and (link.write_paused or not link.is_ready):
        c.stalled = True
        if link.stalled is None:
            link.stalled = []
        link.stalled.append(c)
        c.block()
        return 0
    passed = pass_request(&c.scan, p, n)
    upload.bytes += max(passed, 0)
    upload.came_at = seconds()
    if passed < 0 or upload.bytes > c.router.request_max:
        end_upload(c, passed < 0)
        return 0
    if link is not None and passed > 0:
        c.router.counters.bytes_out += passed
        link.transport.write(PyBytes_FromStringAndSize(p, passed))
    if c.scan.index < c.scan.argc:
        return passed
    request_scan_reset(&c.scan)
    c.upload = None
    execute_upload(c, upload)
    return passed + 2


cdef void end_upload(Client c, bint protocol_error):
    """It goes on in no way that can be served: the client is disconnected."""
    c.upload = None
    c.end_link(2 * c.id + 1)
    if protocol_error:
        c.router.counters.protocol += 1
        c.refuse(request_error(&c.scan))
    else:
        c.router.counters.too_large += 1
        c.refuse(b"-ERR Protocol error: a request has more than %d bytes\r\n" % c.router.request_max)
    c.closing = True


cdef void look_at_upload(Client c, double now):
    """Disconnect a client of whose request nothing has come for too long: the engine has reserved room for all of it. An
    engine may take its time to go on, for as long as it is the primary; a peer is not told from one that is gone."""
    cdef Relay link = c.upload.link
    if now - c.upload.came_at > UNREAD_S and (link.target.partition < 0 or not link.write_paused):
        log.warning("client %d sends nothing more of a large request: disconnected", c.id)
        c.cut(&c.router.counters.idlers)


cdef void execute_upload(Client c, Upload upload):
    """All of it came: its last line end goes the way of a command."""
    cdef Router router = c.router
    cdef Partition p = upload.partition
    cdef Command* get = router.table.find(b"get", 3)
    cdef Request r
    c.command = upload.command
    if not is_granted(c, upload.command, PyBytes_AS_STRING(upload.key), PyBytes_GET_SIZE(upload.key)):
        c.end_link(2 * c.id + 1)
        router.counters.denied += 1
        c.refuse(NO_LONGER_GRANTED)
        return
    if upload.link is None or upload.link.closed or upload.link.ending or (c.peer and not p.mine):
        c.end_link(2 * c.id + 1)
        router.counters.tryagain += 1
        c.refuse(UPLOAD_LOST)
        return
    if get != NULL:
        remember_large(router, large_number(get, upload.key), upload.slot)
    upload.link.heard = seconds()
    r = expect(c, p, upload.slot, True)
    r.link = 2 * c.id + 1
    r.uploaded = True
    c.barrier = True
    p.submit(r, LINE_END, 2)


cdef void send_end(Request r, Partition p, const char* frame, Py_ssize_t n):
    """Execute what has been uploaded, if it is still there."""
    cdef Client c = r.client
    cdef Backend b = c.links.get(r.link) if c.links is not None else None
    if b is not None and b.apart and not b.closed and b.target is p.owner and (<Relay>b).filling and b.idle():
        b.add(r, frame, n)
        return
    c.end_link(r.link)
    c.router.counters.tryagain += 1
    c.router.fail(r, UPLOAD_LOST)
