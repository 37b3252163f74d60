"""Builders, bad input, transforms, loader, buckets."""

import concurrent.futures
import functools
import shutil
import sys

import cv2
import grain.python as grain
import numpy as np
import pytest
from conftest import prepare_files
from PIL import Image

from auxseg_jax.data import (
    about,
    buckets,
    cam_files,
    dataset,
    features,
    loader,
    prepared_copy,
    shapes,
    tfds_files,
    transforms,
)
from auxseg_jax.errors import UserError
from auxseg_jax.files import file_sets, images, storage
from auxseg_jax.files.images import encode_png
from auxseg_jax.grid import Grid
from auxseg_jax.pixel_labels import IGNORE, palette

READING = loader.ReadOptions(threads=2, prefetch=4)
AUGMENT = {
    "crop": 32,
    "scale": (0.7, 1.3),
    "scale_per": "photo",
    "flip_probability": 0.5,
    "jitter": 0.2,
    "padding_is_background": False,
}


def augmentation(**changes):
    return transforms.Augmentation(**(AUGMENT | changes))


def train_batches(data, start=0, seed=3, pseudo=None, reading=READING, **changes):
    photos, options = data.photos("train"), augmentation(**changes)
    source = loader.TrainSource(photos, pseudo, 4, range(4), seed, options)
    return loader.train_batches(source, reading, start)


def photo_reader(data, **options):
    options = {"batch_size": 4, "megapixels": 1.0, "max_buckets": 2, "grid": Grid(8, 0)} | options
    batching = loader.BatchOptions(**options)
    return loader.PhotoReader(data.photos("train"), data.sizes("train"), batching, READING)


@pytest.fixture
def folder(tmp_path, rng):
    """A VOC-style folder of 4 + 2 photos in two sizes; the masks of val only."""
    root = tmp_path / "photos"
    for kind in ("JPEGImages", "Saliency", "SegmentationClass", "ImageSets/Segmentation"):
        (root / kind).mkdir(parents=True)
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    names = {"train": ["a1", "a2", "a3", "a4"], "val": ["b1", "b2"]}
    lines = ["a1 cat", "a2 dog cat", "a3", "a4 dog", "b1 cat", "b2 dog"]
    (root / "image_labels.txt").write_text("\n".join(lines) + "\n")
    for split, ids in names.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for index, name in enumerate(ids):
            size = (20, 30) if index % 2 else (24, 18)
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(
                root / "JPEGImages" / f"{name}.jpg"
            )
            images.write_grey_png(
                root / "Saliency" / f"{name}.png", rng.integers(0, 256, size, np.uint8)
            )
            if split == "val":
                images.write_label_png(
                    root / "SegmentationClass" / f"{name}.png",
                    rng.choice([0, 1, 2, 255], size).astype(np.uint8),
                )
    return root


def prepare(root, tmp_path, **options):
    options = {"labels": "image_labels.txt"} | options
    return prepare_files("voc_folder", root, tmp_path, **options)


def test_voc_folder_round_trip(folder, tmp_path):
    data = prepare(folder, tmp_path)
    assert data.classes == ("background", "cat", "dog")
    examples = {e["id"].decode(): e for e in data.photos("train")}
    assert sorted(examples) == ["a1", "a2", "a3", "a4"]
    np.testing.assert_array_equal(examples["a2"]["labels"], [1, 1])
    np.testing.assert_array_equal(examples["a3"]["labels"], [0, 0])
    assert examples["a1"]["image"] == (folder / "JPEGImages" / "a1.jpg").read_bytes()
    np.testing.assert_array_equal(
        images.decode_plane(examples["a1"]["saliency"]),
        images.read_plane(folder / "Saliency" / "a1.png"),
    )
    assert tuple(examples["a2"]["size"]) == (20, 30)
    masks = dict(data.masks("val", "score"))
    np.testing.assert_array_equal(
        masks["b2"], images.read_plane(folder / "SegmentationClass" / "b2.png")
    )


def test_the_training_reader_has_no_masks(folder, tmp_path):
    data = prepare(folder, tmp_path)
    assert set(data.photos("val")[0]) == {"id", "image", "labels", "saliency", "size"}
    assert not data.has_masks("train")
    with pytest.raises(ValueError, match="split 'train' of voc_folder has no pixel labels"):
        next(data.masks("train", "score"))


def test_masks_of_some_photos_of_a_split(folder, tmp_path):
    (folder / "SegmentationClass" / "b1.png").unlink()
    data = prepare(folder, tmp_path)
    assert (data.num_masks("val"), data.num_masks("train")) == (1, 0)
    assert data.mask_names("val") == ["b2"] and len(data.ids("val")) == 2
    note = about.read(data.directory).remarks[0]
    assert "1 of the 2 photos of val have a mask" in note and "b1 is the first without" in note


def test_two_runs_may_prepare_the_same_data_at_once(folder, tmp_path, monkeypatch):
    built, original = [], prepared_copy._download_and_prepare
    monkeypatch.setattr(
        prepared_copy,
        "_download_and_prepare",
        lambda builder: built.append(builder.name) or original(builder),
    )
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: prepare(folder, tmp_path), range(2))
    assert [e["id"] for e in one.photos("train")] == [e["id"] for e in two.photos("train")]
    assert len(built) == 2  # the two TFDS configs, by one of the runs
    assert {p.name for p in (tmp_path / "cache/voc_folder").iterdir()} == {
        one.directory.name,
        ".lock",
    }


def test_a_killed_preparation_is_made_anew(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(prepared_copy, "_download_and_prepare", lambda builder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(folder, tmp_path)
    assert len(prepare(folder, tmp_path).photos("train"))


def test_a_changed_folder_is_prepared_anew(folder, tmp_path):
    first = prepare(folder, tmp_path)
    assert prepare(folder, tmp_path).digest == first.digest
    (folder / "image_labels.txt").write_text(
        (folder / "image_labels.txt").read_text().replace("a1 cat", "a1 dog")
    )
    second = prepare(folder, tmp_path)
    assert second.digest != first.digest
    np.testing.assert_array_equal(
        {e["id"]: e for e in second.photos("train")}[b"a1"]["labels"], [0, 1]
    )


def test_every_fault_of_the_lists_is_named_at_once(folder, tmp_path):
    (folder / "JPEGImages" / "a1.jpg").unlink()
    (folder / "Saliency" / "a2.png").unlink()
    for name in ("a2", "a4"):
        (folder / "JPEGImages" / f"{name}.jpg").write_bytes(b"")
    (folder / "SegmentationClass" / "b1.png").unlink()
    (folder / "image_labels.txt").write_text("a1 cat\na1 cat\na2 horse\na3\na4\nb1\n../x cat\n")
    (folder / "Saliency" / "a3.png").unlink()
    (folder / "Saliency" / "a3.png").symlink_to(folder / "nowhere.png")
    (folder / "ImageSets/Segmentation/train.txt").write_text("a1\na1\n../secret\na2\na3\na4\nb1\n")
    with pytest.raises(UserError) as error:
        prepare(folder, tmp_path)
    text = str(error.value)
    for expected in (
        "a1: no photo JPEGImages/a1.jpg",
        "a2: no saliency map Saliency/a2.png",
        "a3: no saliency map Saliency/a3.png",
        "image_labels.txt line 7: '../x' is not an id",
        "image_labels.txt line 2: a1 has a line already",
        "image_labels.txt line 3: a2 has the class 'horse'",
        "train.txt line 2: a1 stands there twice",
        "train.txt line 3: '../secret' is not an id",
        "b1: is in split train and in split val",
        "b2: split val names it, image_labels.txt does not",
        "a4: JPEGImages/a4.jpg cannot be read",
        "a2: JPEGImages/a2.jpg cannot be read",  # though its saliency map is missing
    ):
        assert expected in text, f"{expected!r} is not in:\n{text}"
    assert not list(tmp_path.glob("cache/*/*/photos"))


def test_every_fault_of_the_pictures_is_named_at_once(folder, tmp_path):
    (folder / "JPEGImages" / "a1.jpg").write_bytes(
        (folder / "JPEGImages" / "a1.jpg").read_bytes()[:200]
    )
    (folder / "JPEGImages" / "a2.jpg").write_bytes(b"not a photo")
    images.write_grey_png(folder / "Saliency" / "a3.png", np.zeros((5, 6), np.uint8))
    colours = np.zeros((20, 30, 3), np.uint8)
    colours[0, 0] = 9, 8, 7
    Image.fromarray(colours).save(folder / "Saliency" / "a4.png")
    images.write_label_png(folder / "Saliency" / "b1.png", np.full((24, 18), 200, np.uint8))
    images.write_label_png(folder / "SegmentationClass" / "b1.png", np.full((24, 18), 9, np.uint8))
    with pytest.raises(UserError) as error:
        prepare(folder, tmp_path)
    text = str(error.value)
    for expected in (
        "a1: JPEGImages/a1.jpg cannot be read",
        "a2: JPEGImages/a2.jpg cannot be read: not a readable image",
        "a3: Saliency/a3.png is 6x5, the photo 18x24",
        "a4: Saliency/a4.png cannot be read: expected a grey or indexed PNG "
        "(mode L or P), found colours",
        "b1: Saliency/b1.png cannot be read: expected greys, found indices of a palette",
        "b1: SegmentationClass/b1.png holds class indices [9]; the last class is 2",
    ):
        assert expected in text, f"{expected!r} is not in:\n{text}"


@pytest.mark.parametrize(
    "missing",
    ["classes.txt", "image_labels.txt", "ImageSets/Segmentation/val.txt", "Saliency", "."],
)
def test_missing_files_are_named(folder, tmp_path, missing):
    path = folder / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(
        UserError,
        match="no saliency map <id>.png of any photo" if missing == "Saliency" else "there is no",
    ):
        prepare(folder, tmp_path)


def test_shapes_are_a_function_of_the_seed(tmp_path):
    make = {
        "builder": "shapes",
        "train_split": "train",
        "val_split": "val",
        "sizes": ((24, 32),),
        "train_photos": 3,
        "val_photos": 2,
    }
    one, two = (dataset.prepare(**make, seed=s, cache_dir=str(tmp_path)) for s in (0, 1))
    again = dataset.prepare(**make, seed=0, cache_dir=str(tmp_path / "again"))
    assert [e["image"] for e in one.photos("train")] == [e["image"] for e in again.photos("train")]
    assert one.photos("train")[0]["image"] != two.photos("train")[0]["image"]
    for example, (name, mask) in zip(
        sorted(one.photos("train"), key=lambda e: e["id"]),
        sorted(one.masks("train", "score")),
        strict=True,
    ):
        assert example["id"].decode() == name
        present = np.flatnonzero(example["labels"]) + 1
        assert set(present) == set(np.unique(mask)) - {0}
        assert 1 <= len(present) <= 3
    assert one.num_classes == len(shapes.CLASSES) - 1


def test_transforms_keep_the_arrays_of_an_example_together(rng):
    grid = np.arange(40 * 50, dtype=np.float32).reshape(40, 50) / 2000
    example = {
        "image": np.repeat(np.round(grid[..., None] * 255), 3, -1).astype(np.uint8),
        "saliency": grid,
        "segmentation": np.ones((40, 50), np.uint8),
    }
    for _ in range(20):
        out = transforms.augment(example, rng, rng, augmentation(jitter=0.0))
        assert {k: v.shape for k, v in out.items()} == {
            "image": (32, 32, 3),
            "saliency": (32, 32),
            "segmentation": (32, 32),
            "window": (4,),
        }
        inside = out["segmentation"] != IGNORE
        np.testing.assert_array_equal(out["saliency"] >= 0, inside)
        np.testing.assert_array_equal(out["image"][~inside], 0)
        top, left, bottom, right = out["window"]
        assert inside[top:bottom, left:right].all() and inside.sum() == (bottom - top) * (
            right - left
        )
        # The photo is rounded to whole levels, before and after it is rescaled in fixed point.
        restored = out["image"][..., 0] / 255
        np.testing.assert_allclose(restored[inside], out["saliency"][inside], atol=1.3 / 255)


def test_the_jitter_is_brightness_then_contrast_then_saturation(rng):
    image = rng.integers(60, 180, (9, 7, 3), np.uint8)
    found = transforms.colour_jitter(image, 1.1, 0.8, 1.3)
    bright = 1.1 * image
    contrasted = (bright - bright.mean()) * 0.8 + bright.mean()
    grey = contrasted.mean(-1, keepdims=True)
    wanted = np.clip((contrasted - grey) * 1.3 + grey, 0, 255)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, wanted, atol=0.6)  # OpenCV computes in fixed point.
    assert transforms.colour_jitter(image, 9.0, 1.0, 1.0).max() == 255


def test_the_jitter_leaves_the_padding_alone(rng):
    image = np.full((20, 30, 3), 200, np.uint8)
    out = transforms.augment({"image": image}, rng, rng, augmentation(scale=(1.0, 1.0)))
    top, left, bottom, right = out["window"]
    assert (bottom - top, right - left) == (20, 30)
    photo = out["image"][top:bottom, left:right]
    assert photo.min() == photo.max() != 200 and out["image"].sum() == photo.sum()


def test_padding_may_be_background(rng):
    example = {
        "image": np.ones((8, 40, 3), np.float32),
        "saliency": np.ones((8, 40), np.float32),
        "segmentation": np.ones((8, 40), np.uint8),
    }
    out = transforms.crop_or_pad(example, 32, rng, padding_is_background=True)
    assert all(set(np.unique(out[key])) == {0, 1} for key in example)
    np.testing.assert_array_equal(out["segmentation"], out["saliency"])


def test_a_batch_may_share_its_scale(generated, monkeypatch):
    factors = []
    monkeypatch.setattr(
        transforms, "rescale", lambda example, factor: factors.append(round(factor, 6)) or example
    )

    # Without threads, factors are drawn in order.
    monkeypatch.setattr(
        loader.ReadOptions,
        "iterate",
        lambda self, data: iter(data.to_iter_dataset(grain.ReadOptions(0, 0))),
    )

    def drawn(scale_per, start=0):
        factors.clear()
        changes = {"flip_probability": 0.0, "jitter": 0.0, "scale_per": scale_per}
        stream = train_batches(generated, start, **changes)
        for _ in range(3):
            next(stream)
        return [tuple(factors[i : i + 4]) for i in range(0, 12, 4)]

    shared = drawn("batch")
    assert all(len(set(batch)) == 1 for batch in shared) and len(set(shared)) == 3
    assert drawn("batch", start=1)[:2] == shared[1:]
    assert len(set(drawn("photo")[0])) == 4


def test_rescale_is_half_pixel_bilinear():
    row = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    out = transforms.rescale({"image": np.repeat(row[..., None], 3, -1), "saliency": row}, 0.5)
    np.testing.assert_allclose(out["saliency"], [[0.5, 2.5]])


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("data"))
    sizes = ((24, 32), (32, 24), (20, 40))
    return dataset.prepare(
        builder="shapes",
        train_split="train",
        val_split="val",
        cache_dir=cache,
        seed=0,
        sizes=sizes,
        train_photos=11,
        val_photos=2,
    )


def test_training_batches_are_a_function_of_seed_and_step(generated):
    def batches(start, count, seed=3):
        stream = train_batches(generated, start, seed)
        return [next(stream) for _ in range(count)]

    whole = batches(0, 6)
    for expected, found in zip(whole[4:], batches(4, 2), strict=True):
        np.testing.assert_array_equal(found["image"], expected["image"])
    assert (batches(0, 1, seed=4)[0]["image"] != whole[0]["image"]).any()
    assert whole[0]["image"].dtype == np.uint8 and whole[0]["labels"].shape == (4, 4)


def test_pseudo_labels_come_from_their_folder(generated, tmp_path):
    for example in generated.photos("train"):
        name, size = example["id"].decode(), tuple(example["size"])
        images.write_label_png(
            tmp_path / "segmentation" / f"{name}.png", np.full(size, 2, np.uint8)
        )
        images.write_grey_png(tmp_path / "saliency" / f"{name}.png", np.full(size, 51, np.uint8))
    stream = train_batches(generated, seed=0, pseudo=file_sets.reader(tmp_path))
    batch = next(stream)
    assert (
        set(np.unique(batch["segmentation"])) <= {2, 255}
        and batch["segmentation"].dtype == np.int32
    )
    np.testing.assert_allclose(batch["saliency"][batch["segmentation"] == 2], 0.2, atol=1e-6)


def test_whole_photos_are_read_once_each_with_their_padding_masked(generated):
    reader = photo_reader(generated, grid=Grid(4, 0))
    seen = {}
    for batch in reader:
        last = len(batch.ids) - 1
        repeated = np.repeat(batch.arrays["image"][last : last + 1], 4 - last, axis=0)
        np.testing.assert_array_equal(batch.arrays["image"][last:], repeated)
        for row, (name, size) in enumerate(zip(batch.ids, batch.sizes, strict=True)):
            assert name not in seen
            seen[name] = size
            inside = np.zeros(batch.arrays["inside"].shape[1:], bool)
            inside[: size[0], : size[1]] = True
            np.testing.assert_array_equal(batch.arrays["inside"][row], inside)
            np.testing.assert_array_equal(batch.arrays["image"][row][~inside], 0)
    assert len(seen) == reader.num_photos == 11
    example = generated.photos("train")[0]
    picture = features.decode_image(example["image"])
    batch = next(b for b in reader if example["id"].decode() in b.ids)
    row = batch.ids.index(example["id"].decode())
    np.testing.assert_array_equal(
        batch.arrays["image"][row, : picture.shape[0], : picture.shape[1]],
        picture,
    )


def test_kept_cams_go_into_batches_by_class(generated, tmp_path):
    cams = {}
    with file_sets.writer(tmp_path, "files") as write:
        for example in generated.photos("train"):
            name, labels = example["id"].decode(), example["labels"]
            cams[name] = np.random.default_rng(len(cams)).random((4, 5, len(labels)), np.float32)
            write(name, cam_files.encode({"cam": cams[name], "labels": labels}))
    read = functools.partial(cam_files.read, file_sets.reader(tmp_path))
    options = loader.BatchOptions(4, 1.0, 1, Grid(8, 0))
    photos, sizes = generated.photos("train"), generated.sizes("train")
    for batch in loader.PhotoReader(photos, sizes, options, READING, read):
        found, labels = batch.arrays["classifier_cam"], batch.arrays["labels"]
        for row, name in enumerate(batch.ids):
            np.testing.assert_array_equal(found[row], cams[name] * (labels[row] > 0))
        for row in range(len(batch.ids), 4):  # Rows past the ids repeat the last photo.
            np.testing.assert_array_equal(found[row], found[len(batch.ids) - 1])


@pytest.mark.parametrize(
    ("pixels", "devices", "count"),
    [(1e6, 2, 4), (32 * 40 * 3, 1, 3), (32 * 40 * 3, 2, 2), (1, 1, 1), (1, 2, 2)],
)
def test_of_large_photos_a_batch_has_fewer(generated, pixels, devices, count):
    reader = photo_reader(generated, megapixels=pixels / 1e6, devices=devices, max_buckets=1)
    assert {len(batch.arrays["inside"]) for batch in reader} == {count}


def test_hosts_share_the_photos(generated):
    seen = []
    for index in range(30):  # more than photos
        reader = photo_reader(generated, share=(index, 30))
        ids = [name for batch in reader for name in batch.ids]
        assert len(ids) == reader.num_photos
        seen += ids
    assert sorted(seen) == sorted(example["id"].decode() for example in generated.photos("train"))


def test_buckets():
    exact = buckets.buckets([(3, 4), (4, 3), (3, 4)], 2, Grid(1, 0))
    assert exact == {(3, 4): (3, 4), (4, 3): (4, 3)}
    merged = buckets.buckets(
        [(213, 320)] * 50 + [(240, 320)] * 9 + [(239, 320)] + [(320, 213)] * 9, 3, Grid(1, 0)
    )
    assert merged[213, 320] == (213, 320) and merged[239, 320] == (240, 320) == merged[240, 320]
    sizes = [(h, w) for h in range(100, 140) for w in range(90, 130)]
    many = buckets.buckets(sizes, 4, Grid(16, 1))
    assert len(set(many.values())) <= 4
    assert all(b[0] >= s[0] and b[1] >= s[1] for s, b in many.items())
    assert all(n % 16 == 1 for b in many.values() for n in b)


def test_label_pngs_keep_their_indices_and_get_the_voc_palette(tmp_path, rng):
    labels = rng.choice([0, 1, 20, 255], (9, 7)).astype(np.uint8)
    images.write_label_png(tmp_path / "a.png", labels)
    np.testing.assert_array_equal(images.read_plane(tmp_path / "a.png"), labels)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(
            np.asarray(image.convert("RGB"))[labels == 1], [[128, 0, 0]] * (labels == 1).sum()
        )
    images.write_grey_png(tmp_path / "b.png", labels)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED), labels)
    assert palette()[[0, 1, 2, 3, 15, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [192, 128, 128],
        [224, 224, 192],
    ]


def test_hostile_pictures_are_errors():
    header = encode_png(np.zeros((4, 4), np.uint8))
    bomb = header[:16] + (60000).to_bytes(4, "big") * 2 + header[24:]
    for data in (b"", b"GIF89a", header[:40], bomb):
        for read in (features.check_image, images.decode_plane):
            with pytest.raises(ValueError, match="not a readable") as error:
                read(data)
            assert "BytesIO" not in str(error.value)


def test_exif_orientation_is_respected(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    assert features.check_image(data) == features.decode_image(data).shape[:2] == (30, 20)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "x.json").write_text("old")
    with pytest.raises(ValueError, match="Out of range float"):
        storage.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert (tmp_path / "x.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_prepared_copy_is_read_wherever_it_is(generated, tmp_path):
    copy = tmp_path / "moved"
    shutil.copytree(generated.directory, copy)
    fields = {"builder": "shapes", "cache_dir": str(tmp_path), "prepared": str(copy)}
    data = dataset.prepare(train_split="train", val_split="val", **fields)
    assert (data.digest, data.classes) == (generated.digest, generated.classes)
    for split in ("train", "val"):
        assert [example["id"] for example in data.photos(split)] == [
            example["id"] for example in generated.photos(split)
        ]
        assert data.sizes(split) == generated.sizes(split)
    with pytest.raises(UserError, match="has no split 'test'; it has train, val"):
        dataset.prepare(train_split="train", val_split="test", **fields)
    with pytest.raises(UserError, match="is made by shapes"):
        dataset.prepare(train_split="train", val_split="val", **fields | {"builder": "voc_folder"})
    with pytest.raises(UserError, match="is no prepared data set"):
        dataset.prepare(
            train_split="train", val_split="val", **fields | {"prepared": str(tmp_path)}
        )
    (copy / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        dataset.prepare(train_split="train", val_split="val", **fields)


def test_what_a_prepared_copy_holds_is_counted(generated):
    content = about.read(generated.directory)
    for split, said in content.splits.items():
        labels = np.array([example["labels"] for example in generated.photos(split)])
        assert said.photos == len(labels) and said.has_masks
        assert said.of_class == tuple(labels.sum(0).tolist())
        assert said.without_class == (labels.sum(1) == 0).sum()
    assert content.planes == ("saliency",)
    assert f"{content.splits['train'].of_class[0]} disc" in "".join(content.lines())


def test_a_copy_of_an_older_version_is_described_anew(tmp_path):
    fields = {"seed": 0, "sizes": ((16, 16),), "train_photos": 3, "val_photos": 1}
    fields |= {"builder": "shapes", "train_split": "train", "val_split": "val"}
    first = dataset.prepare(cache_dir=str(tmp_path), **fields)
    before = about.read(first.directory)
    (first.directory / "dataset.json").unlink()
    again = dataset.prepare(cache_dir=str(tmp_path), **fields)
    assert again.directory == first.directory and about.read(first.directory) == before


def test_many_records_are_sorted_in_files_without_tensorflow(tmp_path, monkeypatch):
    fields = {"seed": 0, "sizes": ((16, 16),), "train_photos": 40, "val_photos": 1}
    fields |= {"builder": "shapes", "train_split": "train", "val_split": "val"}
    in_memory = dataset.prepare(cache_dir=str(tmp_path / "memory"), **fields)
    monkeypatch.setattr(tfds_files.shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
    in_files = dataset.prepare(cache_dir=str(tmp_path / "files"), **fields)
    assert in_memory.digest == in_files.digest
    ids = [[e["id"] for e in data.photos("train")] for data in (in_memory, in_files)]
    assert ids[0] == ids[1] and ids[0] != sorted(ids[0])
    assert "tensorflow" not in sys.modules
