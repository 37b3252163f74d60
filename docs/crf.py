"""Draws docs/crf.svg from docs/crf.json, which holds what this command printed:

auxseg profile --config=msrc:official --photo=PHOTO > docs/crf.json
python docs/crf.py      (needs matplotlib)
"""

import json
import pathlib

import matplotlib.pyplot as plt

folder = pathlib.Path(__file__).parent
rows = json.loads((folder / "crf.json").read_text())
figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.4))
for labels, iterations in sorted({(row["labels"], row["iterations"]) for row in rows}):
    chosen = [row for row in rows if (row["labels"], row["iterations"]) == (labels, iterations)]
    megapixels = [
        int(width) * int(height) / 1e6
        for width, height in (row["size"].split("x") for row in chosen)
    ]
    name = f"{labels} labels, {iterations} iteration" + "s" * (iterations > 1)
    time.loglog(megapixels, [row["seconds"] for row in chosen], "o-", label=name)
    memory.semilogx(megapixels, [row["peak_mib"] / 1024 for row in chosen], "o-", label=name)
time.set(title="seconds a photo", xlabel="megapixels")
memory.set(
    title="peak memory of the process, bucket of 8, GiB", xlabel="megapixels", ylim=(0, None)
)
time.legend(frameon=False)
figure.tight_layout()
figure.savefig(folder / "crf.svg", metadata={"Date": None})
