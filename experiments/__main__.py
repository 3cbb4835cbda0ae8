"""Lists the commands.

python -m experiments
"""

import ast
import pathlib

COMMANDS = ("quickstart", "prepare_data", "train", "evaluate", "report", "sweep", "benchmark", "documents", "site")


def commands() -> list[str]:
    """A line for each command: how it is called, and the first line of its docstring."""
    here = pathlib.Path(__file__).parent
    texts = {name: ast.get_docstring(ast.parse((here / f"{name}.py").read_text())) or "" for name in COMMANDS}
    return [f"python -m experiments.{name:14}{text.splitlines()[0]}" for name, text in texts.items()]


if __name__ == "__main__":
    print("\n".join([*commands(), "--help after any of them lists its flags."]))
