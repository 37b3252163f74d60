"""The whole method on generated photos: what a workdir holds, resume after kill -9, refusals, prediction, every config."""

import importlib
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from conftest import REPOSITORY, launch, tiny_config, wait_for
from PIL import Image

from auxseg_jax import checks, files, profile, recipe, sharding, stages
from auxseg_jax.data import dataset, shapes, transforms
from auxseg_jax.evaluation import metrics
from auxseg_jax.models import auxsegnet
from auxseg_jax.models.layers import resize_bilinear
from auxseg_jax.pseudo import crf
from auxseg_jax.training import checkpoint, optimizer

CONFIGS = sorted(p.stem for p in (REPOSITORY / "configs").glob("*.py") if p.stem not in ("common", "__init__"))


def test_the_workdir_holds_what_the_readme_says(finished):
    workdir, results, config = finished
    for name in ("config.json", "manifest.json", "metrics.jsonl", "results.json", "classifier/DONE.json", "cam/DONE.json", "stage_01/DONE.json"):
        assert (workdir / name).exists(), name
    assert json.loads((workdir / "results.json").read_text()) == results
    for folder in ("cam/pseudo", "stage_00/pseudo", "stage_01/pseudo"):
        for kind in ("segmentation", "saliency"):
            assert len(list((workdir / folder / kind).glob("train_*.png"))) == config.data.train_photos
    assert len(list((workdir / "stage_01/val").glob("val_*.png"))) == config.data.val_photos
    for index in range(config.data.val_photos):
        plane = files.read_plane(workdir / "stage_01/val" / f"val_{index:05d}.png")
        assert plane.shape == tuple(config.data.sizes[index % 2]) and plane.max() < len(shapes.CLASSES)


def test_results_keep_their_form(finished):
    _, results, config = finished
    assert set(results) == {"classifier", "pseudo", "cam_sweep", "stages", "final", "seconds", "config", "manifest"}
    assert [entry["stage"] for entry in results["pseudo"]] == ["initial", 0, 1]
    assert set(results["pseudo"][0]) == {"stage", "miou", "miou_255_as_miss", "precision", "recall", "saliency_mae", "saliency_max_f"}
    assert [entry["stage"] for entry in results["stages"]] == [0, 1]
    assert set(results["stages"][0]) == {"stage", "val_miou", "val_miou_post", "per_class", "saliency_mae", "saliency_max_f"}
    assert set(results["stages"][0]["per_class"]) == set(shapes.CLASSES)
    assert results["final"] == results["stages"][-1]
    assert 0 <= results["classifier"]["map"] <= 100
    assert results["manifest"]["seed"] == config.seed and results["manifest"]["packages"]["jax"] == jax.__version__


def figures(results):
    return {key: value for key, value in results.items() if key not in ("seconds", "manifest", "config")}


def test_a_finished_workdir_gives_its_results_again(finished, capsys):
    workdir, results, config = finished
    assert stages.run(config, workdir) == results
    assert "is finished" in capsys.readouterr().err


def test_another_config_is_refused_by_field(finished):
    workdir, _, config = finished
    other = config.copy_and_resolve_references()
    other.optimizer.momentum, other.walk.steps = 0.5, 4
    with pytest.raises(ValueError) as error:
        stages.run(other, workdir)
    assert "optimizer.momentum: 0.9 there, 0.5 now" in str(error.value) and "walk.steps: 1 there, 4 now" in str(error.value)
    assert "seed" not in str(error.value)


def test_a_folder_that_is_no_workdir_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds thesis\.tex but no config\.json"):
        stages.run(tiny_config(tmp_path), tmp_path)


def folders(config):
    return f"--config.data.cache_dir={config.data.cache_dir}", f"--config.compilation_cache={config.compilation_cache}"


@pytest.mark.slow
def test_sigterm_and_kill_9_anywhere_and_the_same_command_ends_with_the_same_numbers(finished, tmp_path):
    reference, results, config = finished
    workdir = tmp_path / "run"
    command = ("--config=configs/tiny.py", f"--workdir={workdir}", *folders(config))
    log = workdir / "metrics.jsonl"
    moments = (
        lambda: log.exists() and len(log.read_text().splitlines()) >= 3,  # in the classifier, past its first checkpoint
        lambda: any((workdir / "cam/pseudo/segmentation").glob("*.png")),  # while labels are written
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
    steps = [(line["phase"], line["step"]) for line in map(json.loads, log.read_text().splitlines())]
    assert steps == [(line["phase"], line["step"]) for line in map(json.loads, (reference / "metrics.jsonl").read_text().splitlines())]
    for name in ("stage_01/pseudo/segmentation/train_00003.png", "stage_01/pseudo/saliency/train_00003.png", "stage_01/val/val_00001.png"):
        assert (workdir / name).read_bytes() == (reference / name).read_bytes(), name


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(finished, tmp_path):
    config = finished[2]
    workdir = tmp_path / "run"
    process = launch("--config=configs/tiny.py", f"--workdir={workdir}", *folders(config))
    wait_for(lambda: (workdir / "metrics.jsonl").exists() and (workdir / "metrics.jsonl").read_text(), process)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert f"stopped; the same command goes on from {workdir}" in output and "Traceback" not in output


def test_a_mistyped_override_is_one_line(tmp_path):
    for arguments, message in (
        (("--config=configs/tiny.py", "--config.stages.epoch=3"), "error: the config has no such field:"),
        (("--config=configs/tiny.py", "--config.stage.epochs=3"), "error: the config has no such field:"),
        (("--config=configs/msrc.py:ablaton",), "error: configs/msrc.py knows full, ablation,"),
    ):
        process = launch(*arguments, f"--workdir={tmp_path / 'run'}")
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 1 and message in output and "Traceback" not in output


@pytest.mark.slow
def test_predict(finished, tmp_path, rng):
    workdir, *_ = finished
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, size in (("a", (40, 33)), ("b", (25, 60))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(photos / f"{name}.jpg")
    (photos / "c.jpg").write_bytes(b"no photo")
    show = "--show=overlay,saliency,cam,affinity"
    process = launch(
        "--mode=predict", "--post", show, "--point=10,20", f"--workdir={workdir}", f"--input={photos}/*.jpg", f"--output={tmp_path / 'masks'}"
    )
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "2 masks in" in output, output
    assert "1 photos could not be read:" in output and "c.jpg: not a readable image" in output
    assert (tmp_path / "masks/classes.csv").read_text().splitlines()[:2] == ["index,class,colour", "0,background,#000000"]
    for name, size in (("a", (40, 33)), ("b", (25, 60))):
        with Image.open(tmp_path / "masks" / f"{name}.png") as mask:
            assert mask.mode == "P" and mask.size == size[::-1]
        with Image.open(tmp_path / "masks/overlay" / f"{name}.jpg") as overlay:
            assert overlay.mode == "RGB" and overlay.size == size[::-1]
        for kind in ("saliency", "affinity"):
            with Image.open(tmp_path / "masks" / kind / f"{name}.png") as grey:
                assert grey.mode == "L" and grey.size == size[::-1]


@pytest.mark.parametrize("block_mib", [2048.0, 1e-4])
def test_what_predict_shows_is_what_the_network_says(finished, tmp_path, block_mib):
    workdir, _, config = finished
    y, x = np.mgrid[:32, :40]
    photo = np.stack([6 * x, 7 * y, 100 + 3 * (x - y)], -1).astype(np.uint8)  # smooth: a JPEG keeps it
    Image.fromarray(photo).save(tmp_path / "a.png")
    shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "classifier", "cam", "val", "post", "pseudo"))
    content = json.loads((workdir / "config.json").read_text())
    content["affinity"]["block_mib"] = block_mib
    (tmp_path / "run/config.json").write_text(json.dumps(content))
    stages.predict_photos(tmp_path / "run", str(tmp_path / "a.png"), tmp_path / "masks", show=("overlay", "cam", "affinity"), point=(33, 5))
    network = recipe.build_network(config, len(shapes.CLASSES) - 1)
    params = checkpoint.load_params(workdir / "stage_01/params", recipe.abstract_params(network, config), sharding.make_mesh(data=1))
    spec = auxsegnet.normalisation(config.model)
    outputs = network.apply({"params": params}, transforms.normalize(photo, **spec)[None])
    height, width = outputs["cam"].shape[1:3]
    row = outputs["affinity"].whole[0].reshape(height, width, height, width)[5 * height // 32, 33 * width // 40]
    found = files.read_plane(tmp_path / "masks/affinity/a.png")
    expected = np.asarray(resize_bilinear((row / row.max())[None, ..., None], (32, 40)))[0, ..., 0] * 255
    np.testing.assert_allclose(found, expected, atol=1)
    present = {shapes.CLASSES[k + 1] for k in np.flatnonzero(np.asarray(outputs["cls_logits"])[0] > 0)}
    assert {path.name.split(".")[1] for path in (tmp_path / "masks").glob("cam/a.*.png")} == present
    labels = files.read_plane(tmp_path / "masks/a.png")
    with Image.open(tmp_path / "masks/overlay/a.jpg") as overlay:
        drawn = np.asarray(overlay).astype(int)
    expected = np.where(labels[..., None] > 0, (photo.astype(int) + files.palette()[labels]) // 2, photo)
    assert np.abs(drawn - expected).mean() < 8


def test_predict_shows_only_what_there_is(finished, tmp_path):
    workdir, *_ = finished
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    for arguments, message in (
        ({"show": ("map",)}, "cannot show map; it can show overlay, cam, saliency, affinity"),
        ({"show": ("affinity",)}, "go together"),
        ({"point": (1, 1)}, "go together"),
        ({"show": ("affinity",), "point": (20, 1)}, "--point=20,1 is outside a photo; the smallest are 20 wide and 20 high"),
    ):
        with pytest.raises(ValueError, match=message):
            stages.predict_photos(workdir, str(tmp_path / "a.png"), tmp_path / "masks", **arguments)
    assert not (tmp_path / "masks").exists()


def test_post_processing_gives_the_crf_the_photos_colours(finished, tmp_path, rng, monkeypatch):
    workdir, _, config = finished
    photo = rng.integers(0, 256, (32, 40, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "a.png")
    given = {}

    def red(image, probabilities, inside, **options):
        given.update(options, probabilities=probabilities.shape, inside=inside.shape)
        return jax.nn.one_hot((image[..., 0] == 200).astype(int), probabilities.shape[-1])

    monkeypatch.setattr(crf, "segmentation", red)
    stages.predict_photos(workdir, str(tmp_path / "a.png"), tmp_path / "masks", post=True)
    np.testing.assert_array_equal(files.read_plane(tmp_path / "masks/a.png"), photo[..., 0] == 200)
    assert given.pop("probabilities")[-1] == len(shapes.CLASSES) and len(given.pop("inside")) == 2
    assert given == {"filter": config.crf.filter, **config.crf.segmentation}


def test_predict_refuses_bad_input_before_it_writes(finished, tmp_path):
    workdir, *_ = finished
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "good.jpg")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "good.png")
    with pytest.raises(ValueError, match=r"good\.png and .*good\.jpg would both be written to good\.png"):
        stages.predict_photos(workdir, f"{tmp_path}/*.*", tmp_path / "masks")
    assert not (tmp_path / "masks").exists()
    with pytest.raises(ValueError, match=r"no photo can be read:\n  .*bad\.jpg: not a readable image"):
        stages.predict_photos(workdir, f"{tmp_path}/bad.jpg", tmp_path / "masks")
    with pytest.raises(FileNotFoundError, match="no file matches --input="):
        stages.predict_photos(workdir, f"{tmp_path}/*.tif", tmp_path / "masks")
    shutil.copytree(workdir / "stage_01", tmp_path / "older/stage_01")
    older = json.loads((workdir / "config.json").read_text())
    del older["eval"]["megapixels"]
    (tmp_path / "older/config.json").write_text(json.dumps(older))
    with pytest.raises(ValueError, match=r"eval\.megapixels: missing"):
        stages.predict_photos(tmp_path / "older", f"{tmp_path}/good.jpg", tmp_path / "masks")
    with pytest.raises(FileNotFoundError, match="holds no trained stage"):
        stages.predict_photos(tmp_path, f"{tmp_path}/good.jpg", tmp_path / "masks")


@pytest.mark.slow
def test_a_new_workdir_takes_over_phases_of_another(finished, tmp_path, monkeypatch):
    workdir, results, config = finished
    config = config.copy_and_resolve_references()
    config.stages.count = 1
    config.walk.steps = 0
    config.crf.saliency.iterations = 1
    sharpen, given = crf.saliency, []
    monkeypatch.setattr(crf, "saliency", lambda *arrays, **options: given.append(options) or sharpen(*arrays, **options))
    for phase in ("classifier", "cam", "stage_00/params"):
        shutil.copytree(workdir / phase, tmp_path / "run" / phase)
    shutil.copy(workdir / "stage_00/DONE.json", tmp_path / "run/stage_00")
    again = stages.run(config, tmp_path / "run")
    assert again["manifest"]["copied"] == ["cam", "cam/score", "cam/sweep", "classifier", "stage_00"]
    assert again["stages"] == results["stages"][:1]
    assert given and all(options == {"filter": "lattice", **config.crf.saliency} for options in given)
    assert again["pseudo"][0] == results["pseudo"][0] and again["pseudo"][1] != results["pseudo"][1]
    shutil.copytree(workdir / "cam", tmp_path / "other/cam")
    config.data.seed = 9
    with pytest.raises(ValueError, match="cam was made from other data"):
        stages.run(config, tmp_path / "other")


@pytest.mark.slow
def test_profile(tmp_path):
    figures = profile.run(tiny_config(tmp_path))
    assert min(figures["loader_photos_per_second"], figures["step_photos_per_second"], figures["step_seconds"]) > 0
    assert 0 < sum(figures["operations"].values()) <= 100.5


@pytest.mark.slow
def test_profile_of_the_crf(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(profile, "_CRF_SCALES", (1.0,))
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    config = tiny_config(tmp_path)
    rows = profile.crf(config, tmp_path / "a.png")
    assert [(row["size"], row["labels"], row["iterations"]) for row in rows] == [("30x20", 21, 10)]  # this config's updates use none
    config.crf.saliency.iterations = 1
    rows = profile.crf(config, tmp_path / "a.png")
    assert [(row["size"], row["labels"], row["iterations"]) for row in rows] == [("30x20", 2, 1), ("30x20", 21, 10)]
    assert all(row["seconds"] > 0 and row["photos_per_second"] > 0 and row["peak_mib"] > 0 for row in rows)


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
    config.crf.saliency.iterations = config.crf.segmentation.iterations = 0  # does not see the network
    config.label_update.update({"scales": (1.0,), "flip": False})  # every view is compiled
    for phase in ("classifier", "cam"):
        shutil.copytree(finished[0] / phase, tmp_path / "run" / phase)
    results = stages.run(config, tmp_path / "run")
    assert len(results["pseudo"]) == 2 and "val_miou" in results["final"]


def test_the_sweep_of_the_cams_and_the_networks_own_saliency(finished):
    workdir, results, config = finished
    data = dataset.prepare(**config.data)
    counts, errors = 0, []
    for name, truth in data.masks("train"):
        classes, cam = (files.read_plane(workdir / "cam/pseudo" / kind / f"{name}.png") for kind in ("cam_class", "cam_score"))
        counts = counts + metrics.confusion(np.where(cam / 255 > 0.3, classes, 0).astype(np.uint8), truth, len(data.classes))
    sweep = results["cam_sweep"]
    assert sweep["oracle"] and sweep["best_miou"] == max(sweep["miou"].values()) == sweep["miou"][str(sweep["best_threshold"])]
    np.testing.assert_allclose(sweep["miou"]["0.3"], metrics.iou_scores(counts)["miou"])
    for name, truth in data.masks("val"):
        grey = files.read_plane(workdir / "stage_01/val/saliency" / f"{name}.png")
        errors.append(np.abs(grey / 255 - (truth > 0))[truth != 255].mean())
    np.testing.assert_allclose(results["stages"][1]["saliency_mae"], 100 * np.mean(errors))


@pytest.mark.slow
def test_fully_supervised_is_marked_and_trains_on_the_masks(tmp_path):
    config = tiny_config(tmp_path, stages__count=1, stages__epochs=1, classifier__epochs=1)
    config.supervision, config.eval.max_buckets = "masks", 2  # as many as there are sizes
    results = stages.run(config, tmp_path / "run")
    assert results["fully_supervised"] and len(results["pseudo"]) == 1
    np.testing.assert_allclose(results["pseudo"][0]["miou_255_as_miss"], 100)


def test_a_workdir_in_use_is_refused(tmp_path, monkeypatch):
    config, workdir = tiny_config(tmp_path), tmp_path / "run"
    monkeypatch.setattr(stages, "_phases", lambda this: stages.run(config, workdir))
    with pytest.raises(ValueError, match="another process is at work in"):
        stages.run(config, workdir)
    monkeypatch.setattr(stages, "_phases", lambda this: {"seen": True})
    assert stages.run(config, workdir) == {"seen": True}  # the lock went with the run that failed


def test_a_stray_field_is_an_error_before_anything_is_compiled(tmp_path):
    for section in ("data", "loader", "augment", "optimizer", "affinity", "walk", "label_update", "fuse", "cam", "predict", "eval", "log", "loss"):
        config = tiny_config(tmp_path)
        config[section].nonsense = 1
        with pytest.raises(ValueError, match=f"{section}.nonsense: there is no such field"):
            stages.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *(("msrc", words) for words in ("full", "paper", "official", "ablation", "official,resnet38", "resnet50,full", "paper,resnet101")),
        *((name, words) for name in ("voc", "coco") for words in ("", "official", "paper,efficientnet_lite0")),
    ],
)
def test_every_variant_can_be_built(name, argument):
    config = importlib.import_module(f"configs.{name}").get_config(argument)
    checks.check(config)
    params = recipe.abstract_params(recipe.build_network(config, 20), config)
    optimizer.make_optimizer(params, 10, lr=0.1, **config.optimizer)
    assert ("m" in params["seg_affinity"]) == ("paper" not in argument and "official" not in argument)
    assert ("conv" in params["seg_head"]) == ("paper" not in argument)


@pytest.mark.parametrize(
    ("argument", "message"), [("nope,full", "not nope"), ("paper,official", "exclude each other"), ("resnet38,resnet50", "exclude")]
)
def test_variants_of_msrc_that_there_are_not(argument, message):
    with pytest.raises(ValueError, match=message):
        importlib.import_module("configs.msrc").get_config(argument)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("tiny", "voc", "coco")])  # run elsewhere; with a network of a GPU's size
@pytest.mark.slow
def test_every_config_starts(name, tmp_path):
    """One classifier step, CAMs, one stage step, update, evaluation: with the config's own network, on four small photos."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config.compilation_cache, config.mesh.data = "", 1
    config.crf.segmentation.iterations = 0  # it would be compiled, for every config alike
    config.data = {"builder": "shapes", "train_split": "train", "val_split": "val", "cache_dir": str(tmp_path / "data")}
    config.data.update({"seed": 0, "sizes": ((48, 64),), "train_photos": 8, "val_photos": 8})
    config.augment.crop = 48
    for section in (config.cam, config.label_update, config.predict, config.post):
        section.update({"scales": (1.0,), "flip": False})  # every view is compiled
    for section in (config.classifier, config.stages, config.eval):
        section.batch_size = 8
    config.classifier.epochs = config.stages.epochs = config.stages.count = 1
    results = stages.run(config, tmp_path / "run")
    assert results["final"]["stage"] == 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("fuse.spill_threshold", 0.1, "fuse.spill_threshold=0.1: must not be below fuse.cam_threshold=0.2"),
        ("augment.scale", (1.3, 0.7), "augment.scale=.*: needs the least and the largest factor"),
        ("augment.scale", (0.5,), "augment.scale=.*: needs the least and the largest factor"),
        ("augment.jitter", 2.0, "augment.jitter=2.0: must be between 0 and 1"),
        ("loss.saliency", -1.0, "loss.saliency=-1.0: must not be below 0"),
        ("model.dilations", (1, 0, 3), "model.dilations=.*: must be at least 1"),
        ("cam.scales", (), r"cam.scales=\(\): needs factors above 0"),
        ("predict.scales", (1.0, 0.0), "predict.scales=.*: needs factors above 0"),
        ("crf.filter", "box", "crf.filter='box' is not one of lattice, exact"),
        ("crf.saliency.bilateral_srgb", 0.0, "crf.saliency.bilateral_srgb=0.0: must be at least 0.05"),
        ("crf.segmentation.iterations", -1, "crf.segmentation.iterations=-1: must not be below 0"),
        ("crf.segmentation.colour", 1.0, "crf.segmentation.colour: there is no such field; there are bilateral_srgb,"),
        ("walk.restart", 1.5, "walk.restart=1.5: must be between 0 and 1"),
        ("walk.steps", -1, "walk.steps=-1: must not be below 0"),
        ("optimizer.frozen", ("nope",), "the pattern 'nope' matches no parameter"),
        ("pretrained.imagenet", True, "there are no packaged ImageNet weights for the backbone 'tiny'"),
        ("eval.max_buckets", 0, "eval.max_buckets=0: must be above 0, and finite"),
        ("affinity.block_mib", float("inf"), "affinity.block_mib=inf: must be above 0, and finite"),
        ("log.log_every", 0, "log.log_every=0: must be above 0, and finite"),
        ("augment.crop", 0, "augment.crop=0: must be above 0, and finite"),
        ("stages.batch_size", 0, "stages.batch_size=0: must be above 0, and finite"),
        ("model.backbone.stride", 8, "model.backbone.stride: there is no such field; there are output_stride, width"),
        ("augment.scale_per", "epoch", "augment.scale_per='epoch' is not one of photo, batch"),
        ("supervision", "boxes", "supervision='boxes' is not one of"),
        ("tasks.cls", False, "without the classification branch there are no CAMs"),
    ],
)
def test_values_that_cannot_work_are_named_before_anything_is_written(tmp_path, field, value, message):
    config = tiny_config(tmp_path)
    *sections, name = field.split(".")
    section = config
    for part in sections:
        section = section[part]
    section[name] = value
    with pytest.raises(ValueError, match=message):
        stages.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_wrong_data_root_costs_no_workdir(tmp_path):
    config = tiny_config(tmp_path)
    config.data = {"builder": "voc_folder", "train_split": "train", "val_split": "val", "cache_dir": str(tmp_path), "root": str(tmp_path / "no")}
    config.data.update({"saliency": "Saliency", "labels": "image_labels.txt"})
    with pytest.raises(ValueError, match="there is no such folder"):
        stages.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_changed_data_are_refused(finished, tmp_path):
    workdir, _, config = finished
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["data"]["digest"] = "other"
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"the data of .* have changed since it was begun"):
        stages.run(config, tmp_path / "run")


def test_predict_does_not_overwrite_photos(finished, tmp_path):
    workdir, *_ = finished
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ValueError, match="the masks would overwrite the photos"):
        stages.predict_photos(workdir, f"{tmp_path}/*.png", tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.slow
def test_real_photos(msrc, tmp_path):
    """The shortest run of a small network on a fifth of the real photos: everything is read, trained on, updated and scored."""
    root = tmp_path / "photos"
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for name in ("JPEGImages", "Saliency", "SegmentationClass", "classes.txt", "image_labels.txt"):
        (root / name).symlink_to(msrc / name)
    for split in ("train", "val"):
        names = (msrc / "ImageSets/Segmentation" / f"{split}.txt").read_text().split()
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names[::5]) + "\n")
    config = importlib.import_module("configs.msrc").get_config("ablation")
    config.compilation_cache, config.data.cache_dir, config.data.root = "", str(tmp_path / "data"), str(root)
    config.augment.crop = 64
    config.model.backbone, config.pretrained.imagenet, config.optimizer.frozen = {"name": "tiny", "output_stride": 8, "width": 16}, False, ()
    config.classifier.update({"epochs": 1, "batch_size": 16})
    config.stages.update({"count": 1, "epochs": 1, "batch_size": 16})
    for section in (config.cam, config.label_update, config.predict, config.post):
        section.update({"scales": (1.0,), "flip": False})
    config.crf.segmentation.iterations = 0
    config.mesh.data = config.eval.max_buckets = 1
    results = stages.run(config, tmp_path / "run")
    assert results["manifest"]["data"]["classes"][0] == "background"
    assert results["pseudo"][0]["saliency_max_f"] > 80  # of the off-the-shelf maps: they and the masks belong together
