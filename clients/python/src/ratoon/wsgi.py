"""WSGI middleware (PEP 3333) that shows requests: `app = ratoon.wsgi.Shown(app)`."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, Iterator, Optional
from urllib.parse import quote

from . import _scoreboard

Application = Callable[[Dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Shown:
    """Shows each request of `app` on the status page, and counts the answers by class."""

    def __init__(self, app: Application):
        self._app = app

    def __call__(self, environ: Dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        board = _scoreboard.board()
        # A server and a framework may both use it: the outer one shows the request.
        if board is None or _scoreboard.KEY in environ:
            return self._app(environ, start_response)
        query = environ.get("QUERY_STRING")
        url = quote(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")) + (f"?{query}" if query else "")
        version = {"HTTP/1.0": 10, "HTTP/1.1": 11, "HTTP/2.0": 20}.get(environ.get("SERVER_PROTOCOL", ""), 0)
        peer = (environ.get("REMOTE_ADDR", ""), int(environ.get("REMOTE_PORT") or 0))
        request = board.request(environ.get("REQUEST_METHOD", ""), url, version, peer)
        environ[_scoreboard.KEY] = request
        answer = _Answer(request)
        try:
            answer.parts = self._app(environ, answer.starts(start_response))
        except BaseException:
            request.end(None)
            raise
        return answer


class _Answer:
    """The answer's parts. The server calls close() when they are sent, or when its client has gone."""

    def __init__(self, request: _scoreboard.Request):
        self.parts: Iterable[bytes] = ()
        self._request = request
        self._status: Optional[int] = None
        self._whole = False

    def starts(self, start_response: Callable[..., Any]) -> Callable[..., Any]:
        def start(status: str, headers: Any, *exc_info: Any) -> Any:
            self._status = int(status.split(" ", 1)[0])
            self._request.sending()
            return start_response(status, headers, *exc_info)

        return start

    def __iter__(self) -> Iterator[bytes]:
        yield from self.parts
        self._whole = True

    def close(self) -> None:
        close = getattr(self.parts, "close", None)
        try:
            if close:
                close()
        finally:
            self._request.end(self._status if self._whole else None)
