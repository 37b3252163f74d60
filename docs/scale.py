"""Measures what docs/scale.md says of starts and files, on made-up photos of 16 x 16.

python docs/scale.py records N FOLDER   builds a prepared copy of N photos, and starts from it
python docs/scale.py start COPY         only starts from a prepared copy
python docs/scale.py listing N FOLDER   lays out a folder of N photos, and reads its lists
python docs/scale.py labels N FOLDER    writes and reads N pseudo labels of 500 x 375, both formats
"""

import contextlib
import itertools
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np

from auxseg_jax.config.loading import load_config
from auxseg_jax.data import dataset, features, loader, pseudo_labels, shapes, sources
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.files import file_sets, images, storage
from auxseg_jax.runs import build


@contextlib.contextmanager
def timed(what: str):
    """Prints the seconds of a block, and the peak memory of the process so far."""
    started = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what:40} {time.perf_counter() - started:8.2f} s, peak {peak:.2f} GiB", flush=True)


def records(count: int, folder: str) -> None:
    """Builds a prepared copy, and starts from it in a process of its own."""
    fields = {"train_photos": count, "val_photos": 1, "sizes": ((16, 16),), "cache_dir": folder}
    config = load_config("tiny", data=fields)
    photo = shapes.render(np.random.default_rng(0), 16, 16)
    shapes.render = lambda *_: photo  # All are one: what is drawn does not matter.
    generate = shapes.Shapes._split_generators

    def without_train_masks(builder, manager):
        splits = generate(builder, manager)
        is_masks = builder.builder_config.name == features.MASKS
        return {"val": splits["val"]} if is_masks else splits

    shapes.Shapes._split_generators = without_train_masks
    with timed("build"):
        data = dataset.prepare(**config.data)
    print(data.directory)
    subprocess.run([sys.executable, __file__, "start", str(data.directory)], check=True)


def start(copy: str) -> None:
    """Times what a run does before its first step."""
    config = load_config("tiny", data={"prepared": copy})
    with timed("import and open"):
        data = dataset.prepare(**config.data)
        photos = data.photos("train")
        print(f"{len(photos)} photos")
    with timed("first batch of crops"):
        source = build.train_source(config, "classifier", photos, None, mesh_lib.make_mesh(), 0)
        next(loader.train_batches(source, build.read_options(config), 0))
    with timed("plan of a pass"):
        reader = build.photo_reader(config, photos, data.sizes("train"), devices=1)
    with timed("its first batch"):
        for _ in itertools.islice(reader, 1):
            pass


def listing(count: int, folder: str) -> None:
    """Times what a run does without `data.prepared`."""
    root = pathlib.Path(folder)
    photo = shapes.render(np.random.default_rng(0), 16, 16)
    first = {
        "JPEGImages/{}.jpg": images.encode_jpeg(photo["image"]),
        "Saliency/{}.png": images.encode_png(photo["saliency"]),
    }
    names = [f"photo_{index:08d}" for index in range(count)]
    for key, data in first.items():
        for name in names:  # A file has no more than 65,000 links.
            storage.write_bytes(root / key.format(name), data)
    lists = {
        "classes.txt": ["background", "cat"],
        "image_labels.txt": [f"{name} cat" for name in names],
        "ImageSets/Segmentation/train.txt": names[1:],
        "ImageSets/Segmentation/val.txt": names[:1],
    }
    for name, lines in lists.items():
        storage.write_bytes(root / name, "\n".join(lines).encode())
    find = sources.find_source("voc_folder")
    options = {"root": folder, "labels": "image_labels.txt", "saliency": "Saliency"}
    for _ in range(2):
        with timed(f"lists and states of {count} photos"):
            find(None, train_split="train", val_split="val", megapixels=0.0, **options)


def labels(count: int, folder: str) -> None:
    """Times pseudo labels in both formats."""
    photo = shapes.render(np.random.default_rng(0), 375, 500)
    content = pseudo_labels.encode(
        {"segmentation": photo["segmentation"], "saliency": photo["saliency"]}
    )
    print(f"{sum(map(len, content.values()))} bytes a photo")
    order = np.random.default_rng(0).permutation(count)
    for form in ("files", "array_record"):
        target = pathlib.Path(folder) / form
        with timed(f"{form}: write"), file_sets.writer(target, form) as write:
            for index in range(count):
                write(f"photo_{index:08d}", content)
        with timed(f"{form}: open"):
            read = file_sets.reader(target)
        with timed(f"{form}: read in another order"):
            for index in order:
                read(f"photo_{index:08d}", list(content))
        files = [path for path in target.rglob("*") if path.is_file()]
        blocks = sum(path.stat().st_blocks for path in files) * 512
        print(f"{form}: {len(files)} files, {blocks / 2**20:.0f} MiB on disk")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"records": records, "start": start, "listing": listing, "labels": labels}[command](
        *(int(argument) if argument.isdecimal() else argument for argument in arguments)
    )
