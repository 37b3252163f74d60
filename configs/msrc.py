"""MSRC v2: 315 + 135 real photos, 14 classes; any folder in VOC style of that size will do.

python launch.py --config=configs/msrc.py --config.data.root=DIR --workdir=W

After the file's name, in any combination (configs/msrc.py:official,resnet38):

full        fully supervised: trained on the masks of the training split, to compare with
paper       AuxSegNet of the ICCV 2021 text, official, of its code; rates and schedule are those of this file
ablation    a short schedule at a small crop, to compare switches in minutes
resnet38, resnet50, resnet101    the backbone; it needs --config.pretrained.path
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Preset `plus` with EfficientNet-Lite0 at stride 16.

    Args:
      arg: what the module lists, separated by commas.
    """
    config, words = common.with_words(arg, "configs/msrc.py", backbone="efficientnet_lite0", others=("full", "ablation"))
    preset, backbone = common.preset_of(words), config.model.backbone.name
    config.data.update({"builder": "voc_folder", "root": "", "saliency": "Saliency", "labels": "image_labels.txt"})
    config.supervision = "masks" if "full" in words else "image_labels"

    config.augment.crop = 224
    if preset == "plus":
        config.augment.scale = (0.7, 1.4)

    config.optimizer.head_multiplier = 4.0
    config.optimizer.warmup = 20
    config.optimizer.clip_norm = 5.0
    if backbone == "efficientnet_lite0":
        config.optimizer.frozen += (r"backbone/stem/.*", r"backbone/blocks_[0-2]/.*")
    config.classifier.update({"epochs": 10, "batch_size": 8, "lr": 1e-2})
    config.stages.update({"count": 3, "epochs": 7, "batch_size": 8, "lr": 5e-3})
    if "ablation" in words:
        config.augment.crop = 160
        config.cam.scales = config.label_update.scales = config.post.scales = (1.0,)
        config.classifier.epochs = config.stages.epochs = 4
        config.stages.count = 2
    return config
