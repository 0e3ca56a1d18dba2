# CLUSTER COUNTKEYSINSLOT and GETKEYSINSLOT. The engines know no slots: the slot's partition is scanned in steps, each an
# ordinary command between those of others, and the slot of each key is computed here. When another process serves in the
# middle, it begins anew there. A client that goes ends it with the step under way.

cdef enum:
    C_SLOT_STEP = 512
    C_SLOT_COUNTED = 65536
    C_SLOT_KEY_BYTES = 128
    C_SLOT_SCANS = 8

SLOT_STEP_KEYS = C_SLOT_STEP
"""Keys that an engine looks at in one step."""
MOST_COUNTED_ONCE = C_SLOT_COUNTED
"""Keys of a slot that are counted once each though an engine that resizes its table tells them again."""
MOST_SLOT_SCANS = C_SLOT_SCANS
"""Of all clients of a router at once; what each has found takes up to some 16 MiB."""
cdef bytes NO_NUMBER = b"-ERR value is not an integer or out of range\r\n"
cdef bytes TOO_MANY_KEYS = b"-ERR these keys of the slot take more than %d bytes here: ask for fewer\r\n" % HELD_PAUSE_BYTES
cdef bytes TOO_MANY_SCANS = b"-TRYAGAIN %d slots are being looked through here, the most there may be; try later\r\n" % C_SLOT_SCANS
cdef bytes SCAN_ENDED = b"-TRYAGAIN this pod is leaving and looks no further; send it again\r\n"


cdef object engine_integer(bytes digits):
    """A number as an engine reads it; None: it is none."""
    try:
        number = int(digits[:CURSOR_DIGITS])
    except ValueError:
        return None
    return number if b"%d" % number == digits and -(1 << 63) <= number < 1 << 63 else None


cdef bint serve_slot(Client c, Command* command, const char* frame, Py_ssize_t n):
    """False: not before everything outstanding is answered."""
    cdef Partition p
    cdef Split split
    cdef SlotScan looks
    if not may_spread(c, command, n):
        return True
    if c.head is not None:
        return False
    numbers = [engine_integer(it) for it in all_arguments(frame, c.scan.argc)[2:]]
    counts = len(numbers) == 1
    if None in numbers:
        c.refuse(NO_NUMBER)
        return True
    if not 0 <= numbers[0] < 16384 or numbers[-1] < 0:
        c.refuse(b"-ERR Invalid slot\r\n" if counts else b"-ERR Invalid slot or number of keys\r\n")
        return True
    p = <Partition>c.router.lines[numbers[0] >> c.router.shift]
    if (not counts and numbers[1] == 0) or (c.cluster and not p.at_home() and p.owner is not None):
        c.reply(b":0\r\n" if counts else b"*0\r\n")
        return True
    if len(c.router.looking) >= C_SLOT_SCANS:
        c.refuse(TOO_MANY_SCANS)
        return True
    c.router.looking.add(c.id)
    looks = SlotScan.__new__(SlotScan)
    looks.slot = numbers[0]
    looks.counts = counts
    looks.most = numbers[-1]
    looks.begin()
    split = new_split(c, command, 1)
    split.looks = looks
    split.parent.partition = p.index
    split.parent.blocks = True
    split.parent.started_ns = 0
    take_step(split, 0)
    c.barrier = True
    return True


cdef void take_step(Split split, at):
    """Ask for some keys of the partition, from an engine's cursor on."""
    cdef Client c = split.parent.client
    cdef Partition p = <Partition>c.router.lines[split.parent.partition]
    cdef bytes piece = encode_request([b"SCAN", b"%d" % at, b"COUNT", b"%d" % C_SLOT_STEP])
    split.waiting = 1
    split.tag = p.tag
    send_part(c, split, 0, p, True, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))


cdef bint goes_on(Split split):
    """Take the keys of a step, and the next step; False: it was the last."""
    cdef Client c = split.parent.client
    at = next_step(split)
    if at is None:
        c.router.looking.discard(c.id)
        return False
    take_step(split, at)
    return True


cdef object next_step(Split split):
    """The engine's cursor of the next step, when this one's keys were taken; None: there is none."""
    cdef Client c = split.parent.client
    cdef bytes reply = split.replies[0]
    if c.closed or reply[0] == c"-":
        return None
    if c.leaving:
        split.replies[0] = SCAN_ENDED
        return None
    if split.tag != (<Partition>c.router.lines[split.parent.partition]).tag:
        split.looks.begin()
        return 0
    return split.looks.take(reply) or None


@cython.final
cdef class SlotScan:
    """What is looked for, and what was found of it."""

    cdef void begin(self):
        self.found = set()
        self.total = self.size = 0

    cdef object take(self, bytes reply):
        """The keys of one step; the engine's cursor of the next, or 0: that was all, or is enough."""
        cdef const char* p = PyBytes_AS_STRING(reply)
        cdef Arg key
        cdef Py_ssize_t begin = reply.index(b"\n", 4) + 1, at, i
        cdef Py_ssize_t end = reply.index(b"\r", begin)
        cdef long long keys = strtoll(p + end + 3, NULL, 10)
        at = reply.index(b"\n", end + 2) + 1
        for i in range(keys):
            at = next_arg(p, at, &key)
            if key_slot(p + key.at, key.len) == self.slot:
                self.note(PyBytes_FromStringAndSize(p + key.at, key.len))
        return 0 if self.is_full() else int(reply[begin:end])

    cdef void note(self, bytes key):
        """One of the slot's keys."""
        told = hash(key) if self.counts else key
        if told in self.found or (not self.counts and self.is_full()):
            return
        self.total += 1
        self.size += PyBytes_GET_SIZE(key) + C_SLOT_KEY_BYTES
        if not self.counts or self.total <= C_SLOT_COUNTED:
            self.found.add(told)

    cdef bint is_full(self):
        """Need nothing more be looked for?"""
        return not self.counts and (self.total >= self.most or self.size > C_HELD_PAUSE)

    cdef bytes answer(self):
        cdef bytes key
        if self.counts:
            return b":%d\r\n" % self.total
        if self.size > C_HELD_PAUSE:
            return TOO_MANY_KEYS
        return b"*%d\r\n" % len(self.found) + b"".join([b"$%d\r\n%s\r\n" % (len(key), key) for key in self.found])
