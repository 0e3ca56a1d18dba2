# Commands of several partitions: one request for each, and one reply of theirs (Split in request.pxi).

cdef bytes TOO_LARGE_FOR_ALL = (
    b"-ERR a command that goes to every partition takes at most %d bytes and %d arguments here\r\n"
    % (MAX_EVERYWHERE_BYTES, MAX_EVERYWHERE_ARGUMENTS)
)


# They fail where they have been executed before.
cdef frozenset ONCE = frozenset((b"function|load", b"function|delete", b"function|restore"))


cdef Split new_split(Client c, Command* command, Py_ssize_t parts):
    """What waits for so many replies and makes one of them, in the client's order."""
    cdef Split split = Split.__new__(Split)
    c.router.counters.split += 1
    split.merge = command.merge
    split.write = command.write
    split.parent = c.append()
    if command.write:
        c.last_write = c.came
    split.waiting = parts
    split.replies = [None] * parts
    return split


cdef Request new_part(Client c, Split split, int number, Partition p):
    """One part of a command, for its partition."""
    cdef Request r = Request.__new__(Request)
    r.client = c
    r.split = split
    r.part = number
    r.partition = p.index
    r.slot = p.index << c.router.shift
    r.proto = c.proto
    r.write = split.write
    if r.write:
        note_write(c, p.index)
    return r


cdef void send_part(Client c, Split split, int number, Partition p, bint keyless, const char* frame, Py_ssize_t n):
    """Send one part of a command to its partition."""
    cdef Request r = new_part(c, split, number, p)
    r.keyless = keyless
    p.submit(r, frame, n)


cdef void split_command(Client c, Command* command, const char* frame, Scratch s, Py_ssize_t count):
    """One request for each partition that has keys of the command, and one reply of theirs."""
    cdef Split split
    cdef list part_of_key = [], parts
    cdef bytes part
    cdef bint aside
    if command.merge == MERGE_OK and c.scan.argc % 2 == 0:
        c.refuse(arity_error(command))
        return
    aside = command.replica and c.router.replica_reads and may_read_aside(c)
    parts = part_frames(c.router, command, frame, s, count, part_of_key)
    split = new_split(c, command, len(parts))
    split.part_of_key = part_of_key
    for number, (index, part) in enumerate(parts):
        if not aside or not read_part_aside(c, split, number, c.router.lines[index], part):
            send_part(c, split, number, c.router.lines[index], False, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))


cdef list part_frames(
    Router router, Command* command, const char* frame, Scratch s, Py_ssize_t count, list part_of_key
):
    """(partition, frame) for each partition with keys, in the order of their first keys; part_of_key is filled."""
    cdef dict number = {}
    cdef list pieces = []
    cdef list order = []
    cdef int partition, step = command.spec[0].step
    cdef Py_ssize_t i, first, start, end
    cdef Arg arg
    for i in range(count):
        first = s.keys[i]
        arg = s.args[first]
        partition = key_slot(frame + arg.at, arg.len) >> router.shift
        if partition not in number:
            number[partition] = len(order)
            order.append(partition)
            pieces.append([])
        part = number[partition]
        part_of_key.append(part)
        # The raw bytes of the key and of what belongs to it, from the `$` on.
        start = s.args[first - 1].at + s.args[first - 1].len + 2
        end = s.args[first + step - 1].at + s.args[first + step - 1].len + 2
        (<list>pieces[part]).append(PyBytes_FromStringAndSize(frame + start, end - start))
    name = PyBytes_FromStringAndSize(frame + s.args[0].at, s.args[0].len)
    return [
        (order[part], b"*%d\r\n$%d\r\n%s\r\n" % (1 + step * len(found), len(name), name) + b"".join(found))
        for part, found in enumerate(pieces)
    ]


cdef bint may_spread(Client c, Command* command, Py_ssize_t n):
    """Whether a command about all keys may go to partitions now; otherwise its client was told why not."""
    if c.queue is not None:
        refuse_in_transaction(c, command)
    elif n > C_MAX_EVERYWHERE or c.scan.argc > C_MAX_EVERYWHERE_ARGS:
        c.refuse(TOO_LARGE_FOR_ALL)
    elif c.router.partitions == 0:
        c.refuse(NO_MAP)
    else:
        return True
    return False


cdef void serve_all(Client c, Command* command, const char* frame, Py_ssize_t n):
    """A command about all keys: to every partition, on the cluster port to this pod's, with one reply of theirs."""
    cdef Partition p
    if may_spread(c, command, n):
        ask_partitions(c, command, [p for p in c.router.lines if is_asked(c, command, p)], frame, n)


cdef bint is_asked(Client c, Command* command, Partition p):
    """On cluster ports each partition is asked once by a client that asks all pods: where it is announced. What may be
    asked twice is asked wherever it is taken, for a client may know only one of these pods."""
    if not c.cluster or p.here or (p.mine and p.told is not None and c.router.is_unreachable(p)):
        return True
    return p.at_home() and command.merge not in (MERGE_SUM, MERGE_JOINED) and name_of(command) not in ONCE


cdef void ask_partitions(Client c, Command* command, list asked, const char* frame, Py_ssize_t n, int tag=0):
    """Send the same bytes, which do not tell where they go, to some partitions, for one reply."""
    cdef Split split = new_split(c, command, len(asked))
    cdef Partition p
    cdef bytes answer
    split.tag = tag
    if not asked:
        answer = split.merged()
        c.deliver(split.parent, PyBytes_AS_STRING(answer), PyBytes_GET_SIZE(answer))
    for number, p in enumerate(asked):
        split.parent.partition = p.index
        send_part(c, split, number, p, True, frame, n)
