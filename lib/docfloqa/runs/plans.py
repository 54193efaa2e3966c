"""What a study has planned: the command that makes it, and that its name stays with its data, model and settings."""

import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from docfloqa.arms import choose_arms
from docfloqa.exceptions import DamagedError, SettingsError, shown
from docfloqa.files import output_folder, reports_folder, resolve
from docfloqa.runs.run import SETTINGS_WITHOUT_EFFECT
from docfloqa.settings import OF_A_RUN, OWN, PROFILES, Settings

PLAN, CONFIG = "study.json", "study.yaml"
# What may be on the hub, where a plan holds the commit as well.
SOURCES = ("data", "validation_data", "model")


def read_plan(study: Path) -> dict[str, Any]:
    """What a study has planned, by its folder of reports; nothing where there is no plan."""
    try:
        return json.loads((study / PLAN).read_text()) if (study / PLAN).is_file() else {}
    except ValueError as error:
        raise DamagedError(f"{study / PLAN} is damaged: {error}; put a copy there, or remove it") from None


def study_command(name: str, arms: tuple[str, ...] = (), *options: str) -> str:
    """The whole command that makes a study, or goes on with it, and `arms` beside those that it has."""
    folder = reports_folder(name)
    plan, config = read_plan(folder), folder / CONFIG
    words = ["docfloqa", "study"]
    if not plan:
        # A name alone would train on drawn pages.
        known = name in PROFILES and name != OWN
        return shlex.join([*words, *(["--profile", name] if known else ["--name", name, "--data", "FOLDER"])])
    # As the command line finds it from any folder; a report names no folder of the machine that made it.
    words += ["--config", config.relative_to(output_folder()).as_posix()] if config.is_file() else ["--name", name]
    further = [arm for arm in arms if arm not in plan.get("arms", {})]
    return shlex.join([*words, *(["--arms", *plan.get("arms", {}), *further] if further else []), *options])


def check_name(settings: Settings, single: bool = False) -> None:
    """Raise `SettingsError` where the study was planned with other settings; a `single` run may be one of an arm."""
    folder = reports_folder(settings.study)
    if not (plan := read_plan(folder)):
        return
    planned = Settings.from_dict(plan["settings"])
    allowed = [planned.replace(**{name: getattr(settings, name) for name in OF_A_RUN})]
    if single:
        for variant in (one for arm in choose_arms(["all"], planned) for one in arm.variants):
            # An arm may change what goes together with nothing that these settings have.
            with suppress(SettingsError):
                allowed += variant.runs(planned, [settings.seed])
    there, here = min((_differing(one, settings) for one in allowed), key=lambda sides: len(sides[0]))
    if there:
        raise SettingsError(
            f"study {settings.study!r} was made with {_said(there)}, and {_said(here)} is asked for; give it another "
            f"--name, or remove {folder} to begin anew"
        )


def _differing(planned: Settings, asked: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """What two settings have that the other one has not, where that makes other runs."""
    there, here = planned.to_dict(), asked.to_dict()
    # Data and model are what people mean by a name.
    names = [*SOURCES, *(name for name in there if name not in SOURCES)]
    names = [name for name in names if name not in SETTINGS_WITHOUT_EFFECT and not _same(name, there[name], here[name])]
    return {name: there[name] for name in names}, {name: here[name] for name in names}


def _same(name: str, planned: Any, asked: Any) -> bool:
    if name not in SOURCES or None in (planned, asked):
        return planned == asked
    # A commit is looked up for whoever names none.
    return resolve(asked) in (resolve(planned), planned.partition("@")[0])


def _said(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in settings.items())
