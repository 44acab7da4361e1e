"""As much of the hub's HTTP interface as uploads of small files take, and the download of what was uploaded."""

import base64
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading

TOKEN = "hf_" + "secret" * 5
COMMIT = "1" * 40
FILE = re.compile(r"/(datasets/)?[\w-]+/[\w.-]+/resolve/[\w.-]+/(.+)")


class Hub(http.server.ThreadingHTTPServer):
    """One repository. It keeps what it was sent, and gives it back."""

    def __init__(self, private=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.private, self.created, self.files, self.tokens, self.asked = private, [], {}, set(), []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, value, code=200):
        self.give(json.dumps(value).encode(), {"Content-Type": "application/json"}, code)

    def give(self, body, headers, code=200):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        hub = self.server
        hub.asked.append(self.path)
        if "/tree/" in self.path:
            rows = [{"type": "file", "path": n, "size": len(c), "oid": COMMIT} for n, c in hub.files.items()]
            self.answer(rows)
        elif (file := FILE.fullmatch(self.path)) is None:
            siblings = [{"rfilename": name} for name in hub.files]
            self.answer({"id": "me/student", "_id": "1", "private": hub.private, "siblings": siblings, "sha": COMMIT})
        elif (content := hub.files.get(file[2])) is None:
            self.give(b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, 404)
        else:
            self.give(content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def do_POST(self):
        hub, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        hub.tokens.add(self.headers["Authorization"])
        if self.path.endswith("/repos/create"):
            hub.created.append(json.loads(body))
            kind = "datasets/" if hub.created[-1].get("type") == "dataset" else ""
            self.answer({"url": f"http://127.0.0.1:{hub.server_port}/{kind}me/student"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": "http://127.0.0.1/me/student/commit/1", "commitOid": COMMIT, "success": True})
        else:
            self.answer({"errors": [], "warnings": []})

    def log_message(self, *arguments):
        """Nothing on the terminal."""


def client(hub, home, *words, **environment):
    """Python with these words, in a process whose hub is that one. None: one that does not answer."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    kept |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port if hub else 1}", "HF_HOME": str(home / "no-login")}
    kept |= {"HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, env=kept, stdin=subprocess.DEVNULL, timeout=600)
