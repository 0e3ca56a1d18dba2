# What to do with one command of a client.

cdef bytes OK = b"+OK\r\n"
cdef bytes NO_MAP = b"-TRYAGAIN this router has no map yet; this command was not executed, send it again\r\n"
cdef bytes PONG = b"+PONG\r\n"
cdef bytes CROSSSLOT = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"
# First words of lines that a browser sends on behalf of a web page: what follows is not to be served, as in Redis.
cdef tuple HTTP_WORDS = (b"post", b"host:")
cdef enum:
    ERROR_WORD_BYTES = 128


cdef bint serve(Client c, const char* frame, Py_ssize_t n):
    """Serve one request, whose scan stands in the client; False: not before everything outstanding is answered."""
    cdef Router router = c.router
    cdef RequestScan* scan = &c.scan
    cdef Command* container
    cdef Command* command = router.table.find(frame + scan.head[0].at, scan.head[0].len)
    cdef bytes refused
    cdef int slot
    if c.tracking is not None:
        c.tracking.begin(c)
    if c.over_limit or command == NULL:
        return serve_unknown(c, frame)
    if command.container and scan.argc > 1:
        container = command
        command = router.table.find_sub(container, frame + scan.head[1].at, scan.head[1].len)
        if command == NULL:
            c.refuse(subcommand_error(container, frame, scan.head[1]))
            return True
    c.command = command
    if wrong_arity(command, scan.argc):
        c.refuse(arity_error(command))
        return True
    if c.account is not None:
        refused = not_permitted(c, command, frame)
        if refused is not None:
            refuse_denied(c, command, refused)
            return True
    if c.subs is not None and only_listens(c) and not may_while_listening(command):
        c.refuse(listening_error(command))
        return True
    if (command.write or command.kind == KIND_TRANSACTION) and is_outstanding(c, c.last_aside):
        return False
    if command.kind == KIND_TRANSACTION:
        return serve_transaction(c, command)
    if command.one_key:
        if c.tracking is not None and not command.write:
            note_read(c, frame + scan.head[1].at, scan.head[1].len)
        slot = key_slot(frame + scan.head[1].at, scan.head[1].len)
        if command.replica and router.replica_reads and read_aside(c, slot, frame, n):
            return True
        if router.large_in[slot] and is_large(c, command, slot, frame):
            return serve_large(c, slot, frame, n)
        forward(c, slot, command.write, frame, n)
        return True
    if command.kind == KIND_KEYS or command.kind == KIND_SPLIT or command.kind == KIND_WATCH:
        return serve_keys(c, command, frame, n)
    if command.kind == KIND_MEMBERS:
        serve_members(c, command, frame, n)
        return True
    if command.kind == KIND_ALL:
        serve_all(c, command, frame, n)
        return True
    if command.kind == KIND_SCAN:
        serve_scan(c, command, frame, n)
        return True
    if command.kind == KIND_SLOT:
        return serve_slot(c, command, frame, n)
    if command.kind == KIND_LOCAL:
        return serve_here(c, command, frame, n)
    if command.kind == KIND_PUBSUB:
        return serve_pubsub(c, command, frame, n)
    if command.kind == KIND_WAIT:
        return serve_wait(c, command, frame, n)
    if command.kind == KIND_TRACKING:
        return serve_tracking(c, command, frame)
    router.counters.unserved += 1
    c.refuse(unserved_error(command, router.table.entries[command.index]))
    return True


cdef bint wrong_arity(Command* command, Py_ssize_t argc) noexcept nogil:
    return argc != command.arity if command.arity > 0 else argc < -command.arity


cdef bytes name_of(Command* command):
    return command.name[: command.name_len]


cdef bytes arity_error(Command* command):
    return b"-ERR wrong number of arguments for '" + name_of(command) + b"' command\r\n"


cdef bytes unserved_error(Command* command, dict entry):
    """Why a known command is not served, and what to use instead."""
    if command.kind == KIND_REFUSED:
        return f"-ERR '{entry['name']}' is refused by the router: {entry['hint']}\r\n".encode()
    return f"-ERR '{entry['name']}' {NOT_SERVED}\r\n".encode()


cdef bytes clean(const char* p, Py_ssize_t n):
    """Bytes for an error line: line ends become spaces, as in Redis."""
    return PyBytes_FromStringAndSize(p, n).replace(b"\r", b" ").replace(b"\n", b" ")


cdef bytes subcommand_error(Command* container, const char* frame, Arg sub):
    word = clean(frame + sub.at, min(sub.len, ERROR_WORD_BYTES))
    return b"-ERR unknown subcommand '" + word + b"'. Try " + name_of(container).upper() + b" HELP.\r\n"


cdef list all_arguments(const char* frame, Py_ssize_t argc):
    """The arguments as bytes objects: for commands that are not hot."""
    cdef list arguments = []
    cdef Arg arg
    cdef Py_ssize_t at = first_argument(frame), i
    for i in range(argc):
        at = next_arg(frame, at, &arg)
        arguments.append(PyBytes_FromStringAndSize(frame + arg.at, arg.len))
    return arguments


cdef Py_ssize_t first_argument(const char* frame) noexcept nogil:
    """Where the header of a complete frame ends."""
    cdef Py_ssize_t at = 0
    while frame[at] != c"\n":
        at += 1
    return at + 1


cdef bint serve_unknown(Client c, const char* frame):
    """Not in the table: the routers' own command, or none."""
    cdef list arguments = all_arguments(frame, c.scan.argc)
    cdef bytes name = arguments[0]
    cdef bytes reply
    if c.peer and len(arguments) == 6 and name == b"CACHECLUSTER" and arguments[1] == b"AT":
        serve_keyless(c, arguments)
    elif c.peer and len(arguments) == 8 and name == b"CACHECLUSTER" and arguments[1] == b"ON":
        serve_link(c, arguments)
    elif c.peer and len(arguments) == 4 and name == b"CACHECLUSTER" and arguments[1] == b"NEAR":
        serve_near(c, arguments)
    elif name.upper() == b"CACHECLUSTER" and (
        is_about_reads(c, arguments) or (c.cluster and not names_reads(arguments))
    ):
        reply = c.router.answers(c, "cachecluster", arguments)
        if reply is None:
            return False
        c.reply(reply)
    elif c.over_limit:
        c.refuse(b"-ERR max number of clients reached\r\n")
        c.closing = True
    elif name.lower() in HTTP_WORDS:
        c.router.counters.protocol += 1
        c.refuse(b"-ERR Protocol error: this is no HTTP server\r\n")
        c.closing = True
    else:
        c.refuse(unknown_error(arguments))
    return True


cdef bytes unknown_error(list arguments):
    """Redis' own words (server.c, processCommand): as many arguments as fit into 128 bytes."""
    shown = b""
    for argument in arguments[1:]:
        if len(shown) >= ERROR_WORD_BYTES:
            break
        shown += b"'" + argument[: ERROR_WORD_BYTES - len(shown)].split(b"\0")[0] + b"' "
    name = arguments[0][:ERROR_WORD_BYTES].split(b"\0")[0]
    return clean_error(b"ERR unknown command '" + name + b"', with args beginning with: " + shown)


cdef bytes clean_error(bytes text):
    return b"-" + clean(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)) + b"\r\n"


cdef bint leaves_transaction(Client c, Command* command, const char* frame, Py_ssize_t n):
    """Is this command of the router's own served at once, MULTI or not? Others are queued for an engine, or refused."""
    cdef bytes name = name_of(command)
    if name == b"reset" or name == b"quit":
        return True
    if name in ANYWHERE:
        c.queue.take(c, -1, False, frame, n)
    else:
        refuse_in_transaction(c, command)
    return False


cdef bint serve_here(Client c, Command* command, const char* frame, Py_ssize_t n):
    """A command that the router answers itself; False: not before everything outstanding is answered."""
    cdef Py_ssize_t argc = c.scan.argc
    cdef str name
    cdef bytes reply
    if c.queue is not None and not leaves_transaction(c, command, frame, n):
        return True
    if argc == 1 and command.name_len == 4 and memcmp(command.name, b"ping", 4) == 0:
        c.router.counters.answered += 1
        c.reply(PONG if c.subs is None or not only_listens(c) else b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
        return True
    name = (<dict>c.router.table.entries[command.index])["name"]
    if (name == "hello" or name == "reset" or name == "monitor") and c.head is not None:
        return False
    c.router.counters.answered += 1
    c.reply(c.router.answers(c, name, all_arguments(frame, argc)))
    return True


cdef void forward(
    Client c, int slot, bint write, const char* frame, Py_ssize_t n, int queued=-1, bint scans=False
):
    """Send a command to the partition of its slot, or keep it for EXEC. `queued`: its bytes do not tell the slot, and so
    many replies of the engine come before the one that counts. `scans`: it has a cursor of members."""
    cdef Partition p = admitted(c, slot)
    cdef Request r
    if p is None:
        return
    if c.queue is not None:
        c.queue.take(c, slot, write, frame, n)
        return
    r = expect(c, p, slot, write)
    r.scans = scans or queued > 0
    if queued >= 0:
        r.keyless = True
        r.queued = queued
    p.submit(r, frame, n)


cdef inline Partition admitted(Client c, int slot):
    """The partition of a slot, if commands of this connection may go there; None: its client was told why not."""
    cdef Router router = c.router
    cdef Partition p
    if router.partitions == 0:
        c.refuse(NO_MAP)
        return None
    p = <Partition>router.lines[slot >> router.shift]
    if c.cluster:
        if c.peer and (not p.mine or peer_must_wait(c, p)):
            refuse_peer(c, p)
            return None
        if not p.at_home() and p.owner is not None:
            router.send_away(c, slot, p)
            return None
    return p


cdef void refuse_peer(Client c, Partition p):
    """The gate is not open: the peer keeps its command, and what follows it, until RESUME."""
    c.gate(p.index)
    c.router.counters.gated += 1
    c.refuse(b"-CCGATE %d\r\n" % p.index)


cdef inline Request expect(Client c, Partition p, int slot, bint write):
    """A request of this client, at the end of its order."""
    cdef Request r = c.append()
    if c.peer:
        c.router.counters.relayed += 1
    elif p.mine:
        c.router.counters.local += 1
    else:
        c.router.counters.forwarded += 1
    r.partition = p.index
    r.slot = slot
    r.write = write
    if write:
        c.last_write = c.came
        note_write(c, p.index)
    return r


cdef bint peer_must_wait(Client c, Partition p):
    """A peer's command never waits here: it is refused when it cannot go to the engine at once."""
    if c.gated is not None and p.index in c.gated:
        return True
    return p.parks() or p.owner.ready(c.proto) is None


cdef struct Scratch:
    Arg* args
    Py_ssize_t* keys


cdef bint serve_keys(Client c, Command* command, const char* frame, Py_ssize_t n):
    """A command whose keys have to be looked for."""
    cdef Arg args[STACK_ARGS]
    cdef Py_ssize_t keys[STACK_ARGS * MAX_SPECS]
    cdef Scratch scratch
    cdef Py_ssize_t argc = c.scan.argc
    scratch.args = args
    scratch.keys = keys
    if argc > STACK_ARGS:
        scratch.args = <Arg*>malloc(argc * sizeof(Arg))
        scratch.keys = <Py_ssize_t*>malloc(argc * MAX_SPECS * sizeof(Py_ssize_t))
        if scratch.args == NULL or scratch.keys == NULL:
            free(scratch.args)
            free(scratch.keys)
            raise MemoryError()
    try:
        return serve_found_keys(c, command, frame, n, scratch)
    finally:
        if argc > STACK_ARGS:
            free(scratch.args)
            free(scratch.keys)


cdef bint serve_found_keys(Client c, Command* command, const char* frame, Py_ssize_t n, Scratch s):
    """False: not before everything outstanding is answered."""
    cdef Py_ssize_t argc = c.scan.argc, at = first_argument(frame), i, count
    cdef int slot, first = 0
    cdef bint one_slot = True, one_partition = True
    cdef dict entry = c.router.table.entries[command.index]
    if "check" in entry:
        reason = CHECKS[entry["check"]](all_arguments(frame, argc))
        if reason is not None:
            c.router.counters.unserved += 1
            c.refuse(f"-ERR {reason}\r\n".encode())
            return True
    for i in range(argc):
        at = next_arg(frame, at, &s.args[i])
    count = find_keys(command, frame, s.args, argc, s.keys, argc * MAX_SPECS)
    for i in range(count):
        slot = key_slot(frame + s.args[s.keys[i]].at, s.args[s.keys[i]].len)
        if i == 0:
            first = slot
        elif slot != first:
            one_slot = False
            one_partition = one_partition and slot >> c.router.shift == first >> c.router.shift
    if c.tracking is not None and command.kind != KIND_WATCH and (not command.write or is_script(command)):
        for i in range(count):
            note_read(c, frame + s.args[s.keys[i]].at, s.args[s.keys[i]].len)
    if count == 0:
        # A script without keys runs anywhere; keys that a wrong argument hides: any engine knows the error to answer.
        if c.queue is not None:
            c.queue.take(c, -1, command.write, frame, n)
            return True
        forward(c, c.router.any_slot(), command.write, frame, n, 0)
    elif command.kind == KIND_WATCH and one_slot:
        return serve_watch(c, first, frame, n)
    elif command.blocks and one_slot and blocking.limit_at(arguments := all_arguments(frame, argc)) is not None:
        return serve_alone(c, first, command.write, frame, n, arguments)
    elif one_slot or (
        one_partition and (c.peer or (command.kind == KIND_SPLIT and not c.cluster and c.queue is None))
    ):
        if not command.replica or not c.router.replica_reads or not read_aside(c, first, frame, n):
            forward(c, first, command.write, frame, n)
    elif command.kind == KIND_SPLIT and not c.cluster and c.queue is None:
        split_command(c, command, frame, s, count)
    else:
        c.router.counters.crossslot += 1
        c.refuse(CROSSSLOT if c.queue is None else CROSSSLOT_IN_MULTI)
    return True


cdef bint is_script(Command* command):
    """Does it run a script or a function, which may read its keys?"""
    return name_of(command).startswith((b"eval", b"fcall"))


cdef void refuse_in_transaction(Client c, Command* command):
    c.refuse(b"-ERR '" + name_of(command) + b"' is not served between MULTI and EXEC; send it before or after\r\n")
