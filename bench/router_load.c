/* The load of `make bench-router`: many connections to a few addresses from one thread, at the price of a system call or
 * two for each batch. Measures replies in a window of time, and the CPU time of given processes in exactly that window.
 *
 * Closed: each connection sends `--pipeline` requests in one write, waits for all replies, sends again; the latency of a
 * reply counts from its write. Open (`--rate`): batches are due at fixed times, whatever has been answered by then; the
 * latency counts from when the batch was due, not from when it could be sent, and what is unanswered at the end counts
 * with the time it has waited by then ("coordinated omission").
 *
 * Keys are bench:{TTTTTTTT}:D. On an address given with slots only tags of those slots are used, and the ten keys of an
 * MGET share their tag; without slots every key is drawn from all. Every key must be there (`--fill` makes them), so the
 * length of each reply is known: one that is different ends the run, but for errors, which are counted.
 *
 * What it prints is one JSON object. Exits 1 with a message on stderr when something is not as it must be, 64 on a flag.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_TARGETS = 16, MAX_PIDS = 64, MAX_PIPELINE = 1024, TAGS = 4096, PER_TAG = 10, READ_BYTES = 262144 };
enum { SUB_BITS = 6, BUCKETS = 64 << SUB_BITS, MAX_QUEUED = 512, MAX_UNSENT_BYTES = 1 << 20 };
enum command { SET, GET, MGET };

struct target {
    struct sockaddr_in address;
    bool has_slots;
    uint32_t tags[TAGS];
    uint32_t tag_count;
};

struct connection {
    int fd;
    struct target *target;
    char *out; /* what the socket has not taken */
    size_t out_len, out_cap;
    bool wants_write;
    size_t in_reply; /* bytes of the reply that is being read */
    bool in_error;
    int64_t *due; /* ring: when each unanswered batch was due */
    uint32_t due_head, due_count;
    int left; /* replies of the first batch that have not come */
    int64_t next_due;
    uint32_t filled; /* --fill: keys sent */
};

static struct target targets[MAX_TARGETS];
static int target_count;
static struct connection *connections;
static pid_t pids[MAX_PIDS];
static int pid_count;
static int clients = 50, pipeline = 1;
static size_t value_bytes = 64;
static enum command command = SET;
static double warm_up_s = 0.2, measure_s = 1.0, rate;
static bool fill, hold;

static char *request; /* one request; digits are patched in */
static size_t request_len, key_at[PER_TAG];
static int keys_per_request;
static char *reply_head;
static size_t reply_head_len, reply_len;

static uint64_t histogram[BUCKETS];
static uint64_t measured, answered, errors;
static int64_t longest, window_begin, window_end, interval;
static char first_error[256];
static size_t first_error_len;
static int epoll_fd, filling;
static uint32_t queue = 1; /* unanswered batches of one connection, at most */
static char buffer[READ_BYTES];

static void fail(int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("router_load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(status);
}

static void *allocate(size_t n)
{
    void *p = calloc(1, n);
    if (!p)
        fail(1, "out of memory");
    return p;
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint64_t draw(uint64_t below)
{
    static uint64_t state = 88172645463325252ull;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint64_t)(((unsigned __int128)state * below) >> 64);
}

/* -- latencies: buckets of at most 1/64 of their value */

static int bucket_of(int64_t ns)
{
    uint64_t v = ns < 0 ? 0 : (uint64_t)ns;
    int shift = v < (2u << SUB_BITS) ? 0 : 63 - __builtin_clzll(v) - SUB_BITS;
    return (int)((uint64_t)shift << SUB_BITS) + (int)(v >> shift);
}

static double microseconds_of(int bucket)
{
    int shift = bucket < (2 << SUB_BITS) ? 0 : (bucket >> SUB_BITS) - 1;
    uint64_t low = (uint64_t)(bucket - (shift << SUB_BITS)) << shift;
    return ((double)low + (double)(1ull << shift) / 2) / 1000;
}

static void record(int64_t ns)
{
    histogram[bucket_of(ns)]++;
    measured++;
    if (ns > longest)
        longest = ns;
}

static double quantile(double q)
{
    uint64_t rank = (uint64_t)(q * (double)measured), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > rank)
            return microseconds_of(i);
    }
    return (double)longest / 1000;
}

/* -- CPU time of processes, all their threads */

static int64_t task_ns(const char *path)
{
    long long ns = 0;
    FILE *f = fopen(path, "r");
    if (f) {
        if (fscanf(f, "%lld", &ns) != 1)
            ns = 0;
        fclose(f);
    }
    return ns;
}

static int64_t process_ns(pid_t pid)
{
    char path[320];
    int64_t total = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        fail(1, "process %d is gone", pid);
    for (struct dirent *task; (task = readdir(tasks));)
        if (task->d_name[0] != '.') {
            snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, task->d_name);
            total += task_ns(path);
        }
    closedir(tasks);
    return total;
}

static void read_cpu(int64_t *ns)
{
    for (int i = 0; i < pid_count; i++)
        ns[i] = process_ns(pids[i]);
    ns[pid_count] = process_ns(getpid());
}

/* -- requests */

static uint32_t slot_of(const char *p, size_t n)
{
    uint32_t crc = 0;
    for (size_t i = 0; i < n; i++) {
        crc ^= (uint32_t)(unsigned char)p[i] << 8;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1) & 0xffff;
    }
    return crc & 16383;
}

static void write_tag(char *p, uint32_t tag)
{
    for (int i = 7; i >= 0; i--, tag /= 10)
        p[i] = (char)('0' + tag % 10);
}

/* The key's own bytes begin at the given place: bench:{TTTTTTTT}:D. */
static void write_key(char *key, uint32_t tag, uint32_t digit)
{
    write_tag(key + 7, tag);
    key[17] = (char)('0' + digit);
}

static void make_request(void)
{
    static const char *heads[] = {"*3\r\n$3\r\nSET\r\n", "*2\r\n$3\r\nGET\r\n", "*11\r\n$4\r\nMGET\r\n"};
    size_t room = 1024 + value_bytes;
    request = allocate(room);
    keys_per_request = command == MGET ? PER_TAG : 1;
    request_len = (size_t)sprintf(request, "%s", heads[command]);
    for (int i = 0; i < keys_per_request; i++) {
        key_at[i] = request_len + 5;
        request_len += (size_t)sprintf(request + request_len, "$18\r\nbench:{00000000}:0\r\n");
    }
    if (command == SET) {
        request_len += (size_t)sprintf(request + request_len, "$%zu\r\n", value_bytes);
        memset(request + request_len, 'x', value_bytes);
        request_len += value_bytes;
        memcpy(request + request_len, "\r\n", 2);
        request_len += 2;
    }
}

static void make_reply(void)
{
    char bulk[32];
    int bulk_len = sprintf(bulk, "$%zu\r\n", value_bytes);
    reply_head = allocate(64);
    if (command == SET)
        reply_head_len = reply_len = (size_t)sprintf(reply_head, "+OK\r\n");
    else {
        reply_head_len = (size_t)sprintf(reply_head, "%s%s", command == MGET ? "*10\r\n" : "", bulk);
        reply_len = (command == MGET ? 5 : 0) + (size_t)keys_per_request * ((size_t)bulk_len + value_bytes + 2);
    }
}

static void add_request(struct connection *c, char *to)
{
    struct target *t = c->target;
    uint32_t tag = t->tags[draw(t->tag_count)];
    memcpy(to, request, request_len);
    if (fill) {
        write_key(to + key_at[0], t->tags[c->filled / PER_TAG % t->tag_count], c->filled % PER_TAG);
        c->filled++;
        return;
    }
    for (int i = 0; i < keys_per_request; i++) {
        if (i && !t->has_slots)
            tag = t->tags[draw(t->tag_count)];
        write_key(to + key_at[i], tag, command == MGET ? (uint32_t)i : (uint32_t)draw(PER_TAG));
    }
}

/* -- connections */

static void watch(struct connection *c, bool write)
{
    struct epoll_event e = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e))
        fail(1, "epoll_ctl: %s", strerror(errno));
    c->wants_write = write;
}

static void flush_out(struct connection *c)
{
    ssize_t n = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN)
        fail(1, "send: %s", strerror(errno));
    if (n > 0) {
        c->out_len -= (size_t)n;
        memmove(c->out, c->out + n, c->out_len);
    }
    if ((c->out_len > 0) != c->wants_write)
        watch(c, c->out_len > 0);
}

static void add_batch(struct connection *c, int64_t due)
{
    size_t bytes = request_len * (size_t)pipeline;
    if (c->out_len + bytes > c->out_cap) {
        c->out_cap = 2 * (c->out_len + bytes);
        c->out = realloc(c->out, c->out_cap);
        if (!c->out)
            fail(1, "out of memory");
    }
    for (int i = 0; i < pipeline; i++)
        add_request(c, c->out + c->out_len + (size_t)i * request_len);
    c->out_len += bytes;
    c->due[(c->due_head + c->due_count++) % queue] = due;
    if (c->due_count == 1)
        c->left = pipeline;
}

/* Open: everything that is due by now, as far as there is room. */
static void send_due(struct connection *c, int64_t now)
{
    bool added = false;
    while (c->next_due <= now && c->due_count < queue && c->out_len < MAX_UNSENT_BYTES) {
        add_batch(c, c->next_due);
        c->next_due += interval;
        added = true;
    }
    if (added && !c->wants_write)
        flush_out(c);
}

static void take_answer(struct connection *c, int64_t now)
{
    int64_t due = c->due[c->due_head];
    if (now >= window_begin && now < window_end) {
        answered++;
        if (!rate || due >= window_begin)
            record(now - due);
    }
    if (--c->left > 0)
        return;
    c->due_head = (c->due_head + 1) % queue;
    c->due_count--;
    c->left = pipeline;
    if (rate || c->due_count)
        return;
    if (!fill || c->filled < c->target->tag_count * PER_TAG) {
        add_batch(c, now);
        flush_out(c);
    } else
        filling--;
}

static size_t take_error(struct connection *c, const char *p, size_t n, int64_t now)
{
    const char *end = memchr(p, '\n', n);
    size_t taken = end ? (size_t)(end - p) + 1 : n, keep = taken;
    if (errors == 0 && first_error_len + keep < sizeof first_error) {
        memcpy(first_error + first_error_len, p, keep);
        first_error_len += keep;
    }
    c->in_error = !end;
    if (end) {
        errors++;
        take_answer(c, now);
    }
    return taken;
}

static void take_bytes(struct connection *c, const char *p, size_t n, int64_t now)
{
    while (n) {
        if (!c->due_count)
            fail(1, "a reply that nothing was sent for: %.*s", (int)(n < 80 ? n : 80), p);
        size_t taken;
        if (c->in_error || (c->in_reply == 0 && *p == '-'))
            taken = take_error(c, p, n, now);
        else {
            taken = reply_len - c->in_reply < n ? reply_len - c->in_reply : n;
            size_t head = c->in_reply < reply_head_len ? reply_head_len - c->in_reply : 0;
            head = head < taken ? head : taken;
            if (memcmp(p, reply_head + c->in_reply, head))
                fail(1, "an unexpected reply: %.*s", (int)(n < 80 ? n : 80), p);
            c->in_reply += taken;
            if (c->in_reply == reply_len) {
                c->in_reply = 0;
                take_answer(c, now);
            }
        }
        p += taken;
        n -= taken;
    }
}

static void take_event(struct connection *c, uint32_t events)
{
    if (events & EPOLLOUT)
        flush_out(c);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n > 0)
        take_bytes(c, buffer, (size_t)n, now_ns());
    else if (n == 0 || errno != EAGAIN)
        fail(1, "a connection ended: %s", n ? strerror(errno) : "closed by the other side");
}

static void open_connection(struct connection *c, struct target *t)
{
    int one = 1;
    c->target = t;
    c->due = allocate(sizeof(int64_t) * queue);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&t->address, sizeof t->address))
        fail(1, "connect to %s:%d: %s", inet_ntoa(t->address.sin_addr), ntohs(t->address.sin_port), strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e))
        fail(1, "epoll_ctl: %s", strerror(errno));
}

/* -- flags */

static void take_slots(struct target *t, const char *ranges)
{
    char owned[16384] = {0}, key[9] = {0};
    for (const char *p = ranges; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
        unsigned low, high;
        if (sscanf(p, "%u-%u", &low, &high) != 2 || low > high || high > 16383)
            fail(64, "--target: bad slots %s", ranges);
        memset(owned + low, 1, high - low + 1);
    }
    for (uint32_t tag = 0; tag < TAGS; tag++) {
        write_tag(key, tag);
        if (!ranges || owned[slot_of(key, 8)])
            t->tags[t->tag_count++] = tag;
    }
    t->has_slots = ranges != NULL;
    if (!t->tag_count)
        fail(64, "--target: no key in slots %s", ranges);
}

static void take_target(char *text)
{
    struct target *t = &targets[target_count++];
    char *slots = strchr(text, '/');
    if (target_count > MAX_TARGETS)
        fail(64, "more than %d targets", MAX_TARGETS);
    if (slots)
        *slots++ = 0;
    char *port = strrchr(text, ':');
    if (!port)
        fail(64, "--target: HOST:PORT[/LOW-HIGH,...] expected: %s", text);
    *port++ = 0;
    t->address.sin_family = AF_INET;
    t->address.sin_port = htons((uint16_t)atoi(port));
    if (inet_pton(AF_INET, text, &t->address.sin_addr) != 1)
        fail(64, "--target: not an IPv4 address: %s", text);
    take_slots(t, slots);
}

static enum command command_of(const char *name)
{
    static const char *names[] = {"set", "get", "mget"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, names[i]))
            return (enum command)i;
    fail(64, "--command: set, get or mget expected: %s", name);
    return SET;
}

static void take_pid(const char *text)
{
    if (pid_count == MAX_PIDS)
        fail(64, "more than %d processes", MAX_PIDS);
    pids[pid_count++] = atoi(text);
}

static void parse_flags(int argc, char **argv)
{
    static const struct option options[] = {
        {"target", 1, 0, 't'}, {"clients", 1, 0, 'c'}, {"pipeline", 1, 0, 'p'}, {"command", 1, 0, 'm'},
        {"bytes", 1, 0, 'b'},  {"rate", 1, 0, 'r'},    {"warm-up", 1, 0, 'w'},  {"seconds", 1, 0, 's'},
        {"pid", 1, 0, 'i'},    {"fill", 0, 0, 'f'},    {"hold", 0, 0, 'h'},     {0, 0, 0, 0}};
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (o) {
        case 't': take_target(optarg); break;
        case 'c': clients = atoi(optarg); break;
        case 'p': pipeline = atoi(optarg); break;
        case 'm': command = command_of(optarg); break;
        case 'b': value_bytes = (size_t)atol(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 'w': warm_up_s = atof(optarg); break;
        case 's': measure_s = atof(optarg); break;
        case 'i': take_pid(optarg); break;
        case 'f': fill = true; break;
        case 'h': hold = true; break;
        default: exit(64);
        }
    if (!target_count || clients < target_count || pipeline < 1 || pipeline > MAX_PIPELINE || optind != argc)
        fail(64, "bad flags: a target, a client for each, a pipeline of 1 to %d", MAX_PIPELINE);
}

/* -- the run */

static void wait_and_serve(int timer)
{
    struct epoll_event events[256];
    int n = epoll_wait(epoll_fd, events, 256, 100);
    if (n < 0 && errno != EINTR)
        fail(1, "epoll_wait: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        uint64_t ticks;
        if (events[i].data.ptr)
            take_event(events[i].data.ptr, events[i].events);
        else if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN)
            fail(1, "timerfd: %s", strerror(errno));
    }
}

/* Sends what is due on all connections, in turn, and sets the timer to the next. The connections stand in the order of
 * their due times, so it is enough to go on from the last one until one is not due. */
static void keep_rate(int timer)
{
    static int turn;
    static int64_t timed;
    int64_t now = now_ns();
    for (int i = 0; i < clients && connections[turn].next_due <= now; i++) {
        send_due(&connections[turn], now);
        turn = (turn + 1) % clients;
    }
    int64_t next = connections[turn].next_due;
    if (next <= now)
        next = now + 50000; /* a backlog: it is looked at again soon */
    if (next == timed)
        return;
    timed = next;
    struct itimerspec t = {.it_value = {next / 1000000000, next % 1000000000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &t, NULL);
}

static int start(void)
{
    int64_t now = now_ns();
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer, &e);
    window_begin = now + (int64_t)(warm_up_s * 1e9);
    window_end = window_begin + (int64_t)(measure_s * 1e9);
    if (rate)
        interval = (int64_t)(1e9 * clients * pipeline / rate);
    for (int i = 0; i < clients; i++) {
        struct connection *c = &connections[i];
        c->next_due = now + interval * i / clients;
        if (rate || (fill && i >= target_count))
            continue;
        filling++;
        add_batch(c, now);
        flush_out(c);
    }
    return timer;
}

/* What is unanswered at the end of an open run has waited until now; so has what was due and not sent. */
static void record_unanswered(int64_t now)
{
    for (int i = 0; rate && i < clients; i++) {
        struct connection *c = &connections[i];
        for (uint32_t k = 0; k < c->due_count; k++) {
            int64_t due = c->due[(c->due_head + k) % queue];
            for (int j = due >= window_begin ? (k ? pipeline : c->left) : 0; j > 0; j--)
                record(now - due);
        }
        for (; c->next_due < now; c->next_due += interval)
            for (int j = 0; c->next_due >= window_begin && j < pipeline; j++)
                record(now - c->next_due);
    }
}

static void print_result(double seconds, const int64_t *before, const int64_t *after)
{
    for (char *p = first_error; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ')
            *p = ' ';
    printf("{\"seconds\": %.6f, \"requests\": %llu, \"errors\": %llu, \"first_error\": \"%s\", ", seconds,
           (unsigned long long)answered, (unsigned long long)errors, first_error);
    printf("\"p50_us\": %.2f, \"p99_us\": %.2f, \"p99_9_us\": %.2f, \"max_us\": %.2f, ", quantile(0.5), quantile(0.99),
           quantile(0.999), (double)longest / 1000);
    printf("\"load_cpu_us\": %.1f, \"cpu_us\": [", (double)(after[pid_count] - before[pid_count]) / 1000);
    for (int i = 0; i < pid_count; i++)
        printf("%s%.1f", i ? ", " : "", (double)(after[i] - before[i]) / 1000);
    printf("]}\n");
    fflush(stdout);
}

static void run_window(int timer)
{
    int64_t before[MAX_PIDS + 1], after[MAX_PIDS + 1];
    bool begun = false;
    for (int64_t now; (now = now_ns()) < window_end;) {
        if (!begun && now >= window_begin) {
            read_cpu(before);
            window_begin = now_ns();
            begun = true;
        }
        if (rate)
            keep_rate(timer);
        wait_and_serve(timer);
    }
    if (!begun)
        fail(1, "the machine stood still for longer than the measurement");
    window_end = now_ns();
    read_cpu(after);
    record_unanswered(window_end);
    print_result((double)(window_end - window_begin) / 1e9, before, after);
}

int main(int argc, char **argv)
{
    struct rlimit files;
    parse_flags(argc, argv);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    make_request();
    make_reply();
    queue = rate ? MAX_QUEUED : 1;
    epoll_fd = epoll_create1(0);
    connections = allocate(sizeof(struct connection) * (size_t)clients);
    for (int i = 0; i < clients; i++)
        open_connection(&connections[i], &targets[i % target_count]);
    int timer = start();
    if (fill) {
        while (filling)
            wait_and_serve(timer);
        if (errors)
            fail(1, "%llu errors, the first: %s", (unsigned long long)errors, first_error);
        return 0;
    }
    run_window(timer);
    for (char byte; hold && read(0, &byte, 1) > 0;) {
    }
    return 0;
}
