"""Functions by name with keyword arguments: `sgd(momentum=0.9, nesterov=true)` as text, `("sgd", {"momentum": 0.9, "nesterov": True})` as a value."""

import ast
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.runtime.errors import UserError, refuse
from experiments.runtime.names import find
from experiments.runtime.values import Kind

Call = tuple[str, dict[str, Any]]
NAMED = r"[\w.:-]+\s*(?:\([^()]*\))?"
TYPES: tuple[tuple[type, tuple[type, ...]], ...] = ((bool, (bool,)), (int, (int,)), (float, (int, float)))  # of a default, of a value
MUST = 'must be a name, a name with keyword arguments such as sgd(momentum=0.9), or a pair such as ("sgd", {"momentum": 0.9})'
PASSED = ("learning_rate", "key", "x", "other")  # parameters that a user cannot give


def call_of(table: Mapping[str, Callable[..., Any]], what: str, given: Sequence[str] = ()) -> Kind:
    """A row of a table, or `package.module:attribute`, with keyword arguments.

    Args:
      table: name -> function.
      what: kind of thing, for messages.
      given: parameters that the project passes; a user may give them, too, where they have a name in `given`.
    """

    def check(value: Any) -> Call:
        name, options = as_call(value)
        try:
            check_options(find(table, name, what), name, options, given)
        except UserError as error:
            raise ValueError(str(error).removeprefix(f"unknown {what} {name!r}: ")) from error
        return name, options

    return Kind(lambda text: check(parsed(text)), check)


def calls_of(table: Mapping[str, Callable[..., Any]], what: str, given: Sequence[str] = ()) -> Kind:
    """Several of them, one after another; as text separated by commas."""
    one = call_of(table, what, given)

    def check(values: Any) -> tuple[Call, ...]:
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ValueError("must be a tuple of names; as text of a flag they are separated by commas")
        return tuple(one.check(value) for value in values)

    def read(text: str) -> tuple[Call, ...]:
        if re.sub(NAMED, "", text).strip(" ,"):
            raise ValueError(MUST)
        return tuple(one.read(part) for part in re.findall(NAMED, text))

    return Kind(read, check)


def as_call(value: Any) -> Call:
    """A value of a config, text or pair, as a pair.

    Raises:
      ValueError: if it is neither.
    """
    if isinstance(value, str):
        return parsed(value)
    if not isinstance(value, Sequence) or len(value) != 2 or not isinstance(value[0], str) or not isinstance(value[1], Mapping):
        raise ValueError(MUST)
    return value[0], dict(value[1])


def parsed(text: str) -> Call:
    """`name(key=value, ...)` as a pair. Values are numbers, fractions such as 8/255, true or false, texts, and dictionaries of them.

    Raises:
      ValueError: if the text is not of that form.
    """
    found = re.fullmatch(r"\s*([\w.:-]+)\s*(?:\((.*)\))?\s*", text, flags=re.DOTALL)
    if found is None:
        raise ValueError(MUST)
    name, arguments = found.groups()
    try:
        call = ast.parse(f"f({arguments or ''})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args or not all(k.arg for k in call.keywords):
            raise ValueError(MUST)
        if len({keyword.arg for keyword in call.keywords}) < len(call.keywords):
            raise ValueError(f"{MUST}; each argument once")
        return name, {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    except (SyntaxError, TypeError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise ValueError(MUST) from error


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _literal(node.left) / _literal(node.right)
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id, node.id)
    if isinstance(node, ast.Dict):
        return {str(ast.literal_eval(key)): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(f"{MUST}; values are numbers, fractions, true, false, none, texts or dictionaries of them") from error


def check_options(function: Callable[..., Any], name: str, options: Mapping[str, Any], given: Sequence[str] = ()) -> None:
    """Refuses keyword arguments that a function does not have, and those that it needs and does not get."""
    refuse(not callable(function), f"{name} is not a function")
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
    known = [key for key in parameters if key not in given or key in options]
    unknown = sorted(set(options) - set(parameters))
    refuse(bool(unknown) and not takes_any, f"{name} takes {', '.join(known) or 'no options'}, not {', '.join(unknown)}")
    for key in PASSED:
        refuse(key in options and key in given, f"{name} gets its {key} from the config: leave it out")
    for key, value in options.items():
        default = parameters[key].default if key in parameters else None
        types = next((types for kind, types in TYPES if isinstance(default, kind)), (object,))
        wrong = not isinstance(value, types) or (isinstance(value, bool) and bool not in types and object not in types)
        refuse(wrong, f"{name}: {key} = {value!r} must be like its default, {default!r}")
    for key, parameter in parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        refuse(needed and key not in {*options, *given}, f"{name} needs {key}, as in {name}({key}=...)")


def bound(table: Mapping[str, Callable[..., Any]], call: Any, what: str) -> Callable[..., Any]:
    """The function of a call with its keyword arguments."""
    name, options = as_call(call)
    return functools.partial(find(table, name, what), **options)


def call_text(call: Any) -> str:
    """A call as text, `sgd(momentum=0.9)`."""
    name, options = as_call(call)
    return f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})" if options else name
