"""Draw the committed subsets from the full data sets: `python data/embedded/draw_subsets.py [NAME]...` (needs them).

Each subset is stratified over the classes and drawn without replacement with a fixed seed, so that running this again
gives the same images. A subset is stored as one lossless WebP mosaic, image k at row k // columns and column
k % columns, with a JSON beside it: labels, index of each image in the full split, SHA-256 of the array, origin.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from PIL import Image

from tnlib import data, paths

SEED = 2015  # the year of the two papers that the workbook reproduces
SIZES = {
    ("mnist", "train"): 6000,
    ("mnist", "test"): 2000,
    ("cifar10", "train"): 3000,
    ("cifar10", "test"): 2000,
    ("chars36", "train"): 2200,
    ("chars36", "test"): 2200,
}
COLUMNS = 50


def main(names: list[str]) -> None:
    for (name, split), size in SIZES.items():
        if names and name not in names:
            continue
        full = data.load(name, split, "full")
        index = data.stratified(full.labels.numpy(), size, len(full.info.classes), SEED)
        images = full.images[index].numpy()
        channels, height, width = full.info.shape
        tiles = images.reshape(-1, COLUMNS, channels, height, width).transpose(0, 3, 1, 4, 2)
        mosaic = np.ascontiguousarray(tiles.reshape(len(images) // COLUMNS * height, COLUMNS * width, channels))
        path = data.embedded_file(name, split)
        with paths.replacing(path) as temporary:
            Image.fromarray(mosaic.squeeze()).save(temporary, "webp", lossless=True, exact=True, quality=100, method=5)
        record = {
            "dataset": name,
            "split": split,
            "images": size,
            "columns": COLUMNS,
            "seed": SEED,
            "licence": full.info.licence,
            "sha256": data.digest(images),
            "labels_sha256": data.digest(full.labels[index].numpy().astype(np.uint8)),
            "labels": full.labels[index].tolist(),
            "index": index.tolist(),
        }
        with paths.replacing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(record, separators=(",", ":")) + "\n")
        assert (data.load(name, split).images.numpy() == images).all()
        print(f"{path.name}: {size} images, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
