"""Command lines of DASR and CDSR, which have no option files: `--as dasr -- --scale 2 --blur_type iso_gaussian …`."""

from collections.abc import Mapping, Sequence
from typing import Any

from models.importing.conversion import Conversion, ForeignFileError

DASR: dict[str, Any] = {
    "seed": 1,
    "dir_data": "datasets",
    "data_train": "DF2K",
    "data_range": "1-3450/801-810",
    "scale": 4,
    "patch_size": 48,
    "rgb_range": 255,
    "n_colors": 3,
    "no_augment": False,
    "blur_kernel": 21,
    "blur_type": "iso_gaussian",
    "noise": 0.0,
    "sig_min": 0.2,
    "sig_max": 4.0,
    "lambda_min": 0.2,
    "lambda_max": 4.0,
    "model": "blindsr",
    "test_every": 1000,
    "epochs_encoder": 100,
    "epochs_sr": 500,
    "batch_size": 32,
    "lr_encoder": 1e-3,
    "lr_sr": 1e-4,
    "lr_decay_encoder": 60,
    "lr_decay_sr": 125,
    "gamma_encoder": 0.1,
    "gamma_sr": 0.5,
    "optimizer": "ADAM",
    "momentum": 0.9,
    "beta1": 0.9,
    "beta2": 0.999,
    "weight_decay": 0.0,
    "loss": "1*L1",
    "print_every": 200,
    "n_threads": 4,
    "save": "blindsr",
    "mode": "bicubic",
}
CDSR: dict[str, Any] = {
    **{key: value for key, value in DASR.items() if key != "mode"},
    "data_train": "DF2K_lmdb",
    "model": "CDSR",
    "batch_size": 64,
    "sample_mode": "bicubic",
    "sv_mode": 0,
    "c_weight": 1.0,
    "freeze_epoch": 1000,
}

NOT_CARRIED = {
    "n_GPUs": "torchrun starts one process a GPU",
    "cpu": "train.py --device chooses",
    "resume": "a run goes on from its newest checkpoint by itself",
    "start_epoch": "a checkpoint knows where it was",
    "pre_train": "`init_from.checkpoint` of a stage says it",
    "load": "`init_from.checkpoint` of a stage says it",
    "test_only": "test.py tests",
    "data_test": "test.py tests; `data.validation` validates",
    "ext": "images are read as they are",
    "save_models": "checkpoints are kept by `logger.keep_last` and `keep_best`",
    "save_results": "`logger.images` says how many validation images are kept",
    "precision": "`precision: auto` is bf16 on GPUs that have it",
    "chop": "test.py --tile tiles",
    "self_ensemble": "test.py --self-ensemble",
    "mode": "DASR does not use it: it always resizes by bicubic",
    "theta": "it is for tests",
    "lambda_1": "it is for tests",
    "lambda_2": "it is for tests",
    "sig": "it is for tests",
    "model": "network_g says it",
    "decay_type": "both phases halve or divide by steps",
    "epsilon": "it is PyTorch's",
    "rgb_range": "images are in [0, 1] here; weights of losses say the difference",
    "n_colors": "the network has three channels",
    "optimizer": "adam",
    "momentum": "only SGD uses it",
    "test_every": "only the number of iterations in an epoch depends on it",
}


def read(arguments: Sequence[str], which: str) -> dict[str, Any]:
    """Read the options of a command line, typed as the released code's. Raises ForeignFileError."""
    known, found, problems = (DASR if which == "dasr" else CDSR), {}, []
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            problems.append(f"found {word!r}, expected --option value")
            continue
        key = word.removeprefix("--")
        if key in found:
            problems.append(f"--{key} is given twice")
        bare = not words or (words[0].startswith("--") and not words[0][2:3].isdigit())
        found[key] = _typed(words.pop(0) if not bare else "True", known.get(key), key, problems)
    if problems:
        raise ForeignFileError("the command line", problems)
    return found


def _typed(text: str, like: Any, key: str, problems: list[str]) -> Any:  # noqa: ANN401
    if isinstance(like, bool):
        return text == "True"
    if isinstance(like, (int, float)):
        try:
            return int(text) if isinstance(like, int) else float(text)
        except ValueError:
            problems.append(f"--{key}: found {text!r}, expected a number")
    return text


def convert(c: Conversion, which: str) -> None:
    """Fill the conversion of a command line of `dasr` or `cdsr`."""
    a = {**(DASR if which == "dasr" else CDSR), **c.foreign}
    scale = a["scale"]
    c.put("name", c.get("save", f"{which}_x{scale}"), "save")
    c.put("seed", a["seed"], "seed")
    c.put("scale", scale, "scale")
    c.put("network_g.type", which)
    if a["optimizer"] != "ADAM":
        c.problems.append(f"optimizer: found {a['optimizer']}; only ADAM was ever used with {which}")
    _degradation(c, a, which)
    root = f"{a['dir_data']}/{a['data_train']}" + ("/HR" if which == "dasr" else "")
    c.put("data.train.hr", {"type": "folder", "root": root}, "dir_data", "data_train")
    c.put("data.crop_size", a["patch_size"] * scale, "patch_size", why="times the scale")
    c.put("data.batch_size", a["batch_size"], "batch_size")
    c.put("data.workers", a["n_threads"], "n_threads")
    c.put("data.augment", "none" if a["no_augment"] else "flips_and_turns", "no_augment")
    epoch = _stages(c, a)
    c.put("logger.print_every", a["print_every"], "print_every")
    c.put("logger.validate_every", 10 * epoch)
    c.put("logger.save_every", 10 * epoch)
    c.drop_all(NOT_CARRIED)


def _degradation(c: Conversion, a: Mapping[str, Any], which: str) -> None:
    blur: dict[str, Any] = {"size": a["blur_kernel"]}
    isotropic = a["blur_type"] == "iso_gaussian"
    if a["blur_type"] not in ("iso_gaussian", "aniso_gaussian"):
        c.problems.append(f"blur_type: found {a['blur_type']!r}, expected iso_gaussian or aniso_gaussian")
    ends = ("sig_min", "sig_max") if which == "cdsr" or isotropic else ("lambda_min", "lambda_max")
    span = [a[end] for end in ends]
    if which == "cdsr":
        blur |= {"isotropic_prob": int(isotropic), "align": "upper_left", "window": "symmetric", "border": "replicate"}
        blur |= (
            {"sigma_range": span}
            if isotropic
            else {"sigma_range": None, "variance_range": span, "second": "up_to_first"}
        )
        downsample = {"type": "every_nth"}  # what its `bicubic` is
        if a["sample_mode"] != "bicubic":
            c.problems.append("sample_mode: CDSR's s-fold does not work on its own images; expected bicubic")
        if a["sv_mode"]:
            c.problems.append("sv_mode: CDSR cannot train with it; expected 0 (here: degradation.steps.blur.tile)")
        c.same("sample_mode", "sv_mode", what="every s-th pixel, one kernel for the image")
    else:
        blur |= {"isotropic_prob": int(isotropic), "sigma_range": span}
        downsample = {"border": "replicate"}
    c.put("degradation", {"type": "gaussian", "steps": {"blur": blur, "downsample": downsample}}, "blur_type")
    c.put("degradation.steps.blur.size", a["blur_kernel"], "blur_kernel")
    c.put(f"degradation.steps.blur.{'sigma' if 'variance_range' not in blur else 'variance'}_range", span, *ends)
    noise: dict[str, Any] = {"level_range": [0, a["noise"]]}
    if which == "cdsr" and a["noise"]:
        noise["clean_prob"] = 0.2
    if a["noise"]:
        c.put("degradation.steps.noise", noise, "noise")
    c.same("noise", what="no noise")
    other = {"sig_min", "sig_max", "lambda_min", "lambda_max"} - set(ends)
    c.drop_all(dict.fromkeys(sorted(other), f"it is not used with {a['blur_type']}"))


def _stages(c: Conversion, a: Mapping[str, Any]) -> int:
    """Convert both phases to iterations; return those of an epoch."""
    first, _, last = str(a["data_range"]).split("/")[0].partition("-")
    images = c.told.images or int(last or first) - int(first) + 1
    batch = a["batch_size"]
    repeat = a["test_every"] // max(images // batch, 1) if images >= batch else 0
    epoch = images * repeat // batch
    if not epoch:
        c.problems.append(f"an epoch of {images} images in batches of {batch} is empty there; expected more images")
        return 1
    why = f"an epoch is {epoch} iterations: {images} images {repeat} times over in batches of {batch}"
    adam = {"type": "adam", "betas": [a["beta1"], a["beta2"]], "weight_decay": a["weight_decay"]}
    alone = max(a["epochs_encoder"], 0)
    common: dict[str, Any] = {"type": "contrastive", "ema_decay": 0}
    keys = {phase: [f"{key}_{phase}" for key in ("lr", "gamma")] for phase in ("encoder", "sr")}
    if alone:
        made = {**common, "optim_g": {**adam, "lr": a["lr_encoder"]}}
        c.put("stages.encoder", made, "beta1", "beta2", "weight_decay")
        c.put("stages.encoder.iterations", alone * epoch, "epochs_encoder", "data_range", "test_every", why=why)
        # The rate of epoch e is divided e // decay times, so the first that is comes after decay - 1 epochs.
        falls = [(k - 1) * epoch for k in range(a["lr_decay_encoder"], alone + 1, a["lr_decay_encoder"]) if k > 1]
        c.put("stages.encoder.schedule", _schedule(falls, a["gamma_encoder"]), *keys["encoder"])
        c.put("stages.encoder.schedule.type", _schedule(falls, 1)["type"], "lr_decay_encoder", why=why)
    else:
        c.same("epochs_encoder", what="no stage of contrast alone")
        for key in (*keys["encoder"], "lr_decay_encoder"):
            c.drop(key, "there is no stage of contrast alone")
    # Without the first phase the count of epochs starts one late, at its end as well.
    shift = int(a["epochs_encoder"] < 0)
    iterations = (a["epochs_sr"] - shift) * epoch
    made = {**common, "optim_g": {**adam, "lr": a["lr_sr"]}, "losses": {"l1": {"type": "l1", "weight": 255.0}}}
    if alone:
        made["init_from"] = {"stage": "encoder", "weights": "raw", "carry": ["network_g", "contrastive", "optimizer"]}
    c.put("stages.joint", made, "beta1", "beta2", "weight_decay")
    c.put("stages.joint.iterations", iterations, "epochs_sr", "epochs_encoder", "data_range", why=why)
    decay = a["lr_decay_sr"]
    falls = [(k - 1 - shift) * epoch for k in range(decay, a["epochs_sr"] + 1, decay)]
    c.put("stages.joint.schedule", _schedule([f for f in falls if f < iterations], a["gamma_sr"]), *keys["sr"])
    c.put("stages.joint.schedule.type", "multistep" if falls else "constant", "lr_decay_sr", why=why)
    weight, star, kind = a["loss"].partition("*")
    if kind != "L1" or not star:
        c.problems.append(f"loss: found {a['loss']!r}, expected W*L1")
    else:
        c.put("stages.joint.losses.l1.weight", 255.0 * float(weight), "loss", why="times 255, images being in [0, 1]")
    if a.get("c_weight", 1.0) != 1:
        c.put("stages.joint.weight", a["c_weight"], "c_weight")
    c.same("c_weight", what="1")
    frozen = a.get("freeze_epoch", 0)
    if 0 < frozen * epoch < iterations:
        c.put("stages.joint.freeze_encoder_at", frozen * epoch, "freeze_epoch", why=why)
    c.same("freeze_epoch", what="after the end, so it never happens")
    return epoch


def _schedule(falls: list[int], gamma: float) -> dict[str, Any]:
    return {"type": "multistep", "milestones": falls, "gamma": gamma} if falls else {"type": "constant"}
