"""A Flask application under gunicorn, as others write them: nothing in it knows of neap."""

import hashlib
import os
import time

from flask import Flask, jsonify, request

import sessions

app = Flask(__name__)
sessions.begin(app)
VERSION = os.environ.get("NEAP_VERSION", "0")
LOG = os.open(os.environ.get("APP_LOG", "/dev/stdout"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


@app.after_request
def name_the_answer(response):
    response.headers["X-Version"] = VERSION
    response.headers["X-Server"] = os.environ.get("NEAP_NODE", "")
    if "X-Traffic-Id" in request.headers:
        response.headers["X-Traffic-Id"] = request.headers["X-Traffic-Id"]
    return response


@app.get("/")
def index():
    return jsonify(program="flask", version=VERSION)


@app.get("/healthz")
def healthz():
    return jsonify(ok=True)


@app.get("/slow")
def slow():
    wait = min(request.args.get("ms", 1000, type=int), 120_000)
    time.sleep(wait / 1000)
    return jsonify(waited_ms=wait)


@app.post("/orders")
def orders():
    body = request.get_data(cache=False)
    name = request.headers.get("X-Post-Id", "-")
    os.write(LOG, f"{name} {len(body)}\n".encode())
    answer = jsonify(order=name, bytes=len(body))
    answer.headers["X-Post-Id"] = name
    answer.headers["X-Body-Sha256"] = hashlib.sha256(body).hexdigest()
    return answer
