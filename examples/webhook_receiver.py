"""Receives the webhooks of threadcast (docs/webhooks.md), and keeps the state that they describe.

Usage: python3 webhook_receiver.py SECRET_FILE [--listen HOST:PORT]

POST /  receives a message.
GET /   streams a line for each change of the state.
"""

import argparse
import base64
import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

arguments = argparse.ArgumentParser()
arguments.add_argument("secret_file")
arguments.add_argument("--listen", default="127.0.0.1:0")
arguments = arguments.parse_args()
with open(arguments.secret_file) as file:
    SECRET = base64.b64decode(file.readline().strip().removeprefix("whsec_"))

TOLERANCE = 300  # seconds: older messages may be replayed by an attacker

changed = threading.Condition()
seen = {}  # the ids of the last messages, with which duplicates are recognised
channels = set()  # (node, channel)
present = set()  # (channel, name)
lines = []


def is_valid(headers, body):
    """Checks the signature, as https://www.standardwebhooks.com specifies."""
    id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
    if abs(time.time() - int(timestamp)) > TOLERANCE:
        return False
    signed = f"{id}.{timestamp}.".encode() + body
    expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    signatures = headers["webhook-signature"].split()
    return any(hmac.compare_digest(signature, f"v1,{expected}") for signature in signatures)


def apply(kind, data):
    node = data["node"]
    if kind == "subscribers.state":
        if data["page"] == 1:
            channels.difference_update({it for it in channels if it[0] == node})
            present.clear()
        channels.update((node, channel) for channel in data["channels"])
        present.update((it["channel"], it["name"]) for it in data["present"])
        lines.append(f"state: {len(channels)} channels, {len(present)} names")
    elif kind == "subscribers.changed":
        for event in data["events"]:
            channel, name = event["channel"], event.get("name")
            match event["type"]:
                case "channel.occupied":
                    channels.add((node, channel))
                case "channel.vacated":
                    channels.discard((node, channel))
                case "presence.joined":
                    present.add((channel, name))
                case "presence.left":
                    present.discard((channel, name))
            lines.append(" ".join(filter(None, [event["type"], channel, name])))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        valid = is_valid(self.headers, body)
        if valid:
            with changed:
                id = self.headers["webhook-id"]
                if id not in seen:
                    seen[id] = True
                    if len(seen) > 1000:
                        del seen[next(iter(seen))]
                    message = json.loads(body)
                    apply(message["type"], message["data"])
                    changed.notify_all()
        self.send_response(204 if valid else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("connection", "close")
        self.end_headers()
        sent = 0
        while True:
            with changed:
                changed.wait_for(lambda: len(lines) > sent)
                line = lines[sent]
            self.wfile.write(f"{line}\n".encode())
            sent += 1

    def log_message(self, *_):
        pass


host, port = arguments.listen.rsplit(":", 1)
server = ThreadingHTTPServer((host, int(port)), Handler)
print(f"receiving on http://{host}:{server.server_port}/", flush=True)
server.serve_forever()
