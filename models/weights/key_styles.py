"""The names under which published checkpoints keep their weights, as pure functions on state dicts.

Every network has one canonical form of keys (see its file). A style recognises another published form by its keys
and renames them by rule; nothing is ever matched by position or shape.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

State = dict[str, Tensor]
Renames = dict[str, str]

_ESRGAN_TOP = {"trunk_conv": "conv_body", "HRconv": "conv_hr", "upconv1": "conv_up1", "upconv2": "conv_up2"}


def canonical_names(keys: Iterable[str]) -> Renames:
    """Map the old name of every key to its canonical name; names of no known other style stay as they are."""
    keys = list(keys)
    styles = (_rename_esrgan, _rename_msrresnet, _rename_sequential_rrdb)
    for style in (*styles, _rename_patchgan, _rename_vgg, _rename_vgg_spectral):
        renames = style(keys)
        if renames is not None:
            return renames
    return {key: key for key in keys}


def canonical(state: Mapping[str, Tensor]) -> State:
    """Return the state dict under canonical names."""
    return {new: state[old] for old, new in canonical_names(state).items()}


def _rename_esrgan(keys: list[str]) -> Renames | None:
    """Rename ESRGAN's, BSRGAN's, RealSR's: `RRDB_trunk.0.RDB1.conv1`, `trunk_conv`, `upconv1`, `HRconv`."""
    if not any(re.match(r"RRDB_trunk\.\d+\.RDB\d\.", key) for key in keys):
        return None

    def rename(key: str) -> str:
        top, _, rest = key.partition(".")
        if top == "RRDB_trunk":
            return f"body.{rest.replace('RDB', 'rdb')}"
        return f"{_ESRGAN_TOP.get(top, top)}.{rest}"

    return {key: rename(key) for key in keys}


def _rename_msrresnet(keys: list[str]) -> Renames | None:
    """Rename ESRGAN's and RealSR's MSRResNet: `recon_trunk.0.conv1`, `HRconv`."""
    if "recon_trunk.0.conv1.weight" not in keys:
        return None
    return {key: re.sub(r"^HRconv\.", "conv_hr.", re.sub(r"^recon_trunk\.", "body.", key)) for key in keys}


def _rename_sequential_rrdb(keys: list[str]) -> Renames | None:
    """Rename the first ESRGAN's and KAIR's RRDB: one Sequential, `model.0`, `model.1.sub.0.RDB1.conv1.0`, `model.3`, ….

    Only the `upconv` form is RRDBNet; pixel-shuffle and transposed forms have other positions and stay as they are.
    """
    trunk = [int(m[1]) for key in keys if (m := re.match(r"model\.1\.sub\.(\d+)\.", key))]
    tail = sorted({int(m[1]) for key in keys if (m := re.fullmatch(r"model\.(\d+)\.(?:weight|bias)", key))} - {0})
    steps = len(tail) - 2
    # A step is Upsample, convolution, activation; then come convolution, activation, last convolution.
    expected = [3 * step for step in range(1, steps + 1)] + [3 * steps + 2, 3 * steps + 4]
    if not trunk or tail != expected:
        return None
    names = {0: "conv_first", tail[-2]: "conv_hr", tail[-1]: "conv_last"}
    names |= {position: f"conv_up{step}" for step, position in enumerate(tail[:-2], start=1)}

    def rename(key: str) -> str:
        if m := re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.(?:0\.)?(\w+)", key):
            return f"body.{m[1]}.rdb{m[2]}.conv{m[3]}.{m[4]}"
        if m := re.fullmatch(rf"model\.1\.sub\.{max(trunk)}\.(\w+)", key):
            return f"conv_body.{m[1]}"
        if m := re.fullmatch(r"model\.(\d+)\.(\w+)", key):
            return f"{names[int(m[1])]}.{m[2]}"
        return key

    return {key: rename(key) for key in keys}


def _rename_patchgan(keys: list[str]) -> Renames | None:
    """Rename KAIR's PatchGAN: `model.child2.1.weight`, a child per layer (convolution, norm, activation)."""

    def rename(key: str) -> str:
        m = re.fullmatch(r"model\.child(\d+)\.(\d+)\.(\w+)", key)
        if m is None:
            return key
        child, part = int(m[1]), int(m[2])
        # The first child has no norm, thus two entries instead of three.
        return f"model.{part if child == 0 else 3 * child - 1 + part}.{m[3]}"

    return {key: rename(key) for key in keys} if "model.child0.0.bias" in keys else None


def _rename_vgg(keys: list[str]) -> Renames | None:
    """Rename KAIR's VGG discriminators: `features.N`, `classifier.0`, `classifier.2`."""
    if not {"features.0.weight", "classifier.0.weight", "classifier.2.weight"} <= set(keys):
        return None
    classifier = {"0": "linear1", "2": "linear2"}

    def rename(key: str) -> str:
        if m := re.fullmatch(r"classifier\.([02])\.(\w+)", key):
            return f"{classifier[m[1]]}.{m[2]}"
        if m := re.fullmatch(r"features\.(\d+)\.(\w+)", key):
            # Position 0 is the bare first convolution; then follow triples of convolution, norm, activation.
            triple, part = divmod(int(m[1]) - 1, 3)
            level, half = divmod(triple + 1, 2)
            return f"{'bn' if part == 1 else 'conv'}{level}_{half}.{m[2]}"
        return key

    return {key: rename(key) for key in keys}


def _rename_vgg_spectral(keys: list[str]) -> Renames | None:
    """Rename KAIR's VGG discriminator with spectral normalisation: `conv0` … `conv9`, `linear0`, `linear1`."""
    if not {"conv0.weight_orig", "linear0.weight_orig"} <= set(keys):
        return None

    def rename(key: str) -> str:
        m = re.fullmatch(r"(conv|linear)(\d+)\.(\w+)", key)
        if m is None:
            return key
        number = int(m[2])
        return f"conv{number // 2}_{number % 2}.{m[3]}" if m[1] == "conv" else f"linear{number + 1}.{m[3]}"

    return {key: rename(key) for key in keys}


def is_contrastive(key: str) -> bool:
    """Tell whether a key of DASR or CDSR is of the key encoder or the queue, which are no part of the network."""
    return key.startswith(("E.encoder_k.", "E.queue"))
