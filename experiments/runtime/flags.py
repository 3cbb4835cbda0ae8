"""The command line: flags in, one line out for a user's mistake."""

import os
import re
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType

from absl import app, flags, logging

from experiments.runtime.errors import Stopped, UserError, one_line, refuse
from experiments.runtime.process import keep_compiled_programs, keep_freed_memory


def run_command(main: Callable[[], None], positional: str | None = None, define: Callable[[], None] | None = None) -> None:
    """Parses the flags and calls `main`; a `UserError` anywhere becomes one line on stderr.

    Args:
      positional: a list flag to which arguments that are not flags are added; without it they are refused.
      define: defines flags, where that can fail.
    """
    sys.unraisablehook = lambda _: None  # what libraries' background work leaves behind after an error, which is reported in one line
    keep_compiled_programs()
    keep_freed_memory()
    if define is not None:
        try:
            define()
        except UserError as error:
            fail(str(error))

    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        for flag in defined if module.startswith("experiments.") else ():
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # so that --help lists it

    def guarded(_: Sequence[str]) -> None:
        try:
            main()
            if (processes := _processes()) is not None:
                processes.leave()
        except UserError as error:
            fail(str(error))
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            sys.exit(stopped.code)
        except KeyboardInterrupt:
            fail("interrupted; what was written is kept", code=130)
        except Exception as error:  # no mistake
            if (processes := _processes()) is not None and processes.joined():
                processes.wait_for_reason()  # most likely another process is gone that is known: one line all the same, and what a developer needs
            if isinstance(error, OSError) and error.errno is not None:
                fail(f"{error.filename}: {error.strerror}" if error.filename else f"a file cannot be read or written: {error.strerror}")
            fail(f"{type(error).__name__}: {one_line(error, 300)} (unexpected{_kept_traceback()})", code=1)

    app.run(guarded, flags_parser=lambda argv: _parse(argv, positional))


def define_process_flags() -> None:
    """The flags of a command that may run as several processes."""
    flags.DEFINE_string(
        "coordinator", None, "several processes: host:port of process 0, or auto on TPU pods and clusters that JAX recognizes"
    )
    flags.DEFINE_integer("num_processes", 1, "how many processes there are")
    flags.DEFINE_integer("process_id", 0, "which one this is")
    flags.DEFINE_integer("timeout", 300, "several processes: seconds to wait for all of them to come", lower_bound=1)


def define_data_dir() -> None:
    """The flag for the place of tfds data sets."""
    flags.DEFINE_string("data_dir", None, "where tfds data sets lie (default: $TFDS_DATA_DIR or tfds's own)")


def define_quiet() -> None:
    """The flag of a command that works long."""
    flags.DEFINE_bool("quiet", False, "print no progress (a bar on a terminal, a line a minute elsewhere)")


def given(argv: Sequence[str], name: str) -> list[str]:
    """The values of a flag on a command line that is not parsed yet."""
    values = []
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            values.append(value if equals else following)
    return values


PLACES = ("workdir", "out", "figure", "weights", "variables", "data_dir", "raw_dir", "inputs")  # flags that name files and folders


def place(text: str, flag: str) -> str:
    """A path of a flag, `~` expanded.

    Raises:
      UserError: if it is empty, not on this machine, or cannot be a name.
    """
    refuse(not text.strip(), f"--{flag} is empty: give a path")
    remote = re.match(r"(\w{2,}):/", text)
    refuse(
        remote is not None,
        f"--{flag}={text}: only folders of this machine (or mounted there) are read and written, not {text.split(':/')[0]}://",
    )
    longest = max(len(part.encode()) for part in text.split("/"))
    refuse(longest > 240 or "\0" in text, f"--{flag}: a name of {longest} bytes is too long for a file")
    expanded = os.path.expanduser(text)
    refuse(
        expanded.startswith("~"), f"--{flag}={text}: there is no user {expanded.split('/')[0][1:]!r} (./{text} is a folder of that name)"
    )
    return expanded


def config_overrides(argv: Sequence[str]) -> list[str]:
    """`--config.FIELD=VALUE` and `--config.FIELD VALUE` as the flag `--config_override=FIELD=VALUE`; everything else unchanged."""
    rewritten, rest = [], list(argv)
    while rest:
        argument = rest.pop(0)
        match = re.fullmatch(r"--?config\.([^=]+)(=?)(.*)", argument, flags=re.DOTALL)
        if match is None:
            rewritten.append(argument)
            continue
        field, equals, value = match.groups()
        if not equals and (not rest or rest[0].startswith("--")):
            fail(f"--config.{field} has no value: --config.{field}=VALUE")
        rewritten.append(f"--config_override={field}={value if equals else rest.pop(0)}")
    return rewritten


def _parse(argv: Sequence[str], positional: str | None) -> list[str]:
    if "config_override" in flags.FLAGS:
        argv = config_overrides(argv)
    if any(re.fullmatch("--?help(short|full)?", argument) for argument in argv):
        argv = [argv[0], "--help"]
    if positional:
        flags.FLAGS.set_gnu_getopt(True)  # flags may follow other arguments
    try:
        rest = flags.FLAGS(list(argv))
    except flags.Error as error:
        fail(_readable(str(error).splitlines()[0]))
    if positional:
        flags.FLAGS[positional].value = list(flags.FLAGS[positional].value or []) + rest[1:]
    elif len(rest) > 1:
        fail(f"unexpected argument {rest[1]!r}: every option is a flag, --name=value (see --help)")
    for name in [name for name in PLACES if name in flags.FLAGS]:
        flag = flags.FLAGS[name]
        if flag.present and flag.value is not None:
            several = isinstance(flag.value, list)
            try:
                found = [place(text, name) for text in (flag.value if several else [flag.value])]
            except UserError as error:
                fail(str(error))
            flag.value = found if several else found[0]
    if "data_dir" in flags.FLAGS and flags.FLAGS.data_dir:
        os.environ["TFDS_DATA_DIR"] = flags.FLAGS.data_dir  # where tfds finds the description of a data set by its name
    if not any(re.match("--?v(erbosity)?(=|$)", argument) for argument in argv):
        logging.set_verbosity(logging.FATAL)  # of the libraries; the commands print what there is to say, errors among it
    return rest


def _readable(message: str) -> str:
    """What absl says of a flag, for a user."""
    message = re.sub(r"invalid literal for int\(\) with base 10: .*", "must be a whole number", message)
    message = re.sub(r"\('Non-boolean argument to boolean flag', (.*)\)", "must be true or false", message)
    return re.sub(r"flag (--\w+)=None: Flag --\w+ must have a value other than None\.", r"\1 is missing: give it a value", message)


def fail(message: str, code: int = 2) -> None:
    """Prints one line on stderr and exits."""
    threading.excepthook = lambda _: None  # theirs, which would say the same in many lines
    print(f"error: {message}", file=sys.stderr)
    if (processes := _processes()) is not None and processes.joined():
        processes.leave(message)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the runtime would wait for the others
    sys.exit(code)


def _kept_traceback() -> str:
    """Writes the traceback of the exception under way into a file, and says where."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="irob-", suffix=".txt", delete=False) as file:
            traceback.print_exc(file=file)
    except OSError:
        return ""
    return f": the traceback is in {file.name}"


def _processes() -> ModuleType | None:
    """`experiments.runtime.processes`, where it was needed: it imports JAX."""
    return sys.modules.get("experiments.runtime.processes")
