"""One application for two servers: `asgi` for uvicorn, `wsgi` for gunicorn. It knows nothing of Ratoon but its variable."""

import os

ANSWER = f"pid {os.getpid()} generation {os.environ['RATOON_GENERATION']}".encode()


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(ANSWER))]})
    await send({"type": "http.response.body", "body": ANSWER})


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", str(len(ANSWER)))])
    return [ANSWER]
