"""MS COCO 2014 with the paper's recipe: train (82,783 photos) to train, val (40,504) to evaluate.

auxseg train --config=coco --config.data.root=DIR --config.pretrained.path=FILE --workdir=W

DIR is the official layout, with saliency maps:

annotations/instances_{train,val}2014.json, train2014/, val2014/     https://cocodataset.org
Saliency/<id>.png                                                    of any saliency network;
                          auxseg saliency --root=DIR --photos train2014 val2014 makes them

The paper: 33.9 on val (AuxSegNet, ICCV 2021). It was not run here yet: no such figure of this code
is known.

After the name, separated by commas: a preset (paper, official) and a backbone (efficientnet_lite0,
resnet50, resnet101), as in coco:official. The paper's ResNet38 is the default; it starts from a
file of ImageNet weights.
"""

import ml_collections

from auxseg_jax.configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Preset `plus` with ResNet38 at crop 321.

    Args:
      arg: what the module lists, separated by commas.
    """
    config, _ = common.with_words(arg, "configs/coco.py", backbone="resnet38")
    common.set_data(config, "coco2014_wsss", saliency="Saliency")
    return config
