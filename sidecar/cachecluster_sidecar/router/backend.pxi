# Pipelined connections to engines and peers.

cdef bytes KNOWS_PIECES = b"+OK pieces\r\n"
TOO_LONG_FOR_PEER = b"-ERR a transaction, or a command without a key, that another pod executes has at most 512 MiB in all\r\n"


@cython.final
cdef class Target:
    """A place that commands go to, with a connection for each RESP version, made when it is first needed."""

    def __init__(self, Router router, str name, object address, int partition=-1, str uid=None):
        self.router = router
        self.name = name
        self.address = address
        self.partition = partition
        self.uid = uid

    cdef Backend ready(self, int proto):
        """The connection in this RESP version; None when there is none yet: then one is being made."""
        cdef Backend b = self.three if proto == 3 else self.two
        if b is None:
            if seconds() >= self.retry_at and (self.partition < 0 or not self.router.stopping):
                self.dial(proto)
            return None
        return b if b.is_ready else None

    cdef void dial(self, int proto):
        cdef Backend b = (Reader if self.reads else Backend)(self.router, self, proto)
        if proto == 3:
            self.three = b
        else:
            self.two = b
        self.router.connect(b)

    cdef bint answers(self):
        """Is it connected, or not tried in vain yet? When it is not connected it is tried (again), for who asks next."""
        if (self.two is not None and self.two.is_ready) or (self.three is not None and self.three.is_ready):
            return True
        if self.two is None:
            self.ready(2)
        return self.backoff == 0

    cdef void drop(self, Backend b):
        """Forget a connection that ended; the next is made after a growing pause."""
        if self.two is b:
            self.two = None
        if self.three is b:
            self.three = None
        self.backoff = min(self.backoff * 2, RETRY_MAX_S) if self.backoff else RETRY_FIRST_S
        self.retry_at = seconds() + self.backoff

    cdef void flush_all(self):
        if self.two is not None:
            self.two.flush()
        if self.three is not None:
            self.three.flush()

    cdef bint idle(self):
        """Is nothing sent or about to be?"""
        return (self.two is None or self.two.idle()) and (self.three is None or self.three.idle())

    cdef void close(self, str reason):
        if self.two is not None:
            self.two.lose(reason)
        if self.three is not None:
            self.three.lose(reason)


cdef class Backend:
    """One connection: commands go out in batches, replies are matched first-in first-out."""

    def __init__(self, Router router, Target target, int proto):
        self.router = router
        self.target = target
        self.proto = proto
        self.unsent = Line()
        self.sent = Line()
        self.heard = seconds()

    def __dealloc__(self):
        buf_free(&self.rest)
        buf_free(&self.out)

    def connection_made(self, transport):
        if self.closed:
            transport.abort()
            return
        self.transport = transport
        transport.set_write_buffer_limits(high=OUTPUT_PAUSE_BYTES)

    def greet(self, bytes greeting):
        """Send the first bytes of this connection; their one reply makes it ready or ends it."""
        cdef Request r = Request.__new__(Request)
        if self.closed:
            return
        r.internal = HELLO_REPLY
        self.sent.push(r)
        self.transport.write(greeting)

    def failed(self, str reason):
        """The connection could not be made."""
        self.lose(reason)
        self.router.settle_touched()

    def connection_lost(self, error):
        self.lose("the connection broke")
        self.router.settle_touched()

    def eof_received(self):
        return False

    def pause_writing(self):
        self.write_paused = True

    def resume_writing(self):
        self.write_paused = False
        self.flush()
        self.let_go()
        self.router.settle_touched()

    cdef void let_go(self):
        """Read again the clients that waited for this connection."""
        cdef Client c
        cdef list stalled = self.stalled
        self.stalled = None
        if stalled is not None:
            for c in stalled:
                c.stalled = False
                c.touch()

    cdef bint idle(self):
        return self.sent.head is None and self.unsent.head is None and not self.held and not self.away

    cdef void add(self, Request r, const char* frame, Py_ssize_t n):
        """Add a command to this tick's batch."""
        cdef Partition p = <Partition>self.router.lines[r.partition]
        cdef bytes understood
        if self.refused is not None and r.partition in self.refused:
            self.resume(r.partition)
        if r.scans:
            understood = with_cursors_of(self.target, p, r, frame, n)
            if understood is not None:
                frame, n = PyBytes_AS_STRING(understood), PyBytes_GET_SIZE(understood)
        if r.keyless or r.link:
            if n > <Py_ssize_t>WRAPPED_MAX_BYTES and self.target.partition < 0:
                self.cannot_wrap(r, frame, n)
                return
            self.add_wrapped(r, frame, n)
        else:
            r.at = self.out.len
            buf_add(&self.out, frame, n)
        r.len = n
        self.unsent.push(r)
        self.went(p)
        if not self.scheduled:
            self.schedule()
        if self.write_paused and self.out.len > C_BACKEND_PAUSE and r.client is not None and not r.client.stalled:
            r.client.stalled = True
            if self.stalled is None:
                self.stalled = []
            self.stalled.append(r.client)

    cdef void add_wrapped(self, Request r, const char* frame, Py_ssize_t n):
        """A command that does not tell its partition or its private connection, or several in one piece: as they are for
        an engine, in one request of our own for a peer."""
        cdef bint wrapped = self.target.partition < 0
        r.refused = None
        r.to_skip = 0 if wrapped else r.queued
        if wrapped:
            buf_add_bytes(&self.out, head_for_peer(r, n))
        r.at = self.out.len
        buf_add(&self.out, frame, n)
        if wrapped:
            buf_add(&self.out, b"\r\n", 2)

    cdef void cannot_wrap(self, Request r, const char* frame, Py_ssize_t n):
        """The peer would take it for a mistake of ours, and end the connection."""
        self.router.fail(r, TOO_LONG_FOR_PEER)

    cdef void resume(self, int partition):
        """Tell the peer that what it refused comes again now, from the first refused on."""
        self.refused.discard(partition)
        self.say([b"CACHECLUSTER", b"RESUME", b"%d" % partition])

    cdef void say(self, list words):
        """Add a word of our own to this tick's batch."""
        self.say_frame(encode_request(words))

    cdef void say_frame(self, bytes frame):
        """Add bytes of our own that have one reply."""
        cdef Request r = Request.__new__(Request)
        if self.closed:
            return
        r.internal = WORD_REPLY
        r.at = self.out.len
        r.len = len(frame)
        buf_add_bytes(&self.out, frame)
        self.unsent.push(r)
        if not self.scheduled:
            self.schedule()

    cdef void schedule(self):
        self.scheduled = True
        self.router.dirty.append(self)
        self.router.schedule_flush()

    cdef void flush(self):
        """Write the batch, if the gate (of a local engine) lets it pass at this instant."""
        cdef bytes chunk
        cdef Partition p
        self.scheduled = False
        if self.closed or self.out.len == 0 or self.write_paused or not self.is_ready:
            return
        if self.transport.is_closing():
            return  # what never leaves is not taken for sent
        if self.target.partition >= 0 and not self.control:
            p = <Partition>self.router.lines[self.target.partition]
            if not p.may_serve():
                self.evict(p)
                return
        chunk = self.take_batch()
        if self.sent.head is None:
            self.heard = seconds()
            self.sent.head = self.unsent.head
        else:
            self.sent.tail.follower = self.unsent.head
        self.sent.tail = self.unsent.tail
        self.unsent.head = self.unsent.tail = None
        self.router.counters.bytes_out += len(chunk)
        self.transport.write(chunk)

    cdef bytes take_batch(self):
        """The batch as one object, which its requests keep: they may have to be sent again."""
        cdef bytes chunk = PyBytes_FromStringAndSize(self.out.p, self.out.len)
        cdef Request r = self.unsent.head
        while r is not None:
            r.chunk = chunk
            r = r.follower
        self.out.len = 0
        if self.out.cap > C_BACKEND_PAUSE:
            buf_free(&self.out)
        return chunk

    cdef void evict(self, Partition p):
        """The gate is not open: what was never sent waits (for a peer: is refused)."""
        self.take_batch()
        self.take_back(self.unsent)
        self.let_go()
        p.left_flight()

    cdef void take_back(self, Line line):
        """Commands that the target has certainly not executed leave the line: parked again, or refused to a peer."""
        cdef Request r = line.pop()
        while r is not None:
            if r.internal == NOT_INTERNAL:
                self.left(<Partition>self.router.lines[r.partition])
                self.give_back(r)
            r = line.pop()

    cdef void give_back(self, Request r):
        """This one was certainly not executed."""
        if r.client.closed:
            return
        (<Partition>self.router.lines[r.partition]).send_again(r)

    cdef void went(self, Partition p):
        """A command of the partition is in flight here."""
        p.inflight += 1
        p.carrier = self.target

    cdef void left(self, Partition p):
        """It is no more."""
        p.inflight -= 1

    def get_buffer(self, sizehint):
        if self.rest.len == 0:
            return self.router.shared_view
        buf_reserve(&self.rest, max(65536, self.rest.len))
        return PyMemoryView_FromMemory(self.rest.p + self.rest.len, self.rest.cap - self.rest.len, PyBUF_WRITE)

    def buffer_updated(self, Py_ssize_t n):
        cdef Py_ssize_t done
        self.router.counters.bytes_in += n
        self.heard = seconds()
        if self.closed:
            return
        if self.rest.len == 0:
            done = self.take_replies(self.router.shared_p, n)
            if done < n and not self.closed:
                buf_add(&self.rest, self.router.shared_p + done, n - done)
        else:
            self.rest.len += n
            done = self.take_replies(self.rest.p, self.rest.len)
            buf_consume(&self.rest, done)
            if self.rest.len == 0:
                buf_free(&self.rest)
        self.router.settle_touched()

    cdef Py_ssize_t take_replies(self, const char* p, Py_ssize_t n):
        """Match complete replies with what was sent; returns how many bytes they took."""
        cdef Py_ssize_t start = 0
        cdef const char* frame
        cdef Py_ssize_t length
        cdef Request r
        cdef list late = None
        cdef int scanned
        if self.dropping:
            start = self.drop(p, n)
            if self.dropping or self.closed:
                return start
        if self.target.partition >= 0 and self.is_ready:
            if not (<Partition>self.router.lines[self.target.partition]).may_release():
                late = []
        while start < n:
            scanned = scan_reply(&self.scan, p + start, n - start)
            if scanned == SCAN_INCOMPLETE:
                if self.scan.want > C_LARGE or n - start > C_LARGE:
                    start += self.take_large(p + start, n - start, late is not None)
                break
            frame = p + start
            length = self.scan.pos
            start += length
            reply_scan_reset(&self.scan)
            if scanned != SCAN_ERROR and frame[0] == c">":
                if self.listens:
                    self.take_push(frame, length)
                elif self.held or self.away:
                    self.take_held(frame, length)
                continue
            r = self.sent.head if scanned != SCAN_ERROR else None
            if r is not None and r.to_skip > 0:
                if skip_reply(r, frame, length):
                    continue
                r = None
            if r is None:
                self.give_up_late(late)
                self.lose("it sent what is no reply")
                return n
            self.sent.pop()
            self.take_reply(r, frame, length, late)
            if self.closed:
                return n
        self.give_up_late(late)
        if self.router.sync and self.target.partition >= 0 and self.is_ready:
            (<Partition>self.router.lines[self.target.partition]).commit.begin()
        return start

    cdef Py_ssize_t take_large(self, const char* p, Py_ssize_t n, bint late):
        """The reply that is coming is large. If it can be asked for again, on a connection of its client's own, or nobody
        wants it any more, then this one is dropped; returns how much of it. 0: it is kept until it is complete.

        Where much of it is still to come, and nothing is lost by that, the connection is dropped with it, so that nobody
        waits until it has come; not again and again, for what the others have asked there must be asked again."""
        cdef Request r = self.sent.head
        cdef Partition of
        cdef bint much = self.scan.want - n > C_LARGE_REST
        if late or self.target.partition < 0 or r is None or p[0] == c">" or r.internal != NOT_INTERNAL:
            return 0
        if not (r.client.closed or r.unwanted or may_tell_peer(self, r) or may_ask_apart(r)):
            return 0
        self.dropping = True
        reply_scan_reset(&self.scan)
        self.sent.pop()
        of = <Partition>self.router.lines[r.partition]
        self.left(of)
        of.taken()
        if much and of.commit.count == 0 and seconds() > self.target.dropped_at + DROP_PAUSE_S and only_read(self.sent):
            self.target.dropped_at = seconds()
            self.lose("a large reply is asked for again on another one")
            self.target.retry_at = self.target.backoff = 0
            self.target.ready(self.proto)
        if r.unwanted:
            self.give_back(r)
        elif is_shared_peer(r.client):
            tell_peer(self, r)
        elif not r.client.closed:
            ask_apart(r)
        if of.inflight == 0:
            of.left_flight()
        return n if self.closed else self.drop(p, n)

    cdef Py_ssize_t drop(self, const char* p, Py_ssize_t n):
        cdef Py_ssize_t done = pass_reply(&self.scan, p, n)
        if done < 0:
            self.lose("it sent what is no reply")
            return n
        if self.scan.pending == 0:
            self.dropping = False
            reply_scan_reset(&self.scan)
        return done

    cdef void give_up_late(self, list late):
        """These replies came after the deadline. What was not sent yet goes back as well: a read that is asked again
        must not be overtaken by what came after it."""
        if late:
            self.router.give_up_sent(self, late, self.sent, "the pod's authority ended")
            self.evict(<Partition>self.router.lines[self.target.partition])
            if self.apart and not self.control:
                (<Relay>self).end(False)

    cdef void take_reply(self, Request r, const char* frame, Py_ssize_t n, list late):
        cdef Partition p
        cdef bytes aborted, tagged
        cdef bint alone, held
        if r.internal != NOT_INTERNAL:
            self.take_internal(r, frame, n)
            return
        p = <Partition>self.router.lines[r.partition]
        alone = r.link > 0 and self.target.partition >= 0
        if late is not None:
            late.append(r)
            return
        if r.refused is not None:
            aborted = abort_reason(r)
            frame, n = PyBytes_AS_STRING(aborted), PyBytes_GET_SIZE(aborted)
        if r.tag:
            tagged = with_tagged_cursors(p, r, frame, n)
            frame, n = PyBytes_AS_STRING(tagged), PyBytes_GET_SIZE(tagged)
        self.left(p)
        if r.unwanted:
            p.taken()
            self.give_back(r)
        elif frame[0] == c"-" and n > 8 and memcmp(frame, b"-CC", 3) == 0 and self.take_word(r, p, frame, n):
            pass
        elif alone and (<Private>self).sends_back(frame, n):
            (<Private>self).take_unblocked(r)
        else:
            if self.apart and r.large:
                forget_large(self.router, r.large)
            held = self.router.sync and self.target.partition >= 0 and p.commit.holds(r)
            p.taken()
            if held:
                p.commit.hold(r, frame, n)
            else:
                self.router.deliver(r, frame, n)
        if p.inflight == 0:
            p.left_flight()
        if r.link and self.apart:
            (<Relay>self).answered()

    cdef bint take_word(self, Request r, Partition p, const char* frame, Py_ssize_t n):
        """An error that is a word between routers: a peer's refusal, or its word that the reply will come later."""
        cdef bint refusal = memcmp(frame, b"-CCGATE ", 8) == 0
        cdef bint large = memcmp(frame, b"-CCLARGE ", 9) == 0 and (self.target.partition >= 0 or self.target.pieces)
        if r.link and self.target.partition < 0 and take_link_word(r, self.target, frame, n):
            return True
        if not refusal and not large and memcmp(frame, b"-CCHELD ", 8) != 0:
            return False
        if self.target.partition >= 0:
            # An engine's own words (a script's error) must not look like that to the router that sent the command.
            self.router.fail(r, b"-ERR " + PyBytes_FromStringAndSize(frame + 1, n - 1))
        elif refusal:
            self.take_refusal(r, p)
        elif large:
            self.take_largeness(r, p)
        else:
            p.taken()
            if r.link:
                if self.away is None:
                    self.away = {}
                if PyBytes_GET_SIZE(r.chunk) > 2 * r.len + 4096:
                    r.chunk = r.frame()
                    r.at = 0
                self.away[strtoll(frame + 8, NULL, 10)] = r
            else:
                if self.held is None:
                    self.held = {}
                self.held[strtoll(frame + 8, NULL, 10)] = r
        return True

    cdef void take_held(self, const char* frame, Py_ssize_t n):
        """A push of a peer: the number that it gave in place of a reply, and now the reply."""
        cdef Py_ssize_t at = 5
        cdef Request r = None
        if n < 8 or memcmp(frame, b">2\r\n:", 5) != 0:
            return
        ticket = strtoll(frame + at, NULL, 10)
        while frame[at] != c"\n":
            at += 1
        at += 1
        if self.held:
            r = self.held.pop(ticket, None)
        if r is None and self.away:
            r = self.away.pop(ticket, None)
            if r is not None and frame[at] == c"-" and take_link_word(r, self.target, frame + at, n - at):
                return
        if r is not None:
            self.router.deliver(r, frame + at, n - at)

    cdef void take_push(self, const char* frame, Py_ssize_t n):
        """A push of another kind than that."""

    cdef void take_refusal(self, Request r, Partition p):
        """The peer's gate was not open: the command was not executed and waits to be sent again; for a moment, unless
        another one owns the partition by now."""
        if self.refused is None:
            self.refused = set()
        self.refused.add(r.partition)
        if p.owner is self.target:
            p.hold_back()
        self.router.counters.retried += not r.client.closed
        p.send_again(r)

    cdef void take_largeness(self, Request r, Partition p):
        """The peer has not executed this read, nor anything behind it, for its reply is large."""
        if self.refused is None:
            self.refused = set()
        self.refused.add(r.partition)
        if p.inflight > 0:
            p.probing = True  # what is refused behind it goes before what comes now
        if may_ask_apart(r):
            prefer_apart(r)
        elif not r.client.closed:
            if is_plain_read(r):
                remember_large(self.router, number_of(r), r.slot)
            keep_whole(r)
        p.send_again(r)

    cdef void take_internal(self, Request r, const char* frame, Py_ssize_t n):
        cdef bytes text
        if r.internal == WORD_REPLY and (self.control or frame[0] != c"-"):
            return
        if frame[0] == c"-":
            text = PyBytes_FromStringAndSize(frame + 1, n - 3)
            log.warning("%s answered our greeting: %s", self.target.name, text.decode(errors="replace"))
            self.lose("the greeting was refused")
        elif r.internal == HELLO_REPLY:
            self.is_ready = True
            self.greeted(PyBytes_FromStringAndSize(frame, n))

    cdef void greeted(self, bytes reply):
        """It is ready."""
        self.target.backoff = 0
        self.target.pieces = reply == KNOWS_PIECES and not self.target.reads
        if self.target.pieces:
            self.say([b"CACHECLUSTER", b"PIECES"])
        self.router.target_ready(self.target)

    cdef void ended(self, str reason):
        """It is being lost."""
        self.target.drop(self)

    cdef void lose(self, str reason):
        """End this connection; what it carried is parked again where that is safe, and answered otherwise."""
        cdef Line unsent = self.unsent
        cdef Request r
        cdef Partition p
        cdef int index
        cdef list lost = []
        if self.closed:
            return
        self.closed = True
        self.take_batch()
        self.ended(reason)
        self.is_ready = False
        if self.transport is not None:
            self.transport.abort()
        for pending in (self.held, self.away):
            if pending:
                for r in pending.values():
                    (<Partition>self.router.lines[r.partition]).inflight += 1
                    lost.append(r)
        self.held = self.away = None
        r = self.sent.pop()
        while r is not None:
            if r.internal == NOT_INTERNAL:
                lost.append(r)
            r = self.sent.pop()
        self.unsent = Line()
        touched = set(lost_partitions(lost) + line_partitions(unsent))
        self.router.give_up_sent(self, lost, None, f"the connection to {self.target.name} ended ({reason})")
        self.take_back(unsent)
        self.let_go()
        if self.target.partition >= 0 and not self.apart:
            p = <Partition>self.router.lines[self.target.partition]
            if p.engine is self.target:
                p.commit.reset("the connection to the engine ended")
        for index in touched:
            (<Partition>self.router.lines[index]).left_flight()


cdef list lost_partitions(list requests):
    cdef Request r
    cdef list found = []
    for r in requests:
        found.append(r.partition)
    return found


cdef bint only_read(Line line):
    """Are there only commands in it that can be sent again?"""
    cdef Request r = line.head
    while r is not None:
        if r.internal != NOT_INTERNAL or r.write:
            return False
        r = r.follower
    return True


cdef list line_partitions(Line line):
    cdef Request r = line.head
    cdef list found = []
    while r is not None:
        if r.internal == NOT_INTERNAL:
            found.append(r.partition)
        r = r.follower
    return found
