# `durability: sync`: replies that wait until every required copy has acknowledged what they tell.
#
# A *round* asks the engine, on a connection of its own and in one go:
#     ROLE             the primary's offset O, before anything is waited for
#     SPUBLISH "" ""   a write that changes nothing, so that the next line waits: WAIT counts acknowledgements of what
#                      its own connection wrote last (valkey), and returns at once where that was nothing
#     WAIT n 50        makes the primary ask for acknowledgements at once, and wait for n of them, or 50 ms
#     ROLE             every attached replica by the name it announced (`<pod UID>.<run_id>`), and what it has acknowledged
#
# Which offset bounds which reply: an engine raises its offset when it executes a write, before the reply can leave it.
# So whatever a reply tells that had come when the round was *sent* is at or below the O that the round reports: O is
# read after it. Replies that come while the round is under way belong to the next. The offsets acknowledged are read
# at the end of a round; they only grow. A reply leaves when each required copy has acknowledged its O, in whichever
# round. WAIT only keeps time: it counts replicas without names, so what it answers is never looked at.

cdef enum:
    ROUND_REPLIES = 4

COMMIT_WAIT_MS = 50
"""How long a round waits for acknowledgements, before it tells those that came."""
COMMIT_PAUSE_FIRST_S = 0.001
COMMIT_PAUSE_MAX_S = 0.02
"""Wait after a round that released nothing: the first time, and at most; doubled in between."""
COMMIT_RETRY_S = 0.1
"""Wait before a committer's connection that was lost is made again."""
COMMIT_IDLE_S = 10.0
"""How long a committer's connection is kept without use."""


@cython.final
cdef class Commit:
    """The replies of one partition that wait for acknowledgements; each stands in one of three lines.

    `fresh`: no round was sent since they came. `asked`: the round under way bounds them. `bounded`: by their offsets.
    """

    def __cinit__(self, Router router, Partition partition, int index):
        self.router = router
        self.partition = partition
        self.index = index
        self.names = ()
        self.acked = {}
        self.fresh = Line()
        self.asked = Line()
        self.bounded = Line()

    cdef void use_required(self, list copies):
        """The copies, this one among them, that must have what is told from now on."""
        own = self.router.self_uid + "."
        self.names = tuple([copy.encode() for copy in copies if not copy.startswith(own)])
        self.copies = len(copies)

    cdef bint has_too_few(self):
        """Are fewer copies in sync than a write needs?"""
        return min(self.copies, self.in_sync) < self.router.min_in_sync

    cdef bint holds(self, Request r):
        """Must the reply to this command wait?"""
        if r.client.closed or not (r.write or self.router.committed_reads) or is_wait(r):
            return False
        return bool(self.names) or self.copies == 0 or (r.write and self.has_too_few())

    cdef void hold(self, Request r, const char* reply, Py_ssize_t n):
        """Keep a reply. A peer is told so, in the turn of the command, or everything behind it there waited as well."""
        r.chunk = OK if n == 5 and memcmp(reply, b"+OK\r\n", 5) == 0 else PyBytes_FromStringAndSize(reply, n)
        r.held_at = seconds()
        r.bound = 0
        r.client.held += n
        self.fresh.push(r)
        self.count += 1
        if is_shared_peer(r.client) and not r.ticket:
            r.client.give_ticket(r)

    cdef void begin(self):
        """Send a round, if there is something to ask and none is under way."""
        if self.under_way or self.timer is not None or self.count == 0 or self.copies == 0:
            return
        if not self.names:
            self.judge()
            return
        if self.partition.engine is None:
            return
        if self.link is None:
            self.link = CommitLink(self, self.partition.engine)
            self.router.connect(self.link)
        elif (<CommitLink>self.link).is_ready:
            self.asked.take_all(self.fresh)
            self.under_way = True
            self.router.counters.rounds += 1
            (<CommitLink>self.link).ask(len(self.names))

    cdef void round_began(self, int64_t offset):
        """The primary's offset, read after everything had come that this round is about."""
        cdef Request r = self.asked.head
        while r is not None:
            r.bound = offset
            r = r.follower
        self.bounded.take_all(self.asked)

    cdef void round_ended(self, dict acked):
        """What every attached replica has acknowledged; None when that could not be learnt."""
        cdef Py_ssize_t before = self.count
        self.under_way = False
        if acked is not None:
            self.acked = acked
            self.judge()
        if self.count == 0 or self.count < before:
            self.pause = 0
        else:
            self.pause = min(self.pause * 2, COMMIT_PAUSE_MAX_S) if self.pause else COMMIT_PAUSE_FIRST_S
            self.timer = self.router.loop.call_later(self.pause, self.go_on)
        self.begin()

    def go_on(self):
        """After a pause."""
        self.timer = None
        self.begin()
        self.router.settle_touched()

    def link_lost(self, link):
        """The connection ended, or could not be made."""
        if link is self.link:
            self.link = None
            self.under_way = False
            if self.timer is None:
                self.timer = self.router.loop.call_later(COMMIT_RETRY_S, self.go_on)

    cdef void judge(self):
        """Answer what every required copy has, by what is known of them now."""
        cdef int64_t covered
        if self.count == 0 or self.copies == 0:
            return
        if not self.partition.may_release():
            self.give_up("the pod's authority ended")
            return
        if self.has_too_few():
            self.refuse_writes()
        if not self.names:
            self.release_all()
            return
        covered = min([self.acked.get(name, -1) for name in self.names])
        while self.bounded.head is not None and self.bounded.head.bound <= covered:
            self.release(self.bounded.pop())
        self.drained()

    cdef void release(self, Request r):
        """The reply leaves."""
        cdef int64_t us = <int64_t>((seconds() - r.held_at) * 1e6)
        cdef int bucket = 0
        while us > 0 and bucket < LATENCY_BUCKETS - 1:
            us >>= 1
            bucket += 1
        self.router.counters.held_for[bucket] += 1
        self.answer(r, r.chunk)

    cdef void release_all(self):
        """All replies leave, as far as the pod's authority allows."""
        if self.count == 0:
            return
        if not self.partition.may_release():
            self.give_up("the pod's authority ended")
            return
        for line in (self.bounded, self.asked, self.fresh):
            while (<Line>line).head is not None:
                self.release((<Line>line).pop())
        self.drained()

    cdef void answer(self, Request r, bytes reply):
        """The one way out of the lines."""
        self.count -= 1
        if r.client.closed:
            return
        r.client.held -= PyBytes_GET_SIZE(r.chunk)
        self.router.deliver(r, PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply))
        r.chunk = None

    cdef void drained(self):
        """Nothing may be held any more: the agent may be waiting for that."""
        if self.count == 0:
            self.partition.confirm_when_idle()

    cdef void give_up(self, str reason):
        """Nothing that is held will be acknowledged in a way that may be told."""
        for line in (self.bounded, self.asked, self.fresh):
            while (<Line>line).head is not None:
                self.fail((<Line>line).pop(), unconfirmed_error, reason)
        self.drained()

    cdef void fail(self, Request r, error, detail):
        if r.write:
            self.router.counters.indeterminate += 1
        else:
            self.router.counters.tryagain += 1
        self.answer(r, error(self.index, bool(r.write), detail))

    cdef void refuse_writes(self):
        """The set has become smaller than a write needs: those that are held keep less than was promised."""
        cdef Request r
        cdef Line kept
        detail = f"only {min(self.copies, self.in_sync)} of {self.router.min_in_sync} copies are in sync"
        for line in (self.bounded, self.asked, self.fresh):
            kept = Line()
            while (<Line>line).head is not None:
                r = (<Line>line).pop()
                if r.write:
                    self.fail(r, unconfirmed_error, detail)
                else:
                    kept.push(r)
            (<Line>line).take_all(kept)

    cdef void look_after(self, double now):
        """Give up what has waited for too long, or may not wait any longer. An idle connection is closed."""
        cdef Request r
        if self.count == 0:
            if self.link is not None and now - (<CommitLink>self.link).used_at > COMMIT_IDLE_S:
                self.drop_link()
            return
        if not self.partition.may_release():
            self.give_up("the pod's authority ended")
        elif self.partition.confirm_due and 0 < self.partition.cut_at < now:
            self.give_up("the gate was shut")
        for line in (self.bounded, self.asked, self.fresh):
            while (<Line>line).head is not None and now - (<Line>line).head.held_at > self.router.ack_timeout:
                r = (<Line>line).pop()
                self.router.counters.unacknowledged += 1
                self.fail(r, unacknowledged_error, (self.silent_members(r), now - r.held_at))
        self.drained()
        self.begin()

    cdef str silent_members(self, Request r):
        """The pods whose acknowledgement is missing, for people."""
        members = self.router.routes["members"]
        missing = [name for name in self.names if not r.bound or self.acked.get(name, -1) < r.bound]
        pods = [name.decode().rpartition(".")[0] for name in missing or self.names]
        return ", ".join(sorted([members[pod]["name"] if pod in members else pod for pod in pods])) or "the copies"

    cdef void reset(self, str reason):
        """The engine is another one, or none, from now on."""
        self.acked = {}
        self.drop_link()
        self.give_up(reason)

    cdef void drop_link(self):
        cdef CommitLink link = self.link
        if link is not None:
            self.link = None
            self.under_way = False
            link.close()


def unconfirmed_error(int partition, bint write, str reason):
    """The reply to a command that was executed, when it became impossible to say what the other copies have of it."""
    if write:
        return (
            f"-INDETERMINATE partition {partition}: {reason} before every in-sync copy had acknowledged this write; it "
            "was applied at the primary and may be lost with it: read before you write again\r\n"
        ).encode()
    return (
        f"-TRYAGAIN partition {partition}: {reason} before every in-sync copy had acknowledged what this command read; "
        "it changed nothing, send it again\r\n"
    ).encode()


def unacknowledged_error(int partition, bint write, detail):
    """The reply when acknowledgements took too long; `detail` names who was silent, and for how many seconds."""
    silent, waited_s = detail
    told = f"partition {partition}: not acknowledged by {silent} within {waited_s * 1000:.0f} ms"
    if write:
        return (
            f"-INDETERMINATE {told}; the write was applied at the primary and may be lost with it: read before you "
            "write again\r\n"
        ).encode()
    return f"-TRYAGAIN {told} is what this command read; it changed nothing, send it again\r\n".encode()


def too_few_error(int partition, int copies, int wanted):
    """The reply to a write that is refused before it reaches the engine."""
    return (
        f"-NOREPLICAS partition {partition} has {copies} of {wanted} in-sync copies that a write needs; this command was "
        "not executed\r\n"
    ).encode()


cdef class CommitLink:
    """A committer's connection to the engine: rounds out, what they tell in."""

    def __init__(self, Commit commit, Target target):
        self.commit = commit
        self.target = target
        self.proto = 2
        self.rest = b""
        self.used_at = seconds()
        reply_scan_reset(&self.scan)

    def connection_made(self, transport):
        self.transport = transport
        if self.closed:
            transport.abort()

    def greet(self, bytes greeting):
        """Send the first bytes of this connection; their one reply makes it ready or ends it."""
        if not self.closed:
            self.transport.write(greeting)

    def failed(self, str reason):
        """The connection could not be made."""
        self.connection_lost(None)

    def connection_lost(self, error):
        if not self.closed:
            self.closed = True
            self.commit.link_lost(self)
            self.commit.router.settle_touched()

    def eof_received(self):
        return False

    def pause_writing(self):
        """Never: one short round is under way at a time."""

    def resume_writing(self):
        """See pause_writing."""

    def get_buffer(self, sizehint):
        return self.commit.router.shared_view

    def buffer_updated(self, Py_ssize_t n):
        cdef Py_ssize_t start = 0
        cdef bytes data = PyBytes_FromStringAndSize(self.commit.router.shared_p, n)
        self.rest = self.rest + data if self.rest else data
        while start < len(self.rest) and not self.closed:
            scanned = scan_reply(&self.scan, PyBytes_AS_STRING(self.rest) + start, len(self.rest) - start)
            if scanned == SCAN_ERROR:
                self.transport.abort()
            if scanned != SCAN_COMPLETE:
                break
            frame = self.rest[start : start + self.scan.pos]
            start += self.scan.pos
            reply_scan_reset(&self.scan)
            self.take(frame)
        self.rest = self.rest[start:]
        self.commit.router.settle_touched()

    cdef void take(self, bytes frame):
        """One reply: to the greeting, or the next of a round."""
        if not self.is_ready:
            if frame.startswith(b"-"):
                log.warning("%s answered our greeting: %s", self.target.name, frame.decode(errors="replace"))
                self.transport.abort()
                return
            self.is_ready = True
            self.commit.begin()
            return
        self.replies += 1
        if self.replies == 1:
            self.began = primary_offset(frame)
            if self.began >= 0:
                self.commit.round_began(self.began)
        elif self.replies == ROUND_REPLIES:
            self.commit.round_ended(acknowledged(frame) if self.began >= 0 else None)

    cdef void ask(self, Py_ssize_t acknowledgements):
        """Send a round."""
        cdef bytes number = b"%d" % acknowledgements
        cdef bytes wait = b"%d" % COMMIT_WAIT_MS
        self.replies = 0
        self.used_at = seconds()
        self.transport.write(
            b"*1\r\n$4\r\nROLE\r\n*3\r\n$8\r\nSPUBLISH\r\n$0\r\n\r\n$0\r\n\r\n*3\r\n$4\r\nWAIT\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n"
            b"*1\r\n$4\r\nROLE\r\n" % (len(number), number, len(wait), wait)
        )

    cdef void close(self):
        self.closed = True
        if self.transport is not None:
            self.transport.abort()


cdef int64_t primary_offset(bytes role):
    """The offset in a primary's reply to ROLE; -1 for any other reply."""
    cdef list words = role.split(b"\r\n")
    return int(words[3][1:]) if len(words) > 4 and words[2] == b"master" else -1


cdef dict acknowledged(bytes role):
    """By the name that a replica announced, the offset it has acknowledged; None for any other reply."""
    cdef list words = role.split(b"\r\n")
    cdef dict found = {}
    cdef Py_ssize_t i
    if len(words) <= 4 or words[2] != b"master":
        return None
    for i in range(5, len(words) - 6, 7):
        name = words[i + 2]
        found[name] = max(int(words[i + 6]), found.get(name, -1))
    return found
