"""PASCAL VOC 2012: train_aug (10,582 photos, image-level labels) to train, val (1,449) to evaluate; the paper's recipe.

python launch.py --config=configs/voc.py --config.data.root=DIR --config.pretrained.path=resnet38.params --workdir=W

DIR holds the archives as downloaded, or unpacked, and saliency maps:

VOCtrainval_11-May-2012.tar     http://host.robots.ox.ac.uk/pascal/VOC/voc2012/
benchmark.tgz                   SBD, https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/
Saliency/<id>.png               of any saliency network; with the archives unpacked,
                                python -m auxseg_jax.data.saliency --root DIR --photos VOCdevkit/VOC2012/JPEGImages makes them

The paper: 69.0 on val with post-processing, 66.1 without (AuxSegNet, ICCV 2021). Not run here yet: no such figure of this code is known.

After the file's name, separated by commas: a preset (paper, official) and a backbone (efficientnet_lite0, resnet50, resnet101), as in
configs/voc.py:official. The paper's ResNet38 is the default; it starts from a file of ImageNet weights.
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Preset `plus` with ResNet38 at crop 321.

    Args:
      arg: what the module lists, separated by commas.
    """
    config, _ = common.with_words(arg, "configs/voc.py", backbone="resnet38")
    config.data.update({"builder": "voc2012_wsss", "root": "", "saliency": "Saliency", "train_split": "train_aug", "val_split": "val"})
    return config
