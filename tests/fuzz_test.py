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


CLASSES = ("cat", "dog", "red car", "Straße")
ODD = ("0.5", "nan", "None", "background", "Cat", "1;2", "cat,dog", "\x00", '"', "=1+1", "7")


def proper_table(rng):
    """A table as it should be, in one of its forms, and what it says."""
    rows = {f"p{k}": [c for c in CLASSES if rng.random() < 0.4] for k in range(1, 8)}
    delimiter = (",", ";", "\t")[rng.integers(3)]
    names = [name + ("", ".jpg", ".JPEG")[rng.integers(3)] for name in rows]
    if rng.random() < 0.5:
        parts = "|" if delimiter == ";" else ";"
        lines = [["id", "classes"]]
        lines += [[n, parts.join(value)] for n, value in zip(names, rows.values(), strict=True)]
    else:
        true, false = (("1", "0"), ("True", "False"), ("1.0", "0.0"))[rng.integers(3)]
        lines = [["id", *CLASSES]]
        for name, value in zip(names, rows.values(), strict=True):
            lines.append([name, *(true if c in value else false for c in CLASSES)])
    return lines, delimiter, rows


def write_table(path, lines, delimiter, rng):
    end = ("\n", "\r\n", "\r")[rng.integers(3)]
    encoding = ("utf-8", "utf-8-sig", "utf-16")[rng.integers(3)]
    path.write_bytes(end.join(delimiter.join(line) for line in lines).encode(encoding))


def read_names(path):
    with collect(path):
        return label_tables.class_names(label_tables.read(path), None)


def test_300_tables_of_labels(tmp_path):
    rng = np.random.default_rng(1)
    counts = collections.Counter()
    for number in range(300):
        path = tmp_path / f"labels{number}.csv"
        lines, delimiter, rows = proper_table(rng)
        wrong = number % 2
        if wrong:
            line, place = rng.integers(len(lines)), rng.integers(len(lines[0]))
            lines[line][place] = ODD[rng.integers(len(ODD))]
        write_table(path, lines, delimiter, rng)
        found = {}
        kind, message = outcome(lambda path=path, found=found: found.update(read_names(path)))
        counts[kind, wrong] += 1
        if not wrong:
            assert kind == "understood" and found == rows, (lines, message)
        elif kind == "refused":
            lines_said = message.splitlines()[1:]
            assert lines_said and all(len(said) < 400 for said in lines_said), message
    assert counts["understood", 0] == 150 and counts["refused", 1] > 75, counts


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt", ".json", ".npy"])
def test_100_files_of_any_bytes(tmp_path, ending):
    rng = np.random.default_rng(2)
    for number in range(100):
        path = tmp_path / f"labels{number}{ending}"
        lines, delimiter, _ = proper_table(rng)
        write_table(path, lines, delimiter, rng)
        data = np.frombuffer(path.read_bytes(), np.uint8).copy()
        places = rng.integers(len(data), size=rng.integers(1, 9))
        data[places] = rng.integers(0, 256, len(places))
        path.write_bytes(data[: rng.integers(len(data))].tobytes())
        outcome(lambda path=path: read_names(path))  # Anything but a UserError fails.


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
