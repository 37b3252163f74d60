"""PASCAL VOC 2012 with the paper's recipe: 10,582 photos (train_aug) to train, 1,449 (val) to test.

auxseg train --config=voc --config.data.root=DIR --config.pretrained.path=FILE --workdir=W

DIR holds the archives as downloaded, or unpacked, and saliency maps:

VOCtrainval_11-May-2012.tar     http://host.robots.ox.ac.uk/pascal/VOC/voc2012/
benchmark.tgz                   SBD, the "semantic contours" of Berkeley's computer vision group
Saliency/<id>.png               of any saliency network; with the archives unpacked,
                                auxseg saliency --root=DIR --photos VOCdevkit/VOC2012/JPEGImages
                                makes them

The paper: 69.0 on val with post-processing, 66.1 without (AuxSegNet, ICCV 2021). It was not run
here yet: no such figure of this code is known.

After the name, separated by commas: a preset (paper, official) and a backbone (efficientnet_lite0,
resnet50, resnet101), as in voc:official. The paper's ResNet38 is the default; it starts from a file
of ImageNet weights.
"""

import ml_collections

from auxseg_jax.configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Preset `plus` with ResNet38 at crop 321.

    Args:
      arg: what the module lists, separated by commas.
    """
    config, _ = common.with_words(arg, "configs/voc.py", backbone="resnet38")
    common.set_data(config, "voc2012_wsss", saliency="Saliency", train_split="train_aug")
    return config
