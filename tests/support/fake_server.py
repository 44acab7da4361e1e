"""A vLLM server of our own: what it is asked, what it replies, and the faults that a test gives it."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

END = "<|im_end|>"


def encode(text):
    """A token a character, and one for the end of a turn."""
    return [ord(character) for character in text.replace(END, "\x02")]


def decode(ids):
    return "".join(map(chr, ids)).replace("\x02", END)


def chatml(messages):
    return "".join(f"{message['role']}:{message['content']}{END}\n" for message in messages)


class Server(ThreadingHTTPServer):
    """Replies with its prompt's last id; `faults` are answered first, one a request."""

    template = staticmethod(chatml)

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies, self.keys, self.faults, self.gets = [], [], [], 0
        self.lock, self.under_way, self.most = threading.Lock(), 0, 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.gets += 1
        self.reply(200, {"data": [{"id": "base-model"}, {"id": "ssb"}]})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            fault = server.faults.pop(0) if server.faults else None
            server.bodies.append((self.path, body))
            server.keys.append(self.headers.get("Authorization"))
            server.under_way += 1
            server.most = max(server.most, server.under_way)
        time.sleep(0.02)
        if fault == "hang up":
            self.close_connection = True
        elif fault:
            self.reply(*fault)
        elif self.path == "/tokenize":
            text = body["prompt"] if "prompt" in body else server.template(body["messages"])
            self.reply(200, {"tokens": encode(text)})
        elif self.path == "/detokenize":
            self.reply(200, {"prompt": decode(body["tokens"])})
        else:
            last = body["prompt"][-1]
            choice = {
                "text": f"it is {last}",
                "token_ids": [last, 2],
                "finish_reason": "length" if last == 7 else "stop",
            }
            self.reply(200, {"choices": [choice]})
        with server.lock:
            server.under_way -= 1

    def reply(self, code, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass
