"""The router's objects: requests on their way, the lines they stand in, connections on both sides, partitions."""

from libc.stdint cimport int64_t, uint16_t, uint64_t

from .command_table cimport FAMILY_COUNT, Command, CommandTable, Merge
from .resp cimport Arg, Buf, ReplyScan, RequestScan

# A gate record of the pod table as the router reads it (cachecluster_core.pod_table).
cdef struct Gate:
    uint64_t seen_epoch
    uint64_t gate_epoch
    int64_t deadline_ns
    uint64_t generation

cdef enum Internal:
    NOT_INTERNAL = 0
    HELLO_REPLY = 1      # the reply to our own greeting on a backend connection
    WORD_REPLY = 2       # the reply to a word of ours: CACHECLUSTER RESUME, OFF, UNBLOCK; CLIENT UNBLOCK


# One command of a client, or a part of one that was split, or a message of our own to a backend.
cdef class Request:
    cdef Client client           # None for a message of our own
    cdef Request next            # the client's order
    cdef Request follower        # the order of the line it stands in: a backend's or a partition's
    cdef Split split             # set on a part
    cdef int part                # number of the part
    cdef bytes chunk             # the bytes that hold the frame, shared with others of its batch
    cdef Py_ssize_t at
    cdef Py_ssize_t len
    cdef int partition
    cdef int slot
    cdef int proto
    cdef uint64_t order          # in its partition: by when it came
    cdef bint write
    cdef bint keyless            # its bytes do not tell the partition: a peer has to be told
    cdef int queued              # of a transaction: replies of the engine before the one that counts
    cdef int to_skip             # those of them that have not come yet
    cdef bint scans              # it has cursors of members in it, or may have
    cdef bytes original          # with the client's cursors; None: they were never changed
    cdef int tag                 # of the process that it was sent to with cursors of its own; 0: with none
    cdef set scanned             # of a transaction: which of its replies tell cursors
    cdef bytes refused           # the first of them that was an error
    cdef uint64_t link           # the private connection it goes on; 0: the shared one
    cdef bint fresh              # that connection is made if there is none; otherwise it must still be there
    cdef bint uploaded           # all but its last line end is in the engine already, on the private connection
    cdef bint blocks             # it may wait in the engine
    cdef double until            # and so long; 0: for ever
    cdef bint unwanted           # of a peer: it has to send this read again, whatever the reply
    cdef bint mute               # CLIENT REPLY: its reply is not sent
    cdef bint done               # the reply stands in `reply`, waiting for its turn
    cdef Internal internal
    cdef int family              # of its command, if its latency is sampled
    cdef double parked_at        # 0 while it was never parked
    cdef int64_t started_ns      # 0 unless its latency is sampled
    cdef double held_at          # when its reply began to wait for acknowledgements
    cdef int64_t bound           # the offset that must be acknowledged before the reply leaves
    cdef uint64_t ticket         # by which a peer knows a reply that is held
    cdef int64_t large           # its reply is passed on in pieces if it is large; as what it is remembered. 0, KEPT_WHOLE: it is kept
    cdef Buf reply

    cdef bytes frame(self)


# First-in first-out, linked through Request.follower.
cdef class Line:
    cdef Request head
    cdef Request tail

    cdef void push(self, Request r)
    cdef void put_back(self, Request r)
    cdef Request pop(self)
    cdef void take_all(self, Line line)


# A command whose keys lie in several partitions: its parts' replies are merged into one.
cdef class Split:
    cdef Request parent
    cdef Merge merge
    cdef bint write
    cdef int waiting             # parts without a reply
    cdef list replies            # by part; None until it came
    cdef list part_of_key        # for MGET: which part answers the key, by key
    cdef int tag                 # for SCAN: of the partition when it was asked
    cdef SlotScan looks          # what it looks for, step by step; None: one reply of each part is all

    cdef bytes merged(self)
    cdef bytes merged_error(self)
    cdef bytes merged_array(self)
    cdef bytes merged_rest(self)


# A search for the keys of one slot.
cdef class SlotScan:
    cdef int slot
    cdef bint counts             # only how many
    cdef long long most          # that are wanted
    cdef set found               # these keys, or hashes of them
    cdef long long total
    cdef Py_ssize_t size         # bytes of all keys found

    cdef void begin(self)
    cdef object take(self, bytes reply)
    cdef void note(self, bytes key)
    cdef bint is_full(self)
    cdef bytes answer(self)


# Where commands go: the engine process of a local copy, or the cluster port of another pod.
cdef class Target:
    cdef Router router
    cdef readonly str name       # for logs
    cdef int partition           # of a local engine; -1 for a peer
    cdef readonly str uid        # of a peer; None for an engine
    cdef public object address   # path of a unix socket, or (host, port)
    cdef Backend two
    cdef Backend three
    cdef double retry_at
    cdef double backoff
    cdef double dropped_at       # when a connection was dropped for a large reply
    cdef bint reads              # for reads that a replica answers: its connections are Readers
    cdef bint pieces             # a peer that passes on in pieces what is large, as we do
    cdef double no_apart_until   # a connection of a client's own could not be made, so what is large is kept whole

    cdef Backend ready(self, int proto)
    cdef void dial(self, int proto)
    cdef bint answers(self)
    cdef void drop(self, Backend b)
    cdef void flush_all(self)
    cdef bint idle(self)
    cdef void close(self, str reason)


# One pipelined connection to a target in one RESP version.
cdef class Backend:
    cdef readonly Router router
    cdef readonly Target target
    cdef readonly int proto
    cdef object transport
    cdef bint is_ready
    cdef bint closed
    cdef bint write_paused
    cdef bint scheduled          # a flush is due in this tick
    cdef Buf rest                # an incomplete reply
    cdef ReplyScan scan
    cdef Buf out                 # commands of this tick
    cdef Line unsent             # the requests of `out`
    cdef Line sent               # those that wait for their reply
    cdef double heard            # when it last answered, or got work while it had none
    cdef set refused             # partitions whose refusal by the peer has not been ended by RESUME
    cdef list stalled            # clients that wait until the socket takes more
    cdef dict held               # peer: by ticket, what was executed there and is not acknowledged yet; None until used
    cdef dict away               # peer: by ticket, what is on a private connection there; None until used
    cdef bint apart              # not the target's one for everybody
    cdef bint control            # for words of ours only: the gate does not matter
    cdef bint listens            # a Feed
    cdef bint dropping           # a reply that is asked for again: it is dropped as it comes

    cdef void add(self, Request r, const char* frame, Py_ssize_t n)
    cdef void add_wrapped(self, Request r, const char* frame, Py_ssize_t n)
    cdef void cannot_wrap(self, Request r, const char* frame, Py_ssize_t n)
    cdef void say(self, list words)
    cdef void say_frame(self, bytes frame)
    cdef void take_push(self, const char* frame, Py_ssize_t n)
    cdef void schedule(self)
    cdef void flush(self)
    cdef void evict(self, Partition p)
    cdef Py_ssize_t take_replies(self, const char* p, Py_ssize_t n)
    cdef Py_ssize_t take_large(self, const char* p, Py_ssize_t n, bint late)
    cdef Py_ssize_t drop(self, const char* p, Py_ssize_t n)
    cdef void give_up_late(self, list late)
    cdef void take_reply(self, Request r, const char* p, Py_ssize_t n, list late)
    cdef bint take_word(self, Request r, Partition p, const char* frame, Py_ssize_t n)
    cdef void take_refusal(self, Request r, Partition p)
    cdef void take_largeness(self, Request r, Partition p)
    cdef void take_held(self, const char* frame, Py_ssize_t n)
    cdef void take_internal(self, Request r, const char* p, Py_ssize_t n)
    cdef void take_back(self, Line line)
    cdef void give_back(self, Request r)
    cdef void went(self, Partition p)
    cdef void left(self, Partition p)
    cdef bytes take_batch(self)
    cdef void resume(self, int partition)
    cdef void let_go(self)
    cdef bint idle(self)
    cdef void greeted(self, bytes reply)
    cdef void ended(self, str reason)
    cdef void lose(self, str reason)


# To an engine, for words about other connections.
cdef class Control(Backend):
    pass


# To a copy that answers reads in its primary's place: an engine here, or the router of a pod in this zone.
cdef class Reader(Backend):
    pass


# A confirmation of subscriptions that is not complete.
cdef class Pending:
    cdef Request request
    cdef bytes reply
    cdef Py_ssize_t count        # of those who have not confirmed

    cdef void heard(self)
    cdef void told(self)


# Where this router hears what is published: an engine here, or the router of another pod.
cdef class Feed(Backend):
    cdef list early              # who waits for its first subscriptions: Pending, or a Partition
    cdef list barriers           # by PING that is not answered, who waits for it
    cdef bint muted              # what it tells others have told, or will
    cdef bint unsure             # nobody waits any longer for what is not in effect yet
    cdef bint settled            # what was wanted when it became ready is in effect
    cdef bint again              # it was lost before
    cdef bint dismissed          # it is to end

    cdef void ask(self, bytes commands, list waiting)
    cdef void want(self, bytes commands, Pending pending)
    cdef void say_track(self, bint on)
    cdef void tell(self, list waiting)
    cdef void settle(self)
    cdef void stop_waiting(self)
    cdef bint look_after(self, double now)


# Subscriptions of this router's clients, and the feeds for them.
cdef class Hub:
    cdef Router router
    cdef tuple listeners         # by kind, clients and peers by name
    cdef tuple own               # by kind, how many clients that are no peers, by name
    cdef dict feeds              # of peers, by pod UID
    cdef dict retry_at           # when a peer that was lost is tried again, by pod UID
    cdef Py_ssize_t bytes        # of all names
    cdef set trackers            # clients that want to be told of changes
    cdef set bcasters            # those of them that want to be told of all changes
    cdef set tracking_peers      # peers that do
    cdef dict read               # by key, the number of the client that has read it, or a set of them
    cdef Py_ssize_t read_bytes   # of all keys

    cdef bint tracks(self, bint of_peer)
    cdef void say_track(self, bint of_peers, bint on)
    cdef void track(self, Client c, Tracking wanted)
    cdef void untrack(self, Client c)
    cdef void remember(self, uint64_t client, bytes key)
    cdef void make_room(self)
    cdef void tell_readers(self, list keys)
    cdef void changed(self, const char* frame, Py_ssize_t n, bint by_peer)
    cdef void all_changed(self, bint by_peer)
    cdef void invalidate(self, Client c, bytes keys)
    cdef bint active(self)
    cdef Py_ssize_t size(self)
    cdef list everything(self, bint of_peer)
    cdef void subscribe(self, Client c, int kind, list names)
    cdef void add(self, Client c, int kind, bytes name, list new, list new_own)
    cdef void unsubscribe(self, Client c, int kind, list names)
    cdef void leave(self, Client c)
    cdef void remove(self, Client c, int kind, list names)
    cdef void publish(self, int kind, bytes name, const char* frame, Py_ssize_t n, bint by_peer)
    cdef void listen(self, bint hurried)
    cdef void listen_here(self, Partition p)
    cdef void lost(self, Feed feed)
    cdef void dismiss(self, Feed feed, str reason)
    cdef void forget_peer(self, str uid)
    cdef void look_after(self, double now)


# A connection of one client's own, whose large replies are passed on in pieces.
cdef class Relay(Backend):
    cdef Client only             # whose
    cdef Request under_way       # whose reply is being passed on; None: none is
    cdef bint allowed            # it may leave: it need not be acknowledged any more
    cdef uint64_t link           # its number among that client's
    cdef bint filling            # a part of a request was sent, and it is not answered
    cdef bint ending             # to be closed when nothing is in flight

    cdef void forget(self, Partition p)
    cdef bint is_free(self)
    cdef void end(self, bint patient)
    cdef bint look_after(self, double now)
    cdef Py_ssize_t pass_on(self, const char* p, Py_ssize_t n)
    cdef void pause(self)
    cdef void go_on(self)
    cdef void stop(self, str reason)
    cdef void look_at_reader(self, double now)
    cdef void answered(self)


# A connection to an engine that is one client's: for commands that wait there, for WATCH, and for large replies.
cdef class Private(Relay):
    cdef bytes engine_id         # as the engine calls it, in digits
    cdef bint watches            # a WATCH was sent, and no EXEC since
    cdef bytes unblocking        # how what waits in the engine is being ended, TIMEOUT or ERROR; None: it is not
    cdef bint asked_for          # by the client
    cdef double said_at          # when that was last asked
    cdef double pause            # until it is asked again
    cdef double cut_at           # when it is given up that nothing is in flight; 0: never

    cdef bint sends_back(self, const char* frame, Py_ssize_t n)
    cdef void take_unblocked(self, Request r)
    cdef void say_unblock(self, Control control, double now)
    cdef void unblock(self, bytes how, bint asked_for)


# A connection to the router of the pod where a partition's primary is that is one client's: for what is large.
cdef class Passage(Relay):
    cdef Partition leads_to


# One partition as this router sees it: where its commands go, what waits, what is in flight.
cdef class Partition:
    cdef Router router
    cdef int index
    cdef bint mine               # the primary is on this pod
    cdef bint here               # it is announced at this pod, and counts here
    cdef bint stands_in          # its commands are taken for the primary's pod, which is leaving
    cdef int tag                 # of the process that serves: cursors are of one process
    cdef Target engine           # the local copy, or None
    cdef Target owner            # where its commands go now; None: nowhere
    cdef Target carrier          # where those in flight went
    cdef Target reader           # the local copy, for reads in the primary's place; None: not to be read
    cdef list near               # the pods of this zone that have a copy to read, where the primary is in another
    cdef double near_after       # do not ask them before: one has just refused
    cdef Py_ssize_t inflight
    cdef Line refused            # were sent and must go again, before those of `waiting`
    cdef Line waiting
    cdef Target told             # the other pod where it is announced; None: here, or at none that is known
    cdef double told_since       # when that or the owner became another one
    cdef double hold_until       # do not try again before: the owner, a peer, has just refused
    cdef double hold_s           # how long it was held back the last time; 0 once the owner took a command
    cdef bint probing            # after a refusal: one command goes first, the others when it was taken
    cdef uint64_t* record        # of the pod table
    cdef uint64_t generation     # taken over from the agent
    cdef bint confirm_due        # the generation is to be confirmed when nothing is in flight
    cdef double cut_at           # when what is in flight at a shut gate is given up
    cdef int64_t deadline_ns     # the last deadline read at the generation taken over
    cdef uint64_t requests       # that came; the last one's order
    cdef uint64_t timed          # of those, the ones whose latency was sampled
    cdef int64_t timed_ns        # the sum of these latencies
    cdef Commit commit           # replies that wait for acknowledgements
    cdef set privates            # private connections to the engine
    cdef Py_ssize_t privately    # commands in flight on them
    cdef bint unblocking         # some of those that wait there are being ended
    cdef Control control         # by which what waits in the engine is ended; None until used
    cdef Feed feed               # where what is published at the engine is heard; None: nowhere
    cdef double feed_retry_at
    cdef bint attaching          # commands wait until the engine is listened to
    cdef double attach_until
    cdef uint64_t feed_number    # of the PING whose answer counts
    cdef double feed_due_at
    cdef bint feed_due           # the gate is reported shut when everything that was published is heard

    cdef bint parks(self)
    cdef bint at_home(self)
    cdef bint readable(self)
    cdef Backend aside(self, int proto, bint near)
    cdef void hold_back(self)
    cdef void taken(self)
    cdef Gate read(self)
    cdef bint may_serve(self)
    cdef bint may_release(self)
    cdef void submit(self, Request r, const char* frame, Py_ssize_t n)
    cdef void send_alone(self, Backend shared, Request r, const char* frame, Py_ssize_t n)
    cdef Relay make_relay(self, Client c, uint64_t link)
    cdef bint passes_pieces(self)
    cdef Control controlled(self, Target target)
    cdef void end_privates(self, bint patient)
    cdef void look_at_privates(self, double now)
    cdef void park(self, Request r)
    cdef void left_flight(self)
    cdef void release(self)
    cdef void expire(self, double now)
    cdef void unpark(self, Request r)
    cdef void refuse_peer(self, Request r)
    cdef void send_again(self, Request r)
    cdef bint refuses(self, Request r)
    cdef void take_over(self, uint64_t generation, bint patient, list required)
    cdef void confirm_when_idle(self)
    cdef void attach(self)
    cdef void await_feed(self)
    cdef bint is_deaf(self)
    cdef void heard_all(self, uint64_t number)
    cdef void stop_attaching(self)


# The replies of one partition that wait until every required copy has acknowledged what they tell.
cdef class Commit:
    cdef Router router
    cdef Partition partition
    cdef int index
    cdef tuple names             # of the required copies but the own one, as they announce themselves
    cdef int copies              # in the required set; 0: not known yet
    cdef int in_sync             # of those, the copies that may lead: learners are required before they may
    cdef dict acked              # offset by name, as the last round told
    cdef Line fresh
    cdef Line asked
    cdef Line bounded
    cdef Py_ssize_t count        # in all lines
    cdef bint under_way
    cdef CommitLink link
    cdef object timer
    cdef double pause

    cdef void use_required(self, list copies)
    cdef bint has_too_few(self)
    cdef bint holds(self, Request r)
    cdef void hold(self, Request r, const char* reply, Py_ssize_t n)
    cdef void begin(self)
    cdef void round_began(self, int64_t offset)
    cdef void round_ended(self, dict acked)
    cdef void judge(self)
    cdef void release(self, Request r)
    cdef void release_all(self)
    cdef void answer(self, Request r, bytes reply)
    cdef void drained(self)
    cdef void give_up(self, str reason)
    cdef void fail(self, Request r, error, detail)
    cdef void refuse_writes(self)
    cdef void look_after(self, double now)
    cdef str silent_members(self, Request r)
    cdef void reset(self, str reason)
    cdef void drop_link(self)


# A committer's connection to the engine.
cdef class CommitLink:
    cdef Commit commit
    cdef readonly Target target
    cdef readonly int proto
    cdef object transport
    cdef bint is_ready
    cdef bint closed
    cdef bytes rest              # an incomplete reply
    cdef ReplyScan scan
    cdef int replies             # of the round under way
    cdef int64_t began           # its first offset
    cdef double used_at

    cdef void take(self, bytes frame)
    cdef void ask(self, Py_ssize_t acknowledgements)
    cdef void close(self)


# A large request that goes to the engine here as it comes.
cdef class Upload:
    cdef Command* command
    cdef bytes key
    cdef int slot
    cdef Partition partition
    cdef Relay link              # None: it was lost, and the rest is dropped
    cdef Py_ssize_t bytes        # of it that came
    cdef double came_at          # when the last of them did


# The commands of a client since its MULTI.
cdef class Queue:
    cdef list frames
    cdef Py_ssize_t bytes
    cdef int slot                # of their keys; -1: no key yet
    cdef bint write
    cdef bint broken             # one was refused: EXEC executes none

    cdef void take(self, Client c, int slot, bint write, const char* frame, Py_ssize_t n)
    cdef void forget(self, Router router)
    cdef bytes body(self)


# What a client wants to be told of: CLIENT TRACKING.
cdef class Tracking:
    cdef readonly bint bcast
    cdef readonly bint optin
    cdef readonly bint optout
    cdef readonly bint noloop
    cdef readonly uint64_t redirect  # the client that is told instead; 0: none
    cdef readonly tuple prefixes
    cdef readonly int caching    # what CLIENT CACHING said of the command that is served now: 1 yes, -1 no
    cdef bint just_said          # of the next one
    cdef bint confirmed          # everybody who is listened to tells
    cdef readonly bint broken    # the client that it redirects to is gone, and it was told so
    cdef bint clean              # it was told that everything is invalid, and has read nothing since
    cdef list waiting            # keys that commands between MULTI and EXEC read

    cdef void begin(self, Client c)
    cdef void again(self)
    cdef bint remembers(self)
    cdef bint concerns(self, bytes key)


# A user, or nobody.
cdef class Account:
    cdef readonly object user    # acl.User; None: nobody
    cdef bint plain              # all keys and channels: the commands alone decide
    cdef bytes allowed           # by number of the command in the table, whether it is granted
    cdef bytes needs             # by number, what it does with the only key that it has; 0: not granted, or more keys
    cdef list prefixes           # (bytes, what may be done with keys that begin so)


# A connection that a client, or a peer router, made to one of our ports.
cdef class Client:
    cdef readonly Router router
    cdef public object transport
    cdef readonly uint64_t id
    cdef readonly bint cluster   # on the cluster port
    cdef readonly bint peer      # a router of another pod
    cdef public bint pieces      # peer: it knows -CCLARGE
    cdef public bint passage     # peer: one of its clients alone is served here
    cdef readonly int proto
    cdef public dict info        # name, library, ...: None until set
    cdef set gated               # peer: partitions refused until RESUME
    cdef bint closed
    cdef bint closing            # close when nothing is outstanding
    cdef bint leaving            # take leave at the first moment at which nothing is outstanding
    cdef bint half_closed        # it was told that nothing more will come, and may still be reading
    cdef bint ended              # it will send nothing more
    cdef bint over_limit
    cdef bint blocked            # not parsing, not reading
    cdef bint barrier            # waits until nothing is outstanding
    cdef bint write_paused
    cdef bint stalled            # waits until a backend's socket takes more
    cdef bint touched            # has replies to write
    cdef bint stirred            # something came or was written since it was last looked for idle ones
    cdef double idle_since
    cdef Py_ssize_t unwritten    # replies that the socket had not taken when its time was over before
    cdef Queue queue             # since its MULTI; None outside a transaction
    cdef readonly bint watching  # since a WATCH, until its EXEC
    cdef bint spoiled            # what it watches was lost sight of: EXEC executes nothing
    cdef int watched             # the slot of what it watches
    cdef dict links              # by number, the connection that it has for itself, or a peer's; None until used
    cdef Upload upload           # what it is in the midst of sending; None: nothing large
    cdef Relay source            # from where a large reply is passed on to it now; None: from nowhere
    cdef readonly tuple subs     # by kind, the names it has subscribed to; None: none
    cdef set unheard             # (kind, name) of those that are not confirmed yet; None: all are
    cdef readonly Tracking tracking  # what it wants to be told of; None: nothing
    cdef public Account account  # as whom it is known; None: there are no users
    cdef Command* command        # what it has asked for last; NULL: nothing that is known
    cdef bint denied             # that is not permitted
    cdef readonly bint monitors  # it is shown every command
    cdef readonly int muted      # how many of the next replies are not sent; -1: none is
    cdef uint64_t reads          # how often something came
    cdef public bint wants_primary  # it wants no replica to answer
    cdef public bint read_only   # cluster port: READONLY
    cdef uint64_t came           # requests that ever came; the last one's number
    cdef uint64_t last_write     # the number of the last one that writes
    cdef uint64_t last_aside     # and of the last one that a replica was asked
    cdef uint64_t wrote[8]       # partitions that it has written to, a bit for each
    cdef list waits              # the parts of its WAIT; None: it has none
    cdef dict counted            # by partition, how many copies had what it had written; None until used
    cdef dict away               # by slot: the read that brought what was answered MOVED, when, and after what pause
    cdef Py_ssize_t outstanding
    cdef Py_ssize_t held         # bytes of replies whose turn has not come, or that are not acknowledged yet
    cdef uint64_t tickets        # peer: that were given out for replies that are held
    cdef Py_ssize_t owed         # peer: replies that it has a ticket for
    cdef Request head
    cdef Request tail
    cdef Buf rest                # an incomplete request, or what is not parsed yet
    cdef RequestScan scan
    cdef Buf out

    cdef Py_ssize_t parse(self, const char* p, Py_ssize_t n)
    cdef bint serve_shown(self, const char* frame, Py_ssize_t n)
    cdef bint inline(self, const char* p, Py_ssize_t n)
    cdef void refuse(self, bytes error)
    cdef void gate(self, int partition)
    cdef void take_in(self, Py_ssize_t n)
    cdef void take_rest(self)
    cdef bint mutes(self)
    cdef Request append(self)
    cdef void give_ticket(self, Request r)
    cdef bint waits_in_engine(self)
    cdef bint end_wait(self, bytes how)
    cdef bint end_waiting(self, Request r, bytes how)
    cdef void end_link(self, uint64_t number)
    cdef void forget_watch(self)
    cdef void reply(self, bytes data)
    cdef void push(self, const char* p, Py_ssize_t n)
    cdef void push_behind(self, bytes data)
    cdef void keep_behind(self, bytes data)
    cdef void show_line(self, bytes line)
    cdef void deliver(self, Request r, const char* p, Py_ssize_t n)
    cdef void hold(self, Request r, const char* p, Py_ssize_t n)
    cdef void keep(self, Request r, const char* p, Py_ssize_t n)
    cdef void tell(self, Request r, bytes reply)
    cdef bint served(self)
    cdef void touch(self)
    cdef void settle(self)
    cdef void take_leave(self)
    cdef void finish(self)
    cdef void write_out(self)
    cdef void block(self)
    cdef bint must_wait(self)
    cdef bint has_its_share(self)
    cdef void cut(self, uint64_t* counter)
    cdef bint is_idle(self, double now)
    cdef void unblock(self)


cdef struct Counters:
    uint64_t local
    uint64_t forwarded
    uint64_t relayed
    uint64_t split
    uint64_t denied
    uint64_t answered
    uint64_t tryagain
    uint64_t indeterminate
    uint64_t protocol
    uint64_t moved
    uint64_t crossslot
    uint64_t gated
    uint64_t unserved
    uint64_t retried
    uint64_t parked_total
    uint64_t connections
    uint64_t rejected
    uint64_t pauses
    uint64_t slow_readers
    uint64_t slow_listeners
    uint64_t too_large
    uint64_t idlers
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t messages
    uint64_t replica_reads
    uint64_t noreplicas
    uint64_t unacknowledged
    uint64_t rounds
    uint64_t held_for[24]
    uint64_t latency[FAMILY_COUNT][24]


cdef class Router:
    cdef readonly object loop
    cdef readonly CommandTable table
    cdef readonly object answers         # (client, name, arguments) -> bytes
    cdef readonly object connect         # (target, protocol factory, address): starts a connection
    cdef public object confirm           # (partition, generation): tells the agent; None without one
    cdef readonly dict routes            # as the agent sent them; None before the first
    cdef readonly int partitions
    cdef int shift
    cdef list lines                      # Partition by number
    cdef dict peers                      # Target by pod UID
    cdef Hub hub                         # subscriptions
    cdef set looking                     # numbers of clients for whom a slot is looked through
    cdef public object on_left           # called when a connection has ended; None: nobody asks
    cdef dict accounts                   # by name; None: there are no users
    cdef Account nobody
    cdef set monitors                    # clients that are shown every command; None: there are none
    cdef list retired                    # targets that the routes name no more
    cdef readonly str self_uid
    cdef bytearray shared                # where every connection reads into
    cdef char* shared_p
    cdef object shared_view
    cdef object piece_view               # the same, for a piece of a large reply
    cdef dict large                      # slot by command and key, of what had large replies
    cdef uint16_t large_in[16384]        # how many of them, by slot
    cdef object table_view               # keeps the pod table mapped
    cdef list dirty                      # backends to flush in this tick
    cdef bint flush_due
    cdef bint in_turn            # sockets are read: what is due is written when all were
    cdef list touched                    # clients to write to
    cdef readonly dict clients           # by id
    cdef readonly Py_ssize_t client_count
    cdef Py_ssize_t most_clients         # at once, since memory was given back
    cdef readonly Py_ssize_t peer_count
    cdef uint64_t last_id
    cdef uint64_t sample
    cdef Py_ssize_t parked
    cdef Py_ssize_t parked_bytes
    cdef Py_ssize_t queued_bytes         # of all clients since their MULTI
    cdef Py_ssize_t max_parked_bytes     # of both together
    cdef double park_timeout
    cdef double silence
    cdef bint given_up           # nothing is parked any more, and no backend waited for
    cdef Py_ssize_t pipeline             # these and the next ones of one client
    cdef readonly Py_ssize_t request_max
    cdef readonly Py_ssize_t unread_replies_max
    cdef readonly Py_ssize_t unread_messages_max
    cdef Py_ssize_t held_pause
    cdef readonly double idle_timeout    # 0: none
    cdef double idle_due
    cdef bint sync                       # writes are answered when every required copy has them
    cdef bint committed_reads            # and what reads tell as well
    cdef bint replica_reads              # replicas may answer reads
    cdef bint zone_reads                 # and those of other pods in this zone
    cdef dict readers                    # Target by pod UID, for reads of those
    cdef int min_in_sync
    cdef double ack_timeout
    cdef Py_ssize_t max_clients
    cdef readonly bint stopping
    cdef double tick_due
    cdef double lag
    cdef Counters counters

    cdef object tick_timer

    cdef void use_durability(self, dict settings)
    cdef void use_limits(self, dict settings)
    cdef void look_for_idle(self, double now)
    cdef void make_lines(self, int partitions)
    cdef void use_members(self, dict members)
    cdef void use_copy(self, Partition p, dict copy)
    cdef void use_primary(self, Partition p, uid, announced)
    cdef void use_readers(self, Partition p, dict routes)
    cdef Target reader_of(self, str uid)
    cdef void forget_reader(self, str uid)
    cdef void target_ready(self, Target target)
    cdef void settle_touched(self)
    cdef void write_replies(self)
    cdef void write_batches(self)
    cdef void report(self, str what, error)
    cdef void schedule_flush(self)
    cdef void deliver(self, Request r, const char* p, Py_ssize_t n)
    cdef void fail(self, Request r, bytes error)
    cdef bytes moved(self, int slot, Partition p)
    cdef bint is_unreachable(self, Partition p)
    cdef void send_away(self, Client c, int slot, Partition p)
    cdef void give_up_sent(self, Backend b, list lost, Line behind, str reason)
    cdef int any_slot(self)
    cdef void time_request(self, Request r)
    cdef void time_piece(self, Request r, int64_t started_ns)
    cdef dict families(self)
    cdef void take_over_account(self, Client c)
    cdef void end_what_is_not_granted(self, Client c)
    cdef void show(self, Client c, const char* frame)
    cdef void hurry(self)
    cdef void look_at_target(self, Target target, double now)
    cdef void look_at_retired(self, double now)
    cdef bint is_patient_with(self, Backend b)
    cdef void look_at_backend(self, Backend b, double now)
    cdef void look_after(self, double now)
    cdef bint has_lost_partition(self, Backend b, double silent, double now)
