"""The whole method in seconds, on generated photos: for the tests. Its figures mean nothing.

auxseg train --config=tiny --workdir=workdirs/tiny
"""

import ml_collections

from auxseg_jax.configs import common


def get_config() -> ml_collections.ConfigDict:
    """Two stages of a few steps."""
    config = common.get_config()
    config.mesh.data = 1
    sizes = ((32, 32), (24, 40))
    common.set_data(config, "shapes", sizes=sizes, train_photos=16, val_photos=8)
    config.augment.crop = 32
    common.set_backbone(config, "tiny", width=16)
    config.model.channels = 8
    config.model.dilations = (1, 2, 3)
    config.pretrained.imagenet = False
    config.classifier.update({"epochs": 4, "lr": 1e-3})
    config.stages.update({"count": 2, "epochs": 2, "lr": 1e-3})
    config.log.update({"log_every": 1, "checkpoint_every": 2})
    config.cam.scales = config.label_update.scales = (1.0, 1.5)
    config.post.scales = (1.0,)
    config.eval.max_buckets = 1
    return config
