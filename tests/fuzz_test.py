"""Wrong values and tables drawn from a fixed seed: each is understood, or refused in words."""

import collections
import itertools

import numpy as np
import pytest
from conftest import tiny_config

from auxseg_jax import trees
from auxseg_jax.config.validation import checked
from auxseg_jax.data import label_tables
from auxseg_jax.errors import UserError, collect

WRONG = (
    *(None, -1, 0, 1, 7, 10**12, -0.5, 0.0, 2.5, float("nan"), float("inf"), True, False),
    *("", "x", "(", "none", (), (1,), ("a", "b"), ("(",), (1.0, "x"), (0.5, 0.2), ((1, 2),)),
    *({}, {"a": 1}, [1, 2, 3], (None,), (-1, -1), (0.0, 0.0)),
)


def outcome(function):
    """ "understood" or "refused"; anything but a UserError is a fault of ours."""
    try:
        function()
    except UserError as error:
        return "refused", str(error)
    return "understood", ""


def test_500_configs_with_one_wrong_value(tmp_path):
    rng = np.random.default_rng(0)
    names = sorted(trees.flatten(tiny_config(tmp_path).to_dict()))
    counts = collections.Counter()
    for _ in range(500):
        config = tiny_config(tmp_path).unlock()
        name, value = names[rng.integers(len(names))], WRONG[rng.integers(len(WRONG))]
        *sections, field = name.split("/")
        section = config
        for part in sections:
            section = section[part]
        del section[field]
        section[field] = value
        kind, message = outcome(lambda config=config: checked(config))
        counts[kind] += 1
        if kind == "refused":
            lines = [line for line in message.splitlines()[1:] if line.strip()] or [message]
            assert field in message and len(lines) <= 2, (name, value, message)
    assert counts["refused"] > 350 and counts["understood"] > 20, counts


PHOTOS = ("a", "b.jpg", "c d", "e.JPG", "", "café", "x/y", "0", "nan", "a" * 300, "id")
CELLS = (
    *("cat", "dog", "cat;dog", "cat|dog", "cat,dog", '"cat"', '"', "0", "1", "0.5", "True", ""),
    *("nan", "None", "background", "Cat", "catt", "1;2", " ", "\x00", "\ud7ff", "=1+1", "cat\tdog"),
)
HEADERS = (
    "id,classes",
    "image;label",
    "id\tclasses",
    ",id,classes",
    "id,cat,dog",
    "cat",
    "",
    "a,b",
)


def table(rng):
    """One table of a few rows, as a spreadsheet might leave it, in some encoding."""
    pick = lambda values: values[rng.integers(len(values))]  # noqa: E731
    header = pick(HEADERS)
    delimiter = pick((",", ";", "\t"))
    rows = [
        delimiter.join([pick(PHOTOS), *(pick(CELLS) for _ in range(rng.integers(0, 4)))])
        for _ in range(rng.integers(0, 6))
    ]
    text = pick(("\n", "\r\n", "\r")).join([header, *rows])
    data = text.encode(pick(("utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252")), "replace")
    return data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.2 and data else data


@pytest.mark.parametrize("ending", [".csv", ".txt", ".json", ".npy"])
def test_300_tables_of_labels(tmp_path, ending):
    rng = np.random.default_rng(1)
    counts = collections.Counter()
    for number in range(300 if ending == ".csv" else 60):
        path = tmp_path / f"labels{number}{ending}"
        path.write_bytes(table(rng))

        def read(path=path):
            with collect(path):
                label_tables.class_names(label_tables.read(path), None)

        kind, message = outcome(read)
        counts[kind] += 1
        if kind == "refused":
            assert path.name in message.splitlines()[0], message
            assert all(path.name in line or "class" in line for line in message.splitlines())
    assert counts["refused"] > 15, counts


def test_every_field_is_refused_for_some_wrong_value(tmp_path):
    for name in trees.flatten(tiny_config(tmp_path).to_dict()):
        *sections, field = name.split("/")
        kinds = set()
        for value in itertools.chain([object], WRONG):
            config = tiny_config(tmp_path).unlock()
            section = config
            for part in sections:
                section = section[part]
            del section[field]
            section[field] = value
            kinds.add(outcome(lambda config=config: checked(config))[0])
        assert "refused" in kinds, name
