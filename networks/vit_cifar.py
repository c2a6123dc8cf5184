"""Vision transformers for small images: patches of 4 x 4 pixels, 64 of them at 32 x 32.

    network = vit_cifar.build(100)                        # 2,710,564 parameters, D = 192 features
    network = vit_cifar.build(100, width=128, heads=4)    # 1,217,252 parameters, D = 128

The blocks are those of timm's `VisionTransformer` (Dosovitskiy et al. 2021). Width and heads of the
first are those of DeiT-Ti (Touvron et al. 2021), with half as many blocks; the second is for an
hour of one core. Features are the mean over the patches, normalised: without a class token a short
training has less to learn (Beyer, Zhai and Kolesnikov 2022)."""

from torch import nn

from networks import library_names

IMAGE_SIZE = 32
PATCH_SIZE = 4


def build(
    num_classes: int, dropout: float = 0.0, width: int = 192, depth: int = 6, heads: int = 3
) -> nn.Module:
    """A network with fresh weights: (N, 3, S, S) -> logits (N, num_classes).

    Position embeddings are those of 32 x 32 pixels. For images of another size they are resized on
    the way, and a side that is no multiple of 4 is padded with zeros."""
    timm = library_names.import_timm()
    return timm.models.VisionTransformer(
        img_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        num_classes=num_classes,
        global_pool="avg",
        class_token=False,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        drop_rate=dropout,
        dynamic_img_size=True,
        dynamic_img_pad=True,
    )
