"""vLLM's own server with the pocket model, on this machine's CPU: a process that can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

from ssb_unsloth.pocket import MODEL_DIR

SERVER = "vllm.entrypoints.openai.api_server"
SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}


class VLLMProcess:
    """`log`: the file for what it says. `words` and `settings`: more of its options, and of its environment."""

    def __init__(self, log, *words, **settings):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{self.port}/v1", log
        command = [sys.executable, "-m", SERVER, "--model", str(MODEL_DIR), "--served-model-name", "pocket"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32", "--max-model-len", "512"]
        self.command = [*command, "--enforce-eager", "--no-enable-chunked-prefill", *words]
        self.environment = os.environ | SETTINGS | settings
        self.start()

    def start(self):
        with self.log.open("a") as file:
            self.process = subprocess.Popen(
                self.command, stdout=file, stderr=file, env=self.environment, start_new_session=True
            )

    def wait(self, seconds=1200):
        """Until it answers."""
        for _ in range(seconds):
            time.sleep(1)
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return

    def kill(self, number=signal.SIGKILL):
        """It, and what it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        self.process.wait(timeout=120)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill(signal.SIGTERM)
