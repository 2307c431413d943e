"""How gunicorn serves the application. The port and the log come by argument."""

import os

worker_class = os.environ.get("APP_WORKERS", "gthread")
workers = 1
threads = 32
# Longer than any router keeps an idle connection: it is the router that closes, never the program. APP_KEEPALIVE says
# another time in seconds; empty, gunicorn's own.
if os.environ.get("APP_KEEPALIVE", "120"):
    keepalive = int(os.environ.get("APP_KEEPALIVE", "120"))
graceful_timeout = 30
timeout = 60
control_socket_disable = True
