"""Django: wrap the application in `ratoon.wsgi.Shown` or `ratoon.asgi.Shown`, and add `ratoon.django.Middleware` to MIDDLEWARE to
show the view that serves each request."""

from __future__ import annotations

from typing import Any, Callable

from ._scoreboard import KEY


class Middleware:
    """Describes each request by its view's name."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[Any], Any]):
        self._get_response = get_response

    def __call__(self, request: Any) -> Any:
        return self._get_response(request)

    def process_view(self, request: Any, view: Any, _args: Any, _kwargs: Any) -> None:
        shown = request.META.get(KEY) or getattr(request, "scope", {}).get(KEY)
        if shown is not None:
            shown.describe({"view": getattr(request.resolver_match, "view_name", None) or getattr(view, "__name__", "")})
