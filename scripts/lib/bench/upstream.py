"""Owns what answers behind every proxy: nginx with bodies of fixed sizes, the same whether it stands alone or is the instance
of a program; or, where the proxy and not the core of nginx and a generator is to be what is full, answers.rs. Must
not know who asks."""

import rig as machine

SIZES = {"/": 1024, "/64k": 64 * 1024, "/10m": 10 * 1024 * 1024}
# What a server tells its router; in front of others it is one more header.
VERSION_HEADER = "Neap-Version 1"


def conf(port, folder):
    """One worker, no log, connections kept without end."""
    user = "user root;" if machine.is_root() else ""
    return f"""{user}
worker_processes 1;
daemon off;
pid {folder}/upstream.pid;
error_log stderr;
events {{ worker_connections 16000; }}
http {{
  access_log off;
  server_tokens off;
  default_type text/html;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    add_header {VERSION_HEADER};
    location = /64k {{ alias {folder}/64k; }}
    location = /10m {{ alias {folder}/10m; }}
    location / {{ return 200 "{'x' * SIZES['/']}"; }}
  }}
}}
"""


def write_bodies(folder):
    for path in ("64k", "10m"):
        (folder / path).write_bytes(b"x" * SIZES[f"/{path}"])


def start(rig, cpu):
    """The upstream alone; its port."""
    port, folder = rig.port(), rig.folder("upstream")
    write_bodies(folder)
    (folder / "nginx.conf").write_text(conf(port, folder))
    rig.start("upstream", ["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"], cpu, port)
    return port


def lean(rig, cpu):
    """1 KiB at a third of nginx's cost; its port."""
    port = rig.port()
    rig.start("answers", [machine.compiled("answers", rig.dir), port, VERSION_HEADER.replace(" ", ": ")], cpu, port)
    return port


def release(rig, name, cpu, sessions=None, lean=False):
    """The upstream as a program that can be deployed; its directory. Instances run on the core `cpu`. `sessions`: a policy.
    `lean`: answers.rs in nginx's place."""
    folder = rig.folder(f"release-{name}")
    (folder / "program.toml").write_text(
        f"""name    = "{name}"
version = "1"
routes  = ["*/"]

[process]
command = ["./serve", "{{port}}", "{{data}}"]
{f'[session]{chr(10)}policy = "{sessions}"' if sessions else ""}
"""
    )
    serve = folder / "serve"
    if lean:
        answers = [machine.compiled("answers", rig.dir), '"$1"', f"'{VERSION_HEADER.replace(' ', ': ')}'"]
        serve.write_text(f"#!/bin/sh\nexec taskset -c {cpu} {' '.join(map(str, answers))}\n")
        serve.chmod(0o755)
        return folder
    (folder / "nginx.conf").write_text(conf("PORT", "DATA"))
    serve.write_text(
        f"""#!/bin/sh
set -eu
sed "s|PORT|$1|; s|DATA|$2|g" nginx.conf >"$2/nginx.conf"
head -c {SIZES["/64k"]} /dev/zero >"$2/64k"
head -c {SIZES["/10m"]} /dev/zero >"$2/10m"
PATH=$PATH:/usr/sbin
exec taskset -c {cpu} nginx -p "$2" -c "$2/nginx.conf" -e stderr
"""
    )
    serve.chmod(0o755)
    return folder
