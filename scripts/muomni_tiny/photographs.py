"""Photographs to learn from: what drawings do not show.

They are those of wallpapers, of examples, and of templates for pages. Of a large one there are cuts
too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from base_model.packages import Package, unpack
from PIL import Image

# Each with which of its files are photographs.
PHOTOGRAPHS = [
    (
        Package(
            "npm",
            "@tabler/preview",
            "1.2.0",
            "97d1520d8f1e42b50d56eebc498074e51884271e5fc9fe8a1e3a2e6dfdd80b82",
        ),
        r"static/(photos|products)/",
    ),
    (
        Package(
            "npm",
            "@vendure/create",
            "3.7.3",
            "89f0a9ce225c44b7f9fc07a85bca655f98c48bbb7f3aa06ae0e9c04ce5db0af7",
        ),
        r"assets/images/",
    ),
    (
        Package(
            "npm",
            "soft-ui-design-system",
            "1.0.4",
            "b999a9fe6dc31469bcb498c9d0560ac17060d76957abe7f1cb1c2dddf61a5095",
        ),
        r"assets/img/(?!.*(curved|logo|icon)).*jpe?g$",
    ),
    (
        Package(
            "npm",
            "paper-kit-2",
            "2.1.0",
            "ea262b722403d0b838682218476775fe6500d13bc2b265000837cb613c8e7657",
        ),
        r"assets/img/(?!.*(logo|icon)).*jpe?g$",
    ),
    (
        Package(
            "npm",
            "material-kit",
            "2.0.4",
            "543712c988b2697c61a7ef6c9527ebf850b21b56e1bdfd7258fc6d333f725602",
        ),
        r"assets/img/(?!.*(logo|icon)).*jpe?g$",
    ),
    (
        Package(
            "npm",
            "@creative-tim-official/argon-dashboard-free",
            "1.2.0",
            "0bc231aaf0cfc5425d67068dae6ea066a4c6228fee925823e54dfaa1b42b567a",
        ),
        r"assets/img/theme/.*jpe?g$",
    ),
    (
        Package(
            "npm",
            "admin-lte",
            "3.2.0",
            "92650fb9e582b9e01f691693be79b1213608a6282a7f062c139bfeafc8593df5",
        ),
        r"dist/img/(photo|prod|user)",
    ),
    (
        Package(
            "npm",
            "startbootstrap-creative",
            "7.0.7",
            "746c2e46c5292e797358c90533ed695fbeb6ceff58ad7fd43284d93e9c3d0555",
        ),
        r"dist/.*jpg$",
    ),
    (
        Package(
            "npm",
            "startbootstrap-agency",
            "7.0.12",
            "bc49d5677d6fd30ee77ce33c3baad729494153ffd94a893992414f2a8e8fecd4",
        ),
        r"dist/.*jpg$",
    ),
    (
        Package(
            "npm",
            "startbootstrap-grayscale",
            "7.0.6",
            "adaa6fe67f6b58b645486648176734c8e421f291c23739904665fb16c8407eff",
        ),
        r"dist/.*jpg$",
    ),
    (
        Package(
            "npm",
            "startbootstrap-landing-page",
            "6.0.6",
            "0e4a29e63274ec0435352b45a825af81ebce444bd6db7f4901f512425dbdc407",
        ),
        r"dist/.*jpg$",
    ),
    (
        Package(
            "npm",
            "startbootstrap-business-casual",
            "7.0.9",
            "08452cf16289bf733bb7712aa5dbc2a980ac1042b0bad5dd755029e3ca8a42a0",
        ),
        r"dist/.*jpg$",
    ),
    (
        Package(
            "apt",
            "lomiri-wallpapers-16.04",
            "20.04.0-2",
            "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
        ),
        r"backgrounds/(?!analogpattern).*jpg$",
    ),
    (
        Package(
            "apt",
            "mate-backgrounds",
            "1.26.0-1",
            "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
        ),
        r"mate/nature/|Elephants\.jpg",
    ),
    (
        Package(
            "apt",
            "opencv-doc",
            "4.6.0+dfsg-12",
            "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a",
        ),
        r"examples/data/(aero|aloeL|apple|baboon|basketball1|board|box|building|butterfly|cards|"
        r"chicky|fruits|graf1|home|leuvenA|messi5|orange|rubberwhale1|smarties|squirrel|stuff)",
    ),
    (
        Package(
            "apt",
            "palapeli-data",
            "4:22.12.3-1",
            "69a15dce2ac25ed8708ac518cd0cee5f4eb0c70ed15da2fdb8899a19ac0ee058",
        ),
        r"collection/.*jpg$",
    ),
    (
        Package(
            "apt",
            "plasma-workspace-wallpapers",
            "4:5.27.5-2",
            "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
        ),
        r"wallpapers/(Autumn|BytheWater|ColdRipple|ColorfulCups|FallenLeaf|Grey|Path)/.*"
        r"(2560x1600|1920x1080)\.(jpg|png)$",
    ),
]
LEAST_PIXELS, LARGE_PIXELS = 96, 1000
LONGEST = 448  # pixels of what is kept of a photograph or a cut
CUTS, LEAST_CUT, LARGEST_CUT = 12, 0.3, 0.7  # of the shorter side
LEAST_SPREAD = 20  # of grey: less is sky


def photographs(packages: Path, folder: Path) -> Iterator[Path]:
    """Yield photographs, and squares cut out of large ones, written below ``folder``."""
    for package, pattern in PHOTOGRAPHS:
        source = unpack(package, packages)
        target = folder / package.name.replace("/", "-")
        if not target.exists():
            partial = target.with_name(f"{target.name}.partial")
            partial.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(0)
            for number, path in enumerate(_matching(source, pattern)):
                for cut, picture in enumerate(_views(path, rng)):
                    picture.save(partial / f"{number:03}-{cut:02}.jpg", quality=90)
            partial.rename(target)
        yield from sorted(target.glob("*.jpg"))


def _matching(source: Path, pattern: str) -> list[Path]:
    return sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
        and path.is_file()
        and not path.is_symlink()
        and re.search(pattern, path.relative_to(source).as_posix())
    )


def _views(path: Path, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Yield a photograph, and squares of a large one."""
    picture = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    if min(picture.size) < LEAST_PIXELS:
        return
    whole = picture.copy()
    whole.thumbnail((LONGEST, LONGEST))
    yield whole
    if max(picture.size) < LARGE_PIXELS:
        return
    for _ in range(CUTS):
        side = int(min(picture.size) * rng.uniform(LEAST_CUT, LARGEST_CUT))
        left, top = (int(rng.integers(0, size - side + 1)) for size in picture.size)
        cut = picture.crop((left, top, left + side, top + side))
        cut.thumbnail((LONGEST, LONGEST))
        if np.asarray(cut.convert("L")).std() >= LEAST_SPREAD:
            yield cut
