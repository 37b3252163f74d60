"""MSRC v2: 315 + 135 real photos, 14 classes; any folder in VOC style of that size will do.

python launch.py --config=configs/msrc.py --config.data.root=DIR --workdir=W

configs/msrc.py:full       fully supervised: trained on the masks of the training split, to compare with
configs/msrc.py:paper      AuxSegNet of the ICCV 2021 text, :official, of its code; rates and schedule are those of this file
configs/msrc.py:ablation   a short schedule at a small crop, to compare switches in minutes
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Preset `plus` with EfficientNet-Lite0 at stride 16.

    Args:
      arg: what the module lists.
    """
    if arg not in ("", "full", "ablation", *common.PRESETS):
        raise ValueError(f"configs/msrc.py takes no argument, :full, :ablation or a preset, not {arg!r}")
    config = common.get_config(arg if arg in common.PRESETS else "plus")
    config.data.builder = "voc_folder"
    config.data.root = ""
    config.supervision = "masks" if arg == "full" else "image_labels"

    config.augment.crop = 224
    if arg not in ("paper", "official"):
        config.augment.scale = (0.7, 1.4)
    config.model.backbone = {"name": "efficientnet_lite0", "output_stride": 16, "head": True}
    config.model.dilations = (3, 6, 9)  # the paper's rates, halved with the grid

    config.optimizer.head_multiplier = 4.0
    config.optimizer.warmup = 20
    config.optimizer.clip_norm = 5.0
    config.optimizer.frozen = (r"backbone/.*_bn/.*", r"backbone/stem/.*", r"backbone/blocks_[0-2]/.*")
    config.classifier.update({"epochs": 10, "batch_size": 8, "lr": 1e-2})
    config.stages.update({"count": 3, "epochs": 7, "batch_size": 8, "lr": 5e-3})
    if arg == "ablation":
        config.augment.crop = 160
        config.cam.scales = config.label_update.scales = (1.0,)
        config.classifier.epochs = config.stages.epochs = 4
        config.stages.count = 2
    return config
