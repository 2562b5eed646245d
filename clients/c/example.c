/*
 * A server that loads once and is forked for each worker. It answers every request with what it has loaded, its pid and its command.
 *
 *     cc -Wall -Wextra -o example example.c
 *     [worker]
 *     command = ["./example"]
 *     preload = ["./example"]
 */
#define _GNU_SOURCE
#include "ratoon_preload.h"

static int serve(const char *command, long loaded_by) {
    if (ratoon_say_ready() < 0) return perror("READY=1"), 1;
    for (;;) {
        int client = accept(3, NULL, NULL);
        char request[4096], body[512], answer[1024];
        if (client < 0) continue;
        if (read(client, request, sizeof request) > 0) {
            snprintf(body, sizeof body, "hello from pid %ld generation %s worker %s loaded by %ld as %s\n", (long)getpid(),
                     getenv("RATOON_GENERATION"), getenv("RATOON_WORKER"), loaded_by, command);
            int length = snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", strlen(body), body);
            if (write(client, answer, (size_t)length) != length) perror("write");
        }
        close(client);
    }
}

int main(int argc, char **argv) {
    (void)argc; /* one program is both */
    long loaded_by = (long)getpid(); /* what takes long is loaded here */
    struct ratoon_worker worker;
    if (!getenv("RATOON_FORK")) return serve(argv[0], loaded_by); /* started by worker.command directly */
    switch (ratoon_preload(&worker)) {
    case 1: return serve(worker.argv[0], loaded_by);
    case 0: return 0;
    default: return perror("ratoon_preload"), 1;
    }
}
