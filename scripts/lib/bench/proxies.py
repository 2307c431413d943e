"""Owns those that are measured beside each other: HAProxy, nginx and neap, given the same work, each a contender with its
processes and its port. Must not know what is measured."""

import pathlib

import nodes
import rig

# One core is the proxies', the other is for the upstream and for whoever asks.
PROXY_CPU, REST_CPU = 0, 1

PACKAGES = {"nginx": "nginx", "haproxy": "haproxy", "wrk": "wrk", "taskset": "util-linux"}

HAPROXY = """
global
  nbthread 1
  maxconn 9900
  stats socket {folder}/haproxy.sock
defaults
  mode http
  timeout connect 1s
  timeout client 75s
  timeout server 60s
  timeout http-request 15s
  timeout http-keep-alive 75s
  http-reuse always
frontend clients
  bind 127.0.0.1:{port} backlog 4096
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  unique-id-format %{{+X}}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
  unique-id-header X-Request-Id
  default_backend programs
backend programs
  server one 127.0.0.1:{upstream} pool-max-conn -1
"""

NGINX = """
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
worker_rlimit_nofile 20000;
events {{ worker_connections 15000; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 75s;
  client_header_timeout 15s;
  upstream programs {{
    server 127.0.0.1:{upstream};
    keepalive 256;
    keepalive_requests 1000000000;
    keepalive_timeout 60s;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://programs;
      proxy_http_version 1.1;
      proxy_connect_timeout 1s;
      proxy_read_timeout 60s;
      proxy_max_temp_file_size 0;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Request-Id $request_id;
    }}
    location = /.status {{ stub_status; }}
  }}
}}
"""


class Contender:
    """Where requests are sent, and the processes whose costs count."""

    def __init__(self, name, port, processes):
        self.name, self.port, self.processes = name, port, processes
        # What it is asked with beside a browser's own fields.
        self.headers = {}

    def tasks(self):
        """Every thread of every process; of nginx also its workers."""
        return [task for process in self.processes for pid in process.counted for task in threads(pid)]

    def cpu(self):
        """Nanoseconds that all of them have run, by the scheduler's own account."""
        return sum(int((task / "schedstat").read_text().split()[0]) for task in self.tasks())

    def rss(self):
        """Bytes in memory."""
        return sum(resident(pid) for process in self.processes for pid in process.counted)


def threads(pid):
    return list(pathlib.Path(f"/proc/{pid}/task").iterdir())


def resident(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def haproxy(place, name, upstream):
    port, folder = place.port(), place.folder(name)
    conf = folder / "haproxy.cfg"
    conf.write_text(HAPROXY.format(port=port, upstream=upstream, folder=folder))
    process = place.start(name, ["haproxy", "-db", "-f", conf], PROXY_CPU, port)
    process.counted = [process.pid]
    return Contender(name, port, [process])


def nginx(place, name, upstream):
    port, folder = place.port(), place.folder(name)
    conf = folder / "nginx.conf"
    user = "user root;" if rig.is_root() else ""
    conf.write_text(NGINX.format(port=port, upstream=upstream, folder=folder, user=user))
    process = place.start(name, ["nginx", "-p", folder, "-c", conf, "-e", "stderr"], PROXY_CPU, port)
    process.counted = [process.pid, *rig.children(process.pid)]
    return Contender(name, port, [process])


def router(neap, upstream, name="neap", change=None):
    """One hop: a router whose server is the upstream."""
    process, port = neap.router(name, upstream, PROXY_CPU, change)
    return node(name, port, process)


def node(name, port, *processes):
    # What a server starts is a program, and no cost of neap's.
    for process in processes:
        process.counted = [process.pid]
    return Contender(name, port, processes)


def in_a_row(name, first, second):
    """Two hops: `first` sends to `second`."""
    return Contender(name, first.port, [*first.processes, *second.processes])


def two_hops(place, neap, upstream):
    inner = nginx(place, "nginx-inner", upstream)
    outer = haproxy(place, "haproxy-outer", inner.port)
    server, data = neap.server("server", PROXY_CPU, REST_CPU)
    process, port = neap.router("router", data, PROXY_CPU)
    return in_a_row("haproxy → nginx", outer, inner), node("neap", port, process, server)


def one_node(neap):
    process, port = neap.both("node", PROXY_CPU, REST_CPU, lean=True)
    return node("neap", port, process)


def versions(binary):
    """What was measured, a line each."""
    told = {
        "neap": nodes.version(binary),
        "HAProxy": rig.first_line(["haproxy", "-v"]),
        "nginx": rig.first_line(["nginx", "-v"]),
        "wrk": rig.first_line(["wrk", "-v"]),
        "Linux": rig.first_line(["uname", "-rm"]),
        "processor": rig.first_line(["sh", "-c", "grep -m1 'model name' /proc/cpuinfo"]).split(":")[-1].strip(),
    }
    return [f"{name}: {version}" for name, version in told.items()]
