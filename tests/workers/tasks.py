"""An application of celery. A worker that is ready tells which process has loaded the application."""

import os

import celery.signals
import ratoon

LOADED = os.getpid()
app = celery.Celery("tasks", broker="memory://")


@celery.signals.worker_ready.connect
def tell(**_):
    ratoon.info(loaded=LOADED)
