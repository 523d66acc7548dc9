"""The names under which published checkpoints keep their weights, as pure functions on state dicts.

Every network has one canonical form of keys (see its file). A style recognises another published form by its keys
and renames them by rule; nothing is ever matched by position or shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from utils.options.fields import OptionError

State = dict[str, Tensor]
Renames = dict[str, str]

_USRNET_KEYS = {
    *("h.mlp.0.weight", "h.mlp.4.weight", "p.m_head.weight", "p.m_tail.weight"),
    *(f"p.m_down{level}.0.res.0.weight" for level in (1, 2, 3)),
}
_DASR_KEYS = {"G.tail.1.weight", "G.body.0.body.0.conv1.weight", "E.encoder_q.E.0.weight"}
_CDSR_KEYS = {"G.upsampler.0.weight", "G.RRDB_trunk.0.RDB1.conv1.weight", "E.encoder_q.feature_bank.weight"}
_ESRGAN_TOP = {"trunk_conv": "conv_body", "HRconv": "conv_hr", "upconv1": "conv_up1", "upconv2": "conv_up2"}


def canonical_names(keys: Iterable[str]) -> Renames:
    """Old name → canonical name of every key; names of no known other style stay as they are."""
    keys = list(keys)
    styles = (_rename_esrgan, _rename_msrresnet, _rename_sequential_rrdb)
    for style in (*styles, _rename_patchgan, _rename_vgg, _rename_vgg_spectral):
        renames = style(keys)
        if renames is not None:
            return renames
    return {key: key for key in keys}


def canonical(state: Mapping[str, Tensor]) -> State:
    """The state dict under canonical names."""
    return {new: state[old] for old, new in canonical_names(state).items()}


def _rename_esrgan(keys: list[str]) -> Renames | None:
    """ESRGAN, BSRGAN, RealSR: `RRDB_trunk.0.RDB1.conv1`, `trunk_conv`, `upconv1`, `HRconv`."""
    if not any(re.match(r"RRDB_trunk\.\d+\.RDB\d\.", key) for key in keys):
        return None

    def rename(key: str) -> str:
        top, _, rest = key.partition(".")
        if top == "RRDB_trunk":
            return f"body.{rest.replace('RDB', 'rdb')}"
        return f"{_ESRGAN_TOP.get(top, top)}.{rest}"

    return {key: rename(key) for key in keys}


def _rename_msrresnet(keys: list[str]) -> Renames | None:
    """ESRGAN's and RealSR's MSRResNet: `recon_trunk.0.conv1`, `HRconv`."""
    if "recon_trunk.0.conv1.weight" not in keys:
        return None
    return {key: re.sub(r"^HRconv\.", "conv_hr.", re.sub(r"^recon_trunk\.", "body.", key)) for key in keys}


def _rename_sequential_rrdb(keys: list[str]) -> Renames | None:
    """The first ESRGAN and KAIR's RRDB: one Sequential, `model.0`, `model.1.sub.0.RDB1.conv1.0`, `model.3`, ….

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
    """KAIR's PatchGAN: `model.child2.1.weight`, a child per layer (convolution, norm, activation)."""

    def rename(key: str) -> str:
        m = re.fullmatch(r"model\.child(\d+)\.(\d+)\.(\w+)", key)
        if m is None:
            return key
        child, part = int(m[1]), int(m[2])
        # The first child has no norm, thus two entries instead of three.
        return f"model.{part if child == 0 else 3 * child - 1 + part}.{m[3]}"

    return {key: rename(key) for key in keys} if "model.child0.0.bias" in keys else None


def _rename_vgg(keys: list[str]) -> Renames | None:
    """KAIR's VGG discriminators: `features.N`, `classifier.0`, `classifier.2`."""
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
    """KAIR's VGG discriminator with spectral normalisation: `conv0` … `conv9`, `linear0`, `linear1`."""
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
    """Whether a key of a DASR or CDSR file is of the key encoder or the queue, which are no part of the network."""
    return key.startswith(("E.encoder_k.", "E.queue"))


def guess_network(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options of the generator that a published state dict (any key style) belongs to.

    Knows rrdbnet, msrresnet, srvgg, usrnet, dasr and cdsr. One upsampling step of an rrdbnet without unshuffle is taken
    for scale 2, as in BSRGAN's x2 model: no checkpoint is published in the x3 form, which has the same shapes. A usrnet
    serves all scales and gets the nominal scale 4; its activation is taken for ReLU, as in all published ones, and what
    cdsr attends by for `released`.

    Raises:
        OptionError: if keys and shapes do not settle the options.
    """
    state = canonical(state)
    if "body.0.rdb1.conv1.weight" in state and "conv_first.weight" in state and "conv_last.weight" in state:
        return _guess_rrdbnet(state)
    if "body.0.weight" in state and all(re.fullmatch(r"body\.\d+\.(weight|bias)", key) for key in state):
        return _guess_srvgg(state)
    if state.keys() >= {"body.0.conv1.weight", "upconv1.weight", "conv_hr.weight"}:
        return _guess_msrresnet(state)
    if state.keys() >= _USRNET_KEYS:
        return _guess_usrnet(state)
    if state.keys() >= _DASR_KEYS:
        return _guess_dasr(state)
    if state.keys() >= _CDSR_KEYS:
        return _guess_cdsr(state)
    some = ", ".join(list(state)[:5]) or "none"
    raise OptionError(
        f"these weights are of no network that can be told by its keys (known: rrdbnet, srvgg, usrnet, dasr, "
        f"cdsr, msrresnet; first keys found: {some}); give the option file of the network"
    )


def _count(state: State, pattern: str) -> int:
    """How many numbered parts there are, as the pattern's group finds their numbers in keys."""
    return 1 + max(int(m[1]) for key in state if (m := re.match(pattern, key)))


def _guess_rrdbnet(state: State) -> dict[str, Any]:
    first, last = state["conv_first.weight"], state["conv_last.weight"]
    inputs, outputs = first.shape[1], last.shape[0]
    steps = sum(f"conv_up{number}.weight" in state for number in (1, 2, 3))
    # Pixel unshuffle multiplies the input's channels by 4 at scale 2, by 16 at scale 1.
    factor = {4 * outputs: 2, 16 * outputs: 4}.get(inputs, 1) if steps == 2 else 1
    return {
        "type": "rrdbnet",
        "scale": 2**steps // factor,
        "num_in_ch": inputs // factor**2,
        "num_out_ch": outputs,
        "num_feat": first.shape[0],
        "num_block": _count(state, r"body\.(\d+)\."),
        "num_grow_ch": state["body.0.rdb1.conv1.weight"].shape[0],
        "upsampling": "unshuffle" if factor > 1 else "steps",
    }


def _guess_msrresnet(state: State) -> dict[str, Any]:
    first = state["conv_first.weight"]
    step = round((state["upconv1.weight"].shape[0] / first.shape[0]) ** 0.5)
    return {
        "type": "msrresnet",
        "scale": 4 if "upconv2.weight" in state else step,
        "num_in_ch": first.shape[1],
        "num_out_ch": state["conv_last.weight"].shape[0],
        "num_feat": first.shape[0],
        "num_block": _count(state, r"body\.(\d+)\."),
    }


def _guess_srvgg(state: State) -> dict[str, Any]:
    first = state["body.0.weight"]
    positions = sorted(int(key.split(".")[1]) for key in state if key.endswith("weight"))
    if "body.1.weight" not in state:
        raise OptionError(
            "these weights look like srvgg without PReLU, so act_type may be relu or leakyrelu; give the option file "
            "of the network"
        )
    channels = first.shape[1]
    shuffled = state[f"body.{positions[-1]}.weight"].shape[0]
    scale = round((shuffled / channels) ** 0.5)
    if channels * scale**2 != shuffled:
        raise OptionError(
            f"these weights look like srvgg, but {shuffled} output channels are no square multiple of {channels} "
            "input channels; give the option file of the network"
        )
    return {
        "type": "srvgg",
        "scale": scale,
        "num_in_ch": channels,
        "num_out_ch": channels,
        "num_feat": first.shape[0],
        "num_conv": positions[-1] // 2 - 1,
        "act_type": "prelu",
    }


def _guess_usrnet(state: State) -> dict[str, Any]:
    nb = len({m[1] for key in state if (m := re.match(r"p\.m_down1\.(\d+)\.res\.", key))})
    body = [weight.shape[0] for key, weight in state.items() if re.fullmatch(r"p\.m_body\.(0\.)?res\.0\.weight", key)]
    # Keys hold the positions of layers: pooling and nearest upsampling stand before their convolutions.
    first_up = state.get("p.m_up1.0.weight")
    upsample_mode = "upconv" if first_up is None else "convtranspose" if first_up.shape[-1] == 2 else "pixelshuffle"
    return {
        "type": "usrnet",
        "scale": 4,
        "n_iter": state["h.mlp.4.weight"].shape[0] // 2,
        "h_nc": state["h.mlp.0.weight"].shape[0],
        "in_nc": state["p.m_head.weight"].shape[1],
        "out_nc": state["p.m_tail.weight"].shape[0],
        "nc": [*(state[f"p.m_down{level}.0.res.0.weight"].shape[0] for level in (1, 2, 3)), *body],
        "nb": nb,
        "act_mode": "BR" if "p.m_down1.0.res.1.weight" in state else "R",
        "downsample_mode": "strideconv" if f"p.m_down1.{nb}.weight" in state else "avgpool",
        "upsample_mode": upsample_mode,
    }


def _guess_dasr(state: State) -> dict[str, Any]:
    num_feat = state["G.tail.1.weight"].shape[1]
    steps = _count(state, r"G\.tail\.0\.(\d+)\.weight") // 2 + 1
    return {
        "type": "dasr",
        "scale": round((state["G.tail.0.0.weight"].shape[0] / num_feat) ** 0.5) ** steps,
        "num_feat": num_feat,
        "num_group": _count(state, r"G\.body\.(\d+)\.body\."),
        "num_block": _count(state, r"G\.body\.0\.body\.(\d+)\.da_conv1\."),
        "encoder_feat": state["E.encoder_q.E.0.weight"].shape[0],
    }


def _guess_cdsr(state: State) -> dict[str, Any]:
    return {
        "type": "cdsr",
        "scale": round((state["G.upsampler.0.weight"].shape[0] / 3) ** 0.5),
        "num_feat": state["G.conv_first.weight"].shape[0],
        "num_block": _count(state, r"G\.RRDB_trunk\.(\d+)\."),
        "num_grow_ch": state["G.RRDB_trunk.0.RDB1.conv1.weight"].shape[0],
        "encoder_feat": state["E.encoder_q.conv1.conv1.weight"].shape[0],
        "num_code": state["E.encoder_q.feature_bank.weight"].shape[0],
    }
