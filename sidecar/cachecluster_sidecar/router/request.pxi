# Requests, the lines they stand in, and the merging of split ones.


@cython.final
@cython.freelist(1024)
@cython.no_gc
cdef class Request:
    """One command on its way. Cycles with its client are broken when it is answered or the client goes."""

    def __dealloc__(self):
        buf_free(&self.reply)

    cdef bytes frame(self):
        """The command's bytes, on their own."""
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.chunk) + self.at, self.len)


@cython.final
cdef class Line:
    """First-in first-out; a request stands in one line at a time."""

    cdef void push(self, Request r):
        r.follower = None
        if self.tail is None:
            self.head = r
        else:
            self.tail.follower = r
        self.tail = r

    cdef void put_back(self, Request r):
        """Where it belongs by its order, in a line that is sorted by it: nearly always at one of the ends."""
        cdef Request before = self.head
        if self.tail is None or self.tail.order <= r.order:
            self.push(r)
            return
        if r.order < self.head.order:
            r.follower = self.head
            self.head = r
            return
        while before.follower.order <= r.order:
            before = before.follower
        r.follower = before.follower
        before.follower = r

    cdef Request pop(self):
        """The first request, or None."""
        cdef Request r = self.head
        if r is not None:
            self.head = r.follower
            r.follower = None
            if self.head is None:
                self.tail = None
        return r

    cdef void take_all(self, Line line):
        """Everything of another line, in its order, behind what is here."""
        if line.head is None:
            return
        if self.tail is None:
            self.head = line.head
        else:
            self.tail.follower = line.head
        self.tail = line.tail
        line.head = line.tail = None


cdef tuple NULLS = (b"$-1\r\n", b"_\r\n")
cdef bytes NOT_HERE = b"-TRYAGAIN no primary of a partition is on this pod; this command was not executed, ask another\r\n"


@cython.final
cdef class Split:
    """Waits for the parts of a split command and makes one reply of theirs."""

    cdef bytes merged(self):
        """The reply to the whole command once every part has one."""
        cdef bytes reply
        cdef long long total = 0
        for reply in self.replies:
            if reply[0] == c"-":
                return self.merged_error()
        if self.merge == MERGE_ARRAY:
            return self.merged_array()
        if self.merge == MERGE_OK:
            return b"+OK\r\n"
        if self.merge != MERGE_SUM:
            return self.merged_rest()
        for reply in self.replies:
            total += strtoll(PyBytes_AS_STRING(reply) + 1, NULL, 10)
        return b":%d\r\n" % total

    cdef bytes merged_rest(self):
        """The reply to a command about all keys, of which each partition has told its part."""
        cdef list rows
        if self.merge == MERGE_SCAN:
            return scan_reply_of(self)
        if self.merge == MERGE_JOINED:
            heads = [reply.index(b"\n") + 1 for reply in self.replies]
            total = sum([int(reply[1 : at - 2]) for reply, at in zip(self.replies, heads)])
            return b"*%d\r\n" % total + b"".join([reply[at:] for reply, at in zip(self.replies, heads)])
        if self.merge == MERGE_SLOT:
            return self.looks.answer()
        if self.merge == MERGE_FEWEST:
            return least_count(self)
        if self.merge == MERGE_ANY:
            found = [reply for reply in self.replies if reply not in NULLS]
            return random.choice(found) if found else NULLS[self.parent.proto - 2]
        if self.merge == MERGE_LEAST and self.replies:
            rows = [reply.split(b"\r\n:")[1:] for reply in self.replies]
            least = [min([int(number) for number in column]) for column in zip(*rows)]
            return b"*%d\r\n" % len(least) + b"".join([b":%d\r\n" % number for number in least])
        return self.replies[0] if self.replies else NOT_HERE

    cdef bytes merged_error(self):
        """The error of the whole command: of its first part that failed, unless that would deny what was done."""
        cdef bytes error = None
        cdef bytes reply
        cdef bint partly = False
        for reply in self.replies:
            if reply[0] != c"-":
                partly = True
            elif error is None or reply.startswith(b"-INDETERMINATE"):
                error = reply
        if partly and self.write and not error.startswith(b"-INDETERMINATE"):
            return (
                b"-INDETERMINATE this command has keys in several partitions and was executed in some of them only: "
                b"read before you write again; the others said: " + error[1:]
            )
        return error

    cdef bytes merged_array(self):
        """The elements of the parts' arrays in the order of the keys."""
        cdef list cursors = []
        cdef Buf out
        cdef ReplyScan scan
        cdef bytes reply, data
        cdef const char* p
        cdef Py_ssize_t at
        memset(&out, 0, sizeof(Buf))
        for reply in self.replies:
            cursors.append(reply.index(b"\n") + 1)
        try:
            buf_add_bytes(&out, b"*%d\r\n" % len(self.part_of_key))
            for part in self.part_of_key:
                reply = self.replies[part]
                at = cursors[part]
                p = PyBytes_AS_STRING(reply) + at
                reply_scan_reset(&scan)
                scan_reply(&scan, p, PyBytes_GET_SIZE(reply) - at)
                buf_add(&out, p, scan.pos)
                cursors[part] = at + scan.pos
            return PyBytes_FromStringAndSize(out.p, out.len)
        finally:
            buf_free(&out)
