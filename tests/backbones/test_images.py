"""Image encoders: from files to vectors, split at every layer; the tiny models have random weights."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from graftwork.backbones.backbone import Backbone
from graftwork.backbones.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel
from graftwork.backbones.images import ImageReader, read_preprocessing
from graftwork.backbones.inspect import inspect_model
from graftwork.backbones.scratch import scratch_backbone
from graftwork.backbones.targets import linear_targets
from graftwork.data.media import Media
from graftwork.errors import DataRejected, ModalityMismatch, ModelUnsupported
from tests.backbones.conftest import open_backbone

GROUPS = ((1, 3, 1, 1, 8), (2, 3, 2, 2, 12), (1, 5, 2, 3, 16))


def save_images_model(folder: Path, kind: str, **preprocessing: Any) -> Path:
    """A tiny encoder of 32 x 32 pictures: `vit` or `efficientnet-lite`."""
    torch.manual_seed(0)
    model: Any
    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=32,
            image_size=32,
            patch_size=8,
        )
        model = transformers.ViTModel(config)
    else:
        model = EfficientNetLiteModel(EfficientNetLiteConfig(image_size=32, stem=8, groups=GROUPS, hidden_size=20))
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
        # Statistics of pictures, without which next to nothing of them would come through.
        for _ in range(20):
            model(pixel_values=torch.rand(8, 3, 1, 1) * 2 - 1 + torch.randn(8, 3, 32, 32) / 4)
        model.eval()
    model.save_pretrained(folder)
    settings = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | preprocessing))
    return folder


def png(seed: int, size: tuple[int, int] = (40, 50)) -> Media:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    return Media.of_bytes(data.getvalue(), "image", name=f"{seed}.png")


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda kind: save_images_model(tmp_path_factory.mktemp(kind), kind))


@pytest.fixture(params=["vit", "efficientnet-lite"])
def backbone(request: pytest.FixtureRequest, image_model: Callable[[str], Path]) -> Backbone:
    return open_backbone(image_model(request.param))


def test_a_tail_over_its_trunk_is_the_whole_network(backbone: Backbone) -> None:
    batch = backbone.collate(backbone.encode([png(1), png(2)]))
    whole = backbone.forward(batch)
    assert whole.shape == (2, backbone.max_length, backbone.width)
    for split in range(backbone.num_layers + 1):
        hidden = backbone.trunk(batch, split)
        outline = backbone.outline(backbone.encode([png(1), png(2)])) if split else batch
        assert torch.equal(backbone.tail(hidden, outline, split), whole)


def test_vectors_are_the_network_s_own_mean_or_class_token(image_model: Callable[[str], Path]) -> None:
    for kind, pooled in (("vit", "cls"), ("efficientnet-lite", "mean")):
        backbone = open_backbone(image_model(kind))
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(png(3).read())).resize((32, 32), 2))])
        values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 * 2 - 1
        with torch.no_grad():
            hidden = backbone.model(pixel_values=values).last_hidden_state
        wanted = hidden[:, 0] if pooled == "cls" else hidden.mean(dim=1)
        assert backbone.pooling.mode == pooled
        torch.testing.assert_close(backbone.embed([png(3)]), wanted, atol=1e-5, rtol=1e-5)


def test_the_metadata_tells_what_it_reads(image_model: Callable[[str], Path]) -> None:
    found = inspect_model(image_model("efficientnet-lite")).metadata
    assert (found.domain, found.modality, found.layers, found.max_length) == ("vision", "image", 4, 16)
    assert inspect_model(image_model("vit")).metadata.max_length == 17


def test_other_preprocessing_is_another_base(tmp_path: Path, image_model: Callable[[str], Path]) -> None:
    other = inspect_model(save_images_model(tmp_path, "vit", image_mean=[0.4] * 3))
    same = inspect_model(image_model("vit"))
    assert other.tokenizer != same.tokenizer
    assert other.fingerprint != same.fingerprint


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 24, "width": 20}, "resample": 3},
        {"size": {"shortest_edge": 30}, "do_center_crop": True, "crop_size": {"height": 26, "width": 22}},
        {"size": {"shortest_edge": 16}, "do_center_crop": True, "crop_size": 24, "resample": 0},
        {"size": {"height": 8, "width": 8}, "do_normalize": False, "rescale_factor": 0.01},
    ],
)
def test_pixels_are_those_of_transformers_pillow_backend(tmp_path: Path, settings: dict[str, Any]) -> None:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    whole = {"image_mean": [0.2, 0.4, 0.6], "image_std": [0.5, 0.3, 0.7], "resample": 2} | settings
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(whole))
    reader = ImageReader(read_preprocessing(tmp_path), dtype=torch.float32)
    for size in ((40, 50), (50, 31), (17, 90)):
        media = png(5, size)
        batch = reader.collate(reader.encode([media], 1), torch.device("cpu"))
        theirs = ViTImageProcessorPil(**whole)(Image.open(io.BytesIO(media.read())), return_tensors="np")
        np.testing.assert_allclose(batch.values.numpy(), theirs["pixel_values"], atol=1e-6)


def test_preprocessing_that_is_not_known_here_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 9}, "do_pad": True}))
    with pytest.raises(ModelUnsupported, match="made ready") as caught:
        read_preprocessing(tmp_path)
    assert len(caught.value.problems) == 2


def test_texts_are_refused_by_a_network_of_images(backbone: Backbone) -> None:
    with pytest.raises(ModalityMismatch) as caught:
        backbone.encode([png(1), "a text"])
    assert [problem.where for problem in caught.value.problems] == ["input 2"]


def test_images_are_refused_by_a_network_of_texts(backbone_of: Callable[..., Backbone]) -> None:
    with pytest.raises(ModalityMismatch, match="reads texts"):
        backbone_of("bert").encode(["a text", png(1)])


def test_pictures_that_cannot_be_read_are_named(backbone: Backbone) -> None:
    with pytest.raises(DataRejected) as caught:
        backbone.encode([png(1), Media.of_bytes(b"no", "image", name="a"), Media.of_bytes(b"", "image", name="b")])
    assert [str(problem).split(" Leave")[0].split(" Save")[0] for problem in caught.value.problems] == [
        "input 2: a: is none of PNG, JPEG, GIF, WEBP, BMP, TIFF",
        "input 3: b: is empty",
    ]


def test_low_rank_updates_go_into_attention_and_not_into_convolutions(image_model: Callable[[str], Path]) -> None:
    assert len(linear_targets(open_backbone(image_model("vit")))["attention"]) == 2
    with pytest.raises(ModelUnsupported, match="low-rank"):
        linear_targets(open_backbone(image_model("efficientnet-lite")))


def test_a_network_from_scratch_divides_by_the_batch_in_a_step_and_by_the_rows_it_learns_from_elsewhere(
    image_model: Callable[[str], Path],
) -> None:
    base = open_backbone(image_model("efficientnet-lite"))
    rows = base.encode([png(seed) for seed in range(40)])
    torch.manual_seed(1)
    scratch = scratch_backbone(base, learning=rows)
    norm = cast("torch.nn.BatchNorm2d", scratch.model.get_submodule("_bn0"))
    kernel = cast("torch.nn.Conv2d", scratch.model.get_submodule("_conv_stem"))
    batch = scratch.collate(rows)
    with torch.no_grad():
        stem = kernel(batch.arguments["pixel_values"])
        torch.testing.assert_close(scratch.forward(batch)[3:5], scratch.forward(scratch.collate(rows[3:5])))
        torch.testing.assert_close(norm.running_mean, stem.mean(dim=(0, 2, 3)))
        torch.testing.assert_close(norm.running_var, stem.var(dim=(0, 2, 3)), rtol=1e-2, atol=0)
        before = scratch.forward(batch)
    alone = scratch.forward(scratch.collate(rows[3:4])).detach()
    torch.testing.assert_close(alone[0], before[3])  # one row has no statistics
    step = scratch.forward(batch).detach()
    apart = scratch.forward(scratch.collate(rows[3:5])).detach()
    assert (step[3:5] - apart).abs().max() > 0.1
    with torch.no_grad():
        kernel.weight.mul_(-1)
        scratch.weights_changed()
        scratch.forward(batch)
        torch.testing.assert_close(norm.running_mean, -stem.mean(dim=(0, 2, 3)))
    assert not any(module.training for module in base.model.modules())


def test_random_kernels_have_the_variance_of_the_reference(image_model: Callable[[str], Path]) -> None:
    torch.manual_seed(1)
    kernels = dict(scratch_backbone(open_backbone(image_model("efficientnet-lite"))).model.named_parameters())
    for name, fan_out in (("_conv_head.weight", 20), ("_blocks.1._depthwise_conv.weight", 9)):
        assert float(kernels[name].std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.2)
