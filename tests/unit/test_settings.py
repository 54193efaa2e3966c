import pytest
from hypothesis import given
from hypothesis import strategies as st

from docfloqa.exceptions import SettingsError
from docfloqa.parameters import read_config
from docfloqa.settings import PROFILES, Settings


@pytest.mark.parametrize("profile", PROFILES)
def test_json_goes_both_ways(profile):
    settings = Settings.profile(profile, seed=3, vision_trainable=0.66, data="mine")
    assert Settings.from_json(settings.to_json()) == settings
    assert (settings.study, settings.seed, settings.vision_trainable) == (profile, 3, 0.66)


def test_the_profile_own_is_for_documents_of_ones_own():
    own = Settings.profile("own", data="my_scans")
    assert own.model == Settings.profile("paper", data="my_scans").model and own.batching == "by_image"
    # 51 questions are 180 steps at a rate that moves a pretrained model, the published profile's are 72 that do not.
    assert 1e-5 <= own.learning_rate <= 5e-5 and own.epochs * 51 // own.batch_size > 150 and own.early_stopping_patience
    tiny = Settings.profile("own", data="my_scans", model="data/florence2-tiny")
    assert tiny.learning_rate == Settings().learning_rate and tiny.allow_cpu and not own.allow_cpu
    assert Settings.profile("own", data="my_scans", model="/a/data/florence2-tiny").allow_cpu
    assert Settings.profile("own", data="my_scans", allow_cpu=True).allow_cpu
    assert Settings.profile("own", data="x", model=tiny.model, learning_rate=1e-4).learning_rate == 1e-4
    for drawn in ({}, {"data": "synth"}):
        with pytest.raises(SettingsError, match="profile own is for documents of your own; give them with --data"):
            Settings.profile("own", **drawn)


def test_the_paper_profile_is_the_published_setting():
    paper = Settings.profile("paper")
    assert (paper.learning_rate, paper.batch_size, paper.epochs) == (1e-6, 6, 8)
    assert (paper.num_beams, paper.max_new_tokens, paper.validation_questions) == (3, 128, 500)
    assert paper.batching == "uniform" and not paper.allow_cpu


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vision_trainable", 1.2),
        ("vision_trainable", float("nan")),
        ("vision_trainable", "0.5"),
        ("seed", True),
        ("seed", -1),
        ("seed", "007"),
        ("epochs", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("unit", "layer"),
        ("side", "left"),
        ("prefix", ""),
        ("precision", "fp8"),
        ("batching", "by_document"),
        ("study", "../elsewhere"),
        ("study", ""),
        ("data", " "),
        ("validation_questions", 0),
    ],
)
def test_a_bad_value_is_named_with_its_field(field, value):
    with pytest.raises(SettingsError, match=field) as caught:
        Settings.profile("embedded", **{field: value})
    assert "allowed" in str(caught.value) or "give" in str(caught.value)
    assert repr(value) in str(caught.value) or "empty" in str(caught.value)


def test_unknown_names_are_refused():
    with pytest.raises(SettingsError, match="unknown setting 'vision_trainabel'"):
        Settings.profile("embedded", vision_trainabel=0.5)
    with pytest.raises(SettingsError, match=r"profile is 'papr'; allowed are smoke, embedded, own, paper"):
        Settings.profile("papr")


def test_notebook_parameters_override_the_profile_only_where_given():
    settings = Settings.from_parameters("smoke", {"epochs": 5}, study=None, seed=2)
    assert (settings.study, settings.epochs, settings.seed) == ("smoke", 5, 2)
    assert settings.synth_documents == PROFILES["smoke"]["synth_documents"]
    with pytest.raises(SettingsError, match="further settings"):
        Settings.from_parameters("smoke", ["epochs"])


@given(st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_every_ratio_and_seed_in_range_is_accepted(ratio, seed):
    settings = Settings.profile("embedded", vision_trainable=ratio, seed=seed)
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("settings: {epochs: 3, epochs: 4}", "'epochs' is there twice"),
        ("settings: {epochs: 3}\nsettings: {epochs: 4}", "'settings' is there twice"),
        ("settings: {epochs: 010}", "epochs is '010' of type str; allowed is a whole number"),
        ("settings: {epochs: 1:30}", "epochs is '1:30' of type str"),
        ("settings: {epochs: 1_000}", "epochs is '1_000' of type str"),
        ("settings: {folds: '3'}", "allowed is a whole number or none"),
        ("settings: {vision_cache: 1}", "allowed is true or false"),
        ("settings: {learning_rate: 1,5e-4}", "learning_rate is 1|settings name"),
        ("settings: {1: 2}", "settings name 1; allowed are names"),
        ("settings: {parts: [stage1, stage1]}", "parts has 'stage1' twice; allowed is once"),
        ("settings: {report_to: [mlflow, mlflow]}", "report_to has 'mlflow' twice"),
    ],
)
def test_what_a_file_of_settings_says_twice_or_in_another_way_is_not_taken(text, told, tmp_path):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(SettingsError, match=told):
        Settings.from_parameters("smoke", read_config(tmp_path / "study.yaml")["settings"])


def test_a_date_may_be_the_name_of_a_study(tmp_path):
    (tmp_path / "study.yaml").write_text("settings: {study: 2026-01-31, learning_rate: 1e-4, epochs: 0x10}")
    config = read_config(tmp_path / "study.yaml")["settings"]
    assert config == {"study": "2026-01-31", "learning_rate": 1e-4, "epochs": "0x10"}
