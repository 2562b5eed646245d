/* What the floor programs share: the clock, errors, and one way to start a worker.
 *
 * These programs are the machine's own price of what a supervisor does: no policy, no care, no report. They exist to be
 * measured against; nothing else uses them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <linux/sched.h>

extern char **environ;

static inline uint64_t monotonic(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* A listening TCP socket on 127.0.0.1, non-blocking, close-on-exec. */
static inline int listen_on(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) die("listen");
    return fd;
}

/* The socket on which all workers say READY=1; its path goes into NOTIFY_SOCKET. */
static inline int notify_on(const char *path)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    unlink(path);
    if (bind(fd, (struct sockaddr *)&address, sizeof address)) die(path);
    setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    setenv("NOTIFY_SOCKET", path, 1);
    return fd;
}

/* Waits for one READY=1; returns who said it, 0 when it was something else. */
static inline pid_t hear(int notify)
{
    char text[4096], control[CMSG_SPACE(sizeof(struct ucred))];
    struct iovec part = {text, sizeof text - 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(notify, &message, MSG_DONTWAIT);
    if (length < 0) return -1;
    text[length] = 0;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (!header || header->cmsg_type != SCM_CREDENTIALS || strncmp(text, "READY=1", 7)) return 0;
    struct ucred who;
    memcpy(&who, CMSG_DATA(header), sizeof who);
    return who.pid;
}

/* In the child: the listening socket becomes descriptor 3, and the program is executed. */
static inline void execute(int listener, char **argv)
{
    char pid[24];
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (listener == 3) fcntl(3, F_SETFD, 0);
    else if (listener >= 0) dup2(listener, 3);
    snprintf(pid, sizeof pid, "%d", getpid());
    setenv("LISTEN_FDS", "1", 1);
    setenv("LISTEN_PID", pid, 1);
    execv(argv[0], argv);
    _exit(127);
}

/* fork and exec, without waiting for exec; the child's pidfd comes with it. */
static inline pid_t start(int listener, char **argv, int *pidfd)
{
    struct clone_args how = {.flags = CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)pidfd, .exit_signal = SIGCHLD};
    pid_t pid = (pid_t)syscall(SYS_clone3, &how, sizeof how);
    if (pid == 0) execute(listener, argv);
    if (pid < 0) die("clone3");
    return pid;
}
