"""Data whose files can all be read and yet contradict one another."""

import numpy as np
import pytest
from conftest import faults_named
from PIL import Image

from auxseg_jax.data import about, content, dataset
from auxseg_jax.errors import UserError
from auxseg_jax.files import images
from auxseg_jax.pixel_labels import palette

CLASSES = ("background", "cat", "dog", "cow")


@pytest.fixture
def folder(tmp_path, rng):
    """Ten photos of one object each, of the classes in turn, a third of them for validation."""
    root = tmp_path / "photos"
    names = [f"p{index}" for index in range(10)]
    for kind in ("JPEGImages", "Saliency", "SegmentationClass", "ImageSets/Segmentation"):
        (root / kind).mkdir(parents=True)
    for index, name in enumerate(names):
        photo = rng.integers(90, 160, (40, 40, 3), np.uint8)
        mask = np.zeros((40, 40), np.uint8)
        mask[4:18, 20 : 36 - index] = index % 3 + 1
        photo[mask > 0] = 250
        Image.fromarray(photo).save(root / f"JPEGImages/{name}.jpg", quality=95)
        images.write_grey_png(root / f"Saliency/{name}.png", (mask > 0).astype(np.uint8) * 255)
        images.write_label_png(root / f"SegmentationClass/{name}.png", mask)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    rows = [f"{name} {CLASSES[index % 3 + 1]}" for index, name in enumerate(names)]
    (root / "image_labels.txt").write_text("\n".join(rows))
    for split, part in (("train", names[:6]), ("val", names[6:])):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(part))
    return root


def prepare(root, **fields):
    fields = {"saliency": "Saliency", "labels": "image_labels.txt"} | fields
    return dataset.prepare(
        builder="voc_folder",
        train_split="train",
        val_split="val",
        root=str(root),
        cache_dir=str(root.parent / "cache"),
        **fields,
    )


def change(root, kind, function):
    for path in sorted((root / kind).iterdir()):
        Image.fromarray(function(np.array(Image.open(path)))).save(path)


def test_nothing_is_said_of_data_that_agree(folder):
    assert about.read(prepare(folder).directory).remarks == ()


def test_masks_of_0_and_255(folder):
    change(folder, "SegmentationClass", lambda mask: (mask > 0).astype(np.uint8) * 255)
    with faults_named("train: 6 of 6 photos (p0, p1, p2, ...) have a mask of 0 and 255", "val: 4"):
        prepare(folder)
    said = about.read(prepare(folder, strict=False).directory).contradictions
    assert len(said) == 2 and "For a single class write 1" in said[0]
    with faults_named("train: 6 of 6"):  # It is built now, and refused as before.
        prepare(folder)


def test_saliency_of_0_and_1(folder):
    change(folder, "Saliency", lambda plane: plane // 255)
    with faults_named("no value above 1 in 6 of 6 photos", "multiply by 255"):
        prepare(folder)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lambda plane: plane * 0 + 255, "map without a value below 31"),
        (lambda plane: 255 - plane, "bright along its border and darker in its middle"),
        (lambda plane: plane * 0, "all 6 saliency maps are black"),
    ],
)
def test_saliency_without_background_or_upside_down(folder, function, fault):
    change(folder, "Saliency", function)
    with faults_named(f"train: {'' if 'all' in fault else '6 of 6 photos'}", fault):
        prepare(folder)


def test_a_few_dark_maps_are_only_said(folder):
    images.write_grey_png(folder / "Saliency/p0.png", np.full((40, 40), 9, np.uint8))
    images.write_grey_png(folder / "Saliency/p1.png", np.zeros((40, 40), np.uint8))
    remarks = about.read(prepare(folder).directory).remarks
    assert remarks == (
        "train: 1 of 6 photos (p0) have a saliency map without a value above 31",
        "train: 1 of 6 photos (p1) have a black saliency map",
    )


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (0, 2, 1, 3)])
def test_classes_in_another_order(folder, order):
    table = np.array([*order], np.uint8)
    change(folder, "SegmentationClass", lambda mask: table[mask])
    with faults_named("would in 100% with another order of classes", "of the masks is"):
        prepare(folder)


def test_masks_of_other_photos(folder):
    (folder / "image_labels.txt").write_text("\n".join(f"p{k} cat" for k in range(10)))
    change(folder, "SegmentationClass", lambda mask: mask * 0 + 2)
    with faults_named("the mask holds dog, the label says cat"):
        prepare(folder)


def test_some_contradictions_are_said(folder):
    text = (folder / "image_labels.txt").read_text().replace("p1 dog", "p1 cow")
    (folder / "image_labels.txt").write_text(text)
    (remark,) = about.read(prepare(folder).directory).remarks
    assert remark == (
        "train: in 1 of 6 photos mask and label name other classes; "
        "p1: the mask holds dog, the label says cow"
    )


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_maps_of_the_photo_as_it_is_stored(folder, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    for path in (folder / "JPEGImages").iterdir():
        Image.open(path).save(path, exif=exif, quality=95)
    with faults_named("6 photos have an EXIF tag that turns them", "val: 4 photos"):
        prepare(folder)
    turn = content._TURNS[orientation]
    for kind in ("Saliency", "SegmentationClass"):
        change(folder, kind, lambda plane: turn(plane).copy())
    assert about.read(prepare(folder).directory).remarks == ()


def test_a_turned_photo_that_is_not_square_says_so(folder):
    exif = Image.Exif()
    exif[0x112] = 6
    photo = Image.open(folder / "JPEGImages/p0.jpg").resize((40, 30))
    photo.save(folder / "JPEGImages/p0.jpg", exif=exif)
    for kind in ("Saliency", "SegmentationClass"):
        Image.open(folder / kind / "p0.png").resize((40, 30)).save(folder / kind / "p0.png")
    with faults_named("p0.png is 40x30, the photo 30x40 once its EXIF tag turns it"):
        prepare(folder)


def test_colours_count_where_a_palette_was_numbered_anew():
    mask = np.array([[0, 2, 2], [0, 3, 255]], np.uint8)
    whole = images.encode_label_png(mask)
    np.testing.assert_array_equal(images.decode_labels(whole, 4), mask)
    order = [2, 255, 0, 3]  # The new index of a label is its place here.
    image = Image.fromarray(np.vectorize(order.index)(mask).astype(np.uint8))
    image.putpalette(palette()[order].tobytes())
    data = images._encode(image, "PNG")
    np.testing.assert_array_equal(images.decode_labels(data, 4), mask)
    # Of two classes there is no third: the colours are not those of the classes.
    np.testing.assert_array_equal(images.decode_labels(data, 3), np.asarray(image))
    for colours in ([[0, 0, 0], [255, 255, 255]], [[9, 9, 9], [1, 2, 3]]):
        image = Image.fromarray((mask > 0).astype(np.uint8))
        image.putpalette(np.array(colours, np.uint8).tobytes())
        data = images._encode(image, "PNG")
        np.testing.assert_array_equal(images.decode_labels(data, 4), mask > 0)


def test_masks_in_colours_are_read_by_vocs():
    mask = np.array([[0, 2, 2], [0, 3, 255]], np.uint8)
    coloured = palette()[mask]
    opaque = np.dstack([coloured, np.full(mask.shape, 255, np.uint8)])
    for pixels in (coloured, opaque):
        data = images.encode_png(pixels)
        np.testing.assert_array_equal(images.decode_labels(data, 4), mask)
        with pytest.raises(UserError, match=r"\(128, 128, 0\) is not that of any of the 3 labels"):
            images.decode_labels(data, 3)
    coloured[0, 0] = 255, 255, 254
    with pytest.raises(UserError, match=r"\(255, 255, 254\) is not"):
        images.decode_labels(images.encode_png(coloured), 4)


def test_greys_among_vocs_colours():
    """Class 7 is (128, 128, 128) there."""
    mask = np.array([[0, 7]], np.uint8)
    assert images.decode_labels(images.encode_png(palette()[mask]), 8).tolist() == [[0, 7]]
    # As levels they are labels, where there are so many.
    assert images.decode_labels(images.encode_png(palette()[mask]), 200).tolist() == [[0, 128]]
    with pytest.raises(UserError, match="not that of any of the 255 labels"):
        images.decode_labels(images.encode_png(np.array([[[1, 2, 3]]], np.uint8)), 255)


def test_depths_of_greys_and_of_indices():
    steps = np.array([[0, 51, 255]], np.uint8)
    forms = {
        "16 bits": steps.astype(np.uint16) * 257,
        "RGB": np.dstack([steps] * 3),
        "8 bits": steps,
    }
    for pixels in forms.values():
        grey = images.decode_plane(images.encode_png(pixels), grey=True)
        np.testing.assert_array_equal(grey, steps)
    is_object = Image.fromarray(steps > 100)
    assert is_object.mode == "1"
    data = images._encode(is_object, "PNG")
    assert images.decode_plane(data, grey=True).tolist() == [[0, 0, 255]]
    assert images.decode_labels(data, 4).tolist() == [[0, 0, 1]]
    # As class indices a depth changes nothing.
    indices = np.array([[0, 3, 255]], np.uint16)
    assert images.decode_labels(images.encode_png(indices), 4).tolist() == [[0, 3, 255]]
    with pytest.raises(UserError, match="class indices up to 255, found 900"):
        images.decode_labels(images.encode_png(np.array([[0, 900]], np.uint16)), 4)


def test_large_photos_are_scaled_down_with_their_maps(folder):
    data = prepare(folder, megapixels=0.0004)
    assert data.sizes("train") == [(20, 20)] * 6
    for split in ("train", "val"):
        masks = dict(data.masks(split, "score"))
        for example in data.photos(split):
            mask = masks[example["id"].decode()]
            saliency = images.decode_plane(example["saliency"])
            assert mask.shape == saliency.shape == (20, 20)
            assert ((saliency > 127) == (mask > 0)).mean() > 0.97
    assert prepare(folder).digest != data.digest


def test_two_photos_of_one_name_and_spellings_of_unicode(folder):
    Image.open(folder / "JPEGImages/p0.jpg").save(folder / "JPEGImages/p0.PNG")
    with faults_named("p0: JPEGImages holds p0.PNG and p0.jpg; an id is of one file"):
        prepare(folder)
    (folder / "JPEGImages/p0.PNG").unlink()
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for kind, ending in (("JPEGImages", "jpg"), ("Saliency", "png"), ("SegmentationClass", "png")):
        (folder / kind / f"p0.{ending}").rename(folder / kind / f"{decomposed}.{ending}")
    for name, spelling in (
        ("image_labels.txt", decomposed),
        ("ImageSets/Segmentation/train.txt", composed),
    ):
        path = folder / name
        path.write_text(path.read_text().replace("p0", f"{spelling}.jpg"))
    data = prepare(folder)
    assert composed in {example["id"].decode() for example in data.photos("train")}


def test_the_folder_of_a_user_is_no_pattern(folder, tmp_path):
    moved = tmp_path / "run[1]" / "photos"
    moved.parent.mkdir()
    folder.rename(moved)
    assert len(prepare(moved).photos("train")) == 6


def test_predictions_of_0_and_255(folder):
    from auxseg_jax.evaluation import score

    data = prepare(folder)
    masks = dict(data.masks("val", "score"))
    for name, mask in masks.items():
        images.write_label_png(folder / f"out/{name}.png", (mask > 0).astype(np.uint8) * 255)
    with pytest.raises(UserError, match="hold 0 and 255 alone"):
        score.score_folder(folder / "out", data, "val")
