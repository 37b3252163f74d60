"""Sizes that whole photos are padded to, so that few programs are compiled."""

from collections.abc import Sequence

from auxseg_jax.errors import UserError
from auxseg_jax.grid import Grid

_BUCKET_CANDIDATES = 64


def buckets(
    sizes: Sequence[tuple[int, int]], limit: int, grid: Grid
) -> dict[tuple[int, int], tuple[int, int]]:
    """Maps each (H, W) to the size of the grid that it is padded to.

    There are at most `limit` different ones, chosen greedily for the least padding. Every bucket
    costs one compilation of each program that sees whole photos.
    """
    if limit < 1:
        raise UserError(f"eval.max_buckets must be at least 1, got {limit}")
    step, groups = 1, {}
    while True:  # A rough grid comes first, so that the pairs below stay few.
        groups = {}
        for height, width in sizes:
            key = -(-height // step) * step, -(-width // step) * step
            groups.setdefault(key, []).append((height, width))
        if len(groups) <= _BUCKET_CANDIDATES:
            break
        step *= 2
    while len(groups) > limit:
        waste = {}
        keys = sorted(groups)
        for i, a in enumerate(keys):
            for b in keys[i + 1 :]:
                joint = max(a[0], b[0]), max(a[1], b[1])
                area = joint[0] * joint[1]
                padding = sum((area - k[0] * k[1]) * len(groups[k]) for k in (a, b))
                waste[a, b] = padding, joint
        (a, b), (_, joint) = min(waste.items(), key=lambda item: (item[1][0], item[0]))
        merged = groups.pop(a) + groups.pop(b)
        groups.setdefault(joint, []).extend(merged)
    return {
        size: tuple(map(grid.at_least, bucket))
        for bucket, members in groups.items()
        for size in members
    }


def photos_a_batch(size: tuple[int, int], batch_size: int, megapixels: float, devices: int) -> int:
    """Returns how many photos padded to `size` (H, W) go into a batch, at most.

    It is the same number for each device, at least one.
    """
    room = min(batch_size, int(megapixels * 1e6 / (size[0] * size[1])))
    return max(room // devices, 1) * devices
