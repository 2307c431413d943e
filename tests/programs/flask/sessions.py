"""A cart in Flask's session, by Flask-Session: in this process's memory, or where APP_SESSIONS=neap says, in neap's data.
Of neap nothing is known but what the second needs: a header, and a URL."""

import json
import os
import urllib.error
import urllib.request
import uuid

from cachelib import SimpleCache
from cachelib.base import BaseCache
from flask import jsonify, request, session
from flask_session import Session


class NeapCache(BaseCache):
    """What Flask-Session keeps under a session's key is the document of neap's session that the request is of."""

    def get(self, key):
        try:
            with urllib.request.urlopen(self.url(), timeout=30) as answer:
                kept = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return kept["session"] if kept["key"] == key else None

    def set(self, key, value, timeout=None):
        body = json.dumps({"key": key, "session": value}).encode()
        urllib.request.urlopen(urllib.request.Request(self.url(), body, method="PUT"), timeout=30).close()
        return True

    def delete(self, key):
        urllib.request.urlopen(urllib.request.Request(self.url(), method="DELETE"), timeout=30).close()
        return True

    def url(self):
        return f"{os.environ['NEAP_SESSION_URL']}/{request.headers['Neap-Session']}"


def begin(app):
    app.config["SESSION_TYPE"] = "cachelib"
    app.config["SESSION_CACHELIB"] = NeapCache() if os.environ.get("APP_SESSIONS") == "neap" else SimpleCache(threshold=100_000)
    app.config["SESSION_COOKIE_NAME"] = "sid"
    app.config["SESSION_PERMANENT"] = False
    Session(app)
    app.add_url_rule("/cart", view_func=cart)
    app.add_url_rule("/cart/items", view_func=add, methods=["POST"])
    app.add_url_rule("/cart/checkout", view_func=check_out, methods=["POST"])


def shown(document):
    response = jsonify(document)
    if "id" in session:
        response.headers["X-Session-Id"] = session["id"]
        response.headers["X-Session-Items"] = str(len(session["items"]))
        response.headers["X-Session-Last"] = session["items"][-1]
    return response


def cart():
    return shown({"items": session.get("items", [])})


def add():
    request.get_data(cache=False)
    session.setdefault("id", str(uuid.uuid4()))
    session["items"] = [*session.get("items", []), request.headers.get("X-Post-Id", "-")]
    response = shown({"items": len(session["items"])})
    response.headers["X-Post-Id"] = request.headers.get("X-Post-Id", "-")
    return response


def check_out():
    count = len(session.get("items", []))
    session.clear()
    return jsonify(bought=count)
