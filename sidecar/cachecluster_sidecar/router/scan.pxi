# SCAN over all partitions, one after the other. A client's cursor holds where to go on:
#
#     engine's cursor << 25 | tag << 9 | partition            (0: the beginning, and the end)
#
# The tag tells which process the engine's cursor is of: another one, after a fail-over, has its keys in another order,
# and the partition is scanned again from its beginning. So keys may come more than once, as from an engine, but none is
# missed. A cursor stays below 2^53, which every client's numbers hold, up to some 2^28 keys of a partition.

cdef enum:
    C_PARTITION_BITS = 9
    C_TAG_BITS = 16

cdef bytes SCAN_DONE = b"*2\r\n$1\r\n0\r\n*0\r\n"
cdef bytes BAD_CURSOR = b"-ERR invalid cursor\r\n"
CURSOR_DIGITS = 20


cdef object cursor_of(Partition p, at):
    """A client's cursor from an engine's."""
    return at << (C_PARTITION_BITS + C_TAG_BITS) | p.tag << C_PARTITION_BITS | p.index


cdef Partition scanned_from(Router router, bint cluster, int index, bint begun=False):
    """The first partition from this one on that a client of this port scans; None when there is no more. One that it
    has `begun` it may end wherever its commands are taken."""
    cdef Partition p
    for p in router.lines[index:]:
        if p.here or p.mine or not cluster or (begun and p.index == index and p.stands_in):
            return p
    return None


cdef void serve_scan(Client c, Command* command, const char* frame, Py_ssize_t n):
    """Scan the partition of the cursor."""
    cdef Router router = c.router
    cdef Arg cursor = c.scan.head[1]
    cdef bytes digits = PyBytes_FromStringAndSize(frame + cursor.at, min(cursor.len, CURSOR_DIGITS + 1))
    cdef Py_ssize_t start = cursor.at + cursor.len + 2
    cdef Partition p
    if not may_spread(c, command, n):
        return
    if not digits.isdigit() or len(digits) > CURSOR_DIGITS:
        c.refuse(BAD_CURSOR)
        return
    value = int(digits)
    index = value & (1 << C_PARTITION_BITS) - 1
    at = value >> (C_PARTITION_BITS + C_TAG_BITS)
    p = scanned_from(router, c.cluster, index, at > 0)
    if p is None:
        c.reply(SCAN_DONE)
        return
    if p.index != index or value >> C_PARTITION_BITS & (1 << C_TAG_BITS) - 1 != p.tag:
        at = 0
    digits = b"%d" % at
    piece = b"*%d\r\n$4\r\nSCAN\r\n$%d\r\n%s\r\n" % (c.scan.argc, len(digits), digits)
    piece += PyBytes_FromStringAndSize(frame + start, n - start)
    ask_partitions(c, command, [p], PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece), p.tag)


cdef bytes scan_reply_of(Split split):
    """The engine's reply with the client's cursor in place of its own."""
    cdef Request asked = split.parent
    cdef Router router = asked.client.router
    cdef Partition p = <Partition>router.lines[asked.partition]
    cdef bytes reply = split.replies[0]
    cdef Partition following
    begin = reply.index(b"\n", 4) + 1
    end = reply.index(b"\r", begin)
    at = int(reply[begin:end])
    if split.tag != p.tag:
        cursor = cursor_of(p, 0)
    elif at:
        cursor = cursor_of(p, at)
    else:
        following = scanned_from(router, asked.client.cluster, p.index + 1)
        cursor = 0 if following is None else cursor_of(following, 0)
    digits = b"%d" % cursor
    return b"*2\r\n$%d\r\n%s" % (len(digits), digits) + reply[end:]
