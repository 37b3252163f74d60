"""Prints the tables of docs/pods.md and draws docs/pods.svg from docs/pods.json.

docs/pods.json holds, by name, what these commands wrote (ResNet38 at crop 321, preset plus), with
version 0.4:

auxseg compile --config=voc --programs=train --topology=T --config.model.precision=P \\
  --config.stages.batch_size=N --config.classifier.batch_size=N --output=FILE

python docs/pods.py FILE ...     gathers files into docs/pods.json; their names are like
                                 v5e_4x4_bfloat16_16.json (16 photos a chip)
python docs/pods.py              prints and draws (needs matplotlib)
"""

import json
import pathlib
import sys

folder = pathlib.Path(__file__).parent
store = folder / "pods.json"
if sys.argv[1:]:
    keys = (
        "fits",
        "memory_bytes",
        "argument_bytes",
        "temp_bytes",
        "flops",
        "moved_bytes",
        "collectives",
        "seconds",
        "step_seconds",
        "utilization",
    )
    runs = {}
    for path in map(pathlib.Path, sys.argv[1:]):
        content = json.loads(path.read_text())
        train = content["programs"]["train"]
        runs[path.stem] = {"chips": content["chips"], "mesh": content["mesh"]} | {
            key: train[key] for key in keys if key in train
        }
    store.write_text(json.dumps(runs, indent=1, sort_keys=True) + "\n")
runs = json.loads(store.read_text())

columns = "GiB | TFLOP | moved GB | ms, utilization"
print(f"| topology | photos a chip | tensorfloat32: {columns} | bfloat16: {columns} |")
print("|---|---|---|---|---|---|---|---|---|---|")
for topology in ("v5e_4x4",):
    for photos in (1, 2, 4, 8, 16, 32, 64, 128):
        if f"{topology}_bfloat16_{photos}" not in runs:
            continue
        cells = []
        for dtype in ("tensorfloat32", "bfloat16"):
            run = runs.get(f"{topology}_{dtype}_{photos}")
            if run is None:
                cells += ["", "", "", ""]
            elif "flops" not in run:
                cells += [f"{run['memory_bytes'] / 2**30:.1f}, does not fit", "", "", ""]
            else:
                fits = "" if run["fits"] else ", does not fit"
                cells += [
                    f"{run['memory_bytes'] / 2**30:.2f}{fits}",
                    f"{run['flops'] / 1e12:.2f}",
                    f"{run['moved_bytes'] / 1e9:.0f}",
                ]
                cells += [f"{1000 * run['step_seconds']:.0f}, {100 * run['utilization']:.0f}%"]
        print(f"| {topology.replace('_', ':')} | {photos} | {' | '.join(cells)} |")

print(
    "\n| chips | sent by a chip, MB | step, messages hidden: ms | one after the other: ms "
    "| photos/s, hidden | weak scaling, one after the other |"
)
print("|---|---|---|---|---|---|")
points = []
for name in ("1x1", "2x2", "4x4", "8x8", "16x16"):
    run = runs[f"v5e_{name}_bfloat16_16"]
    messages = run["seconds"]["messages"]
    alone = max(run["seconds"]["arithmetic"], run["seconds"]["memory"])
    points.append((run["chips"], alone + messages, max(alone, messages)))
    sent = sum(entry["sent_bytes"] for entry in run["collectives"].values())
    scaling = points[0][1] / points[-1][1]
    times = f"{1000 * points[-1][2]:.1f} | {1000 * points[-1][1]:.1f}"
    times += f" | {16 * run['chips'] / points[-1][2]:.0f}"
    print(f"| {run['chips']} | {sent / 1e6:.0f} | {times} | {100 * scaling:.1f}% |")

# The tables above do without it, and it is not among our requirements.
import matplotlib.pyplot as plt  # noqa: E402

figure, (scaling, memory) = plt.subplots(1, 2, figsize=(9, 3.4))
chips = [n for n, *_ in points]
scaling.semilogx(
    chips,
    [100 * points[0][1] / one_by_one for _, one_by_one, _ in points],
    "o-",
    base=2,
    label="messages one after the other",
)
scaling.semilogx(
    chips,
    [100 * points[0][2] / hidden for *_, hidden in points],
    "o-",
    base=2,
    label="messages hidden",
)
scaling.set(
    title="weak scaling, percent (16 photos a chip, bfloat16)",
    xlabel="chips of v5e",
    ylim=(80, 101),
)
scaling.legend(frameon=False)
for dtype in ("tensorfloat32", "bfloat16"):
    found = [
        (n, runs[f"v5e_4x4_{dtype}_{n}"]["memory_bytes"] / 2**30)
        for n in (1, 2, 4, 8, 16, 32, 64, 128)
    ]
    memory.plot(*zip(*found, strict=True), "o-", label=dtype)
memory.axhline(15.75, color="grey", linewidth=1)
memory.set(title="memory of a v5e chip, GiB", xlabel="photos a chip", ylim=(0, None))
memory.legend(frameon=False)
figure.tight_layout()
figure.savefig(folder / "pods.svg", metadata={"Date": None})
