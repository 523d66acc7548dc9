"""The generator that a published state dict belongs to, read off its keys and shapes."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from models.weights.key_styles import State, canonical
from utils.options.fields import OptionError

_KEYS: dict[str, set[str]] = {
    "msrresnet": {"body.0.conv1.weight", "upconv1.weight", "conv_hr.weight"},
    "usrnet": {
        *("h.mlp.0.weight", "h.mlp.4.weight", "p.m_head.weight", "p.m_tail.weight"),
        *(f"p.m_down{level}.0.res.0.weight" for level in (1, 2, 3)),
    },
    "dasr": {"G.tail.1.weight", "G.body.0.body.0.conv1.weight", "E.encoder_q.E.0.weight"},
    "cdsr": {"G.upsampler.0.weight", "G.RRDB_trunk.0.RDB1.conv1.weight", "E.encoder_q.feature_bank.weight"},
    "unet_sn": {"conv0.weight", "conv9.weight"},
    "vgg_disc": {"conv0_0.bias", "linear2.weight"},
}


class UnknownNetwork(OptionError):  # noqa: N818 - no error of the file
    """Keys and shapes do not settle the network; other programs may know it, or an option file say it."""


def kind_of(state: Mapping[str, Tensor]) -> str | None:
    """Return the registered name of the network that a state dict (any key style) belongs to, as its keys tell."""
    state = canonical(state)
    if {"body.0.rdb1.conv1.weight", "conv_first.weight", "conv_last.weight"} <= state.keys():
        return "rrdbnet"
    if "body.0.weight" in state and all(re.fullmatch(r"body\.\d+\.(weight|bias)", key) for key in state):
        return "srvgg"
    for kind, keys in _KEYS.items():
        if state.keys() >= keys:
            return kind
    if all(re.match(r"model\.\d+\.", key) for key in state) and _ends_in_one_channel(state):
        return "patchgan"
    return None


def guess_network(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of the generator that a published state dict (any key style) belongs to.

    Knows rrdbnet, msrresnet, srvgg, usrnet, dasr and cdsr. One upsampling step of an rrdbnet without unshuffle is taken
    for scale 2, as in BSRGAN's x2 model: no checkpoint is published in the x3 form, which has the same shapes. A usrnet
    serves all scales and gets the nominal scale 4; its activation is taken for ReLU, as in all published ones, and what
    cdsr attends by for `released`.

    Raises:
        OptionError: if keys and shapes do not settle the options, or are those of a discriminator.
    """
    state = canonical(state)
    kind = kind_of(state)
    if kind in _GUESSES:
        return _GUESSES[kind](state)
    if what := _other_kind(state, kind):
        raise OptionError(f"these are the weights of {what}, expected a generator (known: {', '.join(_GUESSES)})")
    some = ", ".join(list(state)[:5]) or "none"
    raise UnknownNetwork(
        f"these weights are of no network that can be told by its keys (known: {', '.join(_GUESSES)}; first keys "
        f"found: {some}); give the option file of the network"
    )


def _other_kind(state: State, kind: str | None) -> str | None:
    """Return what a state dict is of that restores no images, in words."""
    if kind is not None:
        return f"a discriminator ({kind})"
    if {"features.0.weight", "classifier.6.weight"} <= state.keys():
        return "VGG, which perceptual losses compare images by"
    spectral = any(key.endswith(("weight_orig", "weight_u")) or ".parametrizations." in key for key in state)
    return "a discriminator" if spectral or _ends_in_one_channel(state) else None


def _ends_in_one_channel(state: State) -> bool:
    """Tell whether colour goes in and a single channel comes out, which a discriminator does and no generator."""
    weights = [weight for weight in state.values() if weight.ndim in (2, 4)]
    return len(weights) > 1 and weights[0].ndim == 4 and weights[0].shape[1] in (3, 6) and weights[-1].shape[0] == 1


def _count(state: State, pattern: str) -> int:
    """Return how many numbered parts there are, as the pattern's group finds their numbers in keys."""
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
        raise UnknownNetwork(
            "these weights look like srvgg without PReLU, so act_type may be relu or leakyrelu; give the option file "
            "of the network"
        )
    channels = first.shape[1]
    shuffled = state[f"body.{positions[-1]}.weight"].shape[0]
    scale = round((shuffled / channels) ** 0.5)
    if channels * scale**2 != shuffled:
        raise UnknownNetwork(
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


_GUESSES: dict[str, Callable[[State], dict[str, Any]]] = {
    "rrdbnet": _guess_rrdbnet,
    "srvgg": _guess_srvgg,
    "usrnet": _guess_usrnet,
    "dasr": _guess_dasr,
    "cdsr": _guess_cdsr,
    "msrresnet": _guess_msrresnet,
}
