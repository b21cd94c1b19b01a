"""`kdplan` commands as real processes, without loading the libraries for each.

`Command(["run", "a.kd"], cwd=folder)` is what `subprocess.Popen([sys.executable, "-m", "kdplan", "run", "a.kd"])` is,
forked from a process that has only loaded the libraries: with a number, signals, locks and memory of its own.
Its Python was begun before, so it is not for tests of how a process begins, of settings that Python, OpenMP or the
allocator read then (`PYTHONPATH`, `OMP_NUM_THREADS`), nor for what depends on another seed of hashes.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
PIPE, STDOUT, DEVNULL = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL
FIRST = """\
data digits = digits { limit = 40 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 20 }
student small = digits_net(width = 2)
phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }
"""
"""What is compiled first, so that the parser's tables and the data are there."""
_STATUS = 4
"""Bytes of an exit code on the pipe of its command."""


class Command:
    """A process that runs one command of kdplan, with the methods of `subprocess.Popen` that tests use.

    Parameters
    ----------
    arguments
        The command line after `kdplan`.
    cwd, env, stdout, stderr
        As in `subprocess.Popen`; pipes are read as text.
    before
        Python code that runs in the process first.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        before: str = "",
    ) -> None:
        self.returncode: int | None = None
        self.stdout, out = _output(stdout, 1)
        self.stderr, err = (None, os.dup(out)) if stderr == STDOUT else _output(stderr, 2)
        self._status, status = os.pipe()
        request = {
            "arguments": [*arguments],
            "cwd": os.fspath(cwd or Path.cwd()),
            "env": {**(os.environ if env is None else env)},
            "before": before,
        }
        self.pid = _server().begin(request, [out, err, status])
        for handle in (out, err, status):
            os.close(handle)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code once it has ended.

        Raises
        ------
        subprocess.TimeoutExpired
            It runs for longer.
        """
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("kdplan", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it prints on the pipes, once it has ended and nobody holds them any more."""
        pipes = (self.stdout, self.stderr)
        with ThreadPoolExecutor(2) as pool:
            texts = [pool.submit(pipe.read) if pipe is not None else None for pipe in pipes]
            try:
                self.wait(timeout)
            except BaseException:
                self.kill()
                raise
        for pipe in pipes:
            if pipe is not None:
                pipe.close()
        out, err = (text.result() if text is not None else "" for text in texts)
        return out, err

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            content = os.read(self._status, _STATUS)
            assert len(content) == _STATUS, "the process from which commands are forked has ended"
            os.close(self._status)
            self.returncode = int.from_bytes(content, "big", signed=True)
        return self.returncode


def _output(wanted: int | IO[Any] | None, number: int) -> tuple[IO[str] | None, int]:
    """The end of a pipe that is read here, if one is wanted, and what the command writes to."""
    if wanted == PIPE:
        reading, writing = os.pipe()
        return os.fdopen(reading, encoding="utf-8", errors="replace"), writing
    if wanted == DEVNULL:
        return None, os.open(os.devnull, os.O_WRONLY)
    if wanted is None:
        return None, os.dup(number)
    return None, os.dup(wanted if isinstance(wanted, int) else wanted.fileno())


# ---- the process from which commands are forked


class _Server:
    """Has loaded the libraries; ends with the process that began it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._socket = ours
        # As the command line does before it imports torch.
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-m", "tests.processes", str(theirs.fileno())]
        # Signals of a terminal are not for it: it ends, and ends its commands, when this process is gone.
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, pass_fds=[theirs.fileno()], stdin=DEVNULL, start_new_session=True
        )
        theirs.close()

    def begin(self, request: dict[str, Any], handles: list[int]) -> int:
        """The number of a new process."""
        socket.send_fds(self._socket, [json.dumps(request).encode()], handles)
        answer = self._socket.recv(64)
        assert answer, "the process from which commands are forked has ended"
        return int(answer)


_servers: dict[int, _Server] = {}


def _server() -> _Server:
    """That of this process."""
    if os.getpid() not in _servers:
        _servers[os.getpid()] = _Server()
    return _servers[os.getpid()]


def _load() -> None:
    """Load what commands load, and run nothing of torch, whose threads would be missing in forked processes."""
    import sklearn.datasets  # noqa: F401
    import torch
    import torch._dynamo  # optimizers load it at their first step
    import torch.distributed  # noqa: F401

    import kdplan.cli.run
    import kdplan.runtime.execute
    import kdplan.runtime.follow
    import kdplan.runtime.measures.table
    import kdplan.runtime.phase
    import kdplan.view.progress  # noqa: F401
    from kdplan.compile import compile_source
    from kdplan.diagnostics.span import Source

    compile_source(Source("plan.kd", FIRST), ROOT)
    gc.collect()
    gc.freeze()  # pages that no collection writes on are shared with all commands


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork a process for each request; in that process, the request. Never ends in the server itself."""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _report(running)
        if control not in ready:
            continue
        content, handles, _, _ = socket.recv_fds(control, 1 << 20, 3)
        if not content:  # the tests have ended
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            os._exit(0)
        out, err, status = handles
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for handle in (*running.values(), status, wake, woken, control.detach()):
                os.close(handle)
            return {**json.loads(content), "out": out, "err": err}
        os.close(out)
        os.close(err)
        os.set_inheritable(status, False)
        running[pid] = status
        control.send(str(pid).encode())


def _report(running: dict[int, int]) -> None:
    """Write the exit codes of processes that have ended."""
    for pid in [*running]:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            os.write(running[pid], os.waitstatus_to_exitcode(status).to_bytes(_STATUS, "big", signed=True))
            os.close(running.pop(pid))


def _become(request: dict[str, Any]) -> None:
    """Run the command as `python -m kdplan` does, and end without taking the libraries apart."""
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, handle in ((1, request["out"]), (2, request["err"])):
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    sys.argv = ["kdplan", *request["arguments"]]
    exec(request["before"], {})
    code: object = 1
    try:
        runpy.run_module("kdplan", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(int(code) if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _load()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
