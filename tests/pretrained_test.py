"""Weight files, sound, broken and hostile, and the report of what became of their arrays.

PyTorch's two formats were written by torch 2.15, two of MXNet's four by mxnet 1.9.1.
"""

import collections
import io
import pathlib
import pickle
import struct
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy

from auxseg_jax import cli, trees
from auxseg_jax.files import mxnet_file, torch_file
from auxseg_jax.models import efficientnet_lite, resnet38
from auxseg_jax.weights import convert, names, pretrained

DATA = pathlib.Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["tiny.pth", "tiny_legacy.pth"])
def test_torch_files(name):
    found = pretrained.read(DATA / name)
    weight = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    wanted = {
        "weight": weight,
        "turned": weight.transpose(2, 0, 1),
        "part": weight[1, :, 1:3],
        "half": np.arange(5, dtype=np.float16),
    }
    wanted |= {
        "brain": np.arange(3),
        "count": np.int64(7),
        "parameter": np.ones(2, np.float32),
        "flags": [True, False],
        "empty": np.zeros((0, 3)),
    }
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        np.testing.assert_array_equal(
            found[key].astype(np.float64), np.asarray(value, np.float64), err_msg=key
        )
    assert found["half"].dtype == np.float16 and found["count"].dtype == np.int64


class Malicious:
    """Its pickle would make a file if it ran."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def zipped(data: bytes, compression=zipfile.ZIP_STORED, **storages) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for key, value in storages.items():
            archive.writestr(f"archive/data/{key}", value)
    return file.getvalue()


def legacy(value) -> bytes:
    return b"".join(pickle.dumps(v, protocol=2) for v in (torch_file._MAGIC, 1001, {}, value))


@pytest.mark.parametrize(
    "pack", [legacy, lambda value: zipped(pickle.dumps(value, protocol=2))], ids=["legacy", "zip"]
)
@pytest.mark.parametrize(
    "wrap",
    [lambda m: m, lambda m: {"state_dict": collections.OrderedDict(weight=m)}],
    ids=["bare", "inside"],
)
def test_a_malicious_pickle_does_not_run(tmp_path, pack, wrap):
    marker = tmp_path / "ran"
    with pytest.raises(
        ValueError, match=r"refused: the file asks for (_io|io|builtins|__builtin__)\.open"
    ):
        torch_file.read(pack(wrap(Malicious(str(marker)))))
    assert not marker.exists()


def test_broken_torch_files_are_errors():
    for name in ("tiny.pth", "tiny_legacy.pth"):
        data = (DATA / name).read_bytes()
        for cut in (5, len(data) // 3, len(data) - 40):
            with pytest.raises(ValueError, match=r"not a|truncated"):
                torch_file.read(data[:cut])
    with pytest.raises(ValueError, match="not a readable"):
        torch_file.read(b"")
    with pytest.raises(ValueError, match="there are no tensors"):
        torch_file.read(zipped(pickle.dumps({"epoch": 3})))
    with pytest.raises(ValueError, match="compressed, which torch never does"):
        torch_file.read(zipped(bytes(10**7), zipfile.ZIP_DEFLATED))


def tensor_pickle(size, stride, count) -> bytes:
    """What torch would write of one tensor, by hand: the sizes are ours to lie about."""

    class Persistent(pickle.Pickler):
        def persistent_id(self, obj):
            return (
                ("storage", torch_file._DTYPES["FloatStorage"], "0", "cpu", count)
                if obj is Ellipsis
                else None
            )

    class Tensor:
        def __reduce__(self):
            return torch_file._Tensor, (..., 0, size, stride)

    file = io.BytesIO()
    Persistent(file, protocol=2).dump({"weight": Tensor()})
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "stride", "count"),
    [
        ((10**6, 10**6), (0, 0), 4),
        ((5,), (1,), 4),
        ((2,), (-1,), 4),
        ((4,), (1,), 10**12),
        ((4,), (1,), -1),
    ],
    ids=["much out of little", "outside", "backwards", "more than the file", "negative"],
)
def test_tensors_that_lie_about_their_size_are_errors(monkeypatch, size, stride, count):
    allowed = {
        ("auxseg_jax.files.torch_file", "_Tensor"): torch_file._Tensor,
        ("numpy", "dtype"): np.dtype,
    }
    monkeypatch.setattr(torch_file._Unpickler, "known", torch_file._GLOBALS | allowed)
    with pytest.raises(
        ValueError, match=r"larger than the file|outside its storage|has -1 numbers|truncated"
    ):
        torch_file.read(zipped(tensor_pickle(size, stride, count), **{"0": bytes(16)}))


def test_pickles_that_ask_for_too_much_are_errors():
    """Each is a few hundred bytes, and would take gigabytes or for ever."""
    nested = (
        b"\x80\x02)q\x00"
        + b"".join(
            b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60)
        )
        + b"."
    )
    for data, message in (
        (b"\x80\x02]r" + struct.pack("<I", 2**28) + b".", "place 268435456 of the memo"),
        (b"\x80\x02)\x81.", "the instruction NEWOBJ"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "expected .* bytes|refused"),
        (nested, "a tuple that is used twice"),
    ):
        with pytest.raises(ValueError, match=message):
            torch_file.read(zipped(data))


def test_files_that_are_no_weights_are_errors(tmp_path):
    (tmp_path / "stage_00/params").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds no parameters .*; .*stage_00/params does"):
        pretrained.read(tmp_path / "stage_00")
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    with pytest.raises(ValueError, match="a zip archive with 0 data"):
        pretrained.read(tmp_path / "a.npz")
    header = b'{"a":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[0,1]}}'
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"0")
    with pytest.raises(ValueError, match="of a type that numpy does not have"):
        pretrained.read(tmp_path / "a.safetensors")


def params_file(form: str, arrays: dict[str, np.ndarray]) -> bytes:
    body = [struct.pack("<3Q", 0x112, 0, len(arrays))]
    for value in arrays.values():
        axes = "q" if form != "oldest" else "I"
        body.append(
            {
                "v2": struct.pack("<Ii", 0xF993FAC9, 0),
                "v1": struct.pack("<I", 0xF993FAC8),
                "oldest": b"",
            }[form]
        )
        body.append(
            struct.pack(f"<I{value.ndim}{axes}", value.ndim, *value.shape)
            + struct.pack("<3i", 1, 0, 0)
            + value.tobytes()
        )
    body.append(struct.pack("<Q", len(arrays)))
    body += [struct.pack("<Q", len(name)) + name.encode() for name in arrays]
    return b"".join(body)


@pytest.mark.parametrize("form", ["v2", "v1", "oldest"])
def test_mxnet_files(form, rng):
    arrays = {
        "arg:conv1a_weight": rng.normal(size=(4, 3, 3, 3)),
        "aux:bn7_moving_var": rng.normal(size=5),
    }
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
    data = params_file(form, arrays)
    found = mxnet_file.read(data)
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
    for cut in (10, 40, len(data) - 30, len(data) - 3):
        with pytest.raises(ValueError, match=r"truncated|not a readable"):
            mxnet_file.read(data[:cut])


@pytest.mark.parametrize("name", ["mxnet", "mxnet_np_shape"])
def test_mxnets_own_files(name):
    found = mxnet_file.read((DATA / f"{name}.params").read_bytes())
    wanted = {
        "arg:conv1a_weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / np.float32(7),
        "aux:bn7_moving_var": np.arange(5) / 3,
        "arg:half": (np.arange(6).reshape(2, 3) / 5).astype(np.float16),
    }
    if name == "mxnet_np_shape":
        wanted["arg:scalar"] = np.array(2.5, np.float32)
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype
        np.testing.assert_array_equal(found[key], value, strict=True)


def test_mxnet_names():
    keys = {
        "arg:conv1a_weight": "conv1a.weight",
        "arg:res2a_branch2a_weight": "b2.conv_branch2a.weight",
        "arg:res3b1_branch2b1_weight": "b3_1.conv_branch2b1.weight",
        "arg:bn4b5_branch2a_gamma": "b4_5.bn_branch2a.weight",
        "aux:bn6a_branch2b2_moving_mean": "b6.bn_branch2b2.running_mean",
        "aux:bn7_moving_var": "bn7.running_var",
        "arg:bn7_beta": "bn7.bias",
        "arg:linear1000_weight": "linear1000.weight",
    }
    assert list(resnet38.from_mxnet(dict.fromkeys(keys, np.zeros(1)))) == list(keys.values())


@pytest.fixture(scope="module")
def lite0():
    module = efficientnet_lite.EfficientNetLite0()
    return {
        "backbone": jax.eval_shape(
            lambda x: module.init(jax.random.key(0), x)["params"],
            np.zeros((1, 32, 32, 3), np.float32),
        )
    }


def test_there_and_back_bit_by_bit(lite0, tmp_path):
    packaged = pretrained.read_packaged("efficientnet_lite0")
    (tmp_path / "weights.safetensors").write_bytes(
        safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in packaged.items()})
    )
    report = convert.convert(tmp_path / "weights.safetensors", tmp_path / "out")
    assert not report.has_faults and len(report.matched) == len(trees.flatten(lite0))
    exported = pretrained.read(tmp_path / "out/state_dict.safetensors")
    assert all(np.array_equal(exported[key], packaged[key]) for key in exported)
    assert all(trees.matches(key, names.EXCUSED) for key in set(packaged) - set(exported))
    first = trees.flatten(pretrained.load(lite0, "efficientnet_lite0", ""))
    second = trees.flatten(
        pretrained.load(lite0, "efficientnet_lite0", str(tmp_path / "out/params.safetensors"))
    )
    assert all(np.array_equal(first[name], second[name]) for name in trees.flatten(lite0))


def test_parameters_of_a_run_are_converted_whatever_their_switches(tmp_path, lite0, capsys):
    """What PyTorch's weights have no name for is in params.safetensors alone."""
    flat = {
        name: np.full(leaf.shape, 0.5, leaf.dtype) for name, leaf in trees.flatten(lite0).items()
    } | {"seg_gamma": np.ones((), np.float32)}
    (tmp_path / "a.safetensors").write_bytes(safetensors.numpy.save(flat))
    report = convert.convert(tmp_path / "a.safetensors", tmp_path / "a")
    assert report.not_exported == ["seg_gamma"] and "not exported: seg_gamma" in str(report)
    assert set(pretrained.read(tmp_path / "a/params.safetensors")) == set(flat)
    assert len(pretrained.read(tmp_path / "a/state_dict.safetensors")) == len(flat) - 1
    # The authors' code has no affinity without phi, so their loader would refuse the branches.
    only_backbone = {
        f"{name}/kernel": np.ones(shape, np.float32)
        for name, shape in {
            "backbone/b5_1/conv_branch2a": (3, 3, 2, 2),
            "seg_branch/conv_1": (3, 3, 2, 2),
            "seg_affinity/theta": (2, 2),
        }.items()
    }
    (tmp_path / "c.safetensors").write_bytes(safetensors.numpy.save(only_backbone))
    report = convert.convert(tmp_path / "c.safetensors", tmp_path / "c")
    branches = ["seg_affinity/theta/kernel", "seg_branch/conv_1/kernel"]
    assert sorted(report.not_exported) == branches  # They stand in the order of the file.
    assert len(pretrained.read(tmp_path / "c/state_dict.safetensors")) == 1
    (tmp_path / "b.safetensors").write_bytes(
        safetensors.numpy.save({"backbone/conv_1/kernel": np.ones(2)})
    )  # the tiny backbone
    for target in ("b", "a"):  # In a, there is a state dict of other weights.
        cli.main(["weights", f"--from={tmp_path}/b.safetensors", f"--to={tmp_path}/{target}"])
        assert [path.name for path in (tmp_path / target).iterdir()] == ["params.safetensors"]
        assert "no state_dict.safetensors: nothing here has a name" in capsys.readouterr().out


def test_the_report_lists_every_fault(lite0):
    state = pretrained.read_packaged("efficientnet_lite0")
    state["_conv_stem.weight"] = np.zeros((8, 3, 3, 3), np.float32)
    del state["_blocks.3._bn1.weight"]
    state["what.weight"] = np.zeros(2)
    params, report = pretrained.place(lite0, state, "efficientnet_lite0")
    assert report.missing == ["backbone/blocks_3/depthwise_bn/scale (144,)"]
    assert report.extra == ["what.weight"]
    assert report.shapes == ["backbone/stem/kernel is (3, 3, 3, 8), expected (3, 3, 3, 32)"]
    assert "_fc.weight" in report.excused and params == lite0
    assert "1 missing, 1 extra, 1 shapes" in str(report) and "excused: _fc.weight" in str(report)


def test_unknown_weights_and_files_are_errors(tmp_path, lite0):
    (tmp_path / "a.pth").write_bytes((DATA / "tiny.pth").read_bytes())
    with pytest.raises(ValueError, match="weights of no network known here: weight, turned"):
        convert.convert(tmp_path / "a.pth", tmp_path / "out")
    with pytest.raises(ValueError, match=r"a\.pth do not fit the network\n.*missing"):
        pretrained.load(lite0, "efficientnet_lite0", str(tmp_path / "a.pth"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError):
        pretrained.read(tmp_path / "absent.pth")
