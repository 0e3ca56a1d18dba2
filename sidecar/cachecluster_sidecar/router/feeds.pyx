"""The RESP scanners fed in pieces, as a connection feeds them: what tests, fuzzing and simple clients read with."""

from .resp import ProtocolError

from .resp cimport (
    SCAN_ERROR,
    SCAN_INCOMPLETE,
    Buf,
    ReplyScan,
    RequestScan,
    buf_add_bytes,
    buf_consume,
    buf_free,
    pass_reply,
    pass_request,
    reply_scan_reset,
    request_error,
    request_scan_reset,
    scan_reply,
    scan_request,
)

NO_REPLY = "not a RESP reply"


cdef class Feed:
    """Bytes that came and were not taken yet, and where the scans stand in them."""

    cdef Buf buf
    cdef RequestScan request
    cdef ReplyScan reply

    def __cinit__(self):
        request_scan_reset(&self.request)
        reply_scan_reset(&self.reply)

    def __dealloc__(self):
        buf_free(&self.buf)

    cdef bytes take(self, Py_ssize_t n):
        cdef bytes taken = self.buf.p[:n]
        buf_consume(&self.buf, n)
        return taken

    cdef object no_request(self):
        return ProtocolError(request_error(&self.request)[1:-2].decode("latin-1"))


cdef class Frames(Feed):
    """Finds complete frames."""

    def feed(self, bytes data):
        """Add bytes; returns the frames that became complete. ProtocolError: these are none."""
        cdef Py_ssize_t n
        frames = []
        buf_add_bytes(&self.buf, data)
        while True:
            n = self.complete()
            if n == 0:
                return frames
            frames.append(self.take(n))

    cdef Py_ssize_t complete(self) except -1:
        """Bytes of the first frame; 0: it is not complete."""
        raise NotImplementedError


cdef class RequestFeed(Frames):
    """Of requests; inline ones are their line."""

    cdef Py_ssize_t complete(self) except -1:
        cdef int scanned = scan_request(&self.request, self.buf.p, self.buf.len)
        cdef Py_ssize_t n = self.request.pos
        if scanned == SCAN_ERROR:
            raise self.no_request()
        if scanned == SCAN_INCOMPLETE:
            return 0
        request_scan_reset(&self.request)
        return n


cdef class ReplyFeed(Frames):
    """Of replies."""

    cdef Py_ssize_t complete(self) except -1:
        cdef int scanned = scan_reply(&self.reply, self.buf.p, self.buf.len)
        cdef Py_ssize_t n = self.reply.pos
        if scanned == SCAN_ERROR:
            raise ProtocolError(NO_REPLY)
        if scanned == SCAN_INCOMPLETE:
            return 0
        reply_scan_reset(&self.reply)
        return n


cdef class RequestPieces(Feed):
    """A request that is passed on in pieces."""

    def feed(self, bytes data):
        """Add bytes; returns those that may be passed on, and whether only the last line end follows."""
        buf_add_bytes(&self.buf, data)
        passed = pass_request(&self.request, self.buf.p, self.buf.len)
        if passed < 0:
            raise self.no_request()
        return self.take(passed), self.request.index == self.request.argc


cdef class ReplyPieces(Feed):
    """A reply that is passed on in pieces."""

    def feed(self, bytes data):
        """Add bytes; returns those that may be passed on, and whether the reply ends there."""
        buf_add_bytes(&self.buf, data)
        passed = pass_reply(&self.reply, self.buf.p, self.buf.len)
        if passed < 0:
            raise ProtocolError(NO_REPLY)
        return self.take(passed), self.reply.pending == 0
