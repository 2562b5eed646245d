"""Flask: `ratoon.flask.show(app)` shows its requests with the endpoint that serves each."""

from __future__ import annotations

from typing import Any

from . import describe
from .wsgi import Shown


def show(app: Any) -> None:
    """Shows the requests of a Flask application."""
    from flask import request

    app.wsgi_app = Shown(app.wsgi_app)

    def describe_endpoint() -> None:
        describe(request.environ, endpoint=request.endpoint)

    app.before_request(describe_endpoint)
