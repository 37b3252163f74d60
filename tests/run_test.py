"""Whole runs on generated photos: the workdir, the results, resuming, refusals."""

import json
import shutil
import signal

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from conftest import launch, tiny_config, wait_for

import auxseg_jax
from auxseg_jax import trees
from auxseg_jax.config.loading import load_config
from auxseg_jax.data import dataset, shapes
from auxseg_jax.errors import UserError
from auxseg_jax.evaluation import metrics
from auxseg_jax.files import images
from auxseg_jax.inference import crf
from auxseg_jax.report.results import Results
from auxseg_jax.runs import build
from auxseg_jax.runs.run import train
from auxseg_jax.runs.workdir import Workdir


def test_the_workdir_holds_what_the_readme_says(finished):
    workdir, results, config = finished
    for name in (
        "config.json",
        "manifest.json",
        "metrics.jsonl",
        "results.json",
        "classifier/DONE.json",
        "cam/DONE.json",
        "stage_01/DONE.json",
    ):
        assert (workdir / name).exists(), name
    assert json.loads((workdir / "results.json").read_text()) == results
    for folder in ("cam/pseudo", "stage_00/pseudo", "stage_01/pseudo"):
        for kind in ("segmentation", "saliency"):
            assert (
                len(list((workdir / folder / kind).glob("train_*.png"))) == config.data.train_photos
            )
    assert len(list((workdir / "stage_01/val").glob("val_*.png"))) == config.data.val_photos
    for index in range(config.data.val_photos):
        plane = images.read_plane(workdir / "stage_01/val" / f"val_{index:05d}.png")
        assert plane.shape == tuple(config.data.sizes[index % 2]) and plane.max() < len(
            shapes.CLASSES
        )


def test_results_keep_their_form(finished):
    _, results, config = finished
    assert set(results) == {
        "classifier",
        "pseudo",
        "cam_sweep",
        "stages",
        "affinities",
        "final",
        "seconds",
        "config",
        "manifest",
    }
    assert [entry["stage"] for entry in results["pseudo"]] == ["initial", 0, 1]
    assert set(results["pseudo"][0]) == {
        "stage",
        "miou",
        "miou_255_as_miss",
        "precision",
        "recall",
        "saliency_mae",
        "saliency_max_f",
    }
    assert [entry["stage"] for entry in results["stages"]] == [0, 1]
    assert set(results["stages"][0]) == {
        "stage",
        "val_miou",
        "val_miou_post",
        "per_class",
        "saliency_mae",
        "saliency_max_f",
    }
    assert set(results["stages"][0]["per_class"]) == set(shapes.CLASSES)
    assert results["final"] == results["stages"][-1]
    assert 0 <= results["classifier"]["map"] <= 100
    assert (
        results["manifest"]["seed"] == config.seed
        and results["manifest"]["packages"]["jax"] == jax.__version__
    )


def figures(results):
    return {
        key: value for key, value in results.items() if key not in ("seconds", "manifest", "config")
    }


def test_a_finished_workdir_gives_its_results_again(finished, capsys):
    workdir, results, config = finished
    assert train(config, workdir).to_json() == results
    assert "is finished" in capsys.readouterr().err


def test_another_config_is_refused_by_field(finished):
    workdir, _, config = finished
    other = config.copy_and_resolve_references()
    other.optimizer.momentum, other.walk.steps = 0.5, 7
    with pytest.raises(ValueError) as error:
        train(other, workdir)
    assert "optimizer.momentum: 0.9 there, 0.5 now" in str(
        error.value
    ) and "walk.steps: 4 there, 7 now" in str(error.value)
    assert "seed" not in str(error.value)


def test_a_folder_that_is_no_workdir_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds thesis\.tex but no config\.json"):
        train(tiny_config(tmp_path), tmp_path)


def folders(config):
    return (
        f"--config.data.cache_dir={config.data.cache_dir}",
        f"--config.compilation_cache={config.compilation_cache}",
    )


@pytest.mark.slow
def test_sigterm_and_kill_9_anywhere_and_the_same_command_ends_with_the_same_numbers(
    finished, tmp_path
):
    reference, results, config = finished
    workdir = tmp_path / "run"
    command = ("--config=tiny", f"--workdir={workdir}", *folders(config))
    log = workdir / "metrics.jsonl"
    moments = (
        lambda: (
            log.exists() and len(log.read_text().splitlines()) >= 3
        ),  # in the classifier, past its first checkpoint
        lambda: any(
            (workdir / "cam/pseudo/segmentation").glob("*.png")
        ),  # while labels are written
        lambda: "stage_01" in log.read_text(),
    )
    process = launch(*command)
    wait_for(lambda: log.exists() and log.read_text(), process)
    process.send_signal(signal.SIGTERM)  # what a cluster sends before it takes a machine away
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 143 and "classifier stopped by SIGTERM at step" in output, output
    for moment in moments:
        process = launch(*command)
        wait_for(moment, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (workdir / "results.json").exists()
    process = launch(*command)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert "Results, percent" in output
    again = json.loads((workdir / "results.json").read_text())
    assert figures(again) == figures(results)
    steps = [
        (line["phase"], line["step"]) for line in map(json.loads, log.read_text().splitlines())
    ]
    assert steps == [
        (line["phase"], line["step"])
        for line in map(json.loads, (reference / "metrics.jsonl").read_text().splitlines())
    ]
    for name in (
        "stage_01/pseudo/segmentation/train_00003.png",
        "stage_01/pseudo/saliency/train_00003.png",
        "stage_01/val/val_00001.png",
    ):
        assert (workdir / name).read_bytes() == (reference / name).read_bytes(), name


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(finished, tmp_path):
    config = finished[2]
    workdir = tmp_path / "run"
    process = launch("--config=tiny", f"--workdir={workdir}", *folders(config))
    wait_for(
        lambda: (workdir / "metrics.jsonl").exists() and (workdir / "metrics.jsonl").read_text(),
        process,
    )
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert (
        f"stopped; the same command goes on from {workdir}" in output and "Traceback" not in output
    )


@pytest.mark.slow
def test_a_prepared_copy_and_labels_as_records_change_no_figure(finished, tmp_path):
    workdir, results, config = finished
    copy = tmp_path / "copy"
    shutil.copytree(dataset.prepare(**config.data).directory, copy)
    config = config.copy_and_resolve_references()
    config.data.update({"prepared": str(copy), "cache_dir": str(tmp_path / "absent")})
    config.label_format = "array_record"
    shutil.copytree(workdir / "classifier", tmp_path / "run/classifier")
    again = train(config, tmp_path / "run").to_json()
    assert figures(again) == figures(results)
    for folder in ("cam/pseudo", "classifier_cam", "stage_00/pseudo"):
        files = {path.name for path in (tmp_path / "run" / folder).iterdir()} - {"DONE.json"}
        assert files - {"options.json", "written.json"} == {
            "part-00000-of-00001-00000.array_record",
            "part-00000-of-00001.ids",
        }
    assert not (tmp_path / "absent").exists()


@pytest.mark.slow
def test_a_new_workdir_takes_over_phases_of_another(finished, tmp_path, monkeypatch):
    workdir, results, config = finished
    config = config.copy_and_resolve_references()
    config.stages.count = 1
    config.walk.steps = 0
    config.crf.saliency.iterations = 1
    sharpen, given = crf.saliency, []

    def record(image, probability, inside, options):
        given.append(options)
        return sharpen(image, probability, inside, options)

    monkeypatch.setattr(crf, "saliency", record)
    for phase in ("classifier", "cam", "stage_00/params"):
        shutil.copytree(workdir / phase, tmp_path / "run" / phase)
    shutil.copy(workdir / "stage_00/DONE.json", tmp_path / "run/stage_00")
    again = train(config, tmp_path / "run").to_json()
    assert again["manifest"]["copied"] == [
        "cam",
        "cam/score",
        "cam/sweep",
        "classifier",
        "stage_00",
    ]
    assert again["stages"] == results["stages"][:1]
    assert given and set(given) == {build.crf_options(config, "saliency")}
    assert again["pseudo"][0] == results["pseudo"][0] and again["pseudo"][1] != results["pseudo"][1]
    shutil.copytree(workdir / "cam", tmp_path / "other/cam")
    config.data.seed = 9
    with pytest.raises(ValueError, match="cam was made from other data"):
        train(config, tmp_path / "other")


@pytest.mark.parametrize(
    "changes",
    [
        {"affinity__pairwise": False, "affinity__unary": False, "affinity__refine": "none"},
        {"affinity__pairwise": False},
        {"affinity__unary": False, "affinity__refine": "seg"},
        {"tasks__sal": False},
        {"affinity__cross_task": False},
    ],
    ids=["no affinity", "unary", "pairwise", "no saliency task", "no fusion across tasks"],
)
@pytest.mark.slow
def test_the_loop_runs_with_every_kind_of_affinity_from_one_classifier(finished, tmp_path, changes):
    config = tiny_config(finished[0].parent, stages__count=1, stages__epochs=1, **changes)
    config.crf.saliency.iterations = config.crf.segmentation.iterations = (
        0  # does not see the network
    )
    config.label_update.update({"scales": (1.0,), "flip": False})  # every view is compiled
    for phase in ("classifier", "cam"):
        shutil.copytree(finished[0] / phase, tmp_path / "run" / phase)
    results = train(config, tmp_path / "run")
    assert len(results.pseudo) == 2 and results.final.score.val_miou >= 0


@pytest.mark.slow
def test_a_phase_ends_with_the_moving_average(finished, tmp_path):
    config = tiny_config(finished[0].parent, stages__count=1, stages__epochs=1)
    config.optimizer.ema = 0.9
    for phase in ("classifier", "cam"):
        shutil.copytree(finished[0] / phase, tmp_path / "run" / phase)
    train(config, tmp_path / "run")
    stage = tmp_path / "run/stage_00"
    with ocp.StandardCheckpointer() as checkpointer:
        (last,) = stage.glob("checkpoints/[0-9]*")
        state = checkpointer.restore(last / "default")
        found = trees.flatten(checkpointer.restore(stage / "params"))
    for name, value in trees.flatten(optax.tree.get(state["opt_state"], "average")).items():
        np.testing.assert_array_equal(found[name], value)
    name = "seg_head/predict/kernel"
    assert not np.array_equal(found[name], trees.flatten(state["params"])[name])


def test_the_sweep_of_the_cams_and_the_networks_own_saliency(finished):
    workdir, results, config = finished
    data = dataset.prepare(**config.data)
    counts, errors = 0, []
    for name, truth in data.masks("train", "score"):
        classes, cam = (
            images.read_plane(workdir / "cam/pseudo" / kind / f"{name}.png")
            for kind in ("cam_class", "cam_score")
        )
        counts = counts + metrics.confusion(
            np.where(cam / 255 > 0.3, classes, 0).astype(np.uint8), truth, len(data.classes)
        )
    sweep = results["cam_sweep"]
    assert (
        sweep["oracle"]
        and sweep["best_miou"]
        == max(sweep["miou"].values())
        == sweep["miou"][str(sweep["best_threshold"])]
    )
    expected = metrics.iou_scores(counts, shapes.CLASSES).miou
    np.testing.assert_allclose(sweep["miou"]["0.3"], expected)
    for name, truth in data.masks("val", "score"):
        grey = images.read_plane(workdir / "stage_01/val/saliency" / f"{name}.png")
        errors.append(np.abs(grey / 255 - (truth > 0))[truth != 255].mean())
    np.testing.assert_allclose(results["stages"][1]["saliency_mae"], 100 * np.mean(errors))


@pytest.mark.slow
def test_fully_supervised_is_marked_and_trains_on_the_masks(tmp_path):
    config = tiny_config(tmp_path, stages__count=1, stages__epochs=1, classifier__epochs=1)
    config.supervision, config.eval.max_buckets = "masks", 2  # as many as there are sizes
    results = train(config, tmp_path / "run")
    assert results.fully_supervised and results.to_json()["fully_supervised"]
    assert len(results.pseudo) == 1
    np.testing.assert_allclose(results.pseudo[0].score.miou_255_as_miss, 100)


def test_a_workdir_in_use_is_refused(finished, tmp_path):
    workdir, results, config = finished
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run/results.json").unlink()
    other_run = Workdir(tmp_path / "run").sole_use()
    with other_run, pytest.raises(ValueError, match="another process is at work in"):
        train(config, tmp_path / "run")
    assert figures(train(config, tmp_path / "run").to_json()) == figures(results)


def test_a_wrong_data_root_costs_no_workdir(tmp_path):
    config = tiny_config(tmp_path)
    config.data = {
        "builder": "voc_folder",
        "train_split": "train",
        "val_split": "val",
        "cache_dir": str(tmp_path),
        "root": str(tmp_path / "no"),
    }
    config.data.update({"saliency": "Saliency", "labels": "image_labels.txt"})
    with pytest.raises(ValueError, match="there is no such folder"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_changed_data_are_refused(finished, tmp_path):
    workdir, _, config = finished
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["data"]["digest"] = "other"
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"the data of .* have changed since it was begun"):
        train(config, tmp_path / "run")


@pytest.mark.slow
def test_real_photos(msrc, tmp_path):
    """The shortest run of a small network on a fifth of the real photos."""
    root = tmp_path / "photos"
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for name in ("JPEGImages", "Saliency", "SegmentationClass", "classes.txt", "image_labels.txt"):
        (root / name).symlink_to(msrc / name)
    for split in ("train", "val"):
        names = (msrc / "ImageSets/Segmentation" / f"{split}.txt").read_text().split()
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names[::5]) + "\n")
    config = load_config("msrc:ablation")
    config.compilation_cache = jax.config.jax_compilation_cache_dir
    config.data.cache_dir = str(tmp_path / "data")
    config.data.root = str(root)
    config.augment.crop = 64
    config.model.backbone = {"name": "tiny", "output_stride": 8, "width": 16}
    config.pretrained.imagenet = False
    config.optimizer.frozen = ()
    config.classifier.update({"epochs": 1, "batch_size": 16})
    config.stages.update({"count": 1, "epochs": 1, "batch_size": 16})
    for section in (config.cam, config.label_update, config.predict, config.post):
        section.update({"scales": (1.0,), "flip": False})
    config.crf.segmentation.iterations = 0
    config.mesh.data = config.eval.max_buckets = 1
    results = train(config, tmp_path / "run")
    assert results.manifest["data"]["classes"][0] == "background"
    assert (
        results.pseudo[0].score.saliency_max_f > 80
    )  # of the off-the-shelf maps: they and the masks belong together


def test_results_are_read_as_they_were_written(finished):
    _, results, _ = finished
    assert Results.from_json(results).to_json() == results


def test_damaged_files_of_a_workdir_are_named(finished, tmp_path):
    workdir, _, config = finished
    shutil.copytree(workdir, tmp_path / "run")
    for name, content, message in (
        ("results.json", "{}", r"results.json cannot be read \(.*delete it, and the same command"),
        ("config.json", "[1]", r"config.json is damaged: expected a JSON object"),
    ):
        (tmp_path / "run" / name).write_text(content)
        with pytest.raises(UserError, match=message):
            train(config, tmp_path / "run")
    shutil.copy(workdir / "config.json", tmp_path / "run")
    for content, message in (
        ('{"data": {"classes": 5}}', "manifest.json is damaged: it names no classes"),
        ("{", "manifest.json is not valid JSON"),
    ):
        (tmp_path / "run/manifest.json").write_text(content)
        with pytest.raises(UserError, match=message):
            auxseg_jax.load(tmp_path / "run")
    shutil.copy(workdir / "manifest.json", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/stage_01/params")
    with pytest.raises(UserError, match="stage_01/params cannot be read"):
        auxseg_jax.load(tmp_path / "run")


@pytest.mark.slow
def test_kept_cams_of_another_run_must_fit(finished, tmp_path):
    workdir, _, config = finished
    for name in ("classifier", "cam", "classifier_cam", "stage_00"):
        shutil.copytree(workdir / name, tmp_path / "run" / name)
    shutil.rmtree(tmp_path / "run/stage_00/pseudo")
    other = config.copy_and_resolve_references()
    other.label_update.scales = (0.5,)
    with pytest.raises(UserError, match="its CAMs are of other views or another network"):
        train(other, tmp_path / "run")
    path = tmp_path / "run/classifier_cam/train_00001.npy"
    np.save(path, np.load(path)[:1])
    for name in ("config.json", "manifest.json", "oracle.jsonl", "report.html"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "run/truth", ignore_errors=True)
    shutil.rmtree(tmp_path / "run/tensorboard", ignore_errors=True)
    (tmp_path / "run/metrics.jsonl").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"the kept CAM of train_00001 is \(1, "):
        train(config, tmp_path / "run")


@pytest.mark.slow
def test_a_workdir_of_an_older_version_goes_on(finished, tmp_path, capsys):
    """Fields that the older version did not know have their defaults; others were renamed."""
    workdir, results, config = finished
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run/results.json").unlink()
    older = json.loads((workdir / "config.json").read_text())
    for section, field in (
        ("affinity", "heads"),
        ("optimizer", "name"),
        ("optimizer", "layer_decay"),
    ):
        del older[section][field]
    del older["model"]["precision"]
    older["model"]["dtype"] = "float32"
    (tmp_path / "run/config.json").write_text(json.dumps(older))
    # It did not keep the classifier's CAMs; the last update comes after it is gone on with.
    shutil.rmtree(tmp_path / "run/classifier_cam")
    shutil.rmtree(tmp_path / "run/stage_01/pseudo")
    assert figures(train(config, tmp_path / "run").to_json()) == figures(results)
    other = config.copy_and_resolve_references()
    other.optimizer.name = "adamw"
    with pytest.raises(ValueError, match=r"optimizer\.name: 'sgd' there, 'adamw' now"):
        train(other, tmp_path / "run")
