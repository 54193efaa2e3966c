"""The command that is printed for a study makes that study, and a study's name stays with what it was made of."""

import json
import shlex

import pytest
from fake_study import write_study

from docfloqa import cli
from docfloqa.analysis.contrasts import lacking
from docfloqa.exceptions import RunError, SettingsError
from docfloqa.files import reports_folder
from docfloqa.runs import plans
from docfloqa.runs.plans import CONFIG, PLAN, check_name, study_command
from docfloqa.runs.results import Study
from docfloqa.settings import Settings
from docfloqa.study.study import make_study
from docfloqa.study.sweep import sweep

OWN = {"model": "owner/base", "learning_rate": 1e-5, "train_questions": 3, "vision_cache": False, "num_beams": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(tmp_path / "its output"))
    (tmp_path / "my scans").mkdir()
    return tmp_path


def carried_out(monkeypatch, command: str) -> tuple[Settings, dict]:
    """What a printed command would make."""
    made = []
    monkeypatch.setattr("docfloqa.study.study.make_study", lambda settings, **planned: made.append((settings, planned)))
    program, *words = shlex.split(command)
    assert program == "docfloqa"
    with pytest.raises(TypeError):  # nothing was made, so nothing is told
        cli.main(words)
    return made[0]


def test_a_printed_command_makes_the_very_study(folder, monkeypatch):
    study = write_study("mine", (0.0, 0.66), (3,), epochs=2, documents=3, data=str(folder / "my scans"), **OWN)
    config = study.settings.to_config(ratios=[0.0, 0.66], seeds=[3], arms=[])
    (reports_folder("mine") / CONFIG).write_text(config)
    says = lacking(study, "cumulative")
    settings, planned = carried_out(monkeypatch, says.split("`")[3])
    assert settings.replace(vision_trainable=1.0, seed=0) == study.settings.replace(vision_trainable=1.0, seed=0)
    assert (planned["ratios"], planned["seeds"], planned["arms"]) == ([0.0, 0.66], [3], ["cumulative"])


def test_arms_that_a_study_has_stay(monkeypatch):
    study = write_study("armed", (0.0,), (0,), epochs=2, documents=3, arms=("prefix",))
    _, planned = carried_out(monkeypatch, study_command("armed", ("lora",)))
    assert planned["arms"] == ["prefix", "lora"] and study.arms


def test_of_a_study_without_a_plan_the_command_asks_for_its_data():
    assert study_command("mine") == "docfloqa study --name mine --data FOLDER"
    assert study_command("smoke") == "docfloqa study --profile smoke"
    with pytest.raises(RunError, match="docfloqa study --name mine --data FOLDER"):
        Study.load("mine")


DIFFERENT = {
    "data": ({"data": "synth"}, r"data '.*my scans'.* and data 'synth'"),
    "model": ({"model": "owner/other"}, "model 'owner/base'.* and model 'owner/other'"),
    "a setting": ({"epochs": 5}, "epochs 2.* and epochs 5"),
    "another commit": ({"model": "owner/base@0123"}, "model 'owner/base'"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_name_that_is_taken_is_refused_before_any_work(folder, name):
    changes, message = DIFFERENT[name]
    settings = write_study("mine", (0.0,), (0,), epochs=2, documents=3, data=str(folder / "my scans"), **OWN).settings
    plan = (reports_folder("mine") / PLAN).read_text()
    for make in (make_study, sweep):
        with pytest.raises(SettingsError, match=rf"study 'mine' was made with {message}.*another --name, or remove"):
            make(settings.replace(**changes), [0.0], [0])
    with pytest.raises(SettingsError, match=message):
        check_name(settings.replace(**changes), single=True)
    assert (reports_folder("mine") / PLAN).read_text() == plan


def test_the_same_study_by_other_words_is_not_refused(folder, monkeypatch):
    pinned = {"model": "owner/base@0123", "data": str(folder / "my scans")}
    settings = write_study("mine", (0.0,), (0,), epochs=2, documents=3, **pinned).settings
    monkeypatch.chdir(folder)
    for changes in ({"model": "owner/base"}, {"data": "my scans"}, {"seed": 7, "vision_trainable": 0.3}):
        check_name(settings.replace(**changes))
    check_name(settings.replace(cache_gib=1.0, allow_cpu=False))
    check_name(settings.replace(study="another", epochs=7))


def test_a_run_of_an_arm_belongs_to_the_study():
    settings = write_study("mine", (0.0,), (0,), epochs=4, documents=3).settings
    of_arm = settings.replace(vision_trainable=0.0, epochs=2, trained_before=(0.0,), seed=1)
    check_name(of_arm, single=True)
    with pytest.raises(SettingsError, match="epochs 4"):
        check_name(of_arm)


def test_a_run_of_a_study_that_some_arm_does_not_go_with_belongs_to_it():
    settings = write_study("mine", (1.0,), (0,), epochs=4, documents=3, lora=0.1).settings
    check_name(settings.replace(vision_trainable=0.0), single=True)
    with pytest.raises(SettingsError, match=r"lora 0\.1"):
        check_name(settings.replace(unfreezing="lp_ft", lora=0.0), single=True)


def test_plans_of_before_a_setting_was_there_are_read():
    settings = write_study("mine", (0.0,), (0,), epochs=2, documents=3).settings
    path = reports_folder("mine") / PLAN
    plan = json.loads(path.read_text())
    del plan["settings"]["max_grad_norm"]
    path.write_text(json.dumps(plan))
    check_name(settings)
    assert plans.read_plan(reports_folder("mine"))
