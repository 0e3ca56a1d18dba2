# HSCAN, SSCAN and ZSCAN: the members of one key, step by step. A client's cursor tells which process it is of, as that of
# SCAN does:
#
#     engine's cursor << 16 | tag            (0: the beginning, and the end)
#
# Another process, after a fail-over, has the members in another order, and they are scanned again from the beginning:
# some may come more than once, but none is missed. The router of the pod where the engine is knows which process that is:
# there a command gets the engine's cursor when it is handed to the engine, and its reply the client's. Everywhere else,
# in what waits, is sent again or goes to another pod, the cursor is the client's. A transaction may hold several.


cdef void serve_members(Client c, Command* command, const char* frame, Py_ssize_t n):
    """Send it to the partition of its key."""
    cdef Arg key = c.scan.head[1]
    if c.tracking is not None:
        note_read(c, frame + key.at, key.len)
    forward(c, key_slot(frame + key.at, key.len), command.write, frame, n, -1, True)


cdef bytes with_cursors_of(Target target, Partition p, Request r, const char* frame, Py_ssize_t n):
    """What is sent there: to an engine with cursors of its process, elsewhere with the client's. None: it is as it was."""
    cdef bytes understood
    r.tag = 0
    if target.partition < 0:
        return r.original
    if r.original is not None:
        frame, n = PyBytes_AS_STRING(r.original), PyBytes_GET_SIZE(r.original)
    if r.queued:
        understood = transaction_of(p, r, frame, n)
        if understood is None:
            r.scans = False
            return None
    else:
        understood = command_of(p, frame, n)
    if r.original is None:
        r.original = PyBytes_FromStringAndSize(frame, n)
    r.tag = p.tag
    return understood


cdef bytes command_of(Partition p, const char* frame, Py_ssize_t n):
    """One command with the engine's cursor; what is no cursor stays as it is: the engine knows the error."""
    cdef Arg cursor
    cdef Py_ssize_t at, end = first_argument(frame)
    cdef bytes digits
    for _ in range(3):
        at = end
        end = next_arg(frame, at, &cursor)
    digits = PyBytes_FromStringAndSize(frame + cursor.at, min(cursor.len, CURSOR_DIGITS + 1))
    if not digits.isdigit() or len(digits) > CURSOR_DIGITS or int(digits) >> 64:
        return PyBytes_FromStringAndSize(frame, n)
    value = int(digits)
    digits = b"%d" % (value >> C_TAG_BITS if value & (1 << C_TAG_BITS) - 1 == p.tag else 0)
    return (
        PyBytes_FromStringAndSize(frame, at)
        + b"$%d\r\n%s\r\n" % (len(digits), digits)
        + PyBytes_FromStringAndSize(frame + end, n - end)
    )


cdef bytes transaction_of(Partition p, Request r, const char* frame, Py_ssize_t n):
    """MULTI, commands and EXEC with the engine's cursors, and in `scanned` which commands these are; None: none is."""
    cdef RequestScan scan
    cdef Command* command
    cdef Py_ssize_t at = 0, kept = 0
    cdef int number = -1
    cdef list pieces = []
    r.scanned = set()
    request_scan_reset(&scan)
    while at < n and scan_request(&scan, frame + at, n - at) == SCAN_COMPLETE:
        if scan.argc > 2:
            command = p.router.table.find(frame + at + scan.head[0].at, scan.head[0].len)
            if command != NULL and command.kind == KIND_MEMBERS:
                r.scanned.add(number)
                pieces += [PyBytes_FromStringAndSize(frame + kept, at - kept), command_of(p, frame + at, scan.pos)]
                kept = at + scan.pos
        at += scan.pos
        number += 1
        request_scan_reset(&scan)
    return b"".join(pieces) + PyBytes_FromStringAndSize(frame + kept, n - kept) if pieces else None


cdef bytes with_tagged_cursors(Partition p, Request r, const char* frame, Py_ssize_t n):
    """An engine's reply with the client's cursors in place of its own."""
    cdef ReplyScan scan
    cdef Py_ssize_t at, end
    cdef list pieces
    if not r.queued:
        return tagged_reply(p, r, PyBytes_FromStringAndSize(frame, n))
    if frame[0] != c"*" or frame[1] == c"-":
        return PyBytes_FromStringAndSize(frame, n)
    at = first_argument(frame)
    pieces = [PyBytes_FromStringAndSize(frame, at)]
    for number in range(strtoll(frame + 1, NULL, 10)):
        reply_scan_reset(&scan)
        if scan_reply(&scan, frame + at, n - at) != SCAN_COMPLETE:
            break
        end = at + scan.pos
        piece = PyBytes_FromStringAndSize(frame + at, end - at)
        pieces.append(tagged_reply(p, r, piece) if number in r.scanned else piece)
        at = end
    return b"".join(pieces)


cdef bytes tagged_reply(Partition p, Request r, bytes reply):
    """The reply to one command; an error stays as it is. If another process serves by now, its members come next, from
    the beginning."""
    if not reply.startswith(b"*2\r\n$"):
        return reply
    begin = reply.index(b"\n", 4) + 1
    end = reply.index(b"\r", begin)
    at = int(reply[begin:end])
    if r.tag != p.tag:
        cursor = p.tag
    else:
        cursor = at << C_TAG_BITS | p.tag if at else 0
    digits = b"%d" % cursor
    return b"*2\r\n$%d\r\n%s" % (len(digits), digits) + reply[end:]
