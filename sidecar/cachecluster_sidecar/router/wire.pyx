"""The router's sockets: an epoll of its own inside the loop's, and transports that send and receive without the loop.

A loop's own transport costs a callback for each socket that has something, and a queue for each write. Here all sockets
that are ready are one callback of the loop, a turn: first everything that came is read, then what that made due is
written, once for each socket. A `Wire` is used as a transport of asyncio is, by protocols that read into buffers.
"""

import os
import socket
from collections import deque

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno as c_errno
from libc.stdint cimport uint32_t

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLL_CLOEXEC
    union epoll_data:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int what, int fd, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int most, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_NOSIGNAL
    Py_ssize_t recv(int fd, void* buffer, size_t n, int flags)
    Py_ssize_t send(int fd, const void* buffer, size_t n, int flags)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    Py_ssize_t writev(int fd, const iovec* pieces, int n)

cdef enum:
    MOST_READY = 64
    MOST_PIECES = 64
    DEFAULT_HIGH = 65536


cdef class Poll:
    """All wires of a process."""

    cdef object loop
    cdef object begin
    cdef object end
    cdef int epoll
    cdef list wires              # by file descriptor
    cdef epoll_event ready[MOST_READY]

    def __init__(self, loop):
        self.loop = loop
        self.wires = []
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise failure(c_errno)

    def start(self, begin, end):
        """Serve the wires from now on. `begin` is called before what came is read, `end` when everything was read."""
        self.begin = begin
        self.end = end
        self.loop.add_reader(self.epoll, self.turn)

    def close(self):
        """Poll no more; the wires are dead then."""
        if self.epoll >= 0:
            self.loop.remove_reader(self.epoll)
            os.close(self.epoll)
            self.epoll = -1

    def turn(self):
        """Serve every socket that has something to read, or takes more."""
        cdef int i, n = epoll_wait(self.epoll, self.ready, MOST_READY, 0)
        self.begin()
        try:
            for i in range(n):
                (<Wire>self.wires[self.ready[i].data.fd]).serve(self.ready[i].events)
        finally:
            self.end()

    def adopt(self, sock, protocol):
        """Have a protocol served by a connected socket, which is the wire's from now on.

        OSError: the connection has already ended; the protocol was told nothing. What its `connection_made` raises is
        raised, and the connection ends.
        """
        cdef Wire wire
        try:
            wire = Wire(self, sock, protocol)
        except OSError:
            sock.close()
            raise
        while len(self.wires) <= wire.fd:
            self.wires.append(None)
        self.wires[wire.fd] = wire
        try:
            protocol.connection_made(wire)
        except BaseException:
            wire.abort()
            raise
        wire.want_what_is_due()
        return wire

    async def connect(self, protocol, address):
        """Have a protocol served by a new connection to `address`: the path of a unix socket, or (host, port).

        OSError: nobody could be reached there.
        """
        if isinstance(address, str):
            return self.adopt(await self.connected(socket.AF_UNIX, address), protocol)
        failed = None
        for family, found in await self.addresses(*address):
            try:
                return self.adopt(await self.connected(family, found), protocol)
            except OSError as error:
                failed = error
        raise failed or OSError(f"{address[0]} has no address")

    async def addresses(self, host, port):
        """(family, address) of what a host's name or IP address means. OSError: nothing."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await self.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]

    async def connected(self, family, address):
        """A socket that is connected. OSError: it could not be."""
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await self.loop.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock


cdef class Wire:
    """The transport of one socket. What is written goes out at once, as far as the socket takes it."""

    cdef Poll poll
    cdef object sock
    cdef object peer
    cdef object protocol
    cdef object get_buffer       # of the protocol
    cdef object buffer_updated
    cdef int fd
    cdef uint32_t wanted         # events that the epoll reports
    cdef bint paused             # reading
    cdef bint at_end             # nothing more will come
    cdef bint closing
    cdef bint stopped            # connection_lost is due, or was called
    cdef bint ends               # nothing more will be written
    cdef bint told               # the protocol: to pause writing
    cdef object backlog          # what the socket has not taken: bytes
    cdef Py_ssize_t unsent       # of all of it
    cdef Py_ssize_t gone         # bytes of the first that have left
    cdef Py_ssize_t high

    def __init__(self, Poll poll, sock, protocol):
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.poll = poll
        self.sock = sock
        self.peer = sock.getpeername()
        self.fd = sock.fileno()
        self.protocol = protocol
        self.get_buffer = protocol.get_buffer
        self.buffer_updated = protocol.buffer_updated
        self.backlog = deque()
        self.high = DEFAULT_HIGH

    def __repr__(self):
        return f"<Wire {self.fd} to {self.peer}>"

    def get_extra_info(self, name, default=None):
        """`socket`, `peername` or `sockname`."""
        if name == "socket":
            return self.sock
        if name == "peername":
            return self.peer
        if name == "sockname":
            return self.sock.getsockname()
        return default

    def set_write_buffer_limits(self, Py_ssize_t high):
        """Above so many bytes that the socket has not taken the protocol is told to pause, until a quarter is left."""
        self.high = high

    def get_write_buffer_size(self):
        """Bytes that the socket has not taken."""
        return self.unsent

    def is_closing(self):
        """Will nothing more be read, nor written but what already was?"""
        return self.closing

    def pause_reading(self):
        """Call the protocol with nothing more that comes."""
        self.paused = True
        self.want_what_is_due()

    def resume_reading(self):
        """Go on."""
        self.paused = False
        self.want_what_is_due()

    def write(self, bytes data):
        """Send, or keep what the socket does not take."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data), sent = 0
        if self.closing or self.ends or n == 0:
            return
        if self.unsent == 0:
            sent = send(self.fd, PyBytes_AS_STRING(data), n, MSG_NOSIGNAL)
            if sent == n:
                return
            if sent < 0:
                if not is_for_now(c_errno):
                    self.stop(failure(c_errno))
                    return
                sent = 0
            self.gone = sent
        self.backlog.append(data)
        self.unsent += n - sent
        self.want_what_is_due()
        if self.unsent > self.high and not self.told:
            self.told = True
            self.protocol.pause_writing()

    def write_eof(self):
        """Tell the other side, behind what was written, that nothing more will come."""
        if self.closing or self.ends:
            return
        self.ends = True
        if self.unsent == 0:
            self.shut()

    def close(self):
        """Read no more, and end when everything is written."""
        if self.closing:
            return
        self.closing = True
        if self.unsent == 0:
            self.stop(None)
        else:
            self.want_what_is_due()

    def abort(self):
        """End at once."""
        self.closing = True
        self.stop(None)

    cdef void serve(self, uint32_t events):
        try:
            if events & (EPOLLIN | EPOLLERR | EPOLLHUP) and self.wanted & EPOLLIN:
                self.receive()
            if events & (EPOLLOUT | EPOLLERR | EPOLLHUP) and self.wanted & EPOLLOUT:
                self.send_more()
        except BaseException as error:
            self.poll.loop.call_exception_handler(
                {"message": f"a protocol failed: {self.protocol!r}", "exception": error, "transport": self}
            )
            self.closing = True
            self.stop(error)

    cdef int receive(self) except -1:
        """Have the protocol take what has come, or learn that the other side is at its end."""
        cdef Py_buffer room
        cdef Py_ssize_t n
        cdef int error
        PyObject_GetBuffer(self.get_buffer(-1), &room, PyBUF_WRITABLE)
        n = recv(self.fd, room.buf, room.len, 0)
        error = c_errno
        PyBuffer_Release(&room)
        if n > 0:
            self.buffer_updated(n)
        elif n == 0:
            self.at_end = True
            if self.protocol.eof_received():
                self.want_what_is_due()
            else:
                self.close()
        elif not is_for_now(error):
            self.stop(failure(error))
        return 0

    cdef int send_more(self) except -1:
        """Write what the socket takes of what it had not taken."""
        cdef iovec pieces[MOST_PIECES]
        cdef Py_ssize_t sent
        cdef int n = 0
        for data in self.backlog:
            pieces[n].iov_base = PyBytes_AS_STRING(data)
            pieces[n].iov_len = PyBytes_GET_SIZE(data)
            n += 1
            if n == MOST_PIECES:
                break
        pieces[0].iov_base = <char*>pieces[0].iov_base + self.gone
        pieces[0].iov_len -= self.gone
        sent = writev(self.fd, pieces, n)
        if sent < 0:
            if not is_for_now(c_errno):
                self.stop(failure(c_errno))
            return 0
        self.unsent -= sent
        self.gone += sent
        while self.backlog and self.gone >= PyBytes_GET_SIZE(self.backlog[0]):
            self.gone -= PyBytes_GET_SIZE(self.backlog.popleft())
        if self.unsent == 0:
            if self.closing:
                self.stop(None)
                return 0
            if self.ends:
                self.shut()
        self.want_what_is_due()
        if self.told and self.unsent <= self.high // 4:
            self.told = False
            self.protocol.resume_writing()
        return 0

    cdef void shut(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.stop(error)

    cdef void want_what_is_due(self):
        cdef uint32_t events = 0
        if self.stopped:
            return
        if not self.paused and not self.at_end and not self.closing:
            events |= EPOLLIN
        if self.unsent:
            events |= EPOLLOUT
        self.want(events)

    cdef void want(self, uint32_t events):
        """Have these events reported; without any, not even an end is."""
        cdef epoll_event event
        cdef int what
        if events == self.wanted:
            return
        what = EPOLL_CTL_DEL if events == 0 else EPOLL_CTL_ADD if self.wanted == 0 else EPOLL_CTL_MOD
        event.events = events
        event.data.fd = self.fd
        if epoll_ctl(self.poll.epoll, what, self.fd, &event) < 0:
            self.stop(failure(c_errno))
            return
        self.wanted = events

    cdef void stop(self, error):
        """Nothing is read or written any more; the protocol learns it in the loop's next turn."""
        if self.stopped:
            return
        self.closing = self.stopped = True
        self.want(0)
        self.backlog.clear()
        self.unsent = 0
        self.poll.loop.call_soon(self.lose, error)

    def lose(self, error):
        """The last call."""
        try:
            self.protocol.connection_lost(error)
        finally:
            self.poll.wires[self.fd] = None
            self.sock.close()
            self.protocol = self.get_buffer = self.buffer_updated = None


cdef bint is_for_now(int error):
    """Does this error of a socket say no more than to try again?"""
    return error == EAGAIN or error == EINTR or error == ENOBUFS


cdef object failure(int number):
    return OSError(number, os.strerror(number))
