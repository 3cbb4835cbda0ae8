"""The command lines, run as a user would run them, up to flags of the compiler."""

import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
TIMEOUT = (
    3600  # seconds; for a command that hangs, not for one that is slow: two busy cores may take a quarter of an hour for the quickstart
)


class Commands:
    """Runs the command lines as a user would, from the root of the project. flags: of XLA, for all of them."""

    def __init__(self, flags=""):
        self.flags = flags

    def environment(self, devices=1, **extra):
        """devices: None for as many as the command takes by itself."""
        flags = f"--xla_force_host_platform_device_count={devices}" if devices else ""
        return {**os.environ, "XLA_FLAGS": flags + self.flags, "JAX_PLATFORMS": "cpu", **extra}

    def start(self, module, *arguments, devices=1, **extra):
        command = [sys.executable, "-m", f"experiments.{module}", *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment(devices, **extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self, process, code=0):
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"still running after {TIMEOUT} s\n{out}\n{err}") from None
        assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        return out, err

    def run(self, module, *arguments, code=0, devices=1, **extra):
        return self.finish(self.start(module, *arguments, devices=devices, **extra), code)

    def refused(self, module, *arguments):
        """Exit code 2, and the one line on stderr."""
        out, err = self.run(module, *arguments, code=2)
        assert "Traceback" not in err
        assert out == ""
        return err.strip()

    def train_until_killed(self, seen, *arguments, **extra):
        """Starts a training and kills it with SIGKILL once a path is there."""
        process = self.start("train", *arguments, **extra)
        while not seen.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
