/* The least that a pre-forking master can be: `master PORT WORKERS NOTIFY-PATH PROGRAM [ARG...]`.
 *
 * One listening socket, READY=1 heard with credentials, a new generation beside the old at SIGHUP and the old one told to
 * drain when all of the new are ready; whoever dies is replaced at once. No backoff, no rollback, no status, no log.
 * With MASTER_RESTARTS set it does instead what `systemctl restart` does behind a socket unit: the old ones end, then the
 * new ones start, and the socket stays. */
#include "floor.h"
#include <sys/epoll.h>
#include <sys/signalfd.h>

enum { MOST = 4096 };
static struct worker { pid_t pid; int pidfd, generation, ready; } workers[MOST];
static int epoll, listener, notify, generation, wanted, reloading, restarts;
static char **program;

static void watch(int fd, uint64_t data)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = data};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) die("epoll");
}

static void spawn_one(int of)
{
    for (uint64_t i = 0; i < MOST; i++) {
        if (workers[i].pid) continue;
        workers[i].generation = of;
        workers[i].ready = 0;
        workers[i].pid = start(listener, program, &workers[i].pidfd);
        watch(workers[i].pidfd, i);
        return;
    }
}

static void end_all_but(int keep)
{
    for (int i = 0; i < MOST; i++)
        if (workers[i].pid && workers[i].generation != keep) syscall(SYS_pidfd_send_signal, workers[i].pidfd, SIGTERM, NULL, 0);
}

static void heard(pid_t pid)
{
    int ready = 0;
    for (int i = 0; i < MOST; i++) {
        if (workers[i].pid == pid) workers[i].ready = 1;
        ready += workers[i].pid && workers[i].generation == generation && workers[i].ready;
    }
    if (reloading && ready == wanted) {
        reloading = 0;
        end_all_but(generation);
    }
}

static void ended(struct worker *worker)
{
    siginfo_t how;
    waitid((idtype_t)P_PIDFD, (id_t)worker->pidfd, &how, WEXITED);
    /* A child that has not executed its program yet has it open too. */
    epoll_ctl(epoll, EPOLL_CTL_DEL, worker->pidfd, NULL);
    close(worker->pidfd);
    worker->pid = 0;
    if (worker->generation == generation) spawn_one(generation);
    else if (restarts) spawn_one(generation);
}

int main(int argc, char **argv)
{
    if (argc < 5) return 2;
    listener = listen_on(atoi(argv[1]));
    wanted = atoi(argv[2]);
    notify = notify_on(argv[3]);
    program = argv + 4;
    restarts = getenv("MASTER_RESTARTS") != NULL;
    epoll = epoll_create1(EPOLL_CLOEXEC);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGHUP);
    sigaddset(&mask, SIGTERM);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    int signals = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
    watch(signals, MOST);
    watch(notify, MOST + 1);
    for (int i = 0; i < wanted; i++) spawn_one(generation);
    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            uint64_t what = events[i].data.u64;
            if (what < MOST) ended(&workers[what]);
            else if (what == MOST + 1) for (pid_t pid; (pid = hear(notify)) >= 0;) heard(pid);
            else {
                struct signalfd_siginfo signal;
                while (read(signals, &signal, sizeof signal) == sizeof signal) {
                    if (signal.ssi_signo == SIGTERM) { end_all_but(-1); unlink(argv[3]); return 0; }
                    generation++;
                    if (restarts) { end_all_but(generation); continue; }
                    reloading = 1;
                    for (int n = 0; n < wanted; n++) spawn_one(generation);
                }
            }
        }
    }
}
