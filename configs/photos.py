"""Your own photos: from a few dozen to some thousands, in a folder as `auxseg labels` lays it out.

auxseg train --config=photos --config.data.root=photos --workdir=W

After the name, in any combination (photos:quick):

quick       a first result in minutes: one stage, a smaller crop
paper, official    AuxSegNet of the ICCV 2021 text, and of its code
resnet38, resnet50, resnet101    the backbone; it needs --config.pretrained.path
"""

import ml_collections

from auxseg_jax.configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Preset `plus` with EfficientNet-Lite0, and phases that few photos do not shorten.

    Args:
      arg: what the module lists, separated by commas.
    """
    config, words = common.with_words(
        arg, "configs/photos.py", backbone="efficientnet_lite0", others=("quick",)
    )
    # Photos of a telephone have 12 megapixels: a crop of 224 pixels would show a part of nothing.
    common.set_data(config, "voc_folder", saliency="Saliency", megapixels=0.3)
    config.augment.crop = 224
    config.augment.scale = (0.7, 1.4)
    config.optimizer.update({"head_multiplier": 4.0, "warmup": 20, "clip_norm": 5.0})
    if config.model.backbone.name == "efficientnet_lite0":
        config.optimizer.frozen += (r"backbone/stem/.*", r"backbone/blocks_[0-2]/.*")
    config.classifier.update({"epochs": 10, "min_steps": 200, "batch_size": 8, "lr": 1e-2})
    config.stages.update({"count": 2, "epochs": 7, "min_steps": 250, "batch_size": 8, "lr": 5e-3})
    if "quick" in words:
        config.augment.crop = 192
        config.cam.scales = config.label_update.scales = config.post.scales = (1.0,)
        config.classifier.update({"epochs": 6, "min_steps": 120})
        config.stages.update({"count": 1, "epochs": 5, "min_steps": 160})
    return config
