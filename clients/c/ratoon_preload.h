/*
 * worker.preload of Ratoon for programs in C: load once, and be forked for each worker. One header, no library.
 *
 * The protocol, version 1, is that of PRELOAD in ratoon-worker(7). Use:
 *
 *     load();                                        // no thread may run from here on
 *     struct ratoon_worker worker;
 *     switch (ratoon_preload(&worker)) {             // says READY=1 and forks
 *     case 1: return serve(worker.argc, worker.argv); // in each worker: descriptors, environment and session are its own
 *     case 0: return 0;                              // in the preload process, when the generation is over
 *     default: perror("ratoon_preload"); return 1;   // ENOENT: RATOON_FORK is not set
 *     }
 */
#ifndef RATOON_PRELOAD_H
#define RATOON_PRELOAD_H

#ifndef _GNU_SOURCE
#error "define _GNU_SOURCE before the first #include"
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RATOON_REQUEST_MAX 98304    /* bytes */
#define RATOON_DESCRIPTORS_MAX 253  /* of one request */
#define RATOON_HEAD "ratoon-fork=1" /* the first field: the version */
/* Descriptors below are for those of a worker; the program's own, opened after ratoon_keep_numbers(), are above. */
#define RATOON_KEPT 67

/* The worker that this process has become. */
struct ratoon_worker {
    unsigned long id;
    const char *program; /* the path of the program of worker.command */
    int argc;
    char **argv; /* worker.command; ends with NULL */
};

static char ratoon_kept[RATOON_KEPT]; /* the numbers under which nothing but /dev/null is open */

/* Opens /dev/null under each free number below RATOON_KEPT. Call it before anything is opened that is to survive a fork. */
static inline int ratoon_keep_numbers(void) {
    int fd;
    while ((fd = open("/dev/null", O_RDWR | O_CLOEXEC)) >= 0 && fd < RATOON_KEPT) ratoon_kept[fd] = 1;
    return fd < 0 ? -1 : close(fd);
}

static inline int ratoon_say_ready(void) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!path || strlen(path) >= sizeof address.sun_path) return errno = EINVAL, -1;
    memcpy(address.sun_path, path, strlen(path));
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (*path == '@') address.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    ssize_t sent = sendto(fd, "READY=1", 7, MSG_NOSIGNAL, (struct sockaddr *)&address, length);
    close(fd);
    return sent == 7 ? 0 : -1;
}

/* Sends `ratoon-fork=1`, NAME=ID and, where `more` is its name, a second number. */
static inline int ratoon_reply(int fork_fd, const char *name, unsigned long id, const char *more, long number) {
    char text[128];
    int length = snprintf(text, sizeof text, RATOON_HEAD "%c%s=%lu%c", 0, name, id, 0);
    if (more) length += snprintf(text + length, sizeof text - (size_t)length, "%s=%ld%c", more, number, 0);
    return send(fork_fd, text, (size_t)length, MSG_NOSIGNAL) == length ? 0 : -1;
}

/* Puts the descriptors of one role to their numbers, from `next` on. Returns the number after them. */
static inline int ratoon_place(const char *role, const char *text, const char *end, const int *fds, int next) {
    for (int index = 0; text < end; text += strlen(text) + 1) {
        if (strncmp(text, "fd=", 3) != 0) continue;
        if (strcmp(text + 3, role) == 0 && dup2(fds[index], next++) < 0) return -1;
        index++;
    }
    return next;
}

/* In the second child: becomes the worker. Returns 0, or -1 with errno. */
static inline int ratoon_become(int fork_fd, char *text, const char *end, const int *fds, int count, long master,
                                struct ratoon_worker *worker) {
    static const char *const roles[] = {"stdin", "stdout", "stderr", "listener", "scoreboard"};
    static const struct timespec pause = {0, 500000};
    for (int left = 60000; getppid() != master; nanosleep(&pause, NULL))
        if (left-- == 0) return errno = ESRCH, -1;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (setsid() < 0) return -1;
    int next = 0;
    for (size_t role = 0; role < sizeof roles / sizeof *roles; role++)
        if ((next = ratoon_place(roles[role], text, end, fds, next)) < 0) return -1;
    for (int index = 0; index < count; index++) close(fds[index]);
    for (int fd = next; fd < RATOON_KEPT; fd++)
        if (ratoon_kept[fd]) close(fd);
    int words = 0;
    for (const char *field = text; field < end; field += strlen(field) + 1) words += strncmp(field, "arg=", 4) == 0;
    worker->argv = calloc((size_t)words + 1, sizeof *worker->argv);
    if (!worker->argv) return -1;
    worker->argc = 0;
    for (char *field = text; field < end; field += strlen(field) + 1) {
        char *value = strchr(field, '=') + 1;
        if (strncmp(field, "arg=", 4) == 0) worker->argv[worker->argc++] = value;
        else if (strncmp(field, "program=", 8) == 0) worker->program = value;
        else if (strncmp(field, "unset=", 6) == 0) unsetenv(value);
    }
    for (char *field = text; field < end; field += strlen(field) + 1)
        if (strncmp(field, "env=", 4) == 0 && putenv(field + 4) != 0) return -1;
    char own[24];
    snprintf(own, sizeof own, "%ld", (long)getpid());
    if (getenv("LISTEN_FDS")) setenv("LISTEN_PID", own, 1);
    if (getenv("WATCHDOG_USEC")) setenv("WATCHDOG_PID", own, 1);
    if (ratoon_reply(fork_fd, "confirmed", worker->id, NULL, 0) < 0) _exit(1); /* the master does not wait any more */
    return close(fork_fd);
}

/* Forks twice, so that the worker becomes a child of the master. Returns 1 in the worker. */
static inline int ratoon_fork(int fork_fd, char *text, const char *end, const int *fds, int count, long master,
                              struct ratoon_worker *worker) {
    int status = 0; /* a program that ignores SIGCHLD learns of none */
    pid_t child = fork();
    if (child < 0) return ratoon_reply(fork_fd, "failed", worker->id, "errno", errno), 0;
    if (child > 0) {
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
        if (status != 0) ratoon_reply(fork_fd, "failed", worker->id, "errno", EAGAIN);
        return 0;
    }
    pid_t second = fork();
    if (second > 0) _exit(ratoon_reply(fork_fd, "forked", worker->id, "pid", second) < 0);
    if (second == 0 && ratoon_become(fork_fd, text, end, fds, count, master, worker) == 0) return 1;
    ratoon_reply(fork_fd, "failed", worker->id, "errno", errno);
    _exit(0);
}

/* Says READY=1 and forks a worker for each request. Returns 1 in each worker, 0 in this process at the end, -1 with errno. */
static inline int ratoon_preload(struct ratoon_worker *worker) {
    const char *number = getenv("RATOON_FORK");
    if (!number) return errno = ENOENT, -1;
    int fork_fd = fcntl(atoi(number), F_DUPFD_CLOEXEC, RATOON_KEPT);
    if (fork_fd < 0) return -1;
    close(atoi(number));
    if (ratoon_keep_numbers() < 0 || ratoon_say_ready() < 0) return -1;
    static char text[RATOON_REQUEST_MAX + 1]; /* a worker's argv and environment lie in it */
    for (;;) {
        union { struct cmsghdr head; char room[CMSG_SPACE(RATOON_DESCRIPTORS_MAX * sizeof(int))]; } control;
        struct iovec part = {text, RATOON_REQUEST_MAX};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t length = recvmsg(fork_fd, &message, MSG_CMSG_CLOEXEC);
        if (length < 0 && errno == EINTR) continue;
        if (length <= 0) return length < 0 && errno != ECONNRESET ? -1 : 0;
        int fds[RATOON_DESCRIPTORS_MAX], count = 0, wanted = 0;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
            count = (int)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(head), (size_t)count * sizeof(int));
        }
        const char *end = text + length;
        long master = 0;
        if (end[-1] != 0 || strcmp(text, RATOON_HEAD) != 0 || message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) return errno = EPROTO, -1;
        char *fields = text + sizeof RATOON_HEAD;
        for (const char *field = fields; field < end; field += strlen(field) + 1) {
            if (!strchr(field, '=')) return errno = EPROTO, -1;
            if (strncmp(field, "id=", 3) == 0) worker->id = strtoul(field + 3, NULL, 10);
            if (strncmp(field, "master=", 7) == 0) master = strtol(field + 7, NULL, 10);
            wanted += strncmp(field, "fd=", 3) == 0;
        }
        if (wanted != count || count > RATOON_KEPT) return errno = EPROTO, -1;
        if (ratoon_fork(fork_fd, fields, end, fds, count, master, worker)) return 1;
        for (int index = 0; index < count; index++) close(fds[index]);
    }
}

#endif
