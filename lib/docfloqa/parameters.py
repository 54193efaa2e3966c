"""What is given as text: settings by name, lists of numbers, names of studies and of folders, notebooks' parameters."""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, TypeVar, get_args, get_origin

import yaml

from docfloqa.exceptions import SettingsError, did_you_mean, shown

Number = TypeVar("Number", int, float)
# What else lies in reports/ and figures/, and what some systems cannot have as a folder's name.
DEVICES = "con prn aux nul".split() + [f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)]
RESERVED = ("benchmarks", "screenshots", "log.md", *DEVICES)
LONGEST_NAME, LONGEST_PART = 1000, 255  # bytes of a path, and of each part of it
MOST_LEGS = 16  # of trained_before: a run's folder names them all
POSITIVE = (5e-324, 1.7976931348623157e308)
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
CONFIG = {"profile": (str, "a name"), "settings": (dict, "settings by name")}
CONFIG |= dict.fromkeys(("ratios", "seeds", "arms"), (list, "a list"))
NO_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    # YAML 1.1 takes 1e-4 and 2026-01-31 for what they are not, 010 for 8, 1:30 for 90, on and off for truth.
    yaml_implicit_resolvers: ClassVar = {
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if not (tag.endswith(("int", "timestamp")) or (first in "oOyYnN" and tag.endswith("bool")))
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [name.value for name, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.YAMLError(f"{shown(twice[0])} is there twice; allowed is once")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9]\d*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def setting(default: Any, meaning: str, allowed: Any = None) -> Any:
    """A field of a `Group`; allowed is a choice of texts (else any), the ends of numbers, or what checks a value."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "allowed": allowed})


@dataclasses.dataclass(frozen=True)
class Group:
    """Settings that belong together, each cast to its type and checked on construction."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(field, getattr(self, field.name)))

    def refuse_both(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Raise `SettingsError` where both settings of a pair are other than usual."""
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        for names in pairs:
            if all(getattr(self, name) != usual[name] for name in names):
                given = " and ".join(f"{name} is {shown(getattr(self, name))}" for name in names)
                raise SettingsError(f"{given}; allowed is one of the two")


def by_name(further: str | dict[str, Any]) -> dict[str, Any]:
    """Settings by name from a JSON object; raises `SettingsError` for anything else, and for a name given twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, _ in pairs:
            if [other for other, _ in pairs].count(name) > 1:
                raise SettingsError(f"further settings name {shown(name)} twice; allowed is once")
        return dict(pairs)

    try:
        settings = json.loads(further, object_pairs_hook=once) if isinstance(further, str) else further
    except SettingsError:
        raise
    except (RecursionError, ValueError) as error:
        raise SettingsError(f"further settings are {shown(further)}, which is not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise SettingsError(f"further settings are {shown(settings)}; allowed is a JSON object of settings by name")
    for name in settings:
        if not isinstance(name, str):
            raise SettingsError(f"further settings name {shown(name)}; allowed are names of settings")
    return settings


def read_config(path: str | Path) -> dict[str, Any]:
    """The profile, settings, ratios, seeds and arms that a YAML file asks for; raises `SettingsError`."""
    try:
        config = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader) or {}
    except (OSError, ValueError, LookupError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise SettingsError(f"{str(path)!r} cannot be read as YAML: {reason}") from None
    if not isinstance(config, dict):
        raise SettingsError(f"{str(path)!r} holds {shown(config)}; allowed are {', '.join(CONFIG)}, by name")
    for name, value in config.items():
        if name not in CONFIG:
            allowed = f"{', '.join(CONFIG)}{did_you_mean(name, CONFIG)}"
            raise SettingsError(f"{str(path)!r} has {shown(name)}; allowed are {allowed}")
        kind, wanted = CONFIG[name]
        if not isinstance(value, kind):
            raise SettingsError(f"{name} of {str(path)!r} is {shown(value)}; allowed is {wanted}")
    return config


def numbers(name: str, text: Any, kind: type[Number]) -> list[Number]:
    """The numbers of a text, separated by blanks; raises `SettingsError`. A single one may be a number already."""
    try:
        return [kind(word) for word in str(text).split()]
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise SettingsError(f"{name} are {shown(text)}; allowed are {wanted}, separated by blanks") from None


def literal(path: Path) -> str:
    """A path as papermill takes it: it would fill in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def mixture(name: str, text: str, parts: Sequence[str]) -> dict[str, float]:
    """How strong each of the `parts` is, in [0, 1], in a text such as "input:0.5+content:1"; a part alone has 1.

    Raises `SettingsError` for anything else.
    """
    found = {}
    for one in text.replace(" ", "").split("+"):
        part, colon, strength = one.partition(":")
        number = float(strength) if re.fullmatch(r"(\d+\.?\d*|\.\d+)(e-?\d+)?", strength, re.ASCII) else None
        number = 1.0 if not colon else number
        meant = "" if part in parts else did_you_mean(part, parts)
        if part not in parts or part in found or number is None or number > 1:
            raise SettingsError(
                f"{name} is {shown(text)}; allowed are {', '.join(parts)}, or several of them, each once, with a "
                f"strength from 0 to 1, as {parts[0]}:0.5+{parts[-1]}:1{meant}"
            )
        found[part] = number
    return {part: found.get(part, 0.0) for part in parts}


def mixture_text(strengths: dict[str, float]) -> str:
    """A mixture as it is always written: its parts in order, without those at 0; a full one alone by its name."""
    there = {part: f"{strength:g}" for part, strength in strengths.items() if strength} or {next(iter(strengths)): "0"}
    return next(iter(there)) if [*there.values()] == ["1"] else "+".join(map(":".join, there.items()))


def check_study_name(name: str) -> str:
    """A study's name; raises `SettingsError` unless its folders may lie beside those of other studies."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?", name):
        signs = "letters, digits, '.', '_' and '-', beginning with a letter or digit and not ending with '.'"
        raise SettingsError(f"study is {shown(name)}; allowed are up to 64 {signs}")
    if name.lower() in RESERVED or name.lower().split(".")[0] in DEVICES:
        raise SettingsError(f"study is {name!r}; allowed is any other name, since that one means something else")
    return name


def check_source(name: str, source: str) -> None:
    """Raise `SettingsError` for what can be neither a folder nor a hub id."""
    if not source.strip():
        raise SettingsError(f"{name} is empty; give a folder or a hub id")
    encoded = source.encode(errors="replace")
    if NO_NAME.search(source) or len(encoded) > LONGEST_NAME or max(map(len, encoded.split(b"/"))) > LONGEST_PART:
        raise SettingsError(
            f"{name} is {shown(source)}; allowed is a folder or a hub id: no control characters, at most "
            f"{LONGEST_NAME} bytes, and {LONGEST_PART} between two slashes"
        )


def checked(field: dataclasses.Field, value: Any) -> Any:
    """A setting's value, cast to its type; raises `SettingsError` for one that is not allowed."""
    name, allowed = field.name, field.metadata["allowed"]
    kind, *further = get_args(field.type) or [field.type]
    if value is None and NoneType in further:
        return None
    several = get_origin(field.type) is tuple
    # JSON knows no tuples.
    if several and not isinstance(value, list | tuple):
        what = "texts" if kind is str else "numbers"
        raise SettingsError(f"{name} is {shown(value)}; allowed is a list of {what}")
    items = value if several else [value]
    for one in items:
        # A notebook parameter may arrive as 1 where 1.0 is meant; True is never meant as 1.
        if not isinstance(one, int | float if kind is float else kind) or isinstance(one, bool) != (kind is bool):
            wanted = f"{WORDS[kind]}{' or none' * (NoneType in further)}"
            raise SettingsError(f"{name} is {shown(one)} of type {type(one).__name__}; allowed is {wanted}")
    if kind is str and (twice := [one for one in items if items.count(one) > 1]):
        raise SettingsError(f"{name} has {shown(twice[0])} twice; allowed is once")
    if callable(allowed):
        allowed(name, value)
    elif kind is str and allowed and (wrong := [one for one in items if one not in allowed]):
        known = f"{', '.join(allowed)}{did_you_mean(wrong[0], allowed)}"
        raise SettingsError(f"{name} is {shown(wrong[0])}; allowed are {known}")
    elif kind in (int, float) and not (
        len(items) <= MOST_LEGS and all(allowed[0] <= one <= allowed[1] for one in items)
    ):
        span = "from {} to {}".format(*allowed)
        wanted = f"are at most {MOST_LEGS} numbers {span}" if several else f"is a number {span}"
        wanted = "is a positive finite number" if allowed is POSITIVE else wanted
        raise SettingsError(f"{name} is {shown(value)}; allowed {wanted}")
    return tuple(map(kind, items)) if several else kind(value)
