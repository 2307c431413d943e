"""How gunicorn serves the application. The port and the log come by argument."""

worker_class = "gthread"
workers = 1
threads = 32
# Longer than any router keeps an idle connection: it is the router that closes, never the program.
keepalive = 120
graceful_timeout = 30
timeout = 60
control_socket_disable = True
