"""RealSR's option files (YAML): the old keys of ESRGAN's trainer, with recorded noise."""

from typing import Any

from models.importing.conversion import NUMBER, Conversion

PIXEL = {"l1": "l1", "l2": "l2"}
DISCRIMINATORS: dict[str, dict[str, Any]] = {
    "discriminator_vgg_128": {"type": "vgg_disc", "input_size": 128},
    "discriminator_vgg_256": {"type": "vgg_disc", "input_size": 256},
    "NLayerDiscriminator": {"type": "patchgan"},
}

NOT_CARRIED = {
    "gpu_ids": "torchrun starts one process a GPU, CUDA_VISIBLE_DEVICES chooses them",
    "distortion": "the released code does not use it",
    "datasets.train.name": "sources are named by their key, `hr`",
    "datasets.train.use_shuffle": "training samples are always drawn in random order",
    "datasets.train.color": "images are RGB",
    "datasets.train.mode": "the source's type says it",
    "path.resume_state": "a run goes on from its newest checkpoint by itself, or from one named with --resume",
    "path.root": "runs are in runs/NAME",
    "path.strict_load": "loading names what does not fit, and refuses where nothing does",
    "network_G.in_nc": "it is 3",
    "network_G.out_nc": "it is 3",
    "train.restarts": "there are none",
    "train.restart_weights": "there are none",
}


def convert(c: Conversion) -> None:
    """Fill the conversion of a RealSR file."""
    model = c.need("model", str, "srgan")
    if model not in ("sr", "srgan"):
        c.problems.append(f"model: found {model}, expected sr or srgan")
    c.stage = "gan" if model == "srgan" else "psnr"
    c.put("name", c.need("name", str, "imported"), "name")
    c.put("scale", c.need("scale", int, 4), "scale")
    if c.get("train.manual_seed") is not None:
        c.put("seed", c.get("train.manual_seed"), "train.manual_seed")
    _network(c)
    c.put(f"stages.{c.stage}.type", c.stage)
    c.same("model", what=f"stage `{c.stage}`")
    _data(c)
    _optimisation(c)
    _losses(c)
    _logging(c)
    c.drop_all(NOT_CARRIED)


def _network(c: Conversion) -> None:
    if (name := c.need("network_G.which_model_G", str, "RRDBNet")) != "RRDBNet":
        c.problems.append(f"network_G.which_model_G: found {name}, expected RRDBNet")
    c.put("network_g.type", "rrdbnet", "network_G.which_model_G")
    keys = {"in_nc": "num_in_ch", "out_nc": "num_out_ch", "nf": "num_feat", "nb": "num_block", "gc": "num_grow_ch"}
    for foreign, own in keys.items():
        if (value := c.get(f"network_G.{foreign}")) is not None:
            c.put(f"network_g.{own}", value, f"network_G.{foreign}")
    if c.stage != "gan":
        return
    name, path = c.need("network_D.which_model_D", str, "discriminator_vgg_128"), "stages.gan.network_d"
    if name not in DISCRIMINATORS:
        c.problems.append(f"network_D.which_model_D: found {name}, expected one of {', '.join(DISCRIMINATORS)}")
        return
    c.put(path, DISCRIMINATORS[name], "network_D.which_model_D")
    for foreign, own in {"in_nc": "num_in_ch", "nf": "num_feat", "nlayer": "n_layers"}.items():
        if (value := c.get(f"network_D.{foreign}")) is not None:
            c.put(f"{path}.{own}", value, f"network_D.{foreign}")


def _data(c: Conversion) -> None:
    train = "datasets.train"
    gt, lq, noise = f"{train}.dataroot_GT", f"{train}.dataroot_LQ", f"{train}.noise_data"
    given = c.get(lq) is not None
    steps: dict[str, Any] = {}
    if "noise" in str(c.get(f"{train}.aug", "")):
        steps["noise"] = {"type": "real_noise", "path": c.need(noise, str, "noise").rstrip("/"), "augment": False}
    if given:
        c.put("data.train.hr", {"type": "paired", "gt_root": c.need(gt, str, "."), "lq_root": c.get(lq)}, gt, lq)
    else:
        c.put("data.train.hr", {"type": "folder", "root": c.need(gt, str, ".")}, gt)
        c.same(lq, what="low-quality images are made by bicubic resizing")
    start = {"start": "lq"} if given else {}
    c.put("degradation", {"type": "realsr", **start, "steps": steps} if steps or not given else {"type": "none"})
    if steps:
        c.put("degradation.steps.noise.type", "real_noise", f"{train}.aug")
        c.put("degradation.steps.noise.path", steps["noise"]["path"], noise)
    c.put("data.crop_size", c.need(f"{train}.GT_size", int, 128), f"{train}.GT_size")
    c.put("data.batch_size", c.need(f"{train}.batch_size", int, 16), f"{train}.batch_size")
    c.put("data.workers", c.get(f"{train}.n_workers", 6), f"{train}.n_workers")
    mirrors, turns = c.get(f"{train}.use_flip", False), c.get(f"{train}.use_rot", False)
    kinds = {(True, True): "flips_and_turns", (True, False): "flip", (False, True): "turns", (False, False): "none"}
    c.put("data.augment", kinds[bool(mirrors), bool(turns)], f"{train}.use_flip", f"{train}.use_rot")
    for name in [k for k in c.get("datasets", {}) if k != "train"]:
        roots = {"gt_root": f"datasets.{name}.dataroot_GT", "lq_root": f"datasets.{name}.dataroot_LQ"}
        if all(c.get(key) is not None for key in roots.values()):
            made = {"type": "paired", **{own: c.get(key) for own, key in roots.items()}, "degradation": "none"}
            c.put(f"data.validation.{name}", made, *roots.values())
        c.drop(f"datasets.{name}", "validation needs a pair of folders, and no more")


def _optimisation(c: Conversion) -> None:
    path = f"stages.{c.stage}"
    c.put(f"{path}.iterations", c.need("train.niter", int, 1), "train.niter")
    if (file := c.get("path.pretrain_model_G")) is not None:
        c.put(f"{path}.init_from.checkpoint", file, "path.pretrain_model_G")
    c.same("path.pretrain_model_G", "path.pretrain_model_D", what="fresh weights")
    for letter in "GD" if c.stage == "gan" else "G":
        own = f"{path}.optim_{letter.lower()}"
        first, second = (f"train.beta{n}_{letter}" for n in (1, 2))
        c.put(f"{own}.type", "adam")
        c.put(f"{own}.lr", c.need(f"train.lr_{letter}", NUMBER, 1e-4), f"train.lr_{letter}")
        c.put(f"{own}.betas", [c.get(first, 0.9), c.get(second, 0.999)], first, second)
        decay = f"train.weight_decay_{letter}"
        c.put(f"{own}.weight_decay", c.get(decay, 0), decay)
    if c.need("train.lr_scheme", str, "MultiStepLR") == "MultiStepLR":
        steps = c.need("train.lr_steps", list, [2])
        schedule = {
            "type": "multistep",
            "milestones": [m - 1 for m in steps if m > 1],
            "gamma": c.get("train.lr_gamma", 0.5),
        }
        c.put(f"{path}.schedule", schedule, "train.lr_scheme", "train.lr_gamma")
        why = "one less, since a milestone there counts in its own iteration"
        c.put(f"{path}.schedule.milestones", schedule["milestones"], "train.lr_steps", why=why)
    else:
        c.drop("train.lr_scheme", "of this trainer's schedules only MultiStepLR is built")
    if c.get("train.warmup_iter", -1) > 0:
        c.put(f"{path}.schedule.warmup", c.get("train.warmup_iter"), "train.warmup_iter")
    c.same("train.warmup_iter", what="no warm-up")
    c.put(f"{path}.ema_decay", 0)
    every, start = c.get("train.D_update_ratio", 1), c.get("train.D_init_iters", 0)
    if (every, start) != (1, 0):
        c.put("stages.gan.turn_g", {"every": every, "start": start}, "train.D_update_ratio", "train.D_init_iters")
    c.same("train.D_update_ratio", "train.D_init_iters", what="both networks in every iteration")


def _losses(c: Conversion) -> None:
    path = f"stages.{c.stage}.losses"
    if c.get("train.pixel_weight", 0):
        name = PIXEL.get(c.need("train.pixel_criterion", str, "l1"), "l1")
        made = {"type": name, "weight": c.get("train.pixel_weight")}
        c.put(f"{path}.{name}", made, "train.pixel_criterion", "train.pixel_weight")
    c.drop_all({f"train.pixel_{key}": "its weight is 0" for key in ("criterion", "weight")})
    if c.stage != "gan":
        return
    if c.get("train.feature_weight", 0):
        criterion = c.get("train.feature_criterion", "l1")
        made = {"type": "perceptual", "weight": c.get("train.feature_weight"), "layers": {"conv5_4": 1}}
        made["criterion"] = criterion
        c.put(f"{path}.perceptual", made, "train.feature_criterion", "train.feature_weight")
    c.drop_all({f"train.feature_{key}": "its weight is 0" for key in ("criterion", "weight")})
    kinds: dict[str, dict[str, Any]] = {
        "gan": {"kind": "vanilla"},
        "ragan": {"kind": "ragan", "mean_over": "all", "detach_means": False},
    }
    if (kind := c.need("train.gan_type", str, "ragan")) not in kinds:
        c.problems.append(f"train.gan_type: found {kind}, but this trainer knows gan and ragan")
    made = {"type": "gan", **kinds.get(kind, {}), "weight": c.need("train.gan_weight", NUMBER, 1.0)}
    c.put(f"{path}.gan", made, "train.gan_type", "train.gan_weight")


def _logging(c: Conversion) -> None:
    for key, own in (
        ("logger.print_freq", "print_every"),
        ("logger.save_checkpoint_freq", "save_every"),
        ("train.val_freq", "validate_every"),
    ):
        if c.get(key) is not None:
            c.put(f"logger.{own}", round(c.need(key, NUMBER, 1)), key)
    if c.get("use_tb_logger") is not None:
        c.put("logger.tensorboard", c.get("use_tb_logger"), "use_tb_logger")
