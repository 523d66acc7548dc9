"""Option files of traiNNer-redux (YAML) and neosr (TOML), which keep BasicSR's keys and add their own."""

from typing import Any

from models.importing import basicsr
from models.importing.conversion import NUMBER, Conversion

NETWORKS = {
    "esrgan": "RRDBNet",
    "rrdbnet": "RRDBNet",
    "compact": "SRVGGNetCompact",
    "srvggnetcompact": "SRVGGNetCompact",
    "unet": "UNetDiscriminatorSN",
    "unetdiscriminatorsn": "UNetDiscriminatorSN",
    "vggstylediscriminator": "VGGStyleDiscriminator",
}
LOSSES = {"l1loss": "L1Loss", "mseloss": "MSELoss", "charbonnierloss": "CharbonnierLoss"}
MODES = {"bilinear": "linear", "bicubic": "cubic", "area": "pool"}

NOT_CARRIED = {
    **basicsr.NOT_CARRIED,
    "datasets.train.blur_kernel_size": "sizes are drawn from `size_range` of the blur, 7 to 21",
    "datasets.train.blur_kernel_size2": "sizes are drawn from `size_range` of the blur, 7 to 21",
    "use_amp": "`precision: auto` is bf16 on GPUs that have it",
    "amp_bf16": "`precision: auto` is bf16 on GPUs that have it",
    "bfloat16": "`precision: auto` is bf16 on GPUs that have it",
    "use_channels_last": "channels-last memory is on where it helps",
    "fast_matmul": "TF32 is on",
    "use_compile": "`performance.compile` says it, and changes no number but by rounding",
    "compile": "`performance.compile` says it, and changes no number but by rounding",
    "detect_anomaly": "gradients that are not finite are found, counted and written down",
    "high_order_degradations_debug": "`python -m degradations.preview` shows what is drawn",
    "high_order_degradations_debug_limit": "`python -m degradations.preview` shows what is drawn",
    "lq_usm": "sharpening here has one radius; a step `{type: sharpen}` in `degradation.final` comes near",
    "lq_usm_radius_range": "sharpening here has one radius",
    "thicklines_prob": "thick lines are not built",
    "dataroot_lq_prob": "pairs are a source of their own, with `weight` and `degradation: none`",
    "train.ema_update_after_step": "the moving average begins with the first step",
    "train.ema_switch_iter": "the network is not replaced by its average",
    "train.ema_switch_start": "the network is not replaced by its average",
    "datasets.train.num_prefetch_queue": "loading ahead is always on",
    "logger.save_checkpoint_format": "weights are safetensors",
    "logger.show_free_vram": "memory is shown by --dry-run",
}


def convert(c: Conversion) -> None:
    """Fill the conversion of a file of traiNNer-redux or neosr."""
    c.stage = "gan" if c.get("network_d") is not None else "psnr"
    basicsr.heading(c)
    _network(c, "network_g", "network_g")
    c.put(f"stages.{c.stage}.type", c.stage)
    _data(c)
    basicsr.optimisation(c)
    if c.get("train.grad_clip"):
        c.put(f"stages.{c.stage}.clip_grad_norm", 1.0, "train.grad_clip", why="to a norm of 1")
    c.same("train.grad_clip", what="no clipping")
    if c.get("train.ema_power"):
        c.put(f"stages.{c.stage}.ema_power", c.get("train.ema_power"), "train.ema_power")
    _losses(c)
    if c.stage == "gan":
        _network(c, "network_d", "stages.gan.network_d")
        basicsr.turns(c)
    basicsr.weights(c)
    basicsr.validation(c)
    basicsr.logging(c)
    if not c.get("lq_usm"):
        c.same("lq_usm", "lq_usm_radius_range", what="low-quality images are not sharpened")
    c.drop_all(NOT_CARRIED)


def _network(c: Conversion, key: str, path: str) -> None:
    name = c.need(f"{key}.type", str, "esrgan").lower()
    if name not in NETWORKS:
        c.no_network(f"{key}.type", name, NETWORKS)
        return
    ours, options = basicsr.NETWORKS[NETWORKS[name]]
    c.put(f"{path}.type", ours, f"{key}.type")
    for option in options:
        if (value := c.get(f"{key}.{option}")) is not None:
            c.put(f"{path}.{option}", value, f"{key}.{option}")
    if ours == "rrdbnet" and c.get("scale", 4) in (1, 2):
        way = "unshuffle" if c.get(f"{key}.use_pixel_unshuffle", True) else "steps"
        c.put(f"{path}.upsampling", way, f"{key}.use_pixel_unshuffle")
    c.same(f"{key}.use_pixel_unshuffle", f"{key}.scale", f"{key}.upscale", what="the scale is said once")


def _data(c: Conversion) -> None:
    train, scale = "datasets.train", c.get("scale", 4)
    kind = c.need(f"{train}.type", str, "realesrgandataset").lower()
    paired = "paired" in kind
    c.same(f"{train}.type", f"{train}.io_backend", what="the source's type")
    basicsr.source(c, train, "data.train.hr", paired)
    if paired:
        c.put("degradation", {"type": "none"}, f"{train}.type")
    else:
        _degradation(c)
    lq_key = next((k for k in (f"{train}.lq_size", f"{train}.patch_size") if c.get(k) is not None), None)
    if lq_key is not None:
        gt_size = c.need(lq_key, int, 64) * scale
        c.put("data.crop_size" if paired else "data.gt_size", gt_size, lq_key, why=f"times the scale {scale}")
    else:
        gt_size = c.need(f"{train}.gt_size", int, 256)
        c.put("data.crop_size" if paired else "data.gt_size", gt_size, f"{train}.gt_size")
    if not paired:
        c.put("data.crop_size", max(400 // scale * scale, gt_size))
    per_gpu = f"{train}.batch_size_per_gpu" if c.get(f"{train}.batch_size") is None else f"{train}.batch_size"
    accum_key = next(
        (k for k in ("accum_iter", f"{train}.accum_iter", f"{train}.accumulate") if c.get(k)), "accum_iter"
    )
    accum = c.get(accum_key, 1)
    size = c.need(per_gpu, int, 1) * basicsr.gpus(c) * accum
    why = f"{c.get(per_gpu)} on each of {basicsr.gpus(c)} GPUs, {accum} times"
    c.put("data.batch_size", size, per_gpu, "num_gpu", accum_key, why=why)
    if accum > 1:
        c.put(f"stages.{c.stage}.accumulate", accum, accum_key)
    if (workers := c.get(f"{train}.num_worker_per_gpu")) is not None:
        c.put("data.workers", workers, f"{train}.num_worker_per_gpu")
    mirrors, turns = c.get(f"{train}.use_hflip", True), c.get(f"{train}.use_rot", True)
    kinds = {(True, True): "flips_and_turns", (True, False): "flip", (False, True): "turns", (False, False): "none"}
    c.put("data.augment", kinds[bool(mirrors), bool(turns)], f"{train}.use_hflip", f"{train}.use_rot")


def _degradation(c: Conversion) -> None:
    basicsr.high_order(c)
    for path, key in (
        ("orders.first.blur.prob", "blur_prob"),
        ("orders.first.jpeg.prob", "jpeg_prob"),
        ("final.jpeg.prob", "jpeg_prob2"),
    ):
        if (chance := c.get(c.find(key))) is not None:
            c.put(f"degradation.{path}", chance, c.find(key))
    for part, digit in (("orders.first", ""), ("orders.second", "2"), ("final", "3")):
        _modes(
            c,
            f"degradation.{part}.resize.modes",
            c.find(f"resize_mode_list{digit}"),
            c.find(f"resize_mode_prob{digit}"),
        )


def _modes(c: Conversion, path: str, names_key: str, chances_key: str) -> None:
    if c.get(names_key) is None:
        return
    names = c.need(names_key, list, ["bilinear"])
    chances = c.get(chances_key, [1 / len(names)] * len(names))
    if len(names) != len(chances):
        c.contradiction(f"{names_key} names {len(names)} modes, but {chances_key} has {len(chances)} probabilities")
        return
    known = {MODES[name]: chance for name, chance in zip(names, chances, strict=True) if name in MODES}
    unbuilt = [name for name in names if name not in MODES]
    total = sum(known.values())
    if not total:
        c.drop(names_key, f"none of {', '.join(unbuilt)} is built")
        return
    # Ours are equally likely: twentieths are said by naming a mode more than once.
    counts = {mode: round(20 * chance / total) for mode, chance in known.items()}
    if len(set(known.values())) == 1:
        counts = dict.fromkeys(known, 1)
    modes: list[Any] = [mode for mode, count in counts.items() for _ in range(count)]
    why = f"without {', '.join(unbuilt)}, which is not built" if unbuilt else ""
    c.put(path, modes, names_key, chances_key, why=why)


def _losses(c: Conversion) -> None:
    path = f"stages.{c.stage}.losses"
    sharp = any(c.get(f"{kind}_gt_usm") for kind in ("l1", "percep", "gan"))
    for kind in ("l1", "percep", "gan"):
        c.drop(f"{kind}_gt_usm", "here each loss names its target, and these see the plain one") if not sharp else None
    listed = c.get("train.losses")
    if not isinstance(listed, list):
        basicsr.losses(c)
        return
    for number, entry in enumerate(listed):
        key, kind = f"train.losses.{number}", str(entry.get("type", "")).lower()
        weight = c.need(f"{key}.loss_weight", NUMBER, 1.0)
        if not weight:
            c.drop(key, "its weight is 0")
        elif kind in LOSSES:
            ours = basicsr.PIXEL[LOSSES[kind]]
            c.put(f"{path}.{ours}", {"type": ours, "weight": weight}, f"{key}.type", f"{key}.loss_weight")
        elif kind == "perceptualloss" and c.get(f"{key}.layer_weights"):
            made = {"type": "perceptual", "weight": weight, "layers": c.get(f"{key}.layer_weights")}
            c.put(f"{path}.perceptual", made, f"{key}.type", f"{key}.loss_weight", f"{key}.layer_weights")
            if c.get(f"{key}.criterion", "l1") in ("l1", "l2", "fro"):
                c.put(f"{path}.perceptual.criterion", c.get(f"{key}.criterion", "l1"), f"{key}.criterion")
        elif kind == "ganloss":
            if c.stage == "gan":
                basicsr.gan(c, key, f"{path}.gan", "plain", relativistic=False)
        elif kind in ("lpipsloss", "distsloss", "dists_loss"):
            ours = "lpips" if kind == "lpipsloss" else "dists"
            c.put(f"{path}.{ours}", {"type": ours, "weight": weight}, f"{key}.type", f"{key}.loss_weight")
        elif kind == "ldlloss":
            c.put(f"{path}.ldl", {"type": "ldl", "weight": weight}, f"{key}.type", f"{key}.loss_weight")
        kept = kind.startswith(("perceptual", "gan"))
        c.drop(key, "this option of it is not built" if kept else f"{entry.get('type')} is not among our losses")
