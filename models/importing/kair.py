"""KAIR's option files (JSON with // comments): BSRNet, BSRGAN, USRNet and others of their build."""

from typing import Any

from losses.perceptual import DEFAULT_LAYERS, convolutions
from models.importing.conversion import NUMBER, Conversion

STAGES = {"plain": "psnr", "plain2": "psnr", "plain4": "psnr", "gan": "gan"}
PIXEL = {"l1": "l1", "l2": "l2", "l2sum": "l2", "charbonnier": "charbonnier"}
GANS = {"gan": "vanilla", "ragan": "ragan", "lsgan": "lsgan", "softplusgan": "softplus"}
DISCRIMINATORS: dict[str, dict[str, Any]] = {
    "discriminator_unet": {"type": "unet_sn"},
    "discriminator_patchgan": {"type": "patchgan", "padding": 2, "bias": True},
    **{
        f"discriminator_vgg_{side}": {
            "type": "vgg_disc",
            "input_size": side,
            "bias": True,
            "first_activation": False,
            "momentum": 0.9,
            "eps": 1e-4,
        }
        for side in (96, 128, 192)
    },
}

NOT_CARRIED = {
    "gpu_ids": "torchrun starts one process a GPU, CUDA_VISIBLE_DEVICES chooses them",
    "dist": "torchrun starts the processes",
    "dist_backend": "torchrun starts the processes",
    "path.root": "runs are in runs/NAME",
    "path.pretrained_netG": "KAIR ignores it: it takes the newest file of its models folder (here: init_from)",
    "path.pretrained_netE": "KAIR ignores it: it takes the newest file of its models folder",
    "path.pretrained_netD": "KAIR ignores it: it takes the newest file of its models folder",
    "datasets.train.name": "sources are named by their key, `hr`",
    "datasets.train.dataroot_L": "this data set makes its own low-quality images",
    "sigma": "this data set adds no noise",
    "sigma_test": "this data set adds no noise",
    "datasets.train.dataloader_shuffle": "training samples are always drawn in random order",
    "netG.init_bn_type": "weights of normalisation become 1",
    "netD.init_bn_type": "weights of normalisation become 1",
    "netG.ng": "this network does not use it",
    "netG.reduction": "this network does not use it",
    "netG.gc": "this network does not use it",
    "netG.act_mode": "this network does not use it",
    "netG.upsample_mode": "this network does not use it",
    "netG.downsample_mode": "this network does not use it",
    "netD.norm_type": "this network has one form",
    "netD.n_layers": "this network has one form",
    "netD.act_mode": "this network has one form",
    "netD.base_nc": "this network has one width",
    "train.G_optimizer_clipgrad": "above 0 it ends KAIR with an error, so no published run has it",
    "train.D_optimizer_clipgrad": "above 0 it ends KAIR with an error, so no published run has it",
    "train.G_regularizer_orthstep": "the shrinking of singular values is not built",
    "train.D_regularizer_orthstep": "the shrinking of singular values is not built",
    "train.G_regularizer_clipstep": "the shrinking of large weights is not built",
    "train.D_regularizer_clipstep": "the shrinking of large weights is not built",
    "train.G_optimizer_reuse": "a run goes on with its optimizers always, a new stage starts them anew",
    "train.D_optimizer_reuse": "a run goes on with its optimizers always, a new stage starts them anew",
    "train.G_param_strict": "loading names what does not fit",
    "train.D_param_strict": "loading names what does not fit",
    "train.E_param_strict": "loading names what does not fit",
    "train.E_decay": "it is 0, no average",
    "find_unused_parameters": "a stage knows whether it needs that",
    "use_static_graph": "a stage knows whether it needs that",
    "merge_bn": "batch norms are not merged",
    "merge_bn_startpoint": "batch norms are not merged",
}


def convert(c: Conversion) -> None:
    """Fill the conversion of a KAIR file."""
    model = c.need("model", str, "plain")
    if model not in STAGES:
        c.problems.append(f"model: found {model}, which has no counterpart here; known: {', '.join(STAGES)}")
    c.stage = STAGES.get(model, "psnr")
    kind = c.need("datasets.train.dataset_type", str, "blindsr")
    c.put("name", c.need("task", str, "imported"), "task")
    scale = c.need("scale", int, 4)
    c.put("scale", c.get("datasets.train.sf_validation", scale), "datasets.train.sf_validation", "scale")
    c.same("scale", what="training draws its scales")
    if c.get("train.manual_seed") is not None:
        c.put("seed", c.get("train.manual_seed"), "train.manual_seed")
    _generator(c)
    c.put(f"stages.{c.stage}.type", c.stage)
    c.same("model", what=f"stage `{c.stage}`")
    c.same("n_channels", "datasets.train.n_channels", what="the networks say it")
    _degradation(c, kind)
    _data(c, kind)
    _optimisation(c)
    _losses(c)
    if c.stage == "gan":
        _discriminator(c)
    _validation(c, kind)
    for foreign, own in (("print", "print_every"), ("save", "save_every"), ("test", "validate_every")):
        if (every := c.get(f"train.checkpoint_{foreign}")) is not None:
            c.put(f"logger.{own}", every, f"train.checkpoint_{foreign}")
    c.drop_all(NOT_CARRIED)


# --- networks ---------------------------------------------------------------------------------------------------------


def _generator(c: Conversion) -> None:
    name = c.need("netG.net_type", str, "rrdbnet")
    scale = c.get("scale", 4)
    keys = {"in_nc": "num_in_ch", "out_nc": "num_out_ch", "nf": "num_feat", "nb": "num_block", "gc": "num_grow_ch"}
    if name in ("rrdbnet", "rrdb"):
        c.put("network_g.type", "rrdbnet", "netG.net_type")
        if scale != 4:
            c.put("network_g.upsampling", "steps")
    elif name.startswith("msrresnet"):
        c.put("network_g.type", "msrresnet", "netG.net_type")
        keys |= {"nc": "num_feat"}
        keys.pop("gc")
    elif name == "usrnet":
        c.put("network_g.type", "usrnet", "netG.net_type")
        names = ("n_iter", "h_nc", "in_nc", "out_nc", "nc", "nb", "act_mode", "downsample_mode", "upsample_mode")
        keys = {key: key for key in names}
    else:
        c.no_network("netG.net_type", name, ("rrdbnet", "msrresnet", "usrnet"))
        return
    for foreign, own in keys.items():
        if (value := c.get(f"netG.{foreign}")) is not None:
            c.put(f"network_g.{own}", value, f"netG.{foreign}")
    c.same("netG.scale", what="the scale is said once")
    _init(c, "netG", "init_g")


def _init(c: Conversion, key: str, path: str) -> None:
    kind = c.get(f"{key}.init_type", "default")
    if kind in ("default", "none"):
        c.same(f"{key}.init_type", f"{key}.init_gain", what="as constructed")
        return
    c.put(path, {"type": kind, "gain": c.get(f"{key}.init_gain", 1.0)}, f"{key}.init_type", f"{key}.init_gain")


def _discriminator(c: Conversion) -> None:
    name, path = c.get("netD.net_type", "discriminator_patchgan"), "stages.gan.network_d"
    if name not in list(DISCRIMINATORS):  # which takes what is no text, too
        c.problems.append(f"netD.net_type: found {name}, expected one of {', '.join(DISCRIMINATORS)}")
        return
    c.put(path, DISCRIMINATORS[name], "netD.net_type")
    if (channels := c.get("netD.in_nc")) is not None:
        c.put(f"{path}.num_in_ch", channels, "netD.in_nc")
    if "vgg" not in name and (width := c.get("netD.base_nc")) is not None:
        c.put(f"{path}.num_feat", width, "netD.base_nc")
    if name.endswith("patchgan"):
        c.put(f"{path}.n_layers", c.get("netD.n_layers", 3), "netD.n_layers")
        c.put(f"{path}.norm", c.get("netD.norm_type", "spectral"), "netD.norm_type")
        c.put(f"{path}.max_feat", 512)
    _init(c, "netD", "stages.gan.init_d")


# --- degradation and data ---------------------------------------------------------------------------------------------


def _degradation(c: Conversion, kind: str) -> None:
    train = "datasets.train"
    if kind == "usrnet":
        scales = c.get(f"{train}.scales", [1, 2, 3, 4])
        c.put(
            "degradation",
            {"type": "classical", "scales": scales, "steps": {"truncate": {"prob": 1}}},
            f"{train}.dataset_type",
        )
        c.put("degradation.scales", scales, f"{train}.scales")
        return
    if kind == "sr":
        c.put("degradation", {"type": "none" if c.get(f"{train}.dataroot_L") else "bicubic"}, f"{train}.dataset_type")
        return
    if kind != "blindsr":
        c.problems.append(
            f"{train}.dataset_type: found {kind}, which has no counterpart here; known: blindsr, sr, usrnet"
        )
        return
    c.same(f"{train}.dataset_type", what="degraded photographs")
    name = c.need(f"{train}.degradation_type", str, "bsrgan")
    c.put("degradation.type", name, f"{train}.degradation_type")
    if name == "bsrgan_plus":
        # 0 is taken for missing there, and missing is 0.1.
        c.put("degradation.shuffle_prob", c.get(f"{train}.shuffle_prob") or 0.1, f"{train}.shuffle_prob")
        c.put("degradation.sharpen_gt", bool(c.get(f"{train}.use_sharp", False)), f"{train}.use_sharp")
    c.drop_all({f"{train}.{key}": "only bsrgan_plus uses it" for key in ("shuffle_prob", "use_sharp")})


def _data(c: Conversion, kind: str) -> None:
    train = "datasets.train"
    _source(c, train, "data.train.hr", c.need(f"{train}.dataroot_H", (str, list), "."), kind)
    c.put("data.crop_size", c.need(f"{train}.H_size", int, 320), f"{train}.H_size")
    if kind == "blindsr":
        lq, scale = c.need(f"{train}.lq_patchsize", int, 64), c.get("scale", 4)
        c.put("data.gt_size", lq * scale, f"{train}.lq_patchsize", why=f"{lq} x scale {scale}")
    c.put("data.batch_size", c.need(f"{train}.dataloader_batch_size", int, 4), f"{train}.dataloader_batch_size")
    c.put("data.workers", c.need(f"{train}.dataloader_num_workers", int, 8), f"{train}.dataloader_num_workers")
    c.put(
        "data.augment",
        "flips_and_turns",
        f"{train}.use_flip",
        f"{train}.use_rot",
        why="KAIR always draws one of the eight",
    )


def _source(c: Conversion, where: str, path: str, root: str | list[str], kind: str) -> None:
    """Convert a folder; of the data set `sr` with low-quality partners where it names them."""
    if kind == "sr" and (partners := c.get(f"{where}.dataroot_L")):
        made = {"type": "paired", "gt_root": root, "lq_root": partners}
        c.put(path, made, f"{where}.dataroot_H", f"{where}.dataroot_L")
    else:
        c.put(path, {"type": "folder", "root": root}, f"{where}.dataroot_H")


def _validation(c: Conversion, kind: str) -> None:
    if (root := c.get("datasets.test.dataroot_H")) is not None:
        path = "data.validation.hr"
        _source(c, "datasets.test", path, root, kind)
        if kind == "usrnet":  # the first kernel of the published table, without noise
            blur = {"type": "kernel_bank", "path": "usrnet_8", "indices": [0]}
            steps = {"blur": blur, "truncate": {"prob": 1}, "noise": None}
            c.put(f"{path}.degradation", {"type": "classical", "steps": steps})
        elif kind == "sr":
            c.put(f"{path}.degradation", "none" if c.get("datasets.test.dataroot_L") else "bicubic")
    c.drop("datasets.test", "validation degrades whole images as training does, with draws that stay the same")


# --- optimisation -----------------------------------------------------------------------------------------------------


def _optimisation(c: Conversion) -> None:
    path = f"stages.{c.stage}"
    last = max([1, *c.get("train.G_scheduler_milestones", [1])]) - c.before
    if c.told.iterations is None and last < 1:
        text = "KAIR trains until it is stopped, and its second stage goes on counting; say how long each stage is"
        c.problems.append(f"train: {text} with --iterations, such as --iterations 400000 1000000")
    c.put(f"{path}.iterations", c.told.iterations or max(last, 1))
    for letter in "GD" if c.stage == "gan" else "G":
        own = f"{path}.optim_{letter.lower()}"
        name = c.get(f"train.{letter}_optimizer_type", "adam")
        if name != "adam":
            c.problems.append(f"train.{letter}_optimizer_type: found {name}, but KAIR knows only adam")
        c.put(f"{own}.type", "adam", f"train.{letter}_optimizer_type")
        c.put(f"{own}.lr", c.need(f"train.{letter}_optimizer_lr", NUMBER, 1e-4), f"train.{letter}_optimizer_lr")
        betas, decay = (f"train.{letter}_optimizer_{key}" for key in ("betas", "wd"))
        if c.stage == "gan":
            c.put(f"{own}.betas", [0.9, 0.999])
            c.drop(betas, "KAIR's adversarial model takes PyTorch's betas whatever the file says")
            c.drop(decay, "KAIR's adversarial model takes no weight decay whatever the file says")
        else:
            c.put(f"{own}.betas", c.get(betas, [0.9, 0.999]), betas)
            c.put(f"{own}.weight_decay", c.get(decay, 0), decay)
    _schedule(c, path)
    average = c.get("train.E_decay", 0)
    c.put(f"{path}.ema_decay", average, "train.E_decay")


def _schedule(c: Conversion, path: str) -> None:
    made = {}
    for letter in "GD" if c.stage == "gan" else "G":
        key = f"train.{letter}_scheduler"
        if c.get(f"{key}_type", "MultiStepLR") != "MultiStepLR":
            c.problems.append(f"{key}_type: found {c.get(f'{key}_type')}, expected MultiStepLR")
        found = c.need(f"{key}_milestones", list, [1])
        later = [m - 1 - c.before for m in found if m - 1 > c.before]
        made[letter] = {"type": "multistep", "milestones": later, "gamma": c.need(f"{key}_gamma", NUMBER, 0.5)}
        own = f"{path}.schedule" if letter == "G" or made["G"] == made["D"] else f"{path}.schedule_d"
        why = "one less, since a milestone there counts in its own iteration"
        why += f", and {c.before} of the stage before, whose count goes on there" if c.before else ""
        if not later:
            made[letter] = {"type": "constant"}
        c.put(own, made[letter], f"{key}_type", f"{key}_gamma")
        c.put(f"{own}.milestones" if later else f"{own}.type", later or "constant", f"{key}_milestones", why=why)
        c.same(f"{key}_restart_weights", f"{key}_periods", what="no restarts")


def _losses(c: Conversion) -> None:
    path = f"stages.{c.stage}.losses"
    name = c.need("train.G_lossfn_type", str, "l1")
    if (ours := PIXEL.get(name)) is None:
        reason = "KAIR's `ssim` lowers the similarity" if name == "ssim" else f"{name} is not among our pixel losses"
        c.drop("train.G_lossfn_type", reason)
    else:
        made: dict[str, Any] = {"type": ours, "weight": c.get("train.G_lossfn_weight", 1.0)}
        made |= {"reduction": "sum"} if name == "l2sum" else {}
        made |= {"eps": c.get("train.G_charbonnier_eps", 1e-9)} if ours == "charbonnier" else {}
        c.put(f"{path}.{ours}", made, "train.G_lossfn_type", "train.G_lossfn_weight")
        c.drop("train.G_charbonnier_eps", "this file has another loss") if ours != "charbonnier" else None
    if c.stage != "gan":
        return
    _perceptual(c, path)
    kind = c.need("train.gan_type", str, "gan")
    if kind not in GANS:
        c.problems.append(f"train.gan_type: found {kind}, expected one of {', '.join(GANS)} (wgan has no bound there)")
    made = {"type": "gan", "kind": GANS.get(kind, "vanilla"), "weight": c.get("train.D_lossfn_weight", 1.0)}
    if kind == "ragan":
        made |= {"mean_over": "batch", "detach_means": True}
    c.put(f"{path}.gan", made, "train.gan_type", "train.D_lossfn_weight")
    every, start = c.get("train.D_update_ratio", 1), c.get("train.D_init_iters", 0)
    if (every, start) != (1, 0):
        c.put("stages.gan.turn_g", {"every": every, "start": start}, "train.D_update_ratio", "train.D_init_iters")
    c.same("train.D_update_ratio", "train.D_init_iters", what="both networks in every iteration")


def _perceptual(c: Conversion, path: str) -> None:
    if not c.get("train.F_lossfn_weight", 1.0):
        c.drop_all(
            {f"train.{k}": "the perceptual weight is 0" for k in dict(c.foreign.get("train", {})) if k[:2] == "F_"}
        )
        return
    numbers = c.get("train.F_feature_layer")
    if numbers is None or isinstance(numbers, int):
        numbers, shares = [34 if numbers is None else numbers], [1.0]
    else:
        numbers, shares = c.need("train.F_feature_layer", list, [34]), c.need("train.F_weights", list, [1.0])
    names = {number: name for name, number in convolutions("vgg19").items()}
    if len(numbers) != len(shares):
        c.contradiction(f"train.F_feature_layer names {len(numbers)} layers, train.F_weights has {len(shares)}")
        return
    if unknown := [n for n in numbers if n not in names]:
        c.problems.append(f"train.F_feature_layer: found {unknown}, expected convolutions: {sorted(names)}")
        return
    layers = {names[number]: share for number, share in zip(numbers, shares, strict=True)}
    made = {"type": "perceptual", "weight": c.get("train.F_lossfn_weight", 1.0), "layers": layers}
    if layers == DEFAULT_LAYERS:
        made.pop("layers")
        c.same("train.F_feature_layer", "train.F_weights", what="losses.perceptual.layers")
    c.put(f"{path}.perceptual", made, "train.F_lossfn_weight")
    if layers != DEFAULT_LAYERS:
        c.put(f"{path}.perceptual.layers", layers, "train.F_feature_layer", "train.F_weights")
    for key, own in (
        ("F_lossfn_type", "criterion"),
        ("F_use_input_norm", "input_norm"),
        ("F_use_range_norm", "range_norm"),
    ):
        if (value := c.get(f"train.{key}")) is not None:
            c.put(f"{path}.perceptual.{own}", value, f"train.{key}")
