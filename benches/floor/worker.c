/* The worker of the benchmarks: the smallest HTTP/1.1 server that drains well, with a start as short as a process can have.
 *
 * It takes its socket from LISTEN_FDS, from SERVER_STARTER_PORT, or binds WORKER_PORT itself. Environment:
 *   WORKER_STAMPS  a file to which it appends a `struct stamp` when it is ready, and when it is told to drain
 *   WORKER_START   milliseconds that it needs to start
 *   WORKER_WORK    milliseconds that a request takes, in which it serves no other; it tells of it on its status page
 *   WORKER_STARTS  a file to which each start adds a byte
 *   WORKER_BROKEN  a file; while it exists, the worker dies at start
 *   WORKER_FLOOD   slots (as in "0,1") whose workers send to the notify socket as fast as they can
 * At SIGTERM it stops accepting, answers what it has accepted, says Connection: close to kept connections, and leaves. */
#include "floor.h"
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <netinet/tcp.h>

/* What a worker notes: its first instruction and READY=1, or when it was told to drain; CLOCK_MONOTONIC, nanoseconds. */
struct stamp { uint64_t pid, began, ready, told; };

enum { CONNECTIONS = 4096, REQUEST = 2048 };
static struct { char text[REQUEST]; int length, open; } connections[CONNECTIONS];
static int epoll, listener = -1, signals, draining, open_connections;
static char answers[2][512];
static int lengths[2];
static useconds_t work;
static uint64_t requests;

static void watch(int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void end(int fd)
{
    close(fd);
    connections[fd].open = 0;
    open_connections--;
}

static void accept_one(void)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
    if (fd < 0) return;
    if (fd >= CONNECTIONS) { close(fd); return; }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connections[fd].length = 0;
    connections[fd].open = 1;
    open_connections++;
    watch(fd, EPOLLIN);
}

/* A word of the status page (the layout is in clients/rust/src/scoreboard). */
static void page(int word, uint64_t value)
{
    const char *number = getenv("RATOON_SCOREBOARD");
    if (number && pwrite(atoi(number), &value, sizeof value, word * 8) != sizeof value) exit(1);
}

static void serve(int fd)
{
    char *text = connections[fd].text;
    ssize_t got = read(fd, text + connections[fd].length, (size_t)(REQUEST - 1 - connections[fd].length));
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { end(fd); return; }
    connections[fd].length += (int)got;
    text[connections[fd].length] = 0;
    if (!strstr(text, "\r\n\r\n")) return;
    int last = draining || strstr(text, "onnection: close") != NULL;
    connections[fd].length = 0;
    if (work) {
        page(24, 1);
        usleep(work);
        page(24, 0);
        page(17, ++requests);
    }
    if (write(fd, answers[last], (size_t)lengths[last]) < 0 || last) end(fd);
}

static void say(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    if (!path) return;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sendto(fd, text, strlen(text), 0, (struct sockaddr *)&address, sizeof address);
    close(fd);
}

static void note(const struct stamp *stamp)
{
    const char *path = getenv("WORKER_STAMPS");
    int fd = path ? open(path, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
    if (fd < 0) return;
    if (write(fd, stamp, sizeof *stamp) != sizeof *stamp) exit(1);
    close(fd);
}

static void flood(const char *slots)
{
    const char *slot = getenv("RATOON_SLOT");
    if (!slots || !slot || !strchr(slots, slot[0]) || slot[1]) return;
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    connect(fd, (struct sockaddr *)&address, sizeof address);
    /* SIGTERM, which is blocked for the descriptor of signals, ends it. */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (;;) send(fd, "STATUS=flood", 12, 0);
}

int main(void)
{
    struct stamp stamp = {.pid = (uint64_t)getpid(), .began = monotonic()};
    const char *value;
    if ((value = getenv("WORKER_STARTS"))) {
        int fd = open(value, O_WRONLY | O_APPEND | O_CLOEXEC);
        if (write(fd, ".", 1) != 1) return 1;
        close(fd);
    }
    if ((value = getenv("WORKER_BROKEN")) && !access(value, F_OK)) return 1;
    if (getenv("LISTEN_FDS") && atoi(getenv("LISTEN_FDS")) > 0) listener = 3;
    else if ((value = getenv("SERVER_STARTER_PORT"))) listener = atoi(strrchr(value, '=') + 1);
    else if ((value = getenv("WORKER_PORT"))) listener = listen_on(atoi(value));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGQUIT);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    signals = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
    watch(signals, EPOLLIN);
    if (listener >= 0) {
        fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK);
        watch(listener, EPOLLIN | EPOLLEXCLUSIVE);
    }
    value = getenv("RATOON_GENERATION");
    char body[128];
    snprintf(body, sizeof body, "hello from pid %d generation %s worker 0 version none\n", getpid(), value ? value : "0");
    for (int last = 0; last < 2; last++)
        lengths[last] = snprintf(answers[last], sizeof answers[last], "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
            "Content-Length: %zu\r\n%s\r\n%s", strlen(body), last ? "Connection: close\r\n" : "", body);
    if ((value = getenv("WORKER_START"))) usleep((useconds_t)(atof(value) * 1000));
    if ((value = getenv("WORKER_WORK"))) {
        work = (useconds_t)(atof(value) * 1000);
        page(8, stamp.pid);
        page(16, 1);
    }
    say("READY=1");
    stamp.ready = monotonic();
    note(&stamp);
    flood(getenv("WORKER_FLOOD"));
    while (!draining || open_connections) {
        struct epoll_event events[64];
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) { if (!draining) accept_one(); }
            else if (fd == signals) {
                draining = 1;
                epoll_ctl(epoll, EPOLL_CTL_DEL, signals, NULL);
                note(&(struct stamp){.pid = stamp.pid, .told = monotonic()});
                if (listener >= 0) epoll_ctl(epoll, EPOLL_CTL_DEL, listener, NULL);
            } else if (connections[fd].open) serve(fd);
        }
    }
    return 0;
}
