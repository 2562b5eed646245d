# A configuration of unicorn for a worker of a pool, which has one process that serves and its own parent.
worker_processes 1
timeout 30
