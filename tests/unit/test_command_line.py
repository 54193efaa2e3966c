"""The verbs of the command line: their help, their results for people and machines, their exit codes."""

import json
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
from fake_study import write_study
from PIL import Image
from small_study import small_study

from docfloqa.analysis.changes import compare_metrics, paired_answers
from docfloqa.analysis.changes import compared as compared_questions
from docfloqa.analysis.paired import paired_difference
from docfloqa.cli import app, main
from docfloqa.data.load import load_docvqa
from docfloqa.exceptions import IncompleteRunError, RunError, SettingsError
from docfloqa.files import PROJECT, runs_folder, write_whole
from docfloqa.metrics import METRICS
from docfloqa.report.verdicts import verdicts
from docfloqa.runs.packing import pack
from docfloqa.runs.results import find_run, status
from docfloqa.runs.run import COMPLETE, INTERRUPTED, Run
from docfloqa.settings import GROUPS, PROFILES, Settings

VERBS = (
    "study sweep run doctor estimate advise report robustness ask answer evaluate compare export import runs pack demo "
    "lab"
).split()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A study of two runs with models, and a page to ask about."""
    patch = pytest.MonkeyPatch()
    output = tmp_path_factory.mktemp("commands")
    patch.setenv("DOCFLOQA_OUTPUT", str(output))
    study = small_study()
    page = load_docvqa(study.settings, "validation")[0]
    page["image"].save(output / "page.png")
    yield output
    patch.undo()


def result_of(arguments, capsys, code=0):
    """What a verb writes as JSON, and nothing else, on standard output."""
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    assert main([verb, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"example: docfloqa {verb}" in shown
    assert "exit codes: 0 fine, 1 a run is not complete, 2 bad input" in shown and "--json" in shown


@pytest.mark.parametrize("verb", ["study", "sweep", "run", "doctor", "estimate"])
def test_every_setting_is_an_option_with_its_meaning_under_its_group(verb, capsys):
    assert main([verb, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    of_runs = {"vision_trainable": "--ratio, --vision-trainable", "seed": "--seed", "fold": "--fold"}
    for group in GROUPS:
        assert f" {group.__doc__.rstrip('.')}: --" in shown
        for field in fields(group):
            option = of_runs.get(field.name, "--name" if field.name == "study" else "--" + field.name.replace("_", "-"))
            if field.name not in of_runs or verb in ("run", "doctor"):
                assert f" {option} " in shown and f" {field.metadata['meaning']} (embedded: " in shown, field.name


def test_every_verb_is_tested():
    assert [command.name for command in app.registered_commands] == VERBS


@pytest.fixture
def asked(output, monkeypatch):
    """Settings and runs that `study` would make, by command line."""
    seen = []

    def make_study(settings, **planned):
        seen.append((settings, planned))
        raise SettingsError("as far as this test goes")

    monkeypatch.setattr("docfloqa.study.study.make_study", make_study)

    def of(*arguments):
        assert main(["study", *map(str, arguments)]) == 2 and seen
        return seen.pop()

    return of


def test_options_make_the_settings(asked):
    settings, planned = asked("--epochs", 4, "--learning-rate", "1e-4", "--no-vision-cache", "--arms", "lora", "prefix")
    assert settings == Settings(epochs=4, learning_rate=1e-4, vision_cache=False)
    assert planned["arms"] == ["lora", "prefix"] and (planned["kernel"], planned["scheduler"]) == (None, None)
    assert (planned["ratios"], planned["seeds"]) == ([0, 0.33, 0.66, 1], [0])
    settings, planned = asked("--profile", "smoke", "--seeds", 0, 2, "--trained-before", 0, 0.33, "--ratios", 0.3333333)
    assert settings == Settings.profile("smoke", trained_before=[0, 0.33])
    settings, _ = asked("--parts", "stem", "stage1", "--ratios", 1)
    assert settings.parts == ("stem", "stage1")
    assert (planned["ratios"], planned["seeds"]) == ([0.3333333], [0, 2])


def test_a_folder_named_from_the_working_directory_is_found_by_kernels_too(asked, output, monkeypatch):
    (output / "mine").mkdir()
    monkeypatch.chdir(output)
    settings, _ = asked("--data", "mine", "--model", "data/florence2-tiny", "--validation-data", "owner/name")
    assert settings.data == str(output / "mine") and settings.model == "data/florence2-tiny"
    assert settings.validation_data == "owner/name"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_file_of_a_study_makes_it_again(profile, asked, tmp_path):
    given = {"data": "owner/mine"} if profile == "own" else {}
    given |= {"trained_before": (0.0,), "static_shapes": "off", "learning_rate": 1e-4}
    settings = Settings.profile(profile, study="mine", **given)
    file = tmp_path / "study.yaml"
    file.write_text(settings.to_config(ratios=(0, 0.3333333), seeds=(1,), arms=("lora",)))
    again, planned = asked("--config", file)
    assert again == settings and list(planned.values())[:3] == [[0, 0.3333333], [1], ["lora"]]
    again, planned = asked("--config", file, "--name", "other", "--seeds", 2, 3)
    assert again == settings.replace(study="other") and planned["seeds"] == [2, 3] and planned["ratios"][0] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3", "has 'epochs'; allowed are profile, settings, ratios, seeds, arms"),
        ("settings: {epohcs: 3}", "; did you mean epochs?"),
        ("setings: {epochs: 3}", "allowed are profile, settings, ratios, seeds, arms; did you mean settings?"),
        ("settings: {precision: bf61}", "; did you mean bf16?"),
        ("settings: {epochs: many}", "study.yaml: epochs is 'many'"),
        ("settings: {vision_cache: !!bool maybe}", "cannot be read as YAML: 'maybe'"),
        ("ratios: [[1]]", "vision_trainable is [1]"),
        ("settings: 3", "settings of 'study.yaml' is 3; allowed is settings by name"),
        ("ratios: 0 1", "ratios of 'study.yaml' is '0 1'; allowed is a list"),
        ("profile: papr", "profile is 'papr'"),
        ("- a", "holds ['a']"),
        ("{", "'study.yaml' cannot be read as YAML: while parsing"),
        ("\0", "cannot be read as YAML: unacceptable character"),
        (None, "'study.yaml' cannot be read as YAML: No such file or directory"),
    ],
)
def test_a_file_that_asks_for_no_study_is_one_sentence(text, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("study.yaml").write_text(text)
    assert main(["study", "--config", "study.yaml"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("options", "source"), [([], "study.yaml: "), (["--epochs", "3"], "study.yaml and options: ")])
def test_a_wrong_setting_is_told_with_the_file_that_may_hold_it(options, source, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text("settings: {batch_size: 0}")
    assert main(["study", "--config", str(tmp_path / "study.yaml"), *options]) == 2
    assert f"{source}batch_size is 0" in capsys.readouterr().err


def test_numbers_and_words_of_a_file_are_what_people_mean(asked, tmp_path):
    (tmp_path / "x.yaml").write_text("settings: {learning_rate: 1e-4, static_shapes: off, vision_cache: false}")
    assert asked("--config", tmp_path / "x.yaml")[0] == Settings(
        learning_rate=1e-4, static_shapes="off", vision_cache=False
    )


class Absent:
    """An import system in which one package is not installed."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(("verb", "module", "extra"), [("demo", "voila", "demo"), ("lab", "jupyterlab", "lab")])
def test_a_verb_without_its_extra_says_what_to_install(verb, module, extra, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == module or name == "docfloqa.apps.demo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(module), *sys.meta_path])
    assert main([verb]) == 2
    assert capsys.readouterr().err == (
        f"error: this needs {module}, which is not installed: pip install 'docfloqa[{extra}]'\n"
    )


def test_help_does_not_wait_for_torch():
    code = "import sys\nfrom docfloqa.cli import main\nmain(['study', '--help'])\nprint(sys.modules.keys())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = shown.stdout.splitlines()[-1]
    assert "'typer'" in loaded and not [name for name in ("torch", "pandas", "numpy", "rich") if f"'{name}'" in loaded]


def test_shells_complete_verbs_options_and_choices(monkeypatch, capsys):
    def completed(line: str) -> str:
        monkeypatch.setenv("_DOCFLOQA_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        main([])
        return capsys.readouterr().out

    assert {"study", "sweep"} <= set(completed("docfloqa s").split())
    assert "--learning-rate" in completed("docfloqa study --learn")
    assert completed("docfloqa study --precision b").split() == ["bf16"]


def test_ask_gives_an_answer_of_every_ratio(two, capsys):
    page = str(two / "page.png")
    asked = result_of(["ask", page, "what is the total?"], capsys)
    assert [one["model"] for one in asked["answers"]] == ["before training", "0 % trained", "100 % trained"]
    # All three have the same weights.
    assert len({(one["text"], round(one["confidence"], 5)) for one in asked["answers"]}) == 1
    for arguments in (["--run", "embedded/vision100"], ["--ratio", "1"], ["--model", "data/florence2-tiny"]):
        [one] = result_of(["ask", page, "what is the total?", *arguments], capsys)["answers"]
        assert one["text"] == asked["answers"][0]["text"]
        assert one["run"] == (None if "--model" in arguments else "embedded/vision100-seed0-fake")
    assert main(["ask", page, "what is the total?", "--ratio", "0"]) == 0
    assert capsys.readouterr().out.startswith("0 % trained  ")


def test_evaluate_gives_every_metric_and_no_interval_of_three_documents(two, capsys):
    scored = result_of(["evaluate", "vision000"], capsys)
    assert scored["run"] == "embedded/vision000-seed0-fake" and scored["data"] == "synth"
    assert set(scored["metrics"]) == {*METRICS, "val_loss"} and scored["documents"] == 3
    for name, interval in scored["metrics"].items():
        assert interval["low"] is interval["high"] is None and interval["estimate"] >= 0, name
    other = result_of(["evaluate", "vision000", "--synth-shift", "layout"], capsys)
    assert other["metrics"] != scored["metrics"]
    assert main(["evaluate", "vision000"]) == 0
    shown = capsys.readouterr().out
    assert "anls" in shown and "95 % interval over documents" in shown and shown.count("[–, –]") == len(METRICS) + 1


def test_a_csv_is_imported_and_evaluated_on(two, capsys, tmp_path):
    for place in range(2):
        Image.new("RGB", (50, 50), (90 * place, 0, 0)).save(tmp_path / f"{place}.png")
    rows = "".join(f"{place}.png,what?,a|b,validation\n" for place in range(2))
    (tmp_path / "mine.csv").write_text(f"image,question,answers,split\n{rows}2.png,what?,a,validation\n")
    arguments = ["import", str(tmp_path / "mine.csv"), str(tmp_path / "data")]
    assert main(arguments) == 2
    assert "row 4, image '2.png': there is no file" in capsys.readouterr().err
    done = result_of([*arguments, "--skip-bad-rows"], capsys)
    assert done["questions"] == {"validation": 2} and [one["row"] for one in done["left_out"]] == [4]
    scored = result_of(["evaluate", "vision000", "--data", str(tmp_path / "data")], capsys)
    assert (scored["questions"], scored["documents"]) == (2, 2)


def test_export_says_where(two, capsys):
    written = result_of(["export", "vision100", str(two / "exported")], capsys)
    assert written["run"] == "embedded/vision100-seed0-fake"
    assert (two / "exported" / "model.safetensors").is_file()


def test_compare_tests_every_metric(two, capsys):
    first, second = (find_run(name) for name in ("vision000", "vision100"))
    sides = paired_answers(first, second)
    compared = result_of(["compare", first.id, str(second.folder), "--questions", "2"], capsys)
    for name in METRICS:
        difference = paired_difference(*sides, name)
        found = compared["metrics"][name]
        assert found["difference"] == pytest.approx(difference.estimate)
        # Of four documents there is none.
        assert found["p_value"] is found["low"] is found["high"] is None and difference.doubt
        assert found["second"] - found["first"] == pytest.approx(found["difference"])
        assert 0 < found["p_permutation"] <= 1
    changed = compared_questions(*sides)
    gains = changed[changed["difference"] > 0]
    assert [one["question_id"] for one in compared["better"]] == gains["question_id"].head(2).tolist()
    assert all(one["difference"] < 0 for one in compared["worse"])
    assert main(["compare", "vision000", "vision100"]) == 0
    shown = capsys.readouterr().out
    assert f"better in the second: {len(gains)} of 12 questions" in shown and "p, permutation" in shown


def test_a_run_compared_with_itself_differs_in_nothing(two):
    run = find_run("vision000")
    sides = paired_answers(run, run)
    table = compare_metrics(*sides)
    assert (table["difference"] == 0).all() and (table["p_permutation"] == 1).all()
    assert (compared_questions(*sides)["difference"] == 0).all()


def test_runs_of_other_questions_are_not_compared(two, capsys):
    other = two / "other"
    shutil.copytree(find_run("vision100").folder, other)
    frame = pd.read_parquet(other / "predictions.parquet")
    frame.loc[frame["question_id"] == "q000-0", "question"] = "what else?"
    frame.to_parquet(other / "predictions.parquet", index=False)
    assert main(["compare", "vision000", str(other)]) == 2
    assert "not asked the same questions: 12 and 12, 11 of them the same" in capsys.readouterr().err


def test_runs_are_found_by_what_is_theirs_alone(two):
    small_study("second", ratios=(1.0,), seeds=(0, 1))
    assert find_run("vision100-seed1").name == "second/vision100-seed1-fake"
    assert find_run("embedded/vision1").name == "embedded/vision100-seed0-fake"
    with pytest.raises(RunError, match=r"'vision100' may be any of embedded/.*, second/.*, second/.*give more"):
        find_run("vision100")
    with pytest.raises(RunError, match=r"no run 'vision9'; allowed are .* study's name: embedded, second"):
        find_run("vision9")
    shutil.rmtree(runs_folder("second").parent)


def test_a_ratio_that_is_not_there_is_told_apart_from_those_that_are(output, capsys):
    write_study("a", ratios=(0.3333333, 1.0), seeds=(0,), documents=4)
    assert main(["ask", str(PROJECT / "docs" / "example.png"), "what?", "--study", "a", "--ratio", "0.333333"]) == 2
    assert "ratio is 0.333333; allowed are those of study 'a': 0.3333333, 1" in capsys.readouterr().err


def test_a_run_that_lost_something_is_damaged_and_its_scores_are_not_read(output):
    study = write_study(ratios=(0.0, 1.0), seeds=(0,), documents=4)
    folder = runs_folder(study.name) / min(study.records)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"files": {"epochs.csv": "0" * 64}}))
    (folder / "epochs.csv").write_bytes(b"\xff")
    with pytest.warns(UserWarning, match="epochs.csv is damaged"):
        damaged, whole = status([folder, runs_folder(study.name) / max(study.records)])
    assert (damaged["status"], damaged["anls"], whole["status"]) == ("damaged", None, "complete")


def test_without_any_study_the_command_that_makes_one_is_told(output):
    with pytest.raises(RunError, match="no study is here: make study"):
        find_run("vision000")


def test_a_run_that_is_not_complete_is_exit_code_1(two, capsys):
    begun = two / "begun"
    shutil.copytree(find_run("vision100").folder, begun)
    record = json.loads((begun / "run.json").read_text())
    (begun / "run.json").write_text(json.dumps(record | {"status": "failed", "error": "DivergedError: nan"}))
    with pytest.raises(IncompleteRunError, match=r"run begun is not complete \(DivergedError: nan\)"):
        find_run(str(begun))
    assert main(["evaluate", str(begun)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "error: run begun is not complete" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "page.png", " "], "question is ' '; allowed is any text"),
        (["ask", "nowhere.png", "what?"], "there is no file 'nowhere.png'"),
        (["ask", "page.png", "what?", "--ratio", "0.5"], "ratio is 0.5; allowed are those of study 'embedded': 0, 1"),
        (["ask", "page.png", "what?", "--study", "none"], "make it with: docfloqa study --name none --data FOLDER"),
        (["ask", "page.png", "what?", "--model", "./none"], "model './none' cannot be loaded: it is not a folder"),
        (["ask", "page.png", "what?", "--run", "vision1", "--ratio", "1"], "--ratio chooses among a study's runs"),
        (["evaluate", "vision000", "--data", "./none"], "data './none' is not a folder"),
        (["evaluate", "vision000", "--epochs", "3"], "No such option: --epochs"),
        (["evaluate", "vision000", "--num-beams", "0"], "num_beams is 0; allowed is a number from 1 to 64"),
        (["ask", "page.png", "what?", "--run", "vision1", "--model", "x"], "allowed is one of them"),
        (["compare", "vision000", "vision100", "--questions", "-1"], "--questions is -1; allowed is 0 or more"),
        (["export", "vision000", "."], "is not empty"),
        (["import", "none.csv", "new"], "there is no file or folder"),
    ],
)
def test_bad_input_is_told_and_exit_code_2(arguments, message, two, capsys, monkeypatch):
    monkeypatch.chdir(two)
    assert main([*arguments, "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err


def test_pack_says_where(output, capsys):
    study = write_study(seeds=(0,), epochs=2, documents=4)
    packed = result_of(["pack", study.name], capsys)
    assert packed == {"study": study.name, "folder": str(runs_folder(study.name).parent / "packed")}
    assert main(["pack", "none"]) == 2


def test_report_prints_verdicts(output, capsys, monkeypatch):
    study = write_study(seeds=(0, 1), epochs=1)
    monkeypatch.setattr("docfloqa.study.study.report_study", lambda *_: [])
    found = result_of(["report", "--name", study.name, "--margin", "50"], capsys)["verdicts"]
    assert [one["comparison"] for one in found] == verdicts(study)["comparison"].tolist()
    assert all(one["verdict"] and {"low", "high", "p"} <= one.keys() for one in found)
    assert main(["report", "--margin", "-1"]) == 2 and "--margin is -1" in capsys.readouterr().err


def test_an_interruption_is_exit_code_130(two, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("docfloqa.data.images.read_page", interrupted)
    assert main(["ask", "page.png", "what?"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_what_is_printed_on_the_way_is_no_result(two, capsys, monkeypatch):
    def talkative(*_, **__):
        print("on the way")
        return pd.DataFrame([{"run": "one", "status": "complete", "anls": float("nan")}])

    monkeypatch.setattr("docfloqa.study.sweep.sweep", talkative)
    assert result_of(["sweep"], capsys)["runs"] == [{"run": "one", "status": "complete", "anls": None}]


def test_a_fault_of_ours_is_not_hidden_as_bad_input(two, monkeypatch):
    def faulty(*_):
        raise ValueError("ours")

    monkeypatch.setattr("docfloqa.data.images.read_page", faulty)
    with pytest.raises(ValueError, match="ours"):
        main(["ask", "page.png", "what?"])


def test_the_runs_of_the_ratios_are_meant_before_those_of_the_arms(output):
    study = write_study(seeds=(0,), epochs=1, documents=4)
    folder = runs_folder(study.name)
    shutil.copytree(folder / "vision000-seed0-fake", folder / "vision000-seed0-of-an-arm")
    assert find_run("vision000").id == "vision000-seed0-fake"
    assert find_run("vision000-seed0-of").id == "vision000-seed0-of-an-arm"


def test_a_wrong_verb_option_or_arm_is_answered_with_the_right_one(capsys):
    for wrong, meant in (
        (["stduy"], "Did you mean 'study'?"),
        (["study", "--epohcs", "3"], "--epochs"),
        (["study", "--arms", "cumulativ"], "did you mean cumulative?"),
        (["study", "--profile", "smok"], "did you mean smoke?"),
    ):
        assert main(wrong) == 2
        assert meant in capsys.readouterr().err


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"docfloqa {version('docfloqa')}\n"


def test_runs_are_listed_with_how_they_stand(output, capsys):
    study = write_study("first", ratios=(0.0, 1.0), seeds=(0,), arms=("lora",), missing=1)
    write_study("second", ratios=(0.33,), seeds=(4,))
    begun = Run("vision066-seed7-begun", study.settings.replace(vision_trainable=0.66, seed=7))
    begun.start()
    begun.update(status=INTERRUPTED)
    for epoch in range(3):
        write_whole(begun.epoch_files(epoch)[1], "{}")
    found = result_of(["runs"], capsys)["runs"]
    assert {run["study"] for run in found} == {"first", "second"} and found[-1]["seed"] == 4
    rows = {run["run"]: [*run.values()][2:] for run in found}
    assert rows["vision066-seed7-begun"] == ["earlier", 0.66, 7, INTERRUPTED, 2, 3, None]
    assert rows["vision000-seed99-fake"] == ["", None, None, "not begun", 0, None, None]
    assert {row[0] for row in rows.values()} == {"", "lora", "earlier"}
    last = study.epochs.query("vision_trainable == 1")["anls"].iloc[-1]
    assert rows["vision100-seed0-fake"] == ["", 1.0, 0, COMPLETE, 3, 3, pytest.approx(last)]
    assert main(["runs"]) == 0
    shown = capsys.readouterr().out
    assert "ANLS (%)" in shown and f" {100 * last:.3g}\n" in shown, "in per cent, as everywhere"
    pack("second")
    assert result_of(["runs", "--name", "second"], capsys)["runs"] == [found[-1]]
    assert main(["runs", "--name", "secnd"]) == 2
    assert "there is no study 'secnd'; studies here are first, second" in capsys.readouterr().err


@pytest.mark.long
def test_a_wrong_name_of_a_run_or_study_is_refused_without_waiting_for_torch(two):
    page = str(two / "page.png")
    wrong = [["export", "none", "x"], ["evaluate", "none"], ["compare", "none", "vision0"], ["answer", "none", "."]]
    wrong += [["ask", page, "what?", "--run", "none"], ["ask", page, "what?", "--study", "none"], ["pack", "none"]]
    wrong += [[verb, "--name", "none"] for verb in ("demo", "report", "robustness", "runs")]
    code = f"import sys\nfrom docfloqa.cli import main\nprint([main(one) for one in {wrong}])\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == str([2] * len(wrong))
    assert done.stderr.count("'none'") == len(wrong)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["study", "--ratios"], "--ratios has no value"),
        (["study", "--arms", "--name", "mine"], "--arms has no value"),
        (["study", "--seeds", "--seeds", "1", "--report-to"], "--report-to has no value"),
        (["ask", "docs/example.png", "a?", "--run", ""], "run is empty; give a value"),
        (["evaluate", "mine/vision100", "--data", ""], "data is empty"),
        (["study", "--arms", ""], "arms is empty"),
        (["export", "mine/vision100", "x", "--push", ""], "push is empty"),
        (["demo", "--port", "99999999"], "--port is 99999999; allowed is a number from 1 to 65535"),
    ],
)
def test_an_option_without_a_value_is_not_left_away(words, told, capsys):
    assert main(words) == 2 and told in capsys.readouterr().err


@pytest.mark.parametrize("name", ["seed", "vision_trainable", "fold"])
def test_what_runs_of_a_study_differ_in_is_no_setting_of_its_file(name, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(f"settings: {{{name}: 1, folds: 2}}")
    assert main(["study", "--config", str(tmp_path / "study.yaml")]) == 2
    assert f"sets {name}, in which a study's runs differ; allowed are ratios" in capsys.readouterr().err
