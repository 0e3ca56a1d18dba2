# Passages: connections to the router of the pod where a partition's primary is, for what is large. Each is one client's, has
# one of its commands at a time, and greets with
#     CACHECLUSTER HELLO <protocol> <token> <pod UID> PASSAGE
# What stands on it is what the client sent, and that router serves it as it does a client of its own: with a private
# connection to its engine, in pieces, as fast as the slowest of all takes them.


@cython.final
cdef class Passage(Relay):
    """One client's connection to another router."""

    cdef void add_wrapped(self, Request r, const char* frame, Py_ssize_t n):
        """As it came: it tells its partition."""
        r.refused = None
        r.to_skip = 0
        r.at = self.out.len
        buf_add(&self.out, frame, n)

    cdef void greeted(self, bytes reply):
        self.flush()
        self.let_go()

    cdef void ended(self, str reason):
        """Forget it; a command for which it could not even be made was not executed, and is asked as others are."""
        cdef Request r
        self.stop(reason)
        self.forget(self.leads_to)
        if self.is_ready or self.ending or self.only.closed:
            return
        if self.leads_to.owner is self.target:
            self.target.no_apart_until = seconds() + NOT_APART_S
        r = self.unsent.pop()
        while r is not None:
            self.left(self.leads_to)
            if self.leads_to.owner is self.target:
                keep_whole(r)
            self.leads_to.send_again(r)
            r = self.unsent.pop()
        self.leads_to.left_flight()

    cdef void take_refusal(self, Request r, Partition p):
        """The gate there is not open, and what had come of a large request is gone."""
        if r.uploaded:
            self.router.counters.tryagain += 1
            self.router.fail(r, UPLOAD_LOST)
        else:
            Relay.take_refusal(self, r, p)
        self.lose("the gate is shut there")

    cdef void answered(self):
        self.filling = False
        if self.ending and self.idle() and not self.closed:
            self.lose("it is needed no more")

    cdef void end(self, bint patient):
        """What was sent is answered, by whoever has the partition by then."""
        if not self.only.closed and (self.under_way is not None or (self.is_ready and self.sent.head is not None)):
            self.ending = True
        else:
            self.lose("it is needed no more")

    cdef bint look_after(self, double now):
        cdef double silence = self.router.silence + (0 if self.router.given_up else self.router.ack_timeout)
        if self.leads_to.owner is not self.target:
            silence = min(silence, PEER_SILENCE_S)
        if not self.is_ready:
            if now - self.heard > CONNECT_TIMEOUT_S:
                self.lose("it did not answer our greeting in time")
        elif self.under_way is not None:
            self.look_at_reader(now)
        elif self.only.upload is not None and self.only.upload.link is self:
            look_at_upload(self.only, now)
        elif self.idle():
            if now - self.heard > PRIVATE_IDLE_S:
                self.lose("it is not used")
        elif now - self.heard > silence:
            self.lose("it was silent")
        return False
