"""A folder in VOC style of some hundred photos, as MSRC v2: 315 + 135 real photos, 14 classes.

auxseg train --config=msrc --config.data.root=DIR --workdir=W

Seen on MSRC v2: val mIoU 74.7, post-processed 80.4; 49 minutes of one CPU core.

After the name, in any combination (msrc:official,resnet38):

full        fully supervised: trained on the masks of the training split, to compare with
paper       AuxSegNet of the ICCV 2021 text; rates and schedule are those of this file
official    the same of its code
ablation    a short schedule at a small crop, to compare switches in minutes
resnet38, resnet50, resnet101    the backbone; it needs --config.pretrained.path
"""

import ml_collections

from auxseg_jax.configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Preset `plus` with EfficientNet-Lite0 at stride 16.

    Args:
      arg: what the module lists, separated by commas.
    """
    others = ("full", "ablation")
    config, words = common.with_words(
        arg, "configs/msrc.py", backbone="efficientnet_lite0", others=others
    )
    preset, backbone = common.preset_of(words), config.model.backbone.name
    common.set_data(config, "voc_folder", saliency="Saliency")
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
