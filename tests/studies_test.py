"""Studies: rows of fields over seeds."""

import json

import pytest
from conftest import finish

from auxseg_jax.config.validation import checked
from auxseg_jax.errors import UserError
from auxseg_jax.files import storage
from auxseg_jax.studies import definitions, summary
from auxseg_jax.studies.study import Spec, StudyFolder, share_of

_WITH_OTHER_CONFIGS = {"saliency", "backbones", "presets"}  # `tiny` knows no words and no folders.
FLAGS = (
    "--config.stages.count=1",
    "--config.report.photos=0",
    "--config.compilation_cache=",
)


def write_study(tmp_path, rows):
    path = tmp_path / "mine.json"
    storage.write_json(path, {"title": "Mine?", "rows": rows})
    return path


def study(tmp_path, path, *flags):
    common = ("--config=tiny", *FLAGS, f"--config.data.cache_dir={tmp_path}/data")
    return finish("study", f"--study={path}", *common, f"--workdir={tmp_path}/study", *flags)


@pytest.mark.slow
def test_rows_share_what_is_the_same_and_a_failed_one_is_reported(tmp_path):
    rows = {
        "dual": {},
        "none": {"affinity.pairwise": False, "affinity.unary": False, "affinity.refine": "none"},
        "bad": {"pretrained.path": str(tmp_path / "absent.pth")},
    }
    path = write_study(tmp_path, rows)
    first = study(tmp_path, path, "--seeds=1")
    assert first[0] == 1 and "1 runs failed" in first[1]
    assert "shares classifier, cam, cam/score, cam/sweep, classifier_cam" in first[1]
    content = json.loads((tmp_path / "study/study.json").read_text())
    states = {name: run["state"] for name, run in content["runs"].items()}
    assert states == {"dual.seed_0": "done", "none.seed_0": "done", "bad.seed_0": "failed"}
    assert "absent.pth" in content["runs"]["bad.seed_0"]["message"]
    assert "difference" in content["table"]["none"]["val"]
    assert "bad.seed_0 failed" in (tmp_path / "study/study.md").read_text()
    assert "<svg" in (tmp_path / "study/study.html").read_text()
    # What is shared gives the figures of a run that does all itself.
    row = tmp_path / "study/runs/none/seed_0"
    code, output = finish(
        "train",
        "--config=tiny",
        *FLAGS,
        f"--config.data.cache_dir={tmp_path}/data",
        *(f"--config.{name}={value}" for name, value in rows["none"].items()),
        f"--workdir={tmp_path}/alone",
    )
    assert code == 0, output
    one, two = (json.loads((p / "results.json").read_text()) for p in (row, tmp_path / "alone"))
    for name in ("classifier", "pseudo", "stages", "cam_sweep"):
        assert one[name] == two[name]
    # Another study has another folder.
    written = (row / "results.json").stat().st_mtime_ns
    del rows["bad"]
    refused = study(tmp_path, write_study(tmp_path, rows), "--seeds=1")
    assert refused[0] == 1 and "holds another study" in refused[1]
    assert (row / "results.json").stat().st_mtime_ns == written


def test_shards_divide_the_runs(tmp_path):
    spec = Spec("dual", definitions.STUDIES["dual"], "tiny", (), 3)
    runs = StudyFolder(tmp_path / "s", spec).runs()
    assert len(runs) == 9 and [run.seed for run in runs] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for number in (1, 2, 3, 4, 9, 12):
        shares = [share_of(runs, 3, (k, number)) for k in range(number)]
        assert sorted(run.name for share in shares for run in share) == sorted(r.name for r in runs)
        # Runs of one seed share phases, so they stay together where that is possible.
        together = all(len({run.seed for run in share}) <= 1 for share in shares)
        assert together == (number in (3, 9, 12))


@pytest.mark.parametrize("name", sorted(set(definitions.STUDIES) - _WITH_OTHER_CONFIGS))
def test_rows_of_the_studies_are_configs(name):
    import argparse

    from auxseg_jax.cli import options

    for fields in definitions.STUDIES[name].rows.values():
        config, *overrides = definitions.flags("tiny", (), fields, 1)
        named = argparse.Namespace(config=config.removeprefix("--config="), overrides=overrides)
        checked(options.load_config(named))


def test_words_of_a_row_come_after_those_of_the_config():
    fields = {"words": "paper", "walk.beta": 2.0}
    assert definitions.flags("msrc:ablation", ("--config.a=1",), fields, 3) == [
        "--config=msrc:ablation,paper",
        "--config.a=1",
        "--config.walk.beta=2.0",
        "--config.seed=3",
    ]
    assert definitions.flags("msrc", (), {}, 0) == ["--config=msrc", "--config.seed=0"]


@pytest.mark.parametrize(
    "content, message",
    [
        ({"rows": {}}, "expected"),
        ({"rows": {"a": 3}}, "expected"),
        ([], "expected"),
        ({"rows": {"../a": {}}}, "names a folder"),
        ({"rows": {"..": {}}}, "names a folder"),
        ({"rows": {"a" * 300: {}}}, "names a folder"),
        ({"rows": {"a": {"": 1}}}, "is no field"),
        ({"rows": {"a": {"words": 3}}}, "one text"),
        ({"rows": {"a": {"seed": 3}}}, "--seeds says"),
        ({"rows": {"a": {}}, "seeds": 5}, "'seeds' is not known"),
        ('{"rows": {"a": {}, "a": {"stages.count": 2}}}', "'a' is there twice"),
        ("{", "not valid JSON"),
    ],
)
def test_files_that_are_no_study(tmp_path, content, message):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(UserError, match=message):
        definitions.find(str(tmp_path / "s.json"))


def test_a_study_that_is_not_there():
    with pytest.raises(UserError, match="there are affinity, dual"):
        definitions.find("nothing")


def test_a_row_whose_config_cannot_be_used_costs_nothing(tmp_path):
    path = write_study(tmp_path, {"a": {}, "b": {"walk.beta": -1.0}})
    found = study(tmp_path, path)
    assert found[0] == 1 and "row b: " in found[1] and "walk.beta" in found[1]
    assert not (tmp_path / "study").exists()


def test_a_folder_of_somebody_is_no_study(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study/x").write_text("")
    found = study(tmp_path, "dual")
    assert found[0] == 1 and "is not empty" in found[1]


def test_the_table_says_what_is_noise():
    cell = {"mean": 70.0, "sd": 0.81, "values": [70.0]}
    found = {"difference": 1.2, "low": -0.3, "high": 2.7, "within_noise": True, "seeds": 3}
    content = {
        "title": "T",
        "study": "dual",
        "workdir": "my studies/x",
        "config": "tiny",
        "overrides": [],
        "seeds": 3,
        "rows": {"a": {}, "b": {}},
        "runs": {"a.seed_0": {"state": "done"}, "b.seed_2": {"state": "waiting"}},
        "table": {
            "a": {"seeds": [0, 1, 2], "stages": [], "minutes": [1.0], "val": cell},
            "b": {"seeds": [0], "stages": [], "minutes": [], "val": cell | {"difference": found}},
        },
    }
    text = summary.markdown(content)
    assert "| b | 1 | 70.0 ± 0.8 | +1.2 [-0.3, +2.7], within noise |" in text
    assert "Not finished: b.seed_2" in text and "With one seed" in text
    command = "auxseg study --study=dual --config=tiny --seeds=3 '--workdir=my studies/x'"
    assert command in text
    assert "within noise" in summary.page(content)
