# Connections of clients and of peer routers: reading, replies in order, back-pressure.


cdef class Client:
    """One connection to a port of ours. Replies leave in the order of the commands."""

    def __init__(self, Router router, bint cluster):
        self.router = router
        self.cluster = cluster
        self.proto = 2
        request_scan_reset(&self.scan)

    def __dealloc__(self):
        buf_free(&self.rest)
        buf_free(&self.out)

    def connection_made(self, transport):
        self.transport = transport
        self.stirred = True
        transport.set_write_buffer_limits(high=OUTPUT_PAUSE_BYTES)
        keep_alive(transport.get_extra_info("socket"))
        self.account = self.router.account_of("default", nobody=True)
        self.id = self.router.admit(self)
        if self.id == 0:
            if self.cluster and self.router.admit_peer(self):
                self.over_limit = True
                return
            self.closing = True
            self.reply(b"-ERR max number of clients reached\r\n")
            self.router.settle_touched()

    def connection_lost(self, error):
        cdef Request r = self.head
        cdef Request after
        self.closed = True
        self.router.dismiss(self)
        while r is not None:
            after = r.next
            r.next = None
            r = after
        self.head = self.tail = self.waits = self.upload = None
        self.forget_transaction()
        self.stop_monitoring()
        self.router.hub.leave(self)
        self.router.hub.untrack(self)
        if self.links is not None:
            for number in list(self.links):
                self.end_link(number)
        buf_free(&self.rest)
        buf_free(&self.out)

    def eof_received(self):
        """No more commands will come; those outstanding are still answered, but nobody waits in an engine any more."""
        if self.waits_in_engine():
            self.transport.abort()
        self.closing = self.ended = True
        self.touch()
        self.router.settle_touched()
        return True

    def pause_writing(self):
        self.write_paused = True
        if self.source is not None:
            self.source.pause()
        if not self.blocked:
            self.block()

    def resume_writing(self):
        self.write_paused = False
        if self.source is not None:
            self.source.go_on()
        self.touch()
        self.router.settle_touched()

    def become_peer(self, int proto):
        """This connection has proved to be a router of another pod."""
        if not self.peer:
            self.router.count_peer(self)
        self.peer = True
        self.account = None
        self.proto = proto
        self.over_limit = False

    def show_or_go(self):
        """There was time to prove to be a peer: a client beyond the limit must not keep peers out."""
        if self.over_limit and not self.closed:
            self.closing = True
            self.transport.abort()

    def set_proto(self, int proto):
        """The client chose a RESP version."""
        self.proto = proto

    def forget_transaction(self):
        """What it has queued since its MULTI is not executed, and what it watches does not matter any more."""
        if self.queue is not None:
            self.queue.forget(self.router)
            self.queue = None
        self.forget_watch()

    @property
    def queued(self):
        """How many commands it has queued since its MULTI; -1 outside a transaction."""
        return -1 if self.queue is None else len(self.queue.frames)

    cdef bint waits_in_engine(self):
        """Is it blocked by a command that waits for something to come?"""
        return self.head is not None and self.head.blocks

    def unblock_with(self, bytes how):
        """End what it waits for in an engine: as if its time were over (TIMEOUT) or with an error (ERROR). False: it does
        not wait."""
        return self.end_wait(how)

    cdef bint end_wait(self, bytes how):
        cdef Request r = self.head, part
        cdef bint found = False
        if r is None or not r.blocks:
            return False
        if r.link:
            return self.end_waiting(r, how)
        for part in self.waits or ():
            found = self.end_waiting(part, how) or found
        if found:
            for part in self.waits or ():
                part.until = seconds()
        return found

    cdef bint end_waiting(self, Request r, bytes how):
        """The same for one command, or one part of it."""
        cdef Backend b
        b = self.links.get(r.link) if self.links is not None else None
        if how == b"TIMEOUT":
            r.until = seconds()
        if b is None or isinstance(b, Passage):
            return how == b"TIMEOUT"
        if b.apart:
            (<Private>b).unblock(how, True)
        else:
            b.say([b"CACHECLUSTER", b"UNBLOCK", b"%d" % r.link, how])
        return True

    def unblock_link(self, uint64_t number, bytes how):
        """The peer says so for what its client waits for."""
        cdef Backend b = self.links.get(number) if self.links is not None else None
        if b is not None:
            (<Private>b).unblock(how, True)

    def drop_link(self, uint64_t number):
        """The peer needs this private connection no more."""
        self.end_link(number)

    cdef void end_link(self, uint64_t number):
        """Close a private connection: our own, or the peer's that it has there."""
        cdef Backend b = self.links.pop(number, None) if self.links is not None else None
        if b is None or b.closed:
            return
        if b.apart:
            (<Relay>b).end(False)
        else:
            b.say([b"CACHECLUSTER", b"OFF", b"%d" % number])

    cdef void forget_watch(self):
        """It watches nothing any more."""
        if self.watching:
            self.watching = self.spoiled = False
            self.end_link(2 * self.id)

    def stop_listening(self):
        """End all its subscriptions, without a word."""
        self.router.hub.leave(self)

    def stop_tracking(self):
        """It is told of no change any more."""
        self.router.hub.untrack(self)

    def monitor(self):
        """MONITOR: it is shown every command of this router's clients from now on."""
        if self.router.monitors is None:
            self.router.monitors = set()
        self.router.monitors.add(self)
        self.monitors = True

    def stop_monitoring(self):
        """It is shown nothing any more."""
        if self.monitors:
            self.monitors = False
            self.router.monitors.discard(self)
            if not self.router.monitors:
                self.router.monitors = None

    cdef void show_line(self, bytes line):
        """A line for MONITOR, behind what has been answered."""
        if self.closed or self.half_closed or self.muted < 0:
            return
        if self.source is not None:
            self.keep_behind(line)
            return
        buf_add_bytes(&self.out, line)
        self.touch()

    def unwatch(self):
        """UNWATCH."""
        self.forget_watch()

    def ungate(self, int partition):
        """The peer sends again what was refused."""
        if self.gated is not None:
            self.gated.discard(partition)

    def close_when_done(self):
        """Read no more, and close once everything outstanding is answered."""
        self.closing = self.ended = True
        self.touch()

    def leave(self, bint now=False):
        """Serve on until nothing is outstanding (`now`: serve nothing more that comes), then tell the client that
        nothing more will come.

        Only what the client sends in that very moment is lost, and was not executed. The connection stays until the
        client closes it: to close it here, with something unread, could take the last replies from the client.
        """
        self.leaving = True
        self.closing = self.closing or now
        self.end_wait(b"TIMEOUT")
        self.touch()

    @property
    def gone(self):
        """Has the client been sent everything, and been told that nothing more will come?"""
        return self.closed or (self.half_closed and self.transport.get_write_buffer_size() == 0)

    @property
    def idle(self):
        """Is nothing outstanding?"""
        return self.served()

    cdef bint served(self):
        """Has everything that came been answered?"""
        return self.head is None and self.owed == 0

    cdef void gate(self, int partition):
        """Refuse every command of this partition until the peer's RESUME."""
        if self.gated is None:
            self.gated = set()
        self.gated.add(partition)

    def get_buffer(self, sizehint):
        if self.rest.len == 0:
            return self.router.shared_view
        buf_reserve(&self.rest, max(16384, min(self.rest.len, 4194304)))
        return PyMemoryView_FromMemory(self.rest.p + self.rest.len, self.rest.cap - self.rest.len, PyBUF_WRITE)

    def buffer_updated(self, Py_ssize_t n):
        self.router.counters.bytes_in += n
        self.reads += 1
        self.stirred = True
        if self.closing or self.closed:
            return
        if self.rest.len == 0:
            self.take_in(n)
        else:
            self.rest.len += n
            self.take_rest()
            if self.rest.len > C_MAX_UNKNOWN and is_nobody(self):
                self.router.counters.protocol += 1
                self.refuse(TOO_LONG_FOR_NOBODY)
                self.closing = True
        if self.blocked and self.rest.len > C_OUTPUT_PAUSE:
            self.transport.pause_reading()
        if self.leaving:
            self.touch()
        self.router.settle_touched()

    cdef void take_in(self, Py_ssize_t n):
        """Parse what came into the shared buffer; keep what is incomplete."""
        cdef Py_ssize_t done = 0 if self.blocked else self.parse(self.router.shared_p, n)
        if done < n and not self.closing:
            buf_add(&self.rest, self.router.shared_p + done, n - done)

    cdef void take_rest(self):
        """Parse what was kept."""
        cdef Py_ssize_t done
        if self.blocked or self.rest.len == 0:
            return
        done = self.parse(self.rest.p, self.rest.len)
        buf_consume(&self.rest, self.rest.len if self.closing else done)
        if self.rest.len == 0:
            buf_free(&self.rest)

    cdef Py_ssize_t parse(self, const char* p, Py_ssize_t n):
        """Serve the complete requests at p; returns how many bytes they took."""
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t most = C_MAX_REQUEST if self.peer else self.router.request_max
        cdef int scanned
        cdef bint served
        while start < n and not self.blocked and not self.closing:
            if self.upload is not None:
                start += pass_upload(self, p + start, n - start)
                if self.upload is not None:
                    break
                if self.must_wait():
                    self.block()
                continue
            scanned = scan_request(&self.scan, p + start, n - start)
            if (n - start if scanned == SCAN_INCOMPLETE else self.scan.pos) > most:
                log.warning("client %d sent a request of more than %d bytes: disconnected", self.id, most)
                if not self.peer:
                    self.router.counters.too_large += 1
                self.refuse(b"-ERR Protocol error: a request has more than %d bytes\r\n" % most)
                self.closing = True
                break
            if scanned == SCAN_INCOMPLETE:
                if self.scan.want > C_LARGE_REQUEST and n - start > C_LARGE and begins_upload(self, p + start):
                    continue
                break
            if scanned == SCAN_ERROR:
                self.router.counters.protocol += 1
                self.refuse(request_error(&self.scan))
                self.closing = True
                break
            served = True
            if scanned == SCAN_INLINE:
                served = self.inline(p + start, self.scan.pos)
            elif self.scan.argc > 0:
                served = self.serve_shown(p + start, self.scan.pos)
            if not served:
                if self.tracking is not None:
                    self.tracking.again()
                request_scan_reset(&self.scan)
                self.barrier = True
                self.block()
                break
            start += self.scan.pos
            request_scan_reset(&self.scan)
            if self.must_wait():
                self.block()
        return start

    cdef bint serve_shown(self, const char* frame, Py_ssize_t n):
        """Serve a request, and show it to those that monitor."""
        cdef bint served
        self.denied = False
        served = serve(self, frame, n)
        if served and self.router.monitors is not None and not self.peer and not self.denied:
            self.router.show(self, frame)
        return served

    cdef bint inline(self, const char* p, Py_ssize_t n):
        """An inline request: as if its words had come as a request of their own."""
        cdef Py_ssize_t end = n - 1
        cdef bytes frame
        cdef bint served = True
        if end > 0 and p[end - 1] == c"\r":
            end -= 1
        frame = inline_to_request(PyBytes_FromStringAndSize(p, end))
        if frame is None:
            self.router.counters.protocol += 1
            self.refuse(b"-ERR Protocol error: unbalanced quotes in request\r\n")
            self.closing = True
        elif frame:
            request_scan_reset(&self.scan)
            scan_request(&self.scan, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
            served = self.serve_shown(PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
        self.scan.pos = n
        return served

    def mute(self, int replies):
        """CLIENT REPLY: do not send the next replies, or any (-1)."""
        self.muted = replies

    cdef bint mutes(self):
        """Is the reply to the command that came now not sent?"""
        if self.muted > 0:
            self.muted -= 1
            return True
        return self.muted < 0

    cdef Request append(self):
        """A new request at the end of this client's order."""
        cdef Request r = Request.__new__(Request)
        r.client = self
        r.proto = self.proto
        self.came += 1
        if self.muted:
            r.mute = self.mutes()
        if self.tail is None:
            self.head = r
        else:
            self.tail.next = r
        self.tail = r
        self.outstanding += 1
        if not self.peer:
            self.router.sample += 1
        if not self.peer and self.router.sample & C_LATENCY_MASK == 0:
            r.started_ns = cc_monotonic_ns()
            if self.command != NULL:
                r.family = self.command.family
        return r

    cdef void give_ticket(self, Request r):
        """Tell this peer, in the turn of the command, that its reply will come later: what is behind it shall not wait."""
        cdef bytes word
        self.tickets += 1
        self.owed += 1
        r.ticket = self.tickets
        word = b"-CCHELD %d\r\n" % r.ticket
        self.deliver(r, PyBytes_AS_STRING(word), PyBytes_GET_SIZE(word))

    cdef void reply(self, bytes data):
        """A reply made here, in its turn."""
        cdef Request r
        if self.head is None:
            if not self.muted or not self.mutes():
                buf_add_bytes(&self.out, data)
            self.touch()
            return
        r = self.append()
        self.hold(r, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef void push(self, const char* p, Py_ssize_t n):
        """A message that it has subscribed to, between two replies. `p` is a push of RESP3."""
        cdef Py_ssize_t at = self.out.len
        if self.closed or self.half_closed:
            return
        if self.source is not None:
            self.router.counters.messages += 1
            self.keep_behind((b"*" if self.proto == 2 else b">") + PyBytes_FromStringAndSize(p + 1, n - 1))
            return
        buf_add(&self.out, p, n)
        if self.proto == 2:
            self.out.p[at] = c"*"
        self.router.counters.messages += 1
        self.touch()

    cdef void push_behind(self, bytes data):
        """A push behind all replies that are outstanding; one that waits in an engine has none that matters."""
        cdef Request r = self.tail
        if self.closed or self.half_closed:
            return
        self.router.counters.messages += 1
        if r is None or self.waits_in_engine():
            buf_add_bytes(&self.out, data)
            self.touch()
            return
        self.keep_behind(data)

    cdef void keep_behind(self, bytes data):
        """Keep something that leaves behind the last reply that is outstanding."""
        cdef Request r = self.tail
        if not r.done:
            muted, self.muted = self.muted, 0
            r = self.append()
            self.muted = muted
            r.started_ns = 0
        self.keep(r, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef void refuse(self, bytes error):
        """An error reply made here; of a transaction nothing is executed then."""
        if self.queue is not None:
            self.queue.broken = True
            self.queue.forget(self.router)
        self.reply(error)

    cdef void deliver(self, Request r, const char* p, Py_ssize_t n):
        """The reply to a request of this client: out when it is its turn, kept otherwise."""
        if self.closed:
            return
        if r.started_ns:
            self.router.time_request(r)
        if self.head is not r:
            self.hold(r, p, n)
            return
        if not r.mute:
            buf_add(&self.out, p, n)
        while True:
            self.head = r.next
            r.next = None
            self.outstanding -= 1
            r = self.head
            if r is None:
                self.tail = None
                break
            if not r.done:
                break
            buf_add(&self.out, r.reply.p, r.reply.len)
            self.held -= r.reply.len
            r.reply.len = 0
        self.touch()

    cdef void hold(self, Request r, const char* p, Py_ssize_t n):
        """Keep the reply of a request until its turn comes."""
        r.done = True
        if not r.mute:
            self.keep(r, p, n)

    cdef void keep(self, Request r, const char* p, Py_ssize_t n):
        """Keep more that leaves in this request's turn."""
        r.done = True
        buf_add(&r.reply, p, n)
        self.held += n
        if self.held > self.router.unread_replies_max and not self.peer and not self.closing:
            log.warning("client %d has too many replies behind one that does not come: disconnected", self.id)
            self.cut(&self.router.counters.slow_readers)

    cdef void tell(self, Request r, bytes reply):
        """A reply that this peer has a ticket for, between two others; or in its turn, if the ticket has not left."""
        self.owed -= 1
        if self.closed:
            return
        if r.reply.len > 0:
            self.held += PyBytes_GET_SIZE(reply) - r.reply.len
            r.reply.len = 0
            buf_add_bytes(&r.reply, reply)
            return
        buf_add_bytes(&self.out, b">2\r\n:%d\r\n" % r.ticket)
        buf_add_bytes(&self.out, reply)
        self.touch()

    cdef void touch(self):
        if not self.touched and not self.closed:
            self.touched = True
            self.router.touched.append(self)

    cdef void settle(self):
        """Write what is there, and go on reading or close where that was waiting."""
        self.touched = False
        if self.closed:
            return
        self.write_out()
        if self.closing:
            if self.served() and self.out.len == 0:
                self.finish()
            return
        if self.blocked and not self.must_wait():
            self.unblock()
        if self.leaving:
            self.take_leave()

    cdef void take_leave(self):
        """End our side, unless something is outstanding, queued, or has come and waits to be read."""
        if self.closing or self.blocked or self.queue is not None or not self.served() or self.out.len or self.rest.len:
            return
        if self.upload is not None:
            return
        if self.transport.is_closing() or unread_bytes(self.transport):
            return
        self.closing = True
        self.finish()

    cdef void finish(self):
        """Close. To one that is only told to leave: say that nothing more will come, and let it close."""
        self.stop_monitoring()
        self.router.hub.leave(self)
        self.router.hub.untrack(self)
        if self.ended or not self.leaving:
            self.transport.close()
        elif not self.half_closed:
            self.half_closed = True
            self.transport.write_eof()

    cdef void write_out(self):
        cdef bint listens = self.monitors or self.subs is not None or (self.peer and self.tracking is not None)
        cdef Py_ssize_t limit = self.router.unread_messages_max if listens else self.router.unread_replies_max
        if self.peer:
            limit = C_LISTENER_MAX
        if self.out.len == 0:
            return
        self.stirred = True
        # A peer that relays for many clients is never cut for this: it reads or is gone.
        if (
            self.write_paused
            and (listens or not self.peer)
            and self.transport.get_write_buffer_size() + self.out.len > limit
        ):
            log.warning("client %d does not read its replies: disconnected", self.id)
            self.cut(&self.router.counters.slow_listeners if listens else &self.router.counters.slow_readers)
            self.out.len = 0
            return
        self.router.counters.bytes_out += self.out.len
        self.transport.write(PyBytes_FromStringAndSize(self.out.p, self.out.len))
        self.out.len = 0
        if self.out.cap > 16384:
            buf_free(&self.out)

    cdef void cut(self, uint64_t* counter):
        """Disconnect it at once, because it is beyond a limit, and count that for a client."""
        if not self.peer and not self.transport.is_closing():
            counter[0] += 1
        self.closing = True
        self.transport.abort()

    cdef bint is_idle(self, double now):
        """Has nothing come or left for longer than it may? One that waits for a reply, or for what may come at any time,
        is not idle, nor is one that takes its last replies slowly; nor a peer."""
        cdef Py_ssize_t unwritten
        if (
            self.stirred or self.peer or self.over_limit or self.closing or self.closed or self.stalled
            or self.monitors or self.subs is not None or not self.served()
        ):
            self.stirred = False
            self.idle_since = now
        if now - self.idle_since <= self.router.idle_timeout:
            return False
        unwritten = self.transport.get_write_buffer_size()
        if unwritten != self.unwritten:
            self.unwritten = unwritten
            self.idle_since = now
            return False
        if not self.blocked and not self.transport.is_closing() and unread_bytes(self.transport):
            self.idle_since = now
            return False
        return True

    cdef void block(self):
        """Neither parse nor read; but to one that waits in an engine we listen, to know when it goes."""
        if not self.peer and self.has_its_share():
            self.router.counters.pauses += 1
        self.blocked = True
        if not self.transport.is_closing() and not self.waits_in_engine():
            self.transport.pause_reading()

    cdef bint must_wait(self):
        """Must its next command wait?"""
        if self.barrier and self.head is None:
            self.barrier = False
        return self.stalled or self.barrier or self.has_its_share()

    cdef bint has_its_share(self):
        """Are as many of its commands outstanding, or of its replies unread, as may be?"""
        cdef Py_ssize_t limit = C_MAX_PEER_PIPELINE if self.peer else self.router.pipeline
        return (
            self.write_paused
            or self.out.len > C_OUTPUT_PAUSE
            or self.held > (C_HELD_PAUSE if self.peer else self.router.held_pause)
            or self.outstanding >= (max(1, limit // 2) if self.blocked else limit)
        )

    cdef void unblock(self):
        self.blocked = False
        self.take_rest()
        if self.closing:
            self.touch()
        if self.transport.is_closing():
            return
        if not self.blocked or (self.waits_in_engine() and self.rest.len <= C_OUTPUT_PAUSE):
            self.transport.resume_reading()


def keep_alive(sock):
    """Notice clients that are gone without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE_S)


def unread_bytes(transport):
    """How much has come on this connection that was not read yet."""
    count = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, b"\0\0\0\0")
    return int.from_bytes(count, sys.byteorder)
