"""The processes of one run: joined at a coordinator, each watching the others, so that none waits long for one that is gone.

Every process writes to the coordinator's table each second that it is alive, and why it ends, if it does. What a process reads of another one there
becomes one line on stderr, and its own end: without that it would wait in a collective for minutes, or be aborted by the runtime.
"""

import ctypes
import faulthandler
import json
import os
import pathlib
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax

from experiments.runtime.errors import UserError, one_line

SILENCE = 20.0  # seconds without a sign of life after which a process counts as gone
INTERVAL = 1.0


def join(coordinator: str, num_processes: int, process_id: int, timeout: int, settings: Mapping[str, str]) -> None:
    """Joins the processes of a run.

    Args:
      coordinator: "auto", or host:port of process 0.
      num_processes, process_id: how many there are and which one this is; unused with "auto".
      timeout: seconds to wait for the others.
      settings: what must be the same in all processes, by name.

    Raises:
      UserError: if the coordinator or another process does not come in time, or was started with other settings.
    """
    from jax._src import distributed  # for the coordinator's table, which `jax.distributed` does not show

    reach(coordinator, process_id, timeout)
    _quiet_runtime()
    _State.when_aborted = (
        f"not all {'' if coordinator == 'auto' else f'{num_processes} '}processes came after {timeout} seconds (--timeout)"
    )
    try:
        if coordinator == "auto":
            jax.distributed.initialize(initialization_timeout=timeout)
        else:
            jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=timeout)
    except (ValueError, RuntimeError) as error:
        late = any(word in str(error).upper() for word in ("DEADLINE", "TIMED OUT", "TIMEOUT"))
        what = _State.when_aborted if late else f"could not connect to the coordinator ({one_line(error)})"
        raise UserError(f"--coordinator={coordinator}: {what}") from error
    own, gone = jax.process_index(), "the coordinator, process 0, does not answer: it has ended or cannot be reached"
    _State.when_aborted = "the runtime ended this process" if own == 0 else gone
    _State.watch = Watch(distributed.global_state.client, own, jax.process_count())
    _State.watch.compare(settings, timeout)


def _quiet_runtime() -> None:
    """The runtime of JAX ends a process whose coordinator is gone by SIGABRT, after many lines on the descriptor of stderr: these go into a file, and
    the signal becomes one line.
    """
    if sys.stderr.fileno() != 2 or os.name != "posix":
        return
    log, _State.log = tempfile.mkstemp(prefix="irob-runtime-", suffix=".txt")
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.disable()
    ctypes.CDLL(None).signal(signal.SIGABRT, _State.handler)


def reach(coordinator: str, process_id: int, timeout: int) -> None:
    """Waits until the coordinator listens; in process 0, checks that it can.

    Raises:
      UserError: if it does not come in time, or the port of process 0 is taken.
    """
    if coordinator == "auto":
        return
    host, port = coordinator.rsplit(":", 1)
    host = host.strip("[]")  # of an IPv6 address
    if process_id == 0:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(port)))
            except OSError as error:
                raise UserError(
                    f"--coordinator={coordinator}: process 0 cannot listen at port {port} ({error.strerror or error})"
                ) from error
        return
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=min(timeout, 5)).close()
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() > end or isinstance(error, UnicodeError):
                reason = f"no coordinator there after {timeout} seconds (--timeout): {getattr(error, 'strerror', None) or error}"
                raise UserError(f"--coordinator={coordinator}: {reason}; is process 0 running?") from error
            time.sleep(0.2)


class Watch:
    """Writes that this process is alive, and reads whether the others are. client: of the coordinator's table."""

    def __init__(self, client: Any, own: int, count: int):
        self.client, self.own, self.count = client, own, count
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def compare(self, settings: Mapping[str, str], timeout: int) -> None:
        """Refuses settings that differ from those of process 0.

        Raises:
          UserError: in the processes that differ; the others then read why.
        """
        if self.own == 0:
            self._set("irob/settings", json.dumps(dict(settings)))
            return
        first = json.loads(self.client.blocking_key_value_get("irob/settings", timeout * 1_000))
        differing = [name for name in {**first, **settings} if first.get(name) != settings.get(name)]
        if differing:
            name = differing[0]
            what = f"{name} {settings.get(name, '(none)')}, process 0 with {first.get(name, '(none)')}"
            raise UserError(f"process {self.own} was started with {what}: all processes of a run take the same command and versions")

    def _set(self, key: str, value: str) -> None:
        self.client.key_value_set(key, value, allow_overwrite=True)

    def _run(self) -> None:
        seen: dict[str, tuple[str, float]] = {}
        beat = 0
        while not self.stopped.wait(INTERVAL):
            beat += 1
            try:
                self._set(f"irob/alive/{self.own}", str(beat))
                ended = {key.rpartition("/")[2]: value for key, value in self.client.key_value_dir_get("irob/ended/")}
                alive = {key.rpartition("/")[2]: value for key, value in self.client.key_value_dir_get("irob/alive/")}
            except Exception:  # the coordinator is gone: the runtime will end this process
                continue
            now = time.monotonic()
            for process in map(str, range(self.count)):
                if ended.get(process) and process != str(self.own):
                    _end(f"process {process} ended: {ended[process]}")
                value = alive.get(process, "")
                if seen.get(process, ("none", 0.0))[0] != value:
                    seen[process] = (value, now)
                elif now - seen[process][1] > SILENCE and process not in ended:
                    _end(f"process {process} has given no sign of life for {SILENCE:.0f} seconds: it has ended or cannot be reached")

    def leave(self, reason: str) -> None:
        """Stops watching; the others read why, empty for a good end."""
        if self.stopped.is_set():
            return
        self.stopped.set()
        try:
            self._set(f"irob/ended/{self.own}", reason)
        except Exception:  # the coordinator is gone
            return
        if reason and self.own == 0:
            time.sleep(3 * INTERVAL)  # the table ends with this process


class _State:
    """Of this process.

    watch: where it is one of several.
    when_aborted: what an abort by the runtime means now; handler: of its signal. log: file of the runtime's messages.
    ending: taken by the thread that prints the last line.
    """

    watch: Watch | None = None
    when_aborted = ""
    log = ""
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: _aborted())
    ending = threading.Lock()


def joined() -> bool:
    """Whether this is one of several processes."""
    return _State.watch is not None


def leave(reason: str = "") -> None:
    """Tells the other processes that this one ends, and why; empty for a good end."""
    if _State.watch is not None:
        _State.watch.leave(one_line(Exception(reason), 400) if reason else "")
    if _State.log and not reason:
        pathlib.Path(_State.log).unlink(missing_ok=True)


def wait_for_reason() -> None:
    """Waits until the watch has found which process is gone, which ends this one; returns if none is."""
    if _State.watch is not None:
        _State.watch.thread.join(SILENCE + 5 * INTERVAL)


def _aborted() -> None:
    """The line of a process that the runtime aborts. It runs inside of a signal handler, so it asks nobody."""
    if _State.ending.acquire(blocking=False):
        print(f"\nerror: {_State.when_aborted} (the runtime's own messages are in {_State.log})", file=sys.stderr, flush=True)
        os._exit(2)


def _end(reason: str) -> None:
    """Ends this process with one line, at once: a collective that waits for another process cannot be interrupted."""
    if not _State.ending.acquire(blocking=False):
        return
    print(f"\nerror: {reason}; what was written is kept, the same commands resume", file=sys.stderr, flush=True)
    if _State.watch is not None and _State.watch.own == 0:
        leave(reason)
    os._exit(2)
