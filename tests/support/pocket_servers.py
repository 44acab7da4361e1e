"""vLLM servers of our own that serve the pocket: what they are asked, what they reply, and how each of them can fail.

The reply to a prompt depends on the prompt and the seed alone, as vLLM's does.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ssb_unsloth.pocket import MODEL_DIR


class PocketServer(ThreadingHTTPServer):
    """Serves from the moment when it is made. `golds`: question to gold answer, of which about half the replies are
    right; other prompts are answered with a number.
    """

    daemon_threads = True

    def __init__(self, tokenizer, golds=(), port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.tokenizer, self.golds = tokenizer, dict(golds)
        self.root, self.name, self.max_model_len = str(MODEL_DIR), "pocket", 512
        self.template = str(tokenizer.chat_template)
        self.shift = 0  # of every token's number: another vocabulary
        self.surprise = 0.1  # how unlikely it finds each token: other weights
        self.seconds = 0.0  # that a reply takes
        self.dead = False  # hangs up on whoever asks
        self.dies_after = None  # so many replies
        self.statuses = []  # of the next answers to /v1/completions
        self.moved = ""  # where it sends whoever asks
        self.page = None  # answers this, whatever it is asked
        self.unknown = set()  # paths that it does not have
        self.refuses = None  # with this status whoever asks
        self.ends_early = False  # as by a generation_config with an end that the recipe's model does not have
        self.adapters, self.lora, self.blind = {}, True, False
        self.asked, self.loads, self.unloads, self.keys, self.connections = [], [], [], set(), 0
        self.lock, self.sockets = threading.Lock(), []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def seeds(self):
        """Of the requests that were answered, or would have been."""
        return [body["seed"] for body in self.asked]

    def get_request(self):
        pair = super().get_request()
        self.sockets.append(pair[0])
        self.connections += 1
        return pair

    def stop(self):
        """As a process that is killed: nobody listens any more, and what was open is closed."""
        self.shutdown()
        self.server_close()
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(2)

    def handle_error(self, request, client_address):
        pass  # whoever asked has gone

    def reply(self, ids, seed):
        """Token ids of the reply, its end among them."""
        text, chance = self.tokenizer.decode(ids), random.Random(f"{seed} {ids}")
        gold = next((gold for question, gold in self.golds.items() if question in text), "7")
        hinted = "Let us see" in text  # the teacher is shown two solutions
        number = gold if hinted or chance.random() < 0.5 else str(int(gold) + chance.randint(1, 3))
        said = f"Let us see: {chance.randint(10, 99)}. So \\boxed{{{number}}}."
        return [*self.tokenizer.encode(said, add_special_tokens=False), self.tokenizer.eos_token_id]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.answer({})

    def do_POST(self):
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body):
        server = self.server
        server.keys.add(self.headers.get("Authorization"))
        if server.dead:
            self.close_connection = True
        elif server.moved:
            self.say(307, {}, Location=server.moved + self.path)
        elif server.page is not None:
            self.say(200, server.page)
        elif server.refuses is not None:
            self.say(server.refuses, {"error": "Unauthorized"})
        elif self.path in server.unknown or (do := getattr(self, self.path.strip("/").replace("/", "_"), None)) is None:
            self.say(404, {"detail": "Not Found"})
        else:
            do(body)

    def v1_models(self, _):
        server = self.server
        model = {"id": server.name, "root": server.root, "parent": None, "max_model_len": server.max_model_len}
        adapters = [{"id": n, "root": p, "parent": server.name} for n, p in server.adapters.items()]
        self.say(200, {"data": [model, *adapters]})

    def tokenize(self, body):
        server, plain = self.server, {"tokenize": True, "return_dict": False}
        if "prompt" in body:
            ids = server.tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"])
        else:
            ids = server.tokenizer.apply_chat_template(
                body["messages"], chat_template=server.template, add_generation_prompt=True, **plain
            )
        self.say(200, {"tokens": [number + server.shift for number in ids]})

    def detokenize(self, body):
        server = self.server
        self.say(200, {"prompt": server.tokenizer.decode([max(n - server.shift, 0) for n in body["tokens"]])})

    def v1_completions(self, body):
        server = self.server
        if "prompt_logprobs" in body:
            rows = [None, *({str(n): {"logprob": -server.surprise * (1 + n % 7)}} for n in body["prompt"][1:])]
            return self.say(200, {"choices": [{"text": "a", "finish_reason": "length", "prompt_logprobs": rows}]})
        if body["model"] not in (server.name, *server.adapters):
            return self.say(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        with server.lock:
            status = server.statuses.pop(0) if server.statuses else 200
            if status == 200:
                server.asked.append(body)
                server.dead = server.dead or (server.dies_after is not None and len(server.asked) > server.dies_after)
        time.sleep(server.seconds)
        if server.dead:
            self.close_connection = True
            return None
        if status != 200:
            return self.say(status, {"error": {"message": "not now"}})
        seed = body["seed"] + (body["model"] != server.name)
        ids = server.reply(body["prompt"], seed)
        ids = ids[: 4 if server.ends_early else body["max_tokens"]]
        ended = ids[-1] in body["stop_token_ids"] or server.ends_early
        text = server.tokenizer.decode(ids, skip_special_tokens=True)
        choice = {"text": text, "token_ids": ids, "finish_reason": "stop" if ended else "length"}
        return self.say(200, {"choices": [choice]})

    def v1_load_lora_adapter(self, body):
        server, name = self.server, body["lora_name"]
        if server.lora is not True:
            return self.say(*server.lora)
        if server.blind:
            said = f"Loading lora {name} failed: No adapter found for {body['lora_path']}"
            return self.say(404, {"error": {"message": said}})
        if name in server.adapters:
            return self.say(400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}})
        server.adapters[name] = body["lora_path"]
        server.loads.append(name)
        return self.say(200, f"Success: LoRA adapter '{name}' added successfully.".encode())

    def v1_unload_lora_adapter(self, body):
        server, name = self.server, body["lora_name"]
        if server.adapters.pop(name, None) is None:
            return self.say(404, {"error": {"message": f"The lora adapter '{name}' cannot be found."}})
        server.unloads.append(name)
        return self.say(200, f"Success: LoRA adapter '{name}' removed successfully.".encode())

    def say(self, code, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {**headers, "Content-Length": len(data)}.items():
            self.send_header(re.sub("_", "-", name), str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass
