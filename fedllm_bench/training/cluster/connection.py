"""This process's connection to Ray: a cluster that RAY_ADDRESS names, or a Ray of our own on this machine.

Our own listens on loopback alone, has no dashboard, reports no usage, and asks for a token that nobody else has.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.process import ALLOCATOR, QUIET, WAITING

ADDRESS = "RAY_ADDRESS"
SECONDS_TO_ANSWER = 10.0
# What Ray reads when it is imported; the second makes it take the loopback address as that of this machine.
ALONE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
ADVICE = "start one with ray start --head, or unset it for a Ray of our own on this machine"
CARRIED = (*ALLOCATOR, *WAITING, *QUIET, "HF_HUB_OFFLINE")  # variables that workers get from this process


@dataclass(frozen=True)
class Connection:
    """`ray` is the module; `is_made`: by this suite, which then ends it. A program of a user's may have made it."""

    ray: Any
    is_made: bool

    def nodes(self) -> list[dict[str, Any]]:
        """What each node that is alive has, as "CPU" and "GPU", by its id under "id"."""
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        return [{"CPU": 0.0, "GPU": 0.0, **node["Resources"], "id": node["NodeID"]} for node in alive]


MADE: list[Connection] = []  # one at most, as Ray itself has it


def check_reachable() -> None:
    """Raise a :class:`UserError` of one line where Ray is not installed, or RAY_ADDRESS names nothing that answers."""
    if find_spec("ray") is None:
        raise UserError("engine=ray needs Ray, which is not installed; pip install 'fedllm-bench[ray]'")
    if not _is_own():
        _check_address(_address())


def _address() -> str:
    return os.environ.get(ADDRESS, "").strip()


def _is_own() -> bool:
    """Whether Ray is to be started here."""
    return _address() in ("", "local")


def connect() -> Connection:
    """The connection of this process, which is made where there is none. Raises what :func:`check_reachable` raises."""
    if MADE and MADE[0].ray.is_initialized():
        return MADE[0]
    check_reachable()
    address, is_own = _address(), _is_own()
    if is_own:
        os.environ.update({name: value for name, value in ALONE.items() if name not in os.environ})
        os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex)  # else a token is left in the home folder
    ray = _imported()
    if ray.is_initialized():
        return Connection(ray, is_made=False)
    with _own_signals():
        try:
            _start(ray) if is_own else _join(ray, address)
        except (OSError, RuntimeError, ValueError, TimeoutError) as error:
            where = "Ray could not be started here" if is_own else f"{ADDRESS}={address}"
            raise UserError(f"{where}: {first_line(error)[:300]}{'' if is_own else f'; {ADVICE}'}") from error
    MADE[:] = [Connection(ray, is_made=True)]
    return MADE[0]


def _imported() -> Any:
    try:
        import ray
    except (ImportError, OSError) as error:  # installed, but not for this Python or system
        raise UserError(
            f"engine=ray: Ray is installed and cannot be loaded ({first_line(error)[:300]}); pip install "
            "--force-reinstall 'fedllm-bench[ray]'"
        ) from error
    return ray


def disconnect() -> None:
    """End a connection that :func:`connect` made, and a Ray of our own with it."""
    while MADE:
        MADE.pop().ray.shutdown()


def _start(ray: Any) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def _join(ray: Any, address: str) -> None:
    """Workers get the variables of this process that concern speed; those of a Ray of our own inherit them."""
    variables = {name: os.environ[name] for name in CARRIED if name in os.environ}
    environment = {"env_vars": variables} if variables else None
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)


def _check_address(address: str) -> None:
    """Ray itself tries for minutes before it says that nobody answers."""
    if "://" in address:
        raise UserError(
            f"{ADDRESS}={address}: give HOST:PORT of the cluster's head, and start the run on a machine of the cluster"
        )
    host, colon, port = address.rpartition(":")
    if address == "auto":
        return
    if not (colon and port.isascii() and port.isdigit() and len(port) < 6):
        raise UserError(f"{ADDRESS}={address}: give HOST:PORT, such as 10.0.0.1:6379, or auto; or unset it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError, UnicodeError) as error:  # the last of a name that no host can have, as a..b
        raise UserError(f"{ADDRESS}={address}: no Ray answers there ({first_line(error)}); {ADVICE}") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray gives SIGTERM a handler of its own when it starts; a run has its own (common/interrupts.py)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
