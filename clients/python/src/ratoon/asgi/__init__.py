"""ASGI: a server as a worker that loses no request, `python -m ratoon.asgi app:app`, and middleware that shows requests.

The options are those of the server: `python -m ratoon.asgi [--server uvicorn|hypercorn] [OPTION…] app:app`.
"""

from __future__ import annotations

from typing import Any, Awaitable, Callable, MutableMapping, Optional

from .. import _scoreboard
from .._drain import draining

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_VERSIONS = {"1.0": 10, "1.1": 11, "2": 20, "3": 30}


class Shown:
    """Shows each HTTP request of `app` on the status page and counts the answers by class.

    During a drain each answer of HTTP/1.1 says `Connection: close`.
    """

    def __init__(self, app: Application):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A server and a program may both use it: the outer one shows the request.
        if scope["type"] != "http" or _scoreboard.KEY in scope:
            await self._app(scope, receive, send)
            return
        board = _scoreboard.board()
        request: Optional[_scoreboard.Request] = None
        if board is not None:
            query = scope.get("query_string", b"").decode("latin-1")
            url = scope.get("raw_path", scope["path"].encode()).decode("latin-1") + (f"?{query}" if query else "")
            client = scope.get("client") or ("", 0)
            version = _VERSIONS.get(scope.get("http_version", ""), 0)
            request = board.request(scope["method"], url, version, (client[0], client[1] or 0))
            scope[_scoreboard.KEY] = request
        status: Optional[int] = None
        whole = False

        async def shown_send(message: MutableMapping[str, Any]) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                if draining() and scope.get("http_version") in ("1.0", "1.1"):
                    headers = [header for header in message.get("headers", []) if header[0].lower() != b"connection"]
                    message = {**message, "headers": [*headers, (b"connection", b"close")]}
                if request:
                    request.sending()
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                whole = True
            await send(message)

        try:
            await self._app(scope, receive, shown_send)
        finally:
            if request:
                request.end(status if whole else None)
