"""Clients of a UDP server, with the arguments and the report of benches/load: a request is a datagram with its answer.

--new: a socket for each request. A request without an answer within 2 s is lost."""

import argparse
import json
import socket
import sys
import threading
import time

TIMEOUT = 2

parser = argparse.ArgumentParser()
parser.add_argument("address")
parser.add_argument("--new", type=int, default=0)
parser.add_argument("--keep-alive", type=int, default=0)
parser.add_argument("--rate", type=float, required=True)
parser.add_argument("--until-eof", action="store_true")
parser.add_argument("--json", action="store_true")
parser.add_argument("--progress")
arguments = parser.parse_args()
host, port = arguments.address.rsplit(":", 1)
ended = threading.Event()
counts = {"new": [0, 0], "kept": [0, 0]}
lock = threading.Lock()


def connect():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT)
    sock.connect((host, int(port)))
    return sock


def client(kept):
    pause = (arguments.new + arguments.keep_alive) / arguments.rate
    sock = connect()
    following = time.monotonic()
    while not ended.is_set():
        time.sleep(max(following - time.monotonic(), 0))
        following = max(following + pause, time.monotonic() - pause)
        if not kept:
            sock.close()
            sock = connect()
        try:
            sock.send(b"hello")
            good = sock.recv(100) == b"hello\n"
        except OSError:
            good = False
        with lock:
            counts["kept" if kept else "new"][0 if good else 1] += 1


def total(index):
    return sum(each[index] for each in counts.values())


threads = [threading.Thread(target=client, args=(number >= arguments.new,)) for number in range(arguments.new + arguments.keep_alive)]
for thread in threads:
    thread.start()


def progress():
    while not ended.wait(0.1):
        print(f"requests {total(0) + total(1)} failures {total(1)}", file=sys.stderr, flush=True)


threads.append(threading.Thread(target=progress))
threads[-1].start()
sys.stdin.read()
ended.set()
for thread in threads:
    thread.join()
classes = {name: {"answered": good, "failures": {"no answer": bad} if bad else {}} for name, (good, bad) in counts.items()}
print(json.dumps({"answered": total(0), "failed": total(1), "classes": classes}))
