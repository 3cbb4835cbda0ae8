"""Settings of a command's process: where compiled programs are kept, and how freed memory is kept."""

import ctypes
import os

from experiments.runtime.errors import warn
from experiments.runtime.storage import cache_dir

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = 2**28


def keep_compiled_programs() -> None:
    """Has JAX keep compiled programs on disk, so that a second start of a command does not compile. JAX's own variables take precedence."""
    ours = not {"JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"} & set(os.environ)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            (cache_dir() / "compiled").mkdir(parents=True, exist_ok=True)
            writable = os.access(cache_dir() / "compiled", os.W_OK)
        except OSError:
            writable = False
        if not writable:
            warn(f"the cache {cache_dir()} cannot be written: programs are compiled anew each time; set IROB_CACHE to another folder")
            return
    for name, value in (
        ("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "compiled")),
        ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0"),
        ("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1"),
        ("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**30)),  # bytes; the least recently used are dropped first
    ):
        os.environ.setdefault(name, value)
    # A process that is killed while it writes leaves a program without its time of use, after which JAX fails to write any other.
    for program in (cache_dir() / "compiled").glob("*-cache") if ours else ():
        if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
            program.unlink(missing_ok=True)


MOST_MAPS = 10_000  # of memory; Linux ends at 65,530 by default


def drop_old_programs() -> None:
    """Where many compiled programs are loaded, has JAX forget them all. Those of an earlier training in this process are not used again, and on CPU
    each holds some maps of memory, of which a process has a limited number.
    """
    try:
        with open("/proc/self/maps", "rb") as maps:
            count = sum(1 for _ in maps)
    except OSError:  # another operating system
        return
    if count > MOST_MAPS:
        import jax

        jax.clear_caches()


def keep_freed_memory() -> None:
    """Has glibc keep freed memory, in blocks of up to `KEPT_BYTES`. Otherwise blocks above 32 MB go back to the system, which zeroes each page of the
    next one: on CPU a step with many intermediate arrays takes half as long again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) or mallopt(M_MMAP_THRESHOLD, 2**25)):  # all that an old glibc allows
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
