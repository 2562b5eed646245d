#!/bin/sh
# A worker in shell, as inetd would have had it: one connection at a time becomes the standard input and output of `answer`.
# TERM is seen between two connections, so none is cut; a second without a client is a chance to see it. A shell cannot
# accept: one line of Perl does, and gives up after that second.
answer() {
    while read -r line && [ "${#line}" -gt 1 ]; do :; done
    printf 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%s' "pid $PPID generation $RATOON_GENERATION"
}
[ "${1-}" = answer ] && answer && exit

trap 'leave=1' TERM
systemd-notify --ready --status='waiting on fd 3'
until [ "${leave-}" ]; do
    perl -MSocket -e 'open L, "+<&=", 3; setsockopt L, SOL_SOCKET, SO_RCVTIMEO, pack "l!l!", 1, 0; accept C, L or exit;
        open STDIN, "<&", C; open STDOUT, ">&", C; close C; close L; exec @ARGV' "$0" answer
done
