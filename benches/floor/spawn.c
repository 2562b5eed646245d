/* What the machine takes to start workers: `spawn fork|command WORKERS NOTIFY-PATH PROGRAM [ARG...]`, and to replace one:
 * `spawn respawn 1 NOTIFY-PATH PROGRAM [ARG...]`; `spawn hog` keeps a CPU busy.
 *
 * fork and command: for each line on standard input starts WORKERS more, hears their READY=1, ends those before, and
 * prints when it began and when it had heard the last. `fork` does not wait for exec, `command` starts them as Rust's
 * std::process::Command does, by posix_spawn, which waits. */
#include "floor.h"
#include <poll.h>

static pid_t spawned(char **argv)
{
    pid_t pid;
    if (posix_spawn(&pid, argv[0], NULL, NULL, argv, environ)) die("posix_spawn");
    return pid;
}

static void respawn(int notify, char **argv)
{
    int pidfd;
    start(-1, argv, &pidfd);
    for (;;) {
        struct pollfd ended = {.fd = pidfd, .events = POLLIN};
        poll(&ended, 1, -1);
        siginfo_t how;
        waitid((idtype_t)P_PIDFD, (id_t)pidfd, &how, WEXITED);
        close(pidfd);
        start(-1, argv, &pidfd);
        while (hear(notify) >= 0) ; /* else the socket is full one day, and the workers wait */
    }
}

int main(int argc, char **argv)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc == 2 && !strcmp(argv[1], "hog")) for (;;) ;
    if (argc < 5) return 2;
    int workers = atoi(argv[2]), notify = notify_on(argv[3]), forks = !strcmp(argv[1], "fork");
    if (!strcmp(argv[1], "respawn")) respawn(notify, argv + 4);
    pid_t *now = calloc((size_t)workers, sizeof *now), *before = calloc((size_t)workers, sizeof *before);
    char line[16];
    while (fgets(line, sizeof line, stdin)) {
        uint64_t began = monotonic();
        for (int i = 0; i < workers; i++) {
            int pidfd;
            now[i] = forks ? start(-1, argv + 4, &pidfd) : spawned(argv + 4);
            if (forks) close(pidfd);
        }
        for (int ready = 0; ready < workers;) {
            struct pollfd said = {.fd = notify, .events = POLLIN};
            poll(&said, 1, -1);
            while (hear(notify) > 0) ready++;
        }
        printf("%llu %llu\n", (unsigned long long)began, (unsigned long long)monotonic());
        fflush(stdout);
        for (int i = 0; i < workers; i++) if (before[i]) kill(before[i], SIGTERM);
        for (int i = 0; i < workers; i++) if (before[i]) waitpid(before[i], NULL, 0);
        memcpy(before, now, (size_t)workers * sizeof *now);
    }
    for (int i = 0; i < workers; i++) if (before[i]) kill(before[i], SIGTERM);
    unlink(argv[3]);
    return 0;
}
