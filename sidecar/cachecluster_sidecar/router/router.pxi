# Routes, the tick, counters: what is one a process.


cdef class Router:
    """Owns the partitions, the targets and the clients of one worker process."""

    def __init__(self, loop, list commands, connect, answers):
        """`commands`: the entries of commands.json. `connect(backend)` starts a connection and calls back `greet` or
        `failed`. `answers(client, name, arguments)` makes the replies that the router gives itself."""
        self.loop = loop
        self.table = CommandTable(commands)
        self.connect = connect
        self.answers = answers
        self.lines = []
        self.peers = {}
        self.readers = {}
        self.retired = []
        self.hub = Hub(self)
        self.shared = bytearray(SHARED_BUFFER_BYTES)
        self.shared_p = PyByteArray_AS_STRING(self.shared)
        self.shared_view = memoryview(self.shared)
        self.piece_view = self.shared_view[:PIECE_BYTES]
        self.large = {}
        self.dirty = []
        self.touched = []
        self.clients = {}
        self.looking = set()
        self.tick_timer = None
        self.park_timeout = 8.0
        self.max_clients = 10000
        self.max_parked_bytes = 67108864
        self.use_limits({})

    def client(self, bint cluster):
        """A protocol for a connection to the cluster port or the front port."""
        return Client(self, cluster)

    # -- what the agent says

    def use_pod_table(self, view):
        """Map the gate records: `view` is a read-only buffer of the whole pod table."""
        cdef const unsigned char[::1] data = view
        cdef Partition p
        if data.shape[0] < pod_table.table_bytes(self.partitions):
            raise ValueError(f"the pod table has {data.shape[0]} bytes, too few for {self.partitions} partitions")
        for p in self.lines:
            p.record = <uint64_t*>(<uintptr_t>&data[0] + <uintptr_t>pod_table.gate_offset(p.index))
        self.table_view = view

    def use_routes(self, dict routes):
        """Take over a snapshot of the routes (ours of the agent's `routes` message)."""
        cdef Partition p
        settings = routes["settings"]
        if not self.lines:
            self.make_lines(routes["partitions"])
        self.routes = routes
        self.self_uid = routes["self"]
        if not self.given_up:
            self.park_timeout = settings["parkTimeoutMs"] / 1000
        self.max_parked_bytes = settings["parkMaxBytes"]
        self.max_clients = settings["maxClients"]
        self.use_limits(settings)
        self.use_durability(settings)
        self.use_members(routes["members"])
        for p in self.lines:
            self.use_copy(p, routes["local"].get(str(p.index)))
            p.stands_in = routes["standsIn"][p.index]
            self.use_primary(p, routes["primaries"][p.index], routes["announced"][p.index])
            self.use_readers(p, routes)
            p.commit.in_sync = routes["inSync"][p.index]
            p.tag = 1 + zlib.crc32((routes["serving"][p.index] or "").encode()) % ((1 << C_TAG_BITS) - 1)
        if not self.sync:
            for p in self.lines:
                p.commit.release_all()
        self.hurry()
        self.settle_touched()

    cdef void use_durability(self, dict settings):
        """From now on replies wait for acknowledgements, or do not."""
        self.sync = settings.get("sync", False)
        self.committed_reads = settings.get("committedReads", False)
        self.zone_reads = settings.get("readsFrom") == "nearest-zone"
        self.replica_reads = self.zone_reads or settings.get("readsFrom") == "replica"
        self.min_in_sync = settings.get("minInSync", 1)
        self.ack_timeout = settings.get("ackTimeoutMs", 3000) / 1000

    cdef void use_limits(self, dict settings):
        """What one client may take from now on, and how long backends may be silent."""
        if not self.given_up:
            self.silence = settings.get("silenceMs", SILENCE_S * 1000) / 1000
        self.pipeline = settings.get("pipelinedCommands", MAX_PIPELINE)
        self.request_max = settings.get("requestMaxBytes", MAX_REQUEST_BYTES)
        self.unread_replies_max = settings.get("unreadRepliesBytes", OUTPUT_MAX_BYTES)
        self.unread_messages_max = settings.get("unreadMessagesBytes", LISTENER_MAX_BYTES)
        self.held_pause = min(HELD_PAUSE_BYTES, self.unread_replies_max // 8)
        self.idle_timeout = settings.get("idleTimeoutMs", 0) / 1000
        self.idle_due = 0

    cdef void make_lines(self, int partitions):
        self.partitions = partitions
        self.shift = 14 - (partitions.bit_length() - 1)
        for index in range(partitions):
            self.lines.append(Partition(self, index))

    cdef void use_members(self, dict members):
        """Targets for the other pods; those that are named no more close when nothing is in flight there."""
        cdef Target target
        for uid in [uid for uid in self.peers if uid not in members]:
            self.retired.append(self.peers.pop(uid))
            self.hub.forget_peer(uid)
        for uid in list(self.readers):
            if uid not in members or not self.zone_reads:
                self.forget_reader(uid)
        for uid, member in members.items():
            if uid == self.self_uid:
                continue
            address = (member["host"], member["port"])
            target = self.peers.get(uid)
            if target is None:
                self.peers[uid] = Target(self, member["name"], address, uid=uid)
            else:
                target.address = address
                if uid in self.readers:
                    (<Target>self.readers[uid]).address = address

    cdef void use_copy(self, Partition p, dict copy):
        """The engine of the local copy, if there is one."""
        path = copy["socket"] if copy is not None else None
        if p.engine is not None and (<Target>p.engine).address == path:
            return
        if p.engine is not None:
            self.retired.append(p.engine)
            p.engine = None
            p.end_privates(False)
            self.hub.dismiss(p.feed, "the copy was taken away")
            p.commit.reset("the copy was taken away")
        if path is not None:
            p.engine = Target(self, f"the engine of partition {p.index}", path, partition=p.index)

    cdef void use_primary(self, Partition p, uid, announced):
        """Where the commands of a partition go from now on, and where clients of cluster ports are to bring them."""
        cdef Target owner = None, told = self.peers.get(announced)
        p.mine = uid is not None and uid == self.self_uid
        p.here = announced is not None and announced == self.self_uid
        if p.mine:
            owner = p.engine
        elif uid is not None:
            owner = self.peers.get(uid)
        if told is not p.told:
            p.told = told
            p.told_since = seconds()
        if owner is not p.owner:
            p.owner = owner
            p.told_since = seconds()
            p.end_privates(False)
            p.probing = False
            p.hold_until = p.hold_s = 0
        if p.feed is not None and not p.mine and not p.may_serve():
            self.hub.dismiss(p.feed, "the primary is elsewhere")
        p.release()

    cdef void use_readers(self, Partition p, dict routes):
        """The copies that may answer reads in the primary's place: the one here, and those of pods in this zone, where
        it is known and the primary is in another."""
        cdef object path = p.engine.address if p.engine is not None and self.replica_reads else None
        cdef dict members = routes["members"]
        cdef str zone = members.get(self.self_uid, {}).get("zone")
        if p.reader is not None and p.reader.address != path:
            self.retired.append(p.reader)
            p.reader = None
        if path is not None and p.reader is None:
            p.reader = Target(self, f"the copy of partition {p.index}", path)
            p.reader.reads = True
        p.near = None
        if self.zone_reads and zone and members.get(routes["primaries"][p.index], {}).get("zone") not in (None, "", zone):
            near = [uid for uid in routes["replicas"][p.index] if uid in self.peers and members[uid].get("zone") == zone]
            p.near = [self.reader_of(uid) for uid in near] or None

    cdef Target reader_of(self, str uid):
        """Where reads go that a replica on this pod is to answer."""
        cdef Target target = self.readers.get(uid), peer = self.peers[uid]
        if target is None:
            target = self.readers[uid] = Target(self, f"the copies of {peer.name}", peer.address, uid=uid)
            target.reads = True
        return target

    cdef void forget_reader(self, str uid):
        self.retired.append(self.readers.pop(uid))

    def use_gate(self, int partition, uint64_t generation, bint patient=False, list required=None):
        """The agent wrote the gate record of a partition at this generation; `patient`: what is in flight at a gate
        that is shut must not be given up; `required`: the copies that must have what is told from now on."""
        if 0 <= partition < self.partitions:
            (<Partition>self.lines[partition]).take_over(generation, patient, required)
            self.settle_touched()

    def open_gates(self):
        """(partition, epoch, milliseconds of authority left) of every gate that is open in this router now."""
        cdef Partition p
        cdef Gate gate
        found = []
        for p in self.lines:
            if p.may_serve():
                gate = p.read()
                found.append((p.index, gate.gate_epoch, (gate.deadline_ns - cc_boottime_ns()) // 1000000))
        return found

    cdef void target_ready(self, Target target):
        """A connection is up: what waited for it goes."""
        cdef Partition p
        for p in self.lines:
            if p.owner is target:
                p.release()

    # -- clients

    def number_from(self, uint64_t first):
        """Clients' numbers are above this one: those of the workers of a pod differ."""
        self.last_id = first

    def admit(self, Client client):
        """The number of a new client, or 0 when there are too many."""
        if self.client_count >= self.max_clients or self.stopping:
            self.counters.rejected += 1
            return 0
        self.client_count += 1
        self.most_clients = max(self.most_clients, self.client_count)
        return self.register(client)

    def admit_peer(self, Client client):
        """Whether a connection beyond the limit of clients may still prove to be a peer."""
        if self.peer_count >= PEER_CONNECTIONS or self.stopping:
            return False
        self.peer_count += 1
        client.id = self.register(client)
        self.loop.call_later(CONNECT_TIMEOUT_S, client.show_or_go)
        return True

    def admits_passage(self, Client client):
        """May this connection be a passage? There must be room for the connections that other routers share."""
        return not client.over_limit and self.peer_count < PEER_CONNECTIONS // 2

    def register(self, Client client):
        self.last_id += 1
        self.counters.connections += 1
        self.clients[self.last_id] = client
        return self.last_id

    def count_peer(self, Client client):
        """A connection that was counted as a client's is a peer's."""
        if not client.over_limit and client.id in self.clients:
            self.client_count -= 1
            self.peer_count += 1

    def dismiss(self, Client client):
        """A connection ended."""
        if self.clients.pop(client.id, None) is None:
            return
        self.looking.discard(client.id)
        if client.peer or client.over_limit:
            self.peer_count -= 1
        else:
            self.client_count -= 1
        if self.on_left is not None:
            self.on_left()

    def begin_turn(self):
        """Several sockets are read now: until `end_turn` nothing is written."""
        self.in_turn = True

    def end_turn(self):
        """Write what that made due, once for each socket."""
        try:
            while self.flush_due or self.touched:
                self.write_batches()
                self.write_replies()
        finally:
            self.in_turn = False
            if self.flush_due or self.touched:
                self.loop.call_soon(self.flush)

    cdef void settle_touched(self):
        """Write the replies that are due, unless they are at the end of this turn."""
        if not self.in_turn:
            self.write_replies()

    cdef void write_replies(self):
        """One write for each client."""
        cdef Client c
        while self.touched:
            touched = self.touched
            self.touched = []
            for c in touched:
                try:
                    c.settle()
                except Exception as error:
                    c.closing = True
                    c.transport.abort()
                    self.report(f"client {c.id} could not be served on: disconnected", error)

    # -- users

    def use_users(self, users):
        """Take over the users, by name (acl.User); None: there are none. Clients stay who they are, if that user still
        is; what its rules no longer allow of what it has begun is ended."""
        cdef Client c
        self.nobody = Account(None, self.table.entries)
        self.accounts = None
        if users is not None:
            self.accounts = {name: Account(user, self.table.entries) for name, user in users.items()}
        for c in list(self.clients.values()):
            if not c.peer:
                self.take_over_account(c)

    cdef void take_over_account(self, Client c):
        cdef Account known = c.account
        if known is None or known.user is None or self.accounts is None:
            c.account = self.account_of("default", nobody=True)
            return
        c.account = self.accounts.get(known.user.name)
        if c.account is None:
            c.account = self.nobody
            c.transport.abort()
        elif c.account.user.grants != known.user.grants:
            self.end_what_is_not_granted(c)

    cdef void end_what_is_not_granted(self, Client c):
        """Of what a client has begun under other rules: a transaction, a wait, and what goes on by itself."""
        cdef set granted = set().union(*[grant.commands for grant in c.account.user.grants])
        if c.queue is not None:
            c.queue.broken = True
        c.end_wait(b"ERROR")
        if (
            (c.subs is not None and not access.may_listen(c.account.user, c.subs))
            or (c.monitors and "monitor" not in granted)
            or (c.tracking is not None and "client|tracking" not in granted)
        ):
            c.transport.abort()

    def account_of(self, str name, bint nobody=False):
        """The account of a user; None without one. With `nobody`: what a new client is, which has said no password."""
        cdef Account account
        if self.accounts is None:
            return None
        account = self.accounts.get(name)
        if nobody and (account is None or not account.user.enabled or account.user.needs_password):
            return self.nobody
        return account

    @property
    def has_users(self):
        """Must clients say who they are?"""
        return self.accounts is not None

    # -- requests

    cdef void schedule_flush(self):
        if self.flush_due:
            return
        self.flush_due = True
        if not self.in_turn:
            self.loop.call_soon(self.flush)

    def flush(self):
        """Write everything that is due."""
        self.write_batches()
        self.settle_touched()

    cdef void report(self, str what, error):
        """A mistake of ours, which must harm nobody but whom it is about."""
        self.loop.call_exception_handler({"message": what, "exception": error})

    cdef void write_batches(self):
        """One write for each backend."""
        cdef Backend b
        self.flush_due = False
        dirty = self.dirty
        self.dirty = []
        for b in dirty:
            try:
                b.flush()
            except Exception as error:
                b.transport.abort()
                self.report(f"what was due for {b.target.name} could not be sent: disconnected", error)

    cdef void deliver(self, Request r, const char* p, Py_ssize_t n):
        """A reply for a request: to its client, or into the command it is a part of."""
        cdef Split split = r.split
        cdef bytes data
        if r.ticket:
            r.client.tell(r, PyBytes_FromStringAndSize(p, n))
            return
        if r.large:
            if is_relayed(r, n):
                return
        elif r.link and not r.blocks and not r.uploaded and p[0] == c"-":
            watch_failed(r)
        if split is None:
            r.client.deliver(r, p, n)
            return
        if split.parent.started_ns:
            self.time_piece(r, split.parent.started_ns)
        split.replies[r.part] = PyBytes_FromStringAndSize(p, n)
        if is_wait(r) and p[0] == c":":
            note_copies(r.client, r.partition, p)
        split.waiting -= 1
        if split.waiting == 0 and (split.looks is None or not goes_on(split)):
            r.client.waits = None
            data = split.merged()
            split.parent.split = None
            r.client.deliver(split.parent, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef void fail(self, Request r, bytes error):
        """Answer a request with an error of our own."""
        self.deliver(r, PyBytes_AS_STRING(error), PyBytes_GET_SIZE(error))

    cdef bytes moved(self, int slot, Partition p):
        """The redirection to the cluster port where the slot is announced, which may be our own."""
        self.counters.moved += 1
        if p.at_home():
            member = self.routes["members"][self.self_uid]
            host, port = member["host"], member["port"]
        else:
            host, port = (<Target>p.owner if self.is_unreachable(p) else <Target>p.told).address
        return b"-MOVED %d %s:%d\r\n" % (slot, host.encode(), port)

    cdef bint is_unreachable(self, Partition p):
        """Is the pod where a partition is announced, but which does not lead it, no place to send clients to? Asked in
        every tick, so that it is known."""
        return p.told is None or (p.told is not p.owner and not p.told.answers())

    def announced(self):
        """Where cluster-aware clients are to look for each partition, as far as this router knows."""
        cdef Partition p
        found = list(self.routes["announced"])
        for p in self.lines:
            if p.told is not None and self.is_unreachable(p):
                found[p.index] = self.routes["primaries"][p.index]
        return found

    cdef void send_away(self, Client c, int slot, Partition p):
        """Answer MOVED. A client that is back after it was sent away from this very slot, which has just been announced
        elsewhere, is answered a moment later, and later each time: routers of which one does not know of the change yet
        would send it to and fro until it gives up."""
        cdef double now = seconds(), pause = 0
        cdef uint64_t read
        cdef Request r
        if now - p.told_since > AWAY_RECENT_S:
            c.refuse(self.moved(slot, p))
            return
        if c.away is None or len(c.away) > MOST_AWAY:
            c.away = {}
        known = c.away.get(slot)
        if known is not None and now - known[1] < AWAY_S:
            pause = known[2] if known[0] == c.reads else min(2 * known[2], AWAY_MAX_S) if known[2] else AWAY_FIRST_S
        c.away[slot] = (c.reads, now, pause)
        if pause == 0 or known[0] == c.reads or c.queue is not None:
            c.refuse(self.moved(slot, p))
            return
        r = c.append()
        r.partition, r.slot, r.started_ns = p.index, slot, 0
        c.barrier = True
        self.parked += 1
        self.counters.parked_total += 1
        self.loop.call_later(pause, self.send_away_now, r, now)

    def send_away_now(self, Request r, double since):
        """The moment is over: the owner may be another one now, or nobody."""
        cdef Partition p = <Partition>self.lines[r.partition]
        if p.owner is None and not r.client.closed and seconds() - since < self.park_timeout:
            self.loop.call_later(AWAY_MAX_S, self.send_away_now, r, since)
            return
        self.parked -= 1
        if r.client.closed:
            return
        if p.owner is not None:
            self.fail(r, self.moved(r.slot, p))
        else:
            self.counters.tryagain += 1
            self.fail(r, timeout_error(p.index, seconds() - since))
        self.settle_touched()

    cdef void give_up_sent(self, Backend b, list lost, Line behind, str reason):
        """These were sent, in this order, and their replies will not come or may not be told; `behind` follow them.

        A read is sent again unless a write of its client stood behind it: that may have been executed. Everything else
        is answered as indeterminate.
        """
        cdef Request r
        cdef list again = []
        written = set()
        r = behind.head if behind is not None else None
        while r is not None:
            if r.write:
                written.add((r.client.id, r.partition))
            r = r.follower
        for r in reversed(lost):
            if r.write:
                written.add((r.client.id, r.partition))
            # What WAIT counts may be gone with this engine: it is not asked of another one.
            again.append(not r.write and not is_wait(r) and (r.client.id, r.partition) not in written)
        again.reverse()
        for r, safe in zip(lost, again):
            b.left(<Partition>self.lines[r.partition])
            if r.client.closed:
                continue
            if safe:
                self.counters.retried += not r.client.peer
                b.give_back(r)
            else:
                self.counters.indeterminate += 1
                self.fail(r, lost_error(r.partition, reason))

    cdef int any_slot(self):
        """A slot that is served here, if there is one: for commands that every engine answers alike."""
        cdef Partition p
        cdef int slot = 0
        for p in self.lines:
            if p.mine:
                return p.index << self.shift
            if p.stands_in:
                slot = p.index << self.shift
        return slot

    cdef void show(self, Client c, const char* frame):
        """Tell clients that monitor of a command that was served, or queued since MULTI."""
        cdef RequestScan* scan = &c.scan
        cdef Command* command
        cdef Client other
        if scan.argc == 0:
            return
        command = self.table.find(frame + scan.head[0].at, scan.head[0].len)
        if command != NULL and command.container and scan.argc > 1:
            command = self.table.find_sub(command, frame + scan.head[1].at, scan.head[1].len)
        if command == NULL or command.kind == KIND_REFUSED or command.kind == KIND_LATER or wrong_arity(command, scan.argc):
            return
        if not monitoring.is_shown((<dict>self.table.entries[command.index])["name"]):
            return
        host, port = c.transport.get_extra_info("peername")[:2]
        shown = min(scan.argc, <Py_ssize_t>monitoring.MOST_ARGUMENTS)
        line = monitoring.line(f"{host}:{port}", all_arguments(frame, shown), scan.argc - shown)
        for other in list(self.monitors):
            other.show_line(line)

    cdef void time_request(self, Request r):
        """Count the latency of a sampled request: bucket i of its family holds those below 2^i microseconds. Of one that
        was split each piece has been counted for its partition."""
        cdef int64_t us = (cc_monotonic_ns() - r.started_ns) // 1000
        cdef int bucket = 0
        while us > 0 and bucket < LATENCY_BUCKETS - 1:
            us >>= 1
            bucket += 1
        self.counters.latency[r.family][bucket] += 1
        if r.order:
            self.time_piece(r, r.started_ns)

    cdef void time_piece(self, Request r, int64_t started_ns):
        """Count the latency of what one partition did for a sampled request."""
        cdef Partition p = <Partition>self.lines[r.partition]
        p.timed += 1
        p.timed_ns += cc_monotonic_ns() - started_ns

    # -- the tick

    def start(self):
        """Begin to tick."""
        self.tick_due = seconds() + TICK_IDLE_S
        self.tick_timer = self.loop.call_later(TICK_IDLE_S, self.tick)

    cdef void hurry(self):
        """Something waits that the tick looks after: tick soon."""
        cdef double soon = seconds() + TICK_BUSY_S
        if self.tick_timer is not None and self.tick_due > soon + TICK_BUSY_S:
            self.tick_timer.cancel()
            self.tick_due = soon
            self.tick_timer = self.loop.call_later(TICK_BUSY_S, self.tick)

    def tick(self):
        """The router's only timer: time-outs, gates that opened without a word, silent backends."""
        cdef double now = seconds()
        cdef double wait
        cdef Partition p
        cdef bint busy = self.parked > 0
        if now - self.tick_due > self.lag:
            self.lag = now - self.tick_due
        try:
            self.look_after(now)
        finally:
            for p in self.lines:
                busy = busy or p.confirm_due or p.unblocking or p.attaching
            wait = TICK_BUSY_S if busy else TICK_IDLE_S
            self.tick_due = seconds() + wait
            self.tick_timer = self.loop.call_later(wait, self.tick)

    cdef void look_after(self, double now):
        cdef Partition p
        cdef Target target
        for p in self.lines:
            if p.refused.head is not None or p.waiting.head is not None:
                p.expire(now)
                p.release()
            p.commit.look_after(now)
            p.look_at_privates(now)
            self.is_unreachable(p)
            if p.engine is not None:
                self.look_at_target(p.engine, now)
            if p.reader is not None:
                self.look_at_target(p.reader, now)
        for target in self.peers.values():
            self.look_at_target(target, now)
        for target in self.readers.values():
            self.look_at_target(target, now)
        self.look_at_retired(now)
        self.hub.look_after(now)
        if self.most_clients - self.client_count >= max(<Py_ssize_t>MANY_LEFT, self.client_count):
            self.most_clients = self.client_count
            cc_give_memory_back()
        if self.idle_timeout > 0 and now >= self.idle_due:
            self.look_for_idle(now)
        self.settle_touched()

    cdef void look_for_idle(self, double now):
        """Disconnect the clients that are idle for too long."""
        cdef Client c
        self.idle_due = now + min(IDLE_LOOK_S, self.idle_timeout / 4)
        for c in list(self.clients.values()):
            if c.is_idle(now):
                c.cut(&self.counters.idlers)

    cdef void look_at_target(self, Target target, double now):
        if target.two is not None:
            self.look_at_backend(target.two, now)
        if target.three is not None:
            self.look_at_backend(target.three, now)

    cdef void look_at_retired(self, double now):
        """Close the targets that the routes name no more once nothing is in flight there."""
        cdef Target target
        cdef list busy = []
        for target in self.retired:
            self.look_at_target(target, now)
            if target.idle():
                target.close("the routes name it no more")
            else:
                busy.append(target)
        self.retired = busy

    cdef bint is_patient_with(self, Backend b):
        """Is it a copy on this pod that may still be read, and answers something slow?"""
        return (
            b.target.uid is None and not self.given_up and (<Partition>self.lines[b.sent.head.partition]).readable()
        )

    cdef void look_at_backend(self, Backend b, double now):
        """Cut a connection whose replies nobody may wait for any longer."""
        cdef double silent = now - b.heard
        cdef Partition p
        if not b.is_ready:
            if silent > CONNECT_TIMEOUT_S:
                b.lose("it did not answer our greeting in time")
            return
        if b.idle():
            return
        if b.target.reads:
            if b.sent.head is not None and silent > min(ASIDE_SILENCE_S, self.silence) and not self.is_patient_with(b):
                if b.target.uid is not None:
                    # Of other partitions this pod may answer quickly, once the connection is made again.
                    (<Partition>self.lines[b.sent.head.partition]).near_after = now + SILENT_PAUSE_S
                b.lose("it was silent")
            return
        if b.target.partition >= 0:
            p = <Partition>self.lines[b.target.partition]
            if p.carrier is b.target and p.cut_at > 0 and now > p.cut_at:
                b.lose("the gate was shut and the engine did not answer")
            elif silent > self.silence and not p.may_serve():
                b.lose("the engine did not answer and the gate is not open")
        elif (b.sent.head is not None or b.held) and silent > self.silence + (
            0 if b.sent.head is not None else self.ack_timeout
        ):
            b.lose("it was silent")
        elif silent > PEER_SILENCE_S and self.has_lost_partition(b, silent, now):
            b.lose("it was silent")

    cdef bint has_lost_partition(self, Backend b, double silent, double now):
        """Does a partition that has moved away from this peer wait for what is in flight, or held, there?

        A command of a partition that is the peer's may take some time; the replies behind it come in their turn.
        """
        cdef Partition p
        cdef Request r = b.sent.head
        if r is not None and r.internal == NOT_INTERNAL and (<Partition>self.lines[r.partition]).owner is b.target:
            if silent < PEER_BUSY_S:
                return False
        for p in self.lines:
            if p.carrier is b.target and p.owner is not b.target and p.inflight > 0:
                return True
        if b.held:
            for r in b.held.values():
                if (<Partition>self.lines[r.partition]).owner is not b.target:
                    return True
        if b.away:
            # Nobody had to say anything while these wait in the engine: the peer has this long from the move on.
            for r in b.away.values():
                if (<Partition>self.lines[r.partition]).owner is b.target:
                    r.held_at = 0
                elif r.held_at == 0:
                    r.held_at = now
                elif now - r.held_at > PEER_SILENCE_S:
                    return True
        return False

    # -- the end

    def stop_serving(self):
        """Hand nothing more to an engine: from here on every gate is shut in this router."""
        cdef Partition p
        cdef Client c
        self.stopping = True
        for c in self.clients.values():
            c.end_wait(b"TIMEOUT")
        for p in self.lines:
            if p.engine is not None:
                p.engine.flush_all()
            p.end_privates(False)
        self.settle_touched()

    def engines_idle(self):
        """Has every engine answered what it was given?"""
        cdef Partition p
        for p in self.lines:
            if p.commit.count or p.privately or (p.engine is not None and not p.engine.idle()):
                return False
        return True

    def give_up_parked(self, bint forwarded):
        """Answer what is parked: this router will not serve it any more. What waits for another pod only when
        `forwarded`; then nothing is parked from here on, and no backend waited for."""
        cdef Partition p
        cdef double patience = self.park_timeout
        self.park_timeout = -1.0
        for p in self.lines:
            if forwarded or p.mine or p.owner is None:
                p.expire(seconds())
            if forwarded:
                p.commit.give_up("the router ended")
        if forwarded:
            self.given_up = True
            self.silence = -1.0
        else:
            self.park_timeout = patience
        self.settle_touched()

    # -- counters

    def metrics(self):
        """All counters for the agent; the greatest lag of the loop counts from the last call."""
        counters = self.metrics_kept()
        self.lag = 0
        return counters

    cdef dict families(self):
        """The buckets of every family that a sampled request was of."""
        cdef uint64_t* buckets
        cdef dict found = {}
        cdef int family, i
        for name, family in FAMILIES.items():
            buckets = self.counters.latency[family]
            counts = [buckets[i] for i in range(LATENCY_BUCKETS)]
            if any(counts):
                found[name] = counts
        return found

    def metrics_kept(self):
        """Plain counters since the start of the process, by the names of the agent's `metrics` request."""
        cdef Counters* c = &self.counters
        cdef Partition p
        cdef double lag = self.lag
        cdef int i
        cdef list counts = [], timed = [], held_for = []
        cdef Py_ssize_t held = 0, private = 0, waiting = 0
        for p in self.lines:
            counts.append(p.requests)
            timed.append([p.timed, p.timed_ns * 1e-9])
            held += p.commit.count
            private += len(p.privates)
            waiting += p.privately
        for i in range(LATENCY_BUCKETS):
            held_for.append(c.held_for[i])
        return {
            "requests": {
                "local": c.local, "forwarded": c.forwarded, "split": c.split, "answered": c.answered,
            },
            "errors": {
                "tryagain": c.tryagain, "indeterminate": c.indeterminate, "protocol": c.protocol, "moved": c.moved,
                "crossslot": c.crossslot, "gated": c.gated, "unserved": c.unserved, "denied": c.denied,
                "noreplicas": c.noreplicas, "unacknowledged": c.unacknowledged,
            },
            "clients": self.client_count,
            "peers": self.peer_count,
            "connections": c.connections,
            "rejected": c.rejected,
            "disconnected": {
                "slow-reader": c.slow_readers, "messages": c.slow_listeners, "request-size": c.too_large,
                "idle": c.idlers,
            },
            "pauses": c.pauses,
            "bytesIn": c.bytes_in,
            "bytesOut": c.bytes_out,
            "parked": self.parked,
            "parkedBytes": self.parked_bytes,
            "parkedTotal": c.parked_total,
            "retried": c.retried,
            "relayed": c.relayed,
            "partitions": counts,
            "latency": {"sample": LATENCY_SAMPLE, "families": self.families(), "partitions": timed},
            "held": held,
            "private": private,
            "waiting": waiting,
            "subscriptions": self.hub.size(),
            "messages": c.messages,
            "replicaReads": c.replica_reads,
            "commits": c.rounds,
            "heldFor": held_for,
            "loopLagMs": round(lag * 1000, 3),
        }
