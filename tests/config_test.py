"""Configs: found by name, declared in one place, checked before anything runs."""

import dataclasses
import inspect

import jax
import ml_collections
import pytest
from conftest import REPOSITORY, tiny_config

import auxseg_jax
from auxseg_jax.analysis import compiled
from auxseg_jax.cli import compiled as cli_compiled
from auxseg_jax.config import declared, loading, reference
from auxseg_jax.config.loading import load_config
from auxseg_jax.config.validation import checked
from auxseg_jax.configs import common, fields
from auxseg_jax.data import loader, sources, transforms
from auxseg_jax.data.planes import GIVEN
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.inference import crf
from auxseg_jax.inference.segmentation import Views
from auxseg_jax.models import auxsegnet
from auxseg_jax.models.affinity import TaskAffinity
from auxseg_jax.pseudo import fuse, random_walk, update
from auxseg_jax.runs import build
from auxseg_jax.runs.run import train
from auxseg_jax.training import losses, optimizer
from auxseg_jax.training.loop import Schedule


def test_a_stray_field_is_an_error_before_anything_is_compiled(tmp_path):
    for section in (
        "data",
        "loader",
        "augment",
        "optimizer",
        "affinity",
        "walk",
        "label_update",
        "fuse",
        "cam",
        "predict",
        "eval",
        "log",
        "loss",
    ):
        config = tiny_config(tmp_path)
        config[section].nonsense = 1
        with pytest.raises(ValueError, match=f"{section}.nonsense: there is no such field"):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *(
            ("msrc", words)
            for words in (
                "full",
                "paper",
                "official",
                "ablation",
                "official,resnet38",
                "resnet50,full",
                "paper,resnet101",
            )
        ),
        *(
            (name, words)
            for name in ("voc", "coco")
            for words in ("", "official", "paper,efficientnet_lite0")
        ),
    ],
)
def test_every_variant_can_be_built(name, argument):
    config = load_config(f"{name}:{argument}")
    config = checked(config)
    params = build.abstract_params(config, build.network(config, 20))
    options = build.optimizer_options(config, lr=0.1, frozen=config.optimizer.frozen)
    optimizer.make_optimizer(params, 10, options)
    assert ("m" in params["seg_affinity"]) == (
        "paper" not in argument and "official" not in argument
    )
    assert ("conv" in params["seg_head"]) == ("paper" not in argument)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nope,full", "not nope"),
        ("paper,official", "exclude each other"),
        ("resnet38,resnet50", "exclude"),
    ],
)
def test_variants_of_msrc_that_there_are_not(argument, message):
    with pytest.raises(ValueError, match=message):
        load_config(f"msrc:{argument}")


@pytest.mark.parametrize(
    "name", [name for name in loading.names() if name not in ("tiny", "voc", "coco")]
)  # run elsewhere; with a network of a GPU's size
@pytest.mark.slow
def test_every_config_starts(name, tmp_path):
    """Every phase for a step, with the config's own network, on small photos."""
    config = load_config(name)
    config.compilation_cache = jax.config.jax_compilation_cache_dir
    config.mesh.data = 1
    config.crf.segmentation.iterations = 0  # it would be compiled, for every config alike
    config.data = {
        "builder": "shapes",
        "train_split": "train",
        "val_split": "val",
        "cache_dir": str(tmp_path / "data"),
    }
    config.data.update({"seed": 0, "sizes": ((48, 64),), "train_photos": 8, "val_photos": 8})
    config.augment.crop = 48
    for section in (config.cam, config.label_update, config.predict, config.post):
        section.update({"scales": (1.0,), "flip": False})  # every view is compiled
    for section in (config.classifier, config.stages, config.eval):
        section.batch_size = 8
    config.classifier.epochs = config.stages.epochs = config.stages.count = 1
    results = train(config, tmp_path / "run")
    assert results.final.stage == 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "fuse.spill_threshold",
            0.1,
            "fuse.spill_threshold=0.1: must not be below fuse.cam_threshold=0.2",
        ),
        ("augment.scale", (1.3, 0.7), "augment.scale=.*: needs the least and the largest factor"),
        ("augment.scale", (0.5,), "augment.scale=.*: needs the least and the largest factor"),
        ("augment.jitter", 2.0, "augment.jitter=2.0: must be between 0 and 1"),
        ("loss.saliency", -1.0, "loss.saliency=-1.0: must not be below 0"),
        ("model.dilations", (1, 0, 3), "model.dilations=.*: must be at least 1"),
        ("cam.scales", (), r"cam.scales=\(\): needs factors above 0"),
        ("predict.scales", (1.0, 0.0), "predict.scales=.*: needs factors above 0"),
        ("crf.filter", "box", "crf.filter='box' is not one of lattice, exact"),
        (
            "crf.saliency.bilateral_srgb",
            0.0,
            "crf.saliency.bilateral_srgb=0.0: must be at least 0.05",
        ),
        ("crf.segmentation.iterations", -1, "crf.segmentation.iterations=-1: must not be below 0"),
        (
            "crf.segmentation.colour",
            1.0,
            "crf.segmentation.colour: there is no such field; there are bilateral_srgb,",
        ),
        ("walk.restart", 1.5, "walk.restart=1.5: must be between 0 and 1"),
        ("walk.steps", -1, "walk.steps=-1: must not be below 0"),
        ("optimizer.frozen", ("nope",), "the pattern 'nope' matches no parameter"),
        (
            "pretrained.imagenet",
            True,
            "there are no packaged ImageNet weights for the backbone 'tiny'",
        ),
        ("eval.max_buckets", 0, "eval.max_buckets=0: must be above 0, and finite"),
        (
            "affinity.block_mib",
            float("inf"),
            "affinity.block_mib=inf: must not be below 0",
        ),
        ("log.log_every", 0, "log.log_every=0: must be above 0, and finite"),
        ("augment.crop", 0, "augment.crop=0: must be at least 8"),
        ("stages.batch_size", 0, "stages.batch_size=0: must be above 0, and finite"),
        (
            "model.backbone.stride",
            8,
            "model.backbone.stride: there is no such field; there are name, output_stride, width",
        ),
        ("model.backbone.name", "resnet", "model.backbone.name='resnet' is not one of"),
        ("model.backbone.output_stride", 12, "output_stride=12 is not one of 4, 8"),
        (
            "affinity.scale",
            True,
            "affinity.scale=True is of the dot product: set affinity.cosine=0",
        ),
        (
            "augment.padding_is_background",
            True,
            "counts in the losses what the network does not see: set model.mask_padding=False",
        ),
        ("affinity.refine", "all", "affinity.refine='all' is not one of none, seg, both"),
        ("affinity.heads", 3, "affinity.heads=3 does not divide model.channels"),
        ("model.dilations", (1, 2), "model.dilations needs 3 rates"),
        ("optimizer.frozen", ("(",), r"optimizer.frozen=\('\(',\): needs regular expressions"),
        ("optimizer.second_momentum", 1.0, "must be at least 0 and below 1"),
        ("augment.scale_per", "epoch", "augment.scale_per='epoch' is not one of photo, batch"),
        ("supervision", "boxes", "supervision='boxes' is not one of"),
        ("stages.count", 101, "stages.count=101: must be from 1 to 100"),
        ("tasks.cls", False, "without the classification branch there are no CAMs"),
        ("data.train_split", "val", "data.train_split and data.val_split are both 'val'"),
    ],
)
def test_values_that_cannot_work_are_named_before_anything_is_written(
    tmp_path, field, value, message
):
    config = tiny_config(tmp_path)
    *sections, name = field.split(".")
    section = config
    for part in sections:
        section = section[part]
    section[name] = value
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_config_of_an_older_version_gets_the_defaults(tmp_path):
    config = tiny_config(tmp_path)
    for section, name in (("data", "prepared"), ("walk", "beta"), ("model.backbone", "width")):
        target = config
        for part in section.split("."):
            target = target[part]
        del target[name]
    del config["eval"]
    complete = checked(config)
    assert (complete.data.prepared, complete.walk.beta) == ("", 1.0)
    assert complete.model.backbone.width == 64 and complete.eval.batch_size == 8
    assert "eval" not in config
    # A run that was begun without a field goes on as it began.
    content = {"data": {"builder": "shapes"}, "model": {"backbone": {"name": "tiny"}}}
    older, added = declared.complete(content)
    assert not older.predict.windows and "predict.windows" in added
    assert not older.affinity.cosine and not older.affinity.whiten
    assert (older.walk.steps, older.walk.restart) == (1, 0.5)
    assert not older.model.mask_padding and older.label_update.rescale == "maximum"
    for renormalize, rescale in ((True, "maximum"), (False, "none")):
        content["label_update"] = {"renormalize": renormalize}
        assert declared.complete(content)[0].label_update.rescale == rescale
    assert checked(config).predict.windows
    path = tmp_path / "old.py"
    path.write_text(
        "from auxseg_jax.configs import tiny\n"
        "def get_config():\n    config = tiny.get_config()\n    del config.data['prepared']\n"
        "    return config\n"
    )
    assert load_config(str(path), data={"prepared": "copy"}).data.prepared == "copy"


@pytest.mark.parametrize(("memory", "mib"), [(None, 2048), (80 * 2**30, 10240), (2**30, 128)])
def test_affinities_take_their_share_of_the_memory(tmp_path, memory, mib):
    config = tiny_config(tmp_path)
    network = build.network(config, 4, memory)
    found = network.affinity.get("block_mib", TaskAffinity.block_mib)
    assert found == mib
    config.affinity.block_mib = 3.0
    assert build.network(config, 4, memory).affinity["block_mib"] == 3


def keywords(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


def attributes(record, *others):
    return {field.name for field in dataclasses.fields(record)} - {"parent", "name", *others}


def test_the_declared_fields_are_those_that_the_code_takes():
    """No dead field, and none that is not declared."""
    code = {
        "mesh": keywords(mesh_lib.make_mesh),
        "loader": attributes(loader.ReadOptions),
        "augment": attributes(transforms.Augmentation, "mean", "std"),
        "model": attributes(auxsegnet.AuxSegNet, "num_classes", "backbone", "affinity", "tasks"),
        "affinity": attributes(TaskAffinity, "sources") | set(auxsegnet._NETWORK_SWITCHES),
        "loss": keywords(losses.total),
        "optimizer": attributes(optimizer.Options, "lr", "layers") | {"name"},
        "log": attributes(Schedule, "steps", "checkpoint_dir", "lr"),
        "cam": attributes(Views, "window"),
        "predict": attributes(Views, "window") | {"windows"},
        "post": attributes(Views, "window") | {"windows"},
        "fuse": keywords(fuse.fuse),
        "walk": keywords(random_walk.random_walk),
        "label_update": attributes(update.UpdateOptions, "window") | {"windows"},
        "crf.saliency": attributes(crf.CrfOptions, "filter"),
        "crf.segmentation": attributes(crf.CrfOptions, "filter"),
        "eval": attributes(loader.BatchOptions, "grid", "devices", "share", "only"),
    }
    for section, names in code.items():
        assert set(fields.SECTIONS[section]) == names, section
    planes = {plane.name for plane in GIVEN}
    for builder, (make, *_) in sources.SOURCES.items():
        own = keywords(make) - {"train_split", "val_split", "megapixels"}
        own |= planes if builder != "shapes" else set()
        assert set(fields.DATA_FIELDS[builder]) == own, builder
    assert set(sources.SOURCES) == set(fields.DATA_FIELDS)


def test_words_of_the_declared_fields_are_those_of_the_code():
    choices = {
        "affinity.refine": auxsegnet.REFINED_TASKS,
        "crf.filter": crf.FILTERS,
        "optimizer.name": optimizer.NAMES,
    }
    for name, words in choices.items():
        section, field = name.rsplit(".", 1)
        text = fields.SECTIONS[section][field].range.text
        assert text == f"is not one of {', '.join(words)}"
    assert tuple(cli_compiled.PROGRAMS) == compiled.PROGRAMS
    assert tuple(cli_compiled.EFFORTS) == compiled.EFFORTS


def test_every_default_is_in_its_range():
    for section, declarations in (*fields.SECTIONS.items(), *fields.DATA_FIELDS.items()):
        for name, field in declarations.items():
            assert field.fault(name, field.default) is None, f"{section}.{name}"
            assert field.help.endswith("."), f"{section}.{name}"


def test_the_reference_is_what_the_fields_say():
    page = REPOSITORY / "docs/configuration.md"
    assert page.read_text() == reference.render(), "run `make docs`"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("augment.crop", 32.5, "augment.crop=32.5: must be a whole number"),
        ("model.head_conv", 1, "model.head_conv=1: must be True or False"),
        ("cam.scales", 1.0, "cam.scales=1.0: must be a list, each entry a number"),
        ("model.precision", 3, "model.precision=3: must be text"),
        ("stages.lr", "fast", "stages.lr='fast': must be a number"),
    ],
)
def test_values_of_another_type_are_named(name, value, message):
    content = load_config("tiny").to_dict()
    section, field = name.split(".")
    content[section][field] = value
    with pytest.raises(auxseg_jax.UserError, match=message):
        checked(ml_collections.ConfigDict(content))


def test_configs_are_found_by_name_and_by_file(tmp_path):
    by_name = load_config("msrc:official,resnet38")
    by_file = load_config(f"{REPOSITORY / 'configs/msrc.py'}:official,resnet38")
    assert by_name.to_dict() == by_file.to_dict()
    own = tmp_path / "mine.py"
    own.write_text("from auxseg_jax.configs import demo\nget_config = demo.get_config\n")
    (tmp_path / "dict.py").write_text("def get_config():\n    return {}\n")
    (tmp_path / "none.py").write_text("seed = 1\n")
    (tmp_path / "words.py").write_text("def get_config(words):\n    return words\n")
    (tmp_path / "module.py").write_text("seed = 1\nimport nowhere\n")
    (tmp_path / "slip.py").write_text(
        "from auxseg_jax.configs import demo\ndef get_config():\n"
        "    config = demo.get_config()\n    config.stagse.count = 3\n    return config\n"
    )
    config = load_config(str(own), **{"stages.count": 1}, walk={"steps": 2}, seed=7)
    assert (config.stages.count, config.walk.steps, config.seed) == (1, 2, 7)
    for name, overrides, message in (
        (
            "nope",
            {},
            "no such file, and no such config; there are coco, demo, msrc, photos, tiny, voc",
        ),
        ("msrk", {}, r"no such config \(did you mean msrc\?\); there are coco"),
        ("tiny:quick", {}, "tiny.py takes no words after its name"),
        (str(REPOSITORY / "README.md"), {}, "is no config: a config is a Python file"),
        (str(tmp_path / "dict.py"), {}, "get_config returns dict, not a ConfigDict"),
        (str(tmp_path / "none.py"), {}, "it has no function get_config"),
        (str(tmp_path / "words.py"), {}, "words.py needs words: .*words.py:WORDS"),
        (str(tmp_path / "module.py"), {}, "module.py line 2: ModuleNotFoundError: No module"),
        (str(tmp_path / "slip.py"), {}, "slip.py line 4: AttributeError: .*stagse"),
        ("tiny", {"stages.epoch": 1}, "the config has no such field: stages.epoch"),
        ("tiny", {"stages": {"epoch": 1}}, "such field: stages.epoch; did you mean stages.epochs"),
        ("tiny", {"model": {"dtype": "float32"}}, "such field: model.dtype; it is model.precision"),
        ("tiny", {"data.saliency": "none"}, "no such field: data.saliency$"),
        ("tiny", {"stage": {"epochs": 1}}, "the config has no such field: stage"),
        ("tiny", {"seed": "x"}, "seed='x': "),
    ):
        with pytest.raises(auxseg_jax.UserError, match=message):
            load_config(name, **overrides)


@pytest.mark.parametrize("section", ["stages", "crf.saliency", "model.backbone"])
def test_a_value_in_place_of_a_section_is_named(section):
    content = load_config("tiny").to_dict()
    *outer, name = section.split(".")
    target = content[outer[0]] if outer else content
    target[name] = 3
    with pytest.raises(auxseg_jax.UserError, match=f"{section}=3: must be a section"):
        checked(ml_collections.ConfigDict(content))


def test_fields_that_may_change():
    free = {"mesh/data", "loader/threads", "log/keep", "data/cache_dir", "compilation_cache"}
    assert all(map(declared.is_free, free))
    assert not any(
        map(declared.is_free, ("seed", "data/root", "stages/lr", "crf/saliency/iterations"))
    )


def test_presets_differ_where_the_table_says():
    plus = common.get_config()
    for preset, changes in fields.PRESETS.items():
        config = common.get_config(preset)
        for section, declarations in fields.SECTIONS.items():
            for name in declarations:
                full = f"{section}.{name}" if section else name
                ours, default = config, plus
                for part in full.split("."):
                    ours, default = ours[part], default[part]
                assert ours == changes.get(full, default), (preset, full)
