"""A packed study is the study that it was: the same tables, runs, answers and scores, in far fewer files."""

import base64
import json
import math
import shutil
from io import BytesIO
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from fake_study import write_study
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from docfloqa.analysis import robustness
from docfloqa.analysis.changes import compare_metrics, paired_answers
from docfloqa.apps.browser import answers_by_run
from docfloqa.apps.monitor import epochs_so_far, states
from docfloqa.exceptions import RunError
from docfloqa.files import DamagedError, reports_folder, runs_folder
from docfloqa.metrics import METRICS
from docfloqa.runs.packing import NOTEBOOK_WIDTH, pack
from docfloqa.runs.results import Study, find_run, status
from docfloqa.runs.run import BEST_MODEL, Run, is_complete, read_record
from docfloqa.study.sweep import is_finished

FRAMES = ("runs", "epochs", "epoch_scores", "first_answers", "last_answers")
SCORES = ["run", "epoch", "question_id", *METRICS]


@pytest.fixture(autouse=True)
def _of_this_test(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(tmp_path))


def frames_of(study: Study) -> dict[str, pd.DataFrame]:
    return {
        **{name: getattr(study, name) for name in FRAMES},
        "predictions": study.predictions[SCORES],
        "wrong_pages": study.wrong_pages[SCORES],
    }


def write_scores(study: Study) -> None:
    for run in study.records:
        answers = study.last_answers.query("run == @run")[["question_id", "document_id", "prediction", *METRICS]]
        answers = answers.assign(kind="clean", severity=0)
        answers.attrs = {"weights": run, "numbers": robustness.NUMBERS}
        answers.to_parquet(runs_folder(study.name) / run / "robustness.parquet", index=False)


@settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    ratios=st.lists(st.sampled_from([0.0, 0.33, 0.66, 1.0]), min_size=1, unique=True),
    seeds=st.integers(1, 2),
    epochs=st.integers(1, 2),
    arms=st.sampled_from([(), ("cumulative",)]),
)
def test_a_packed_study_is_read_as_its_folders(ratios, seeds, epochs, arms):
    shutil.rmtree(reports_folder("fake"), ignore_errors=True)
    plain = write_study(ratios=tuple(ratios), seeds=tuple(range(seeds)), epochs=epochs, documents=4, arms=arms)
    write_scores(plain)
    before = {name: frames_of(study) for name in ("", *arms) if (study := plain.arm(name) if name else plain)}
    scored, watched = robustness.read_scores(plain, "robustness"), (states("fake"), epochs_so_far("fake"))
    pack("fake")
    assert not list(reports_folder("fake").glob("runs/*"))
    packed = Study.load("fake")
    assert packed == plain and not packed.missing and not packed.outdated
    for name, frames in before.items():
        after = frames_of(packed.arm(name) if name else packed)
        for frame in frames:
            pd.testing.assert_frame_equal(after[frame], frames[frame], check_exact=True, obj=f"{name} {frame}")
    again = robustness.read_scores(packed, "robustness")
    pd.testing.assert_frame_equal(again, scored.drop(columns="prediction"), check_exact=True)
    assert robustness.unscored(packed, ["robustness"]).empty
    pd.testing.assert_frame_equal(states("fake"), watched[0])
    pd.testing.assert_frame_equal(epochs_so_far("fake"), watched[1], check_exact=True)


def test_runs_of_a_packed_study_are_found_compared_and_finished():
    study = write_study(ratios=(0.0, 1.0), documents=4)
    folders = [runs_folder("fake") / run for run in study.records]
    plain = [find_run(folder.name).answers() for folder in folders]
    compared = answers_by_run(study)
    pack("fake")
    for folder, answers in zip(folders, plain, strict=True):
        found = find_run(f"fake/{folder.name[:16]}")
        assert found.record == study.records[folder.name] == read_record(folder) and is_complete(folder)
        pd.testing.assert_frame_equal(found.answers(), answers)
        assert found.answers(1)["prediction"].isna().all() and found.answers(1)["anls"].notna().all()
        run = Run(folder.name, found.settings, {})
        assert is_finished(run) and run.is_complete() and len(run.epochs()) == 4
        assert status([run.folder])[0]["status"] == "complete"
    assert len(paired_answers(*(find_run(folder.name) for folder in folders[:2]))[0]) == 16
    for name, answers in answers_by_run(Study.load("fake")).items():
        pd.testing.assert_frame_equal(answers, compared[name])


def test_weights_stay_and_new_runs_come_beside_what_is_packed():
    study = write_study(ratios=(0.0, 1.0), seeds=(0,), documents=4)
    first, second = study.records
    weights = runs_folder("fake") / first / BEST_MODEL / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    pack("fake")
    assert weights.read_bytes() == b"weights" and not (runs_folder("fake") / second).exists()
    assert find_run(first).model_folder == find_run(str(weights.parents[1])).model_folder == weights.parent
    packed = Study.load("fake")
    # A further seed, whose plan names the packed runs, too.
    write_study("more", ratios=(0.0, 1.0), seeds=(1,), documents=4)
    for folder in list(runs_folder("more").iterdir()):
        folder.rename(runs_folder("fake") / folder.name)
    plan = json.loads((reports_folder("fake") / "study.json").read_text())
    plan["runs"] += json.loads((reports_folder("more") / "study.json").read_text())["runs"]
    (reports_folder("fake") / "study.json").write_text(json.dumps(plan))
    shutil.rmtree(reports_folder("more"))
    both = Study.load("fake")
    assert sorted(both.runs["seed"]) == [0, 0, 1, 1]
    pack("fake")
    again = Study.load("fake")
    for frame in FRAMES:
        pd.testing.assert_frame_equal(getattr(again, frame), getattr(both, frame), check_exact=True)
    mine = again.last_answers.query("seed == 0").reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, packed.last_answers, check_exact=True)
    assert weights.is_file()


def test_of_a_tested_arm_the_test_answers_are_kept_and_the_ratios_keep_all():
    plain = write_study(ratios=(0.0, 1.0), documents=4, arms=("prefix",), test=(6, 4))
    arm = plain.arm("prefix")
    tested, validated, epochs = plain.compared, frames_of(plain), arm.epochs
    told = arm.compared.assign(confidence=math.nan, loss_sum=math.nan)
    sides = [find_run(run) for run in [*arm.records][:2]]
    differences = compare_metrics(*paired_answers(*sides))
    pack("fake")
    packed = Study.load("fake")
    assert packed == plain
    pd.testing.assert_frame_equal(packed.compared, tested, check_exact=True)
    for frame, before in frames_of(packed).items():
        pd.testing.assert_frame_equal(before, validated[frame], check_exact=True, obj=frame)
    pd.testing.assert_frame_equal(packed.arm("prefix").compared, told, check_exact=True)
    pd.testing.assert_frame_equal(packed.arm("prefix").epochs, epochs, check_exact=True)
    sides = [find_run(run) for run in [*arm.records][:2]]
    pd.testing.assert_frame_equal(compare_metrics(*paired_answers(*sides)), differences, check_exact=True)
    only = r"has no predictions\.parquet; of a packed run of an arm only test answers are kept"
    with pytest.raises(RunError, match=only):
        sides[0].answers()
    with pytest.raises(RunError, match=only):
        assert packed.arm("prefix").last_answers.empty


@pytest.mark.parametrize("name", ["runs", "epochs", "predictions", "wrong_pages"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_packed_file_is_told_by_name(name, damage):
    write_study(ratios=(0.0,), documents=3)
    path = pack("fake") / f"{name}.parquet"
    if damage == "changed":
        path.write_bytes(path.read_bytes()[:-20] + b"?" * 20)
    else:
        path.unlink()
    with pytest.raises(DamagedError, match=rf"{name}\.parquet is {damage.replace('changed', 'damaged')}"):
        Study.load("fake")
    with pytest.raises(DamagedError):
        pack("fake")


def test_a_kill_between_the_renames_of_packing_again_loses_no_run(monkeypatch):
    study = write_study(ratios=(0.0, 1.0), seeds=(0,), documents=4)
    packed, renamed, to = pack("fake"), [], Path.rename
    write_study("more", ratios=(0.0,), seeds=(1,), documents=4)
    for folder in runs_folder("more").iterdir():
        to(folder, runs_folder("fake") / folder.name)
    plan = json.loads((reports_folder("fake") / "study.json").read_text())
    plan["runs"] += json.loads((reports_folder("more") / "study.json").read_text())["runs"]
    (reports_folder("fake") / "study.json").write_text(json.dumps(plan))
    both = Study.load("fake")

    class Killed(BaseException):
        pass

    def counted(path, target):
        renamed.append(target)
        if len(renamed) > 1:
            raise Killed
        return to(path, target)

    # Who is killed does not put anything back, either.
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "rename", counted)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        pack("fake")
    # Another process has another number.
    [part] = packed.parent.glob(".packed.*.part")
    shutil.rmtree(part)
    pack("fake")
    assert Study.load("fake") == both and len(both.records) == len(study.records) + 1
    assert packed.is_dir() and not packed.with_name(".packed.old").exists()


def test_a_damaged_packed_study_stops_no_other_and_says_what_to_do():
    write_study("good", ratios=(0.0, 1.0), seeds=(0,), documents=4)
    write_study("bad", ratios=(0.0,), seeds=(0,), documents=4)
    path = pack("bad") / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:-20] + b"?" * 20)
    with pytest.warns(UserWarning, match=r"study 'bad' is left out: .*predictions\.parquet is damaged"):
        assert find_run("good/vision000").record["status"] == "complete"
    with pytest.raises(DamagedError, match=r"put a copy there, or remove .*packed, and its runs are made again"):
        Study.load("bad")
    (path.parents[1] / "study.json").write_text("{")
    with pytest.raises(DamagedError, match=r"study.json is damaged: "):
        Study.load("bad")


def test_a_packed_run_is_found_by_its_path_and_no_other_folder_is_taken_for_one(tmp_path, monkeypatch):
    study = write_study(ratios=(0.0, 1.0), seeds=(0,), documents=4)
    pack("fake")
    name = min(study.records)
    assert find_run(str(runs_folder("fake") / name)).id == find_run(name).id == name
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "foo.txt").touch()
    (tmp_path / "sub" / "vision000").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "sub")
    assert find_run("vision000").id == name


def test_a_study_that_goes_on_later_is_packed_as_far_as_it_is():
    study = write_study(ratios=(0.0, 1.0), missing=1)
    pack("fake")
    packed = Study.load("fake")
    assert packed == study and [*packed.missing] == ["vision000-seed99-fake"]


def test_what_is_not_whole_is_not_packed_and_loses_nothing(monkeypatch):
    with pytest.raises(RunError, match="study 'nothing' has no runs to pack; docfloqa study --name nothing"):
        pack("nothing")
    study = write_study("other", ratios=(0.0,), seeds=(0,))
    files = sorted(runs_folder("other").rglob("*"))
    monkeypatch.setattr(pd.DataFrame, "equals", lambda *_: False)
    with pytest.raises(RunError, match="not read back"):
        pack("other")
    assert sorted(runs_folder("other").rglob("*")) == files and not (reports_folder("other") / "packed").exists()
    assert Study.load("other") == study


def figure_of(width: int) -> str:
    buffer = BytesIO()
    Image.new("RGB", (width, 300), "white").save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def test_figures_of_executed_notebooks_keep_their_png():
    write_study(ratios=(0.0,), documents=3)
    png = figure_of(1200)
    data = {"image/png": png, "image/svg+xml": "<svg/>", "application/pdf": "AA"}
    outputs = [
        new_output("display_data", data, metadata={kind: {"alt": "a"} for kind in data}),
        new_output("display_data", {"image/svg+xml": "<svg/>"}),
    ]
    path = reports_folder("fake") / "04_analyze.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("", outputs=outputs)]), path)
    for other in ("mine.ipynb", ".04_analyze.part.ipynb", "03_ablate.ipynb"):
        path.with_name(other).touch()
    with pytest.warns(UserWarning, match="03_ablate.ipynb stays as it is, for it cannot be read"):
        pack("fake")
    kept = nbformat.read(path, as_version=4).cells[0].outputs
    assert [set(output.data) for output in kept] == [{"image/png"}, {"image/svg+xml"}]
    with Image.open(BytesIO(base64.b64decode(kept[0].data["image/png"]))) as image:
        assert image.size == (NOTEBOOK_WIDTH, 175)
    assert kept[0].metadata == {"image/png": {"alt": "a"}}
