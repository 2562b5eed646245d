"""A WSGI application whose requests Ratoon shows, each with what it is about: `gunicorn --threads 4 status:wsgi`.

`Shown` is for any WSGI application, of Flask and Django, too. It writes the page that a worker inherits (the layout: the
documentation of `ratoon::scoreboard`), which is readable when the worker hangs or is dead; what changes seldom is said in
datagrams. A page has one writer: one process (gunicorn's one worker), many threads."""

import atexit, json, mmap, os, platform, socket, struct, threading, time, urllib.parse


def notify(**words):
    """Says something to the master, as sd_notify(3); alone it says nothing."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as master:
            master.sendto("\n".join(f"{key}={json.dumps(value)}" for key, value in words.items()).encode(), path)


class Shown:
    def __init__(self, app):
        self.app, self.lock, self.free, self.words, self.counters, self.told = app, threading.Lock(), [], None, {}, 0
        if number := os.environ.get("RATOON_SCOREBOARD"):
            page = mmap.mmap(int(number), 0)
            words = memoryview(page).cast("Q")
            if page[:8] == b"RATOONSB" and words[1] == 1 and words[8] == 0:
                self.words = words
                words[22] = 7  # neither connections nor bytes are counted
                words[8] = os.getpid()  # from now on the page has a writer
                # Where each slot begins, in words; the last one is taken first.
                self.free = [(words[5] + slot * words[6]) // 8 for slot in reversed(range(words[7]))]
        notify(X_RATOON_INFO={"python": platform.python_version()})
        atexit.register(lambda: notify(X_RATOON_COUNTERS=self.counters))

    def __call__(self, environ, start_response):
        began, answer = time.monotonic_ns(), ()
        with self.lock:
            slot = self.free.pop() if self.free else None  # none: alone, or all are taken
            if self.words:
                self.words[17] += 1
                self.words[24] += not slot  # in work, and not shown
            if slot:
                self.words[20] = max(self.words[20], (slot * 8 - self.words[5]) // self.words[6] + 1)
        environ["ratoon.about"] = lambda **info: slot and self.show(slot, environ, began, info)
        try:
            environ["ratoon.about"]()
            answer = self.app(environ, start_response)
            yield from answer
        finally:  # the last part of the answer was taken, or the server gave up
            getattr(answer, "close", lambda: None)()
            with self.lock:
                if slot:
                    self.words[slot] = 0
                    self.free.append(slot)
                elif self.words:
                    self.words[24] -= 1

    def show(self, slot, environ, began, info):
        words, method, text = self.words, environ["REQUEST_METHOD"].encode()[:16], json.dumps(info).encode()[:256]
        url = urllib.parse.quote(environ["PATH_INFO"]) + "?" * bool(environ["QUERY_STRING"]) + environ["QUERY_STRING"]
        url, version = url.encode()[:240], {"HTTP/1.0": 10, "HTTP/1.1": 11}.get(environ["SERVER_PROTOCOL"], 0)
        family = 4 if "." in environ["REMOTE_ADDR"] else 0  # this example shows no address of IPv6
        peer, port = socket.inet_aton(environ["REMOTE_ADDR"]) if family else b"", int(environ.get("REMOTE_PORT", 0))
        shape = len(method) | version << 8 | family << 16 | len(url) << 32 | len(text) << 48
        shown = (began, family | port << 16, peer, began, shape, peer, method, url, text)
        words[slot + 1] |= 1  # odd while it is written
        words[slot + 8 : slot + 80] = memoryview(struct.pack("=2Q16s2Q16s16s240s256s", *shown)).cast("Q")
        words[slot + 1] += 1
        words[slot + 3], words[slot + 6], words[slot] = 1, 1, 2  # one request, in work

    def count(self, name):
        """One more of these. Running totals are told once a second and at the end; the status shows the pool's sums."""
        with self.lock:
            self.counters[name], now = self.counters.get(name, 0) + 1, time.monotonic()
            if now > self.told + 1:
                self.told, _ = now, notify(X_RATOON_COUNTERS=self.counters)


def app(environ, start_response):
    asked = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
    environ["ratoon.about"](about=asked.get("about"))
    wsgi.count("asked")
    time.sleep(float(asked.get("seconds", 0)))
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield f"pid {os.getpid()} generation {os.environ.get('RATOON_GENERATION')}".encode()


wsgi = Shown(app)
