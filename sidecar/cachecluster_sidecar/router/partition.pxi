# One partition: its gate, its parked commands, what is in flight.

cdef enum:
    SEQLOCK_TRIES = 64
    READABLE_WORD = 5


def lost_error(int partition, reason):
    """The reply to a command that was sent and whose own reply will not come."""
    return (
        f"-INDETERMINATE partition {partition}: {reason} after this command was sent, so it may or may not have been "
        "executed: read before you write again\r\n"
    ).encode()


def timeout_error(int partition, double waited_s):
    """The reply to a command that was parked for too long."""
    return (
        f"-TRYAGAIN partition {partition} has no open gate: waited {waited_s * 1000:.0f} ms for its primary; this "
        "command was not executed, send it again\r\n"
    ).encode()


def full_error(int partition, Py_ssize_t limit):
    """The reply to a command that there is no room to park."""
    return (
        f"-TRYAGAIN partition {partition} has no open gate and the {limit} bytes for waiting commands are taken; this "
        "command was not executed, send it again\r\n"
    ).encode()


@cython.final
cdef class Partition:
    """Commands of a partition go to its owner in the order they came, or wait here for one that takes them."""

    def __cinit__(self, Router router, int index):
        self.router = router
        self.index = index
        self.refused = Line()
        self.waiting = Line()
        self.commit = Commit(router, self, index)
        self.privates = set()

    cdef bint parks(self):
        """Must a new command wait: behind others, or for what is in flight, a probe or at a former owner?"""
        return (
            self.owner is None
            or self.attaching
            or self.waiting.head is not None
            or self.refused.head is not None
            or (self.inflight > 0 and (self.probing or self.carrier is not self.owner))
        )

    cdef bint at_home(self):
        """Are its commands taken on this pod's cluster port?"""
        return self.mine or self.stands_in

    cdef bint readable(self):
        """May the copy here answer reads in its primary's place now? The agent says until when."""
        return self.record != NULL and <int64_t>cc_acquire(self.record + READABLE_WORD) > cc_boottime_ns()

    cdef Backend aside(self, int proto, bint near):
        """A connection to a copy that may answer a read in the primary's place: here, or, with `near`, in this zone.
        None: the primary is to answer."""
        cdef Backend b = None
        cdef Target target
        if self.mine or self.router.stopping:
            return None
        if self.reader is not None and self.readable():
            b = self.reader.ready(proto)
        if b is None and near and self.near is not None and seconds() >= self.near_after:
            target = <Target>self.near[self.requests % len(self.near)]
            b = target.ready(proto)
        return b

    cdef void hold_back(self):
        """The owner has refused: it is tried again a moment later, with one command."""
        cdef double now = seconds()
        self.probing = True
        if now < self.hold_until:
            return
        self.hold_s = min(2 * self.hold_s, REFUSED_MAX_S) if self.hold_s else REFUSED_FIRST_S
        self.hold_until = now + self.hold_s
        self.router.loop.call_later(self.hold_s, self.try_again)

    def try_again(self):
        """The moment after a refusal is over."""
        self.hold_until = 0
        self.release()
        self.router.settle_touched()

    cdef void taken(self):
        """The owner has taken a command: others may follow at once."""
        self.probing = False
        self.hold_s = 0

    cdef Gate read(self):
        """The gate record; shut, at no generation, when it cannot be read."""
        cdef Gate gate
        cdef uint64_t before
        cdef int i
        memset(&gate, 0, sizeof(Gate))
        if self.record == NULL:
            return gate
        for i in range(SEQLOCK_TRIES):
            before = cc_acquire(self.record)
            if before & 1:
                continue
            gate.seen_epoch = cc_relaxed(self.record + 1)
            gate.gate_epoch = cc_relaxed(self.record + 2)
            gate.deadline_ns = <int64_t>cc_relaxed(self.record + 3)
            gate.generation = cc_relaxed(self.record + 4)
            cc_fence()
            if cc_relaxed(self.record) == before:
                return gate
        memset(&gate, 0, sizeof(Gate))
        return gate

    cdef bint may_serve(self):
        """May commands be handed to the engine now?"""
        cdef Gate gate = self.read()
        if self.router.stopping:
            return False
        if gate.generation == self.generation and self.generation:
            self.deadline_ns = gate.deadline_ns
        return gate_step.may_serve(
            self.generation, gate.generation, gate.gate_epoch, gate.seen_epoch, gate.deadline_ns, cc_boottime_ns()
        )

    cdef bint may_release(self):
        """May replies of the engine leave now?

        The deadline counts that was read at the generation this router has taken over: one written since may belong to
        a later opening of the gate, before which another primary served.
        """
        cdef Gate gate = self.read()
        if gate.generation == self.generation and self.generation:
            self.deadline_ns = gate.deadline_ns
        return gate_step.may_release(self.deadline_ns, cc_boottime_ns())

    cdef void submit(self, Request r, const char* frame, Py_ssize_t n):
        """Send a command that has just come, or park it."""
        cdef Backend b = None if self.parks() else self.owner.ready(r.proto)
        self.requests += 1
        r.order = self.requests
        if b is not None:
            if self.router.sync and self.refuses(r):
                return
            if r.link:
                self.send_alone(b, r, frame, n)
            else:
                b.add(r, frame, n)
            return
        if r.client.peer:
            if r.uploaded and self.mine and self.may_serve() and not self.attaching:
                # It has a connection of its own, and nothing else of its client is on its way: it overtakes nobody.
                if not self.router.sync or not self.refuses(r):
                    send_end(r, self, frame, n)
                return
            self.refuse_peer(r)
            return
        if self.router.parked_bytes + self.router.queued_bytes + n > self.router.max_parked_bytes:
            self.router.counters.tryagain += 1
            self.router.fail(r, full_error(self.index, self.router.max_parked_bytes))
            return
        r.chunk = PyBytes_FromStringAndSize(frame, n)
        r.at = 0
        r.len = n
        self.park(r)
        self.waiting.push(r)

    cdef void send_alone(self, Backend shared, Request r, const char* frame, Py_ssize_t n):
        """Send a command on the private connection that its client has for it at the owner."""
        cdef Client c = r.client
        cdef Backend b
        cdef bytes shorter
        cdef bint apart = self.mine or r.large
        if r.uploaded:
            send_end(r, self, frame, n)
            return
        if c.links is None:
            c.links = {}
        b = c.links.get(r.link)
        if b is not None and (
            b.closed
            or b.proto != r.proto
            or b.target is not self.owner
            or b.apart != apart
            or not (apart or b is shared)
            or (apart and (<Relay>b).filling)
        ):
            c.end_link(r.link)
            b = None
        if b is None:
            if not r.fresh:
                lose_sight(r)
                return
            if r.large and not self.passes_pieces():
                keep_whole(r)
                shared.add(r, frame, n)
                return
            if self.mine and len(self.privates) >= MAX_PRIVATE:
                self.router.counters.tryagain += 1
                self.router.fail(r, no_private_error(self.index, f"it has {MAX_PRIVATE}, the most there may be"))
                return
            b = self.make_relay(c, r.link) if apart else shared
            c.links[r.link] = b
        if self.mine:
            (<Private>b).watches = r.link & 1 == 0 and r.queued == 0
        if r.until and r.parked_at:
            shorter = PyBytes_FromStringAndSize(frame, n)
            left_s = r.until - seconds()
            shorter = with_time_left(shorter, left_s) if not is_wait(r) else wait_with_time_left(shorter, left_s)
            b.add(r, PyBytes_AS_STRING(shorter), PyBytes_GET_SIZE(shorter))
        else:
            b.add(r, frame, n)

    cdef Relay make_relay(self, Client c, uint64_t link):
        """A connection of a client's own: to the engine here, or to where the primary is."""
        cdef Relay b
        if self.mine:
            b = Private(self.router, self.owner, c.proto)
            self.controlled(self.owner)
        else:
            b = Passage(self.router, self.owner, c.proto)
            (<Passage>b).leads_to = self
        b.apart = True
        b.only = c
        b.link = link
        self.privates.add(b)
        self.router.connect(b)
        return b

    cdef bint passes_pieces(self):
        """Can what is large go to the engine, or come from there, in pieces?"""
        if len(self.privates) >= MAX_PRIVATE or self.owner is None:
            return False
        return seconds() >= self.owner.no_apart_until and (self.mine or self.owner.pieces)

    cdef Control controlled(self, Target target):
        """The connection by which what waits in this engine is ended."""
        cdef Control b = self.control
        if b is not None and b.target is not target:
            b.lose("the engine is another one")
            b = None
        if b is None:
            b = self.control = Control(self.router, target, 2)
            b.apart = b.control = True
            self.router.connect(b)
        return b

    cdef void end_privates(self, bint patient):
        """The engine may soon be no primary: what waits there goes elsewhere, and what is watched is lost sight of."""
        cdef Relay b
        for b in list(self.privates):
            if b.target.partition >= 0 or b.target is not self.owner:
                b.end(patient)

    cdef void look_at_privates(self, double now):
        """Close those that are idle, and go on to end what is to be ended."""
        cdef Relay b
        self.unblocking = False
        for b in list(self.privates):
            self.unblocking = b.look_after(now) or self.unblocking
        if self.control is not None:
            if not self.privates or (not self.control.is_ready and now - self.control.heard > CONNECT_TIMEOUT_S):
                self.control.lose("it is not used")

    cdef void park(self, Request r):
        """Count a command as parked; the caller puts it into its line."""
        if r.parked_at == 0:
            r.parked_at = seconds()
            self.router.counters.parked_total += 1
        self.router.parked += 1
        self.router.parked_bytes += r.len
        self.router.hurry()

    cdef void unpark(self, Request r):
        self.router.parked -= 1
        self.router.parked_bytes -= r.len

    cdef void refuse_peer(self, Request r):
        """A peer's command never waits here."""
        if r.ticket:
            r.client.tell(r, NOT_EXECUTED)
            return
        r.client.gate(self.index)
        self.router.fail(r, b"-CCGATE %d\r\n" % self.index)

    cdef void send_again(self, Request r):
        """Park a command that was sent, or was about to be, in front of those that came later."""
        if r.client.peer:
            self.refuse_peer(r)
            return
        if r.chunk is not None and PyBytes_GET_SIZE(r.chunk) > 2 * r.len + 4096:
            r.chunk = r.frame()
            r.at = 0
        self.park(r)
        self.refused.put_back(r)

    cdef void left_flight(self):
        """Nothing is in flight any more: what waited for that may go on."""
        if self.inflight == 0:
            self.carrier = None
            self.confirm_when_idle()
            if self.refused.head is not None or self.waiting.head is not None:
                self.release()
            else:
                self.probing = False

    cdef void confirm_when_idle(self):
        """Tell the agent that the generation is taken over once nothing is in flight at the engine."""
        # What is in flight may be at an engine that the routes name no more.
        if not self.confirm_due or self.privately > 0 or self.commit.count > 0:
            return
        if self.inflight == 0 or self.carrier.partition < 0:
            if self.feed is not None and not self.feed.muted:
                if self.feed.is_ready:
                    if not self.feed_due:
                        self.feed_due = True
                        self.feed_due_at = seconds()
                        self.await_feed()
                    return
                self.feed.muted = True
            self.confirm_due = False
            self.cut_at = 0
            if self.router.confirm is not None:
                self.router.confirm(self.index, self.generation)

    cdef bint refuses(self, Request r):
        """Answer a write that too few copies would have; only at an open gate, otherwise nobody knows the set."""
        if not r.write or not self.mine or not self.commit.has_too_few() or not self.may_serve():
            return False
        self.router.counters.noreplicas += 1
        in_sync = min(self.commit.copies, self.commit.in_sync)
        self.router.fail(r, too_few_error(self.index, in_sync, self.router.min_in_sync))
        return True

    cdef void take_over(self, uint64_t generation, bint patient, list required):
        """The agent says that the gate record is now at this generation, and which copies are `required` from now on,
        for what is held as well; None: the same as before.

        What is in flight at a gate that is shut is given up after a moment, unless the agent is `patient`: it rather
        opens the gate again, at a newer generation, which a reply that comes then does not mind.
        """
        cdef Gate gate = self.read()
        if gate.generation == generation:
            self.deadline_ns = gate.deadline_ns
        self.generation = generation
        if required is not None:
            self.commit.use_required(required)
            self.commit.judge()
        if gate.generation == generation and gate.gate_epoch and gate.gate_epoch >= gate.seen_epoch:
            self.confirm_due = self.feed_due = False
            self.cut_at = 0
            if self.router.confirm is not None:
                self.router.confirm(self.index, generation)
            if self.feed is not None or self.router.hub.active():
                self.attach()
            self.release()
            self.commit.begin()
            return
        self.commit.acked = {}
        self.attaching = self.feed_due = False
        self.feed_number += 1
        self.confirm_due = True
        self.cut_at = 0 if patient else seconds() + GATE_DRAIN_S
        if self.engine is not None:
            self.engine.flush_all()
        self.end_privates(patient)
        self.confirm_when_idle()
        self.router.hurry()

    cdef void attach(self):
        """The gate has opened: what is published from now on must be heard."""
        self.router.hub.listen_here(self)
        if self.feed is None or (self.feed.settled and not self.feed.muted):
            return
        self.attaching = True
        self.attach_until = seconds() + ATTACH_S
        self.await_feed()
        self.router.hurry()

    cdef void await_feed(self):
        """When everything is heard that is published before now."""
        self.feed_number += 1
        if self.feed.is_ready:
            self.feed.ask(b"", [(self, self.feed_number)])
        else:
            self.feed.early.append((self, self.feed_number))

    cdef bint is_deaf(self):
        """Is the feed muted while the gate is open, and nobody waits for it? The record could not be read when it was."""
        return (
            self.feed.settled
            and self.feed.muted
            and not self.attaching
            and not self.confirm_due
            and self.feed.idle()
            and self.may_serve()
        )

    cdef void heard_all(self, uint64_t number):
        """It is; at a gate that was shut since, or opened since, another answer counts."""
        if number != self.feed_number or self.feed is None:
            return
        if self.feed_due:
            self.feed_due = False
            self.feed.muted = True
            self.confirm_when_idle()
        else:
            if self.feed.muted:
                self.feed.muted = False
                self.router.hub.all_changed(False)
            self.stop_attaching()

    cdef void stop_attaching(self):
        """Take commands, listened to or not."""
        if self.attaching:
            self.attaching = False
            self.release()

    cdef void release(self):
        """Send what is parked, as far as the owner takes it."""
        cdef Backend b
        cdef Request r
        cdef Line line
        if self.inflight > 0 or (self.refused.head is None and self.waiting.head is None):
            return
        if self.attaching or seconds() < self.hold_until or (self.owner is not None and self.mine and not self.may_serve()):
            return
        while True:
            line = self.refused if self.refused.head is not None else self.waiting
            r = line.head
            if r is None:
                return
            if r.client.closed:
                self.unpark(line.pop())
                continue
            if r.client.cluster and not r.keyless and self.owner is not None and not self.at_home():
                self.unpark(line.pop())
                self.router.fail(r, self.router.moved(r.slot, self))
                continue
            b = self.owner.ready(r.proto) if self.owner is not None else None
            if b is None:
                return
            line.pop()
            self.unpark(r)
            if self.router.sync and self.refuses(r):
                continue
            if r.link or (self.router.large_in[r.slot] and goes_apart(r)):
                self.send_alone(b, r, PyBytes_AS_STRING(r.chunk) + r.at, r.len)
            else:
                b.add(r, PyBytes_AS_STRING(r.chunk) + r.at, r.len)
            if self.probing and not (r.link and r.large and not self.mine and self.hold_s < REFUSED_MAX_S):
                return

    cdef void expire(self, double now):
        """Answer what has been parked for too long. While something is in flight what comes later must not pass what a peer
        refuses, even if who sent the first of that is gone."""
        cdef Request r
        cdef Line line
        for line in (self.refused, self.waiting):
            while line.head is not None and (
                (line.head.client.closed and self.inflight == 0)
                or now - line.head.parked_at > self.router.park_timeout
                or 0 < line.head.until < now
            ):
                r = line.pop()
                self.unpark(r)
                if r.client.closed:
                    continue
                if 0 < r.until < now:
                    self.router.fail(r, null_of(r))
                else:
                    self.router.counters.tryagain += 1
                    self.router.fail(r, timeout_error(self.index, now - r.parked_at))
