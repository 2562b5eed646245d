"""A WSGI application that describes each request, by the library of clients/python: `gunicorn --config python:ratoon.gunicorn shown:app`."""

import os
import platform
import time
from urllib.parse import parse_qsl

import ratoon

ratoon.info(python=platform.python_version())


def app(environ, start_response):
    asked = dict(parse_qsl(environ["QUERY_STRING"]))
    ratoon.describe(environ, about=asked.get("about"))
    ratoon.count("asked")
    time.sleep(float(asked.get("seconds", 0)))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"pid {os.getpid()} generation {os.environ.get('RATOON_GENERATION')}".encode()]
