"""BasicSR's and Real-ESRGAN's option files (YAML), and what the converters of their descendants share."""

from typing import Any

from losses.perceptual import DEFAULT_LAYERS
from models.importing.conversion import NUMBER, Conversion, at
from utils.optim import SCHEDULES

MODELS = {
    "RealESRNetModel": "psnr",
    "SRModel": "psnr",
    "RealESRGANModel": "gan",
    "SRGANModel": "gan",
    "ESRGANModel": "gan",
}
KERNELS = {
    "iso": "isotropic",
    "aniso": "anisotropic",
    "generalized_iso": "generalized_isotropic",
    "generalized_aniso": "generalized_anisotropic",
    "plateau_iso": "plateau_isotropic",
    "plateau_aniso": "plateau_anisotropic",
}
OPTIMIZERS = {
    **{"Adam": "adam", "AdamW": "adamw", "SGD": "sgd", "RMSprop": "rmsprop"},
    **{"adamw_sf": "adamw_schedulefree", "AdamWScheduleFree": "adamw_schedulefree"},
}
PIXEL = {"L1Loss": "l1", "MSELoss": "l2", "CharbonnierLoss": "charbonnier"}
GANS = {"vanilla": "vanilla", "lsgan": "lsgan", "hinge": "hinge", "wgan_softplus": "softplus"}

NETWORKS: dict[str, tuple[str, dict[str, str]]] = {
    "RRDBNet": ("rrdbnet", {k: k for k in ("num_in_ch", "num_out_ch", "num_feat", "num_block", "num_grow_ch")}),
    "SRVGGNetCompact": (
        "srvgg",
        {k: k for k in ("num_in_ch", "num_out_ch", "num_feat", "num_conv", "act_type")},
    ),
    "MSRResNet": ("msrresnet", {k: k for k in ("num_in_ch", "num_out_ch", "num_feat", "num_block")}),
    "UNetDiscriminatorSN": ("unet_sn", {k: k for k in ("num_in_ch", "num_feat", "skip_connection")}),
    "VGGStyleDiscriminator": ("vgg_disc", {k: k for k in ("num_in_ch", "num_feat", "input_size")}),
}
"""Foreign network → ours, and which of its options are which of ours."""

DRAWN = (
    *("resize_prob", "resize_range", "gaussian_noise_prob", "noise_range", "poisson_scale_range", "gray_noise_prob"),
    *("jpeg_range", "second_blur_prob", "queue_size", "kernel_list", "kernel_prob", "sinc_prob", "final_sinc_prob"),
    *("blur_sigma", "betag_range", "betap_range"),
)
"""Keys of what is drawn for an image, those of the second order with a 2."""

NOT_CARRIED = {
    "dist_params": "torchrun starts the processes and says how they meet",
    "logger.wandb": "set logger.wandb: true for it, by the account that wandb knows",
    "path.resume_state": "a run goes on from its newest checkpoint by itself, or from one named with --resume",
    "path.ignore_resume_networks": "a checkpoint is taken up whole",
    "datasets.train.name": "sources are named by their key, `hr`",
    "datasets.train.use_shuffle": "training samples are always drawn in random order",
    "datasets.train.dataset_enlarge_ratio": "samples are drawn without end, there are no epochs",
    "datasets.train.prefetch_mode": "loading ahead is always on",
    "datasets.train.num_prefetch_queue": "loading ahead is always on",
    "datasets.train.pin_memory": "memory is pinned where there is a GPU",
    "datasets.train.persistent_workers": "workers live as long as the stage",
    "datasets.train.blur_kernel_size": "the released code does not use it: sizes are drawn from 7 to 21, as ours",
    "datasets.train.blur_kernel_size2": "the released code does not use it: sizes are drawn from 7 to 21, as ours",
    "val.save_img": "`logger.images` says how many validation images are kept",
    "val.pbar": "progress is always shown",
    "val.metrics": "validation measures PSNR and SSIM by itself; test.py names the protocol (`basicsr`) and the border",
    "print_networks": "the number of parameters is always shown",
}


def convert(c: Conversion) -> None:
    """Fill the conversion of a file of BasicSR, Real-ESRGAN or a framework that kept its keys."""
    model = c.need("model_type", str, "RealESRGANModel")
    if model not in MODELS:
        c.problems.append(f"model_type: found {model}, which has no counterpart here; known: {', '.join(MODELS)}")
    c.stage = MODELS.get(model, "gan")
    heading(c)
    network(c, "network_g", "network_g")
    c.put(f"stages.{c.stage}.type", c.stage)
    degradation(c, model)
    data(c)
    optimisation(c)
    losses(c, relativistic=model == "ESRGANModel")
    if c.stage == "gan":
        network(c, "network_d", "stages.gan.network_d")
        turns(c)
    weights(c)
    validation(c)
    logging(c)
    c.drop_all(NOT_CARRIED)


def heading(c: Conversion) -> None:
    """Take over what stands at the top of every file of this family: name, scale, kind of model and seed."""
    c.put("name", c.need("name", str, "imported"), "name")
    c.put("scale", c.need("scale", int, 4), "scale")
    c.same("model_type", what=f"stage `{c.stage}`")
    if c.get("manual_seed") is not None:
        c.put("seed", c.get("manual_seed"), "manual_seed")


# --- networks ---------------------------------------------------------------------------------------------------------


def network(c: Conversion, key: str, path: str) -> None:
    """Convert a network, by its foreign name."""
    name = c.need(f"{key}.type", str, "RRDBNet")
    if name not in NETWORKS:
        c.no_network(f"{key}.type", name, NETWORKS)
        return
    ours, options = NETWORKS[name]
    c.put(f"{path}.type", ours, f"{key}.type")
    for foreign, own in options.items():
        if (value := c.get(f"{key}.{foreign}")) is not None:
            c.put(f"{path}.{own}", value, f"{key}.{foreign}")
    scale = c.get("scale", 4)
    for said in ("scale", "upscale"):
        if (found := c.get(f"{key}.{said}", 4 if (name, said) == ("RRDBNet", "scale") else scale)) != scale:
            c.contradiction(f"{key}.{said}: is {found} (its default is 4), but scale is {scale}")
        c.same(f"{key}.{said}", what="the scale is said once")


# --- degradation ------------------------------------------------------------------------------------------------------


def degradation(c: Conversion, model: str) -> None:
    """Convert Real-ESRGAN's degradation from its flat keys, or none for pairs."""
    if c.get("datasets.train.type") != "RealESRGANDataset":
        usm = any(c.get(f"{kind}_gt_usm") for kind in ("l1", "percep", "gan"))
        c.put("degradation", {"type": "none", **({"usm": True} if usm else {})})
        c.same("high_order_degradation", what="the pairs are given")
        for key in (f"{name}{digit}" for name in DRAWN for digit in ("", "2")):
            c.drop(c.find(key), "the pairs are given")
        return
    if c.get("high_order_degradation") is False:
        c.contradiction("high_order_degradation: is false, but datasets.train.type makes low-quality images")
    if model == "RealESRNetModel":
        sharp = c.need("gt_usm", bool, True)
        c.put("degradation.start", "usm" if sharp else "plain", "gt_usm", why="the degradation starts from it")
    high_order(c)


def high_order(c: Conversion) -> None:
    """Convert both orders and the end."""
    c.put("degradation.type", "realesrgan")
    c.same("high_order_degradation", what="degradation.type: realesrgan")
    for order, digit in (("first", ""), ("second", "2")):
        _order(c, f"degradation.orders.{order}", digit)
    for path, key in (
        ("orders.second.blur.prob", "second_blur_prob" if c.get(c.find("blur_prob2")) is None else "blur_prob2"),
        ("final.jpeg.quality_range", "jpeg_range2"),
        ("final.sinc.sinc_prob", "final_sinc_prob"),
    ):
        kind, default = (list, [30, 95]) if key == "jpeg_range2" else (NUMBER, 0)
        c.put(f"degradation.{path}", c.need(c.find(key), kind, default), c.find(key))
    _pool(c)


def _pool(c: Conversion) -> None:
    if not c.told.exact:
        c.drop("queue_size", "everything is drawn for each sample, so that batches need no mixing (--exact: pair_pool)")
        return
    c.put("degradation.draws", "batch")
    for part in ("orders.first.jpeg", "final.jpeg"):
        c.put(f"degradation.{part}.table", "released")
    size, wanted = batch(c), c.get("queue_size", 180) * gpus(c)
    why = "of all GPUs together, a multiple of the batch"
    c.put("data.pair_pool", max(1, round(wanted / size)) * size, "queue_size", why=why)


def _order(c: Conversion, path: str, digit: str) -> None:
    names, chances = c.find(f"kernel_list{digit}"), c.find(f"kernel_prob{digit}")
    c.put(f"{path}.blur.kinds", kernel_kinds(c, names, chances), names, chances)
    for own, foreign in (
        ("sinc_prob", "sinc_prob"),
        ("sigma_range", "blur_sigma"),
        ("beta_gaussian_range", "betag_range"),
        ("beta_plateau_range", "betap_range"),
    ):
        key = c.find(f"{foreign}{digit}")
        c.put(f"{path}.blur.{own}", c.need(key, NUMBER if own == "sinc_prob" else list, None), key)
    resize(c, f"{path}.resize", c.find(f"resize_prob{digit}"), c.find(f"resize_range{digit}"))
    noise(c, f"{path}.noise.of", digit)
    if not digit:
        key = c.find("jpeg_range")
        c.put(f"{path}.jpeg.quality_range", c.need(key, list, [30, 95]), key)


def kernel_kinds(c: Conversion, names_key: str, chances_key: str) -> dict[str, float]:
    """Return probabilities of all kinds of kernels by our names; kinds that the file does not name get 0."""
    names, chances = c.need(names_key, list, ["iso"]), c.need(chances_key, list, [1.0])
    if len(names) != len(chances):
        c.contradiction(f"{names_key} names {len(names)} kinds, but {chances_key} has {len(chances)} probabilities")
        return {"isotropic": 1.0}
    kinds = dict.fromkeys(KERNELS.values(), 0.0)
    for name, chance in zip(names, chances, strict=True):
        if name not in KERNELS:
            c.problems.append(f"{names_key}: found {name!r}, which is unknown here; known: {', '.join(KERNELS)}")
        else:
            kinds[KERNELS[name]] += chance
    total = sum(kinds.values()) or 1.0
    return {k: v if abs(total - 1) < 1e-9 else v / total for k, v in kinds.items()}  # a draw by weights divides too


def resize(c: Conversion, path: str, chances_key: str, range_key: str) -> None:
    """Convert a resize's [up, down, keep] and its range, of which 1 separates upsampling from downsampling."""
    chances, span = c.need(chances_key, list, [0.2, 0.7, 0.1]), c.need(range_key, list, [0.15, 1.5])
    if len(chances) != 3 or len(span) != 2 or not sum(chances):
        c.problems.append(
            f"{chances_key}, {range_key}: found {chances} and {span}, expected [up, down, keep] and [low, high]"
        )
        return
    total = sum(chances)
    kinds = {k: v if abs(total - 1) < 1e-9 else v / total for k, v in zip(("up", "down", "keep"), chances, strict=True)}
    c.put(f"{path}.kinds", kinds, chances_key)
    c.put(f"{path}.up_range", sorted([1, span[1]]), range_key, why="the part above 1")
    c.put(f"{path}.down_range", sorted([span[0], 1]), range_key, why="the part below 1")


def noise(c: Conversion, path: str, digit: str) -> None:
    """Convert Gaussian or Poisson noise and how often it is gray."""
    names = ("gaussian_noise_prob", "gray_noise_prob", "noise_range", "poisson_scale_range")
    gaussian_key, gray_key, levels, strengths = (c.find(f"{name}{digit}") for name in names)
    gaussian, gray = c.need(gaussian_key, NUMBER, 0.5), c.need(gray_key, NUMBER, 0.4)
    c.put(f"{path}.gaussian.prob", gaussian, gaussian_key)
    c.put(f"{path}.poisson.prob", round(1 - gaussian, 12), gaussian_key, why="what is left of 1")
    c.put(f"{path}.gaussian.kinds", {"color": round(1 - gray, 12), "gray": gray}, gray_key)
    c.put(f"{path}.poisson.gray_prob", gray, gray_key)
    c.put(f"{path}.gaussian.level_range", c.need(levels, list, [1, 30]), levels)
    c.put(f"{path}.poisson.strength_range", c.need(strengths, list, [0.05, 3]), strengths)


# --- data -------------------------------------------------------------------------------------------------------------


def gpus(c: Conversion) -> int:
    number = c.get("num_gpu")
    return number if isinstance(number, int) and number > 0 else c.told.gpus


def batch(c: Conversion) -> int:
    return c.need("datasets.train.batch_size_per_gpu", int, 1) * gpus(c) * max(1, c.get("accum_iter", 1))


def data(c: Conversion) -> None:
    """Convert sources, crops, batch and augmentation."""
    train = "datasets.train"
    kind = c.need(f"{train}.type", str, "RealESRGANDataset")
    paired = kind in ("PairedImageDataset", "RealESRGANPairedDataset")
    if not paired and kind != "RealESRGANDataset":
        c.problems.append(f"{train}.type: found {kind}, which has no counterpart here")
    source(c, train, "data.train.hr", paired)
    c.same(f"{train}.type", f"{train}.io_backend.type", what="the source's type")
    gt_size = c.need(f"{train}.gt_size", int, 256)
    if (whole := c.get("gt_size")) not in (None, gt_size):
        c.contradiction(f"gt_size is {whole}, but {train}.gt_size is {gt_size}")
    if paired:
        c.put("data.crop_size", gt_size, "gt_size", f"{train}.gt_size")
    else:
        c.put("data.crop_size", 400)  # written into the data set's code
        c.put("data.gt_size", gt_size, "gt_size", f"{train}.gt_size")
    why = f"{c.get(f'{train}.batch_size_per_gpu', 1)} on each of {gpus(c)}"
    why += "" if c.get("num_gpu") == gpus(c) else " (--gpus says how many)"
    c.put("data.batch_size", batch(c), f"{train}.batch_size_per_gpu", "num_gpu", "accum_iter", why=why)
    workers = f"{train}.num_worker_per_gpu"
    if c.get(workers) is not None:
        c.put("data.workers", c.get(workers), workers)
    mirrors, turns = f"{train}.use_hflip", f"{train}.use_rot"
    kinds = {(True, True): "flips_and_turns", (True, False): "flip", (False, True): "turns", (False, False): "none"}
    c.put("data.augment", kinds[bool(c.get(mirrors)), bool(c.get(turns))], mirrors, turns)


def source(c: Conversion, where: str, path: str, paired: bool) -> None:
    """Convert a folder, a list or an LMDB, with partners or without."""
    gt, lq, listing = f"{where}.dataroot_gt", f"{where}.dataroot_lq", f"{where}.meta_info"
    listing = listing if c.get(listing) is not None else f"{where}.meta_info_file"
    lmdb = c.get(f"{where}.io_backend.type") == "lmdb" or str(c.get(gt, "")).endswith(".lmdb")
    if lmdb:
        c.put(f"{path}.type", "lmdb")
        c.put(f"{path}.root", _root(c, gt), gt)
        if paired:
            c.put(f"{path}.lq_root", _root(c, lq), lq)
        c.drop(listing, "an LMDB brings its own list, meta_info.txt")
    elif paired:
        c.put(f"{path}.type", "paired")
        c.put(f"{path}.gt_root", _root(c, gt), gt)
        c.put(f"{path}.lq_root", _root(c, lq), lq)
        if (pattern := c.get(f"{where}.filename_tmpl", "{}")) != "{}":
            c.put(f"{path}.pattern", pattern, f"{where}.filename_tmpl")
        c.same(f"{where}.filename_tmpl", what="names are equal")
    else:
        c.put(f"{path}.type", "folder")
        c.put(f"{path}.root", _root(c, gt), gt)
    if c.get(listing) is not None and not lmdb:
        c.put(f"{path}.names", c.get(listing), listing)


def _root(c: Conversion, key: str) -> str | list[str]:
    root = c.need(key, (str, list), ".")
    return root[0] if isinstance(root, list) and len(root) == 1 else root


def validation(c: Conversion) -> None:
    """Convert every set besides `train`, with its pairs."""
    for name in [k for k in c.get("datasets", {}) if k != "train"]:
        where, path = f"datasets.{name}", f"data.validation.{name}"
        if c.get(f"{where}.dataroot_gt") is None:
            c.drop(where, "it names no ground truths, which validation measures with")
            continue
        paired = c.get(f"{where}.dataroot_lq") is not None
        source(c, where, path, paired)
        if paired and c.get("datasets.train.type") == "RealESRGANDataset":
            c.put(f"{path}.degradation", "none")
        c.drop(f"{where}.name", f"the set is called by its key, {name}")
        c.same(f"{where}.type", f"{where}.io_backend", what="the set's type")
    if c.get("val.val_freq") is not None:
        c.put("logger.validate_every", round(c.need("val.val_freq", NUMBER, 1)), "val.val_freq")


# --- optimisation -----------------------------------------------------------------------------------------------------


def optimisation(c: Conversion) -> None:
    """Convert length, optimizers, rates and moving average."""
    path = f"stages.{c.stage}"
    total = c.need("train.total_iter", NUMBER, 1)
    c.put(f"{path}.iterations", round(total), "train.total_iter")
    optimizer(c, "train.optim_g", f"{path}.optim_g")
    if c.stage == "gan":
        optimizer(c, "train.optim_d", f"{path}.optim_d")
    schedule(c, "train.scheduler", f"{path}.schedule")
    c.put(f"{path}.ema_decay", c.get("train.ema_decay", 0), "train.ema_decay")
    if c.get("accum_iter", 1) > 1:
        c.put(f"{path}.accumulate", c.get("accum_iter"))


def optimizer(c: Conversion, key: str, path: str) -> None:
    """Convert an optimizer. Kinds that we have not are named, and Adam stands in their place."""
    name = c.need(f"{key}.type", str, "Adam")
    ours = next((own for foreign, own in OPTIMIZERS.items() if foreign.lower() == name.lower()), None)
    if ours is None:
        c.drop(f"{key}.type", f"{name} is not among our optimizers; adam stands in its place")
    else:
        c.put(f"{path}.type", ours, f"{key}.type")
    c.put(f"{path}.lr", c.need(f"{key}.lr", NUMBER, 1e-4), f"{key}.lr")
    for option in ("betas", "weight_decay", "momentum", "nesterov", "alpha"):
        if c.get(f"{key}.{option}") is not None:
            c.put(f"{path}.{option}", c.get(f"{key}.{option}"), f"{key}.{option}")
    if ours in ("adam", "adamw", "adamw_schedulefree", None) and c.get(f"{key}.betas") is None:
        c.put(f"{path}.betas", [0.9, 0.999])  # PyTorch's, where the file says nothing


def schedule(c: Conversion, key: str, path: str) -> None:
    """Convert how the rate moves; our milestones are counted as BasicSR's are."""
    name, warmup = c.get(f"{key}.type"), c.get("train.warmup_iter", -1)
    made: dict[str, Any]
    keys = [f"{key}.type"]
    rate = c.get("train.optim_g.lr", 1e-4)
    if name in ("MultiStepLR", "MultiStepRestartLR"):
        made = {
            "type": "multistep",
            "milestones": c.need(f"{key}.milestones", list, [1]),
            "gamma": c.get(f"{key}.gamma", 0.1),
        }
        keys += [f"{key}.milestones", f"{key}.gamma"]
        if any(c.get(f"{key}.restarts", [0])):
            made |= {"restarts": c.get(f"{key}.restarts"), "restart_weights": c.get(f"{key}.restart_weights", [1])}
            keys += [f"{key}.restarts", f"{key}.restart_weights"]
        c.same(f"{key}.restarts", f"{key}.restart_weights", what="no restarts")
    elif name in ("CosineAnnealingRestartLR", "TrueCosineAnnealingLR", "CosineAnnealingLR", "cosine"):
        restarts = name == "CosineAnnealingRestartLR"
        made = {"type": "cosine", "floor": c.get(f"{key}.eta_min", 0) / rate}
        if restarts:
            made |= {
                "periods": c.need(f"{key}.periods", list, [1]),
                "restart_weights": c.get(f"{key}.restart_weights", [1]),
            }
            keys += [f"{key}.periods", f"{key}.restart_weights"]
        elif (half := c.get(f"{key}.T_max")) is not None:
            made["periods"] = [half]
            keys.append(f"{key}.T_max")
        c.put(f"{path}.floor", made["floor"], f"{key}.eta_min", why="a share of the base rate")
    else:
        made = {"type": "constant"}
        c.drop(
            key, f"{name or 'it'} is not among our schedules ({', '.join(SCHEDULES.names())}); the rate stays as it is"
        )
        keys = []
    if warmup > 0:
        made["warmup"] = warmup
        c.put(
            f"{path}.warmup",
            warmup,
            "train.warmup_iter",
            why=("after which the released code stays at (w - 1) / w of the rate until a milestone; ours does not"),
        )
    c.same("train.warmup_iter", what="no warm-up")
    c.put(path, made, *keys)


def turns(c: Conversion) -> None:
    """Convert in which iterations the generator is updated."""
    every, start = c.get("train.net_d_iters", 1), c.get("train.net_d_init_iters", 0)
    if (every, start) != (1, 0):
        c.put("stages.gan.turn_g", {"every": every, "start": start}, "train.net_d_iters", "train.net_d_init_iters")
    c.same("train.net_d_iters", "train.net_d_init_iters", what="both networks in every iteration")


# --- losses -----------------------------------------------------------------------------------------------------------


def losses(c: Conversion, relativistic: bool = False) -> None:
    """Convert pixel, perceptual, LDL and adversarial losses, each with the ground truth that it sees."""
    targets = {kind: "usm" if c.get(f"{kind}_gt_usm") else "plain" for kind in ("l1", "percep", "gan")}
    if c.get("gt_usm") and c.get("model_type") == "RealESRNetModel" and at(c.tree, "degradation.type") != "none":
        targets = dict.fromkeys(targets, "usm")
    c.drop("gt_usm", "only RealESRNetModel reads it, and only where it degrades the images itself")
    path = f"stages.{c.stage}.losses"
    needed = ["l1", "percep", "gan"] if c.get("model_type") == "RealESRGANModel" else []
    for kind in needed:
        c.need(f"{kind}_gt_usm", bool, False)
    if c.get("train.pixel_opt"):
        pixel(c, "train.pixel_opt", path, targets["l1"])
    perceptual(c, "train.perceptual_opt", f"{path}.perceptual", targets["percep"])
    if c.get("train.ldl_opt"):
        c.put(
            f"{path}.ldl",
            {"type": "ldl", "weight": c.get("train.ldl_opt.loss_weight", 1), "target": targets["l1"]},
            "train.ldl_opt.loss_weight",
        )
        c.same("train.ldl_opt.type", "train.ldl_opt.reduction", what="a mean absolute difference")
    if c.stage == "gan":
        gan(c, "train.gan_opt", f"{path}.gan", targets["gan"], relativistic)
    for kind, loss in (("l1", "l1"), ("percep", "perceptual"), ("gan", "gan")):
        if at(c.tree, f"{path}.{loss}") is not None:
            c.put(f"{path}.{loss}.target", targets[kind], f"{kind}_gt_usm")
        else:
            c.drop(f"{kind}_gt_usm", "this file has no such loss")


def pixel(c: Conversion, key: str, path: str, target: str) -> None:
    """Convert L1, MSE or Charbonnier."""
    name = c.need(f"{key}.type", str, "L1Loss")
    ours = PIXEL.get(name)
    if ours is None:
        c.drop(key, f"{name} is not among our pixel losses")
        return
    c.put(
        f"{path}.{ours}",
        {"type": ours, "weight": c.get(f"{key}.loss_weight", 1.0), "target": target},
        f"{key}.type",
        f"{key}.loss_weight",
    )
    if ours == "charbonnier":
        c.put(f"{path}.{ours}.eps", c.get(f"{key}.eps", 1e-12), f"{key}.eps")
    if c.get(f"{key}.reduction", "mean") == "mean":
        c.same(f"{key}.reduction", what="the mean")
    else:
        c.put(f"{path}.{ours}.reduction", c.get(f"{key}.reduction"), f"{key}.reduction")


def perceptual(c: Conversion, key: str, path: str, target: str) -> None:
    """Convert features of VGG."""
    if not c.get(key):
        return
    weight, style = c.get(f"{key}.perceptual_weight", 1.0), c.get(f"{key}.style_weight", 0.0)
    if not weight:
        c.drop(key, "its perceptual_weight is 0, and our style part is a share of it")
        return
    made = {"type": "perceptual", "weight": weight, "target": target}
    c.put(path, made, f"{key}.type", f"{key}.perceptual_weight")
    layers = c.need(f"{key}.layer_weights", dict, {})
    if layers == DEFAULT_LAYERS:
        c.same(f"{key}.layer_weights", what=f"{path}.layers")
    else:
        c.put(f"{path}.layers", layers, f"{key}.layer_weights")
    if style:
        c.put(f"{path}.style_weight", style / weight, f"{key}.style_weight", why="a share of the perceptual weight")
    vgg = c.get(f"{key}.vgg_type", "vgg19")
    if vgg in ("vgg16", "vgg19"):
        c.put(f"{path}.network", vgg, f"{key}.vgg_type")
    else:
        c.drop(f"{key}.vgg_type", f"{vgg} is not among ours; vgg19 stands in its place")
    for foreign, own, default in (
        ("criterion", "criterion", "l1"), ("use_input_norm", "input_norm", True), ("range_norm", "range_norm", False),
    ):  # fmt: skip
        c.put(f"{path}.{own}", c.get(f"{key}.{foreign}", default), f"{key}.{foreign}")
    c.same(f"{key}.style_weight", what="no style part")


def gan(c: Conversion, key: str, path: str, target: str, relativistic: bool) -> None:
    """Convert the adversarial loss."""
    kind = c.need(f"{key}.gan_type", str, "vanilla")
    if kind not in GANS:
        c.problems.append(f"{key}.gan_type: found {kind}, expected one of {', '.join(GANS)} (wgan has no bound there)")
    made = {
        "type": "gan",
        "kind": GANS.get(kind, "vanilla"),
        "weight": c.get(f"{key}.loss_weight", 1.0),
        "target": target,
    }
    if relativistic:  # ESRGANModel
        made |= {"kind": "ragan", "mean_over": "all", "detach_means": True}
    c.put(path, made, f"{key}.type", f"{key}.gan_type", f"{key}.loss_weight")
    for foreign, own, usual in (("real_label_val", "real_label", 1), ("fake_label_val", "fake_label", 0)):
        if c.get(f"{key}.{foreign}", usual) != usual:
            c.put(f"{path}.{own}", c.get(f"{key}.{foreign}"), f"{key}.{foreign}")
        c.same(f"{key}.{foreign}", what=str(usual))


# --- the rest ---------------------------------------------------------------------------------------------------------


def weights(c: Conversion) -> None:
    """Convert what the stage starts from."""
    path = f"stages.{c.stage}.init_from"
    for letter, own in (("g", "checkpoint"), ("d", "network_d")):
        key = f"path.pretrain_network_{letter}"
        if (file := c.get(key)) is not None:
            if letter == "d" and c.get("path.pretrain_network_g") is None:
                c.drop(key, "a discriminator's weights are loaded beside a generator's")
            elif own == "network_d" and c.stage != "gan":
                c.drop(key, "this stage has no discriminator")
            else:
                c.put(f"{path}.{own}", file, key)
                if letter == "g":
                    which = c.get("path.param_key_g", "params_ema")
                    c.put(f"{path}.weights", "raw" if which == "params" else "ema", "path.param_key_g")
        c.same(key, what="fresh weights")
        c.drop(f"path.param_key_{letter}", "weights are found under any of the usual keys")
        c.drop(f"path.strict_load_{letter}", "loading names what does not fit, and refuses where nothing does")


def logging(c: Conversion) -> None:
    """Convert when to print and save."""
    for foreign, own in (("print_freq", "print_every"), ("save_checkpoint_freq", "save_every")):
        if c.get(f"logger.{foreign}") is not None:
            c.put(f"logger.{own}", round(c.need(f"logger.{foreign}", NUMBER, 1)), f"logger.{foreign}")
    if c.get("logger.use_tb_logger") is not None:
        c.put("logger.tensorboard", c.get("logger.use_tb_logger"), "logger.use_tb_logger")
