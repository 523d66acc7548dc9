"""The steps of Real-ESRGAN's degradation, and the whole, against values from running the released code.

Where the reference drew from global generators, its recorded draws are handed in as plans and noise fields.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ks_2samp
from torch import Tensor

from degradations import DEGRADATIONS, STEPS, Degraded, Drawn, Plan, Ragged, State, Step, paired_crop
from degradations.kernels.families import elliptic, sinc
from degradations.operations import noise
from degradations.operations.diffjpeg import CHROMA, LUMA, diffjpeg, quantised
from degradations.operations.filters import convolve, convolve_batched
from degradations.steps import sharpen
from degradations.systems.realesrgan import RealESRGAN
from tests.golden.training_inputs import synthetic_batch
from tests.helpers import GOLDEN

FOLDER = GOLDEN / "realesrgan"


def arrays(name: str) -> Any:  # noqa: ANN401
    return np.load(FOLDER / f"{name}.npz")


def facts(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.copy())


def close(ours: Tensor | np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    assert np.abs(np.asarray(ours, np.float64) - theirs).max() < tolerance


# --- kernels ----------------------------------------------------------------------------------------------------


def kernel_of(kind: str, size: int, sx: float, sy: float, theta: float, beta: float = 1.0) -> np.ndarray:
    """By the published kinds `iso`, `generalized_aniso`, …"""
    if not kind.endswith("aniso"):
        sy, theta = sx, 0.0
    return elliptic(size, theta, sx**2, sy**2, beta, "plateau" if kind.startswith("plateau") else "gaussian")


@pytest.mark.parametrize("name", facts("kernels"))
def test_kernels(name: str) -> None:
    p = facts("kernels")[name]
    ours = kernel_of(name.rsplit("_", 1)[0], p["size"], p["sig_x"], p["sig_y"], p["theta"], p.get("beta", 1.0))
    close(ours, arrays("kernels")[name], 1e-7)


@pytest.mark.parametrize("name", facts("sinc"))
def test_sinc(name: str) -> None:
    p = facts("sinc")[name]
    close(np.pad(sinc(p["size"], p["cutoff"]), max(0, p["pad_to"] - p["size"]) // 2), arrays("sinc")[name], 1e-7)


def test_mixed_kernels() -> None:
    """Six of the reference's own draws, made again, through the plans of `mixed_blur`."""
    py, rng = Random(3), np.random.RandomState(4)
    step = STEPS.check("mixed_blur").component()
    kinds = list(step.kinds)  # type: ignore[attr-defined]
    for theirs in arrays("mixed_kernels_seeded")["kernels"]:
        drawn: Drawn = {"kind": py.choices(kinds, [0.45, 0.25, 0.12, 0.03, 0.12, 0.03])[0], "size": 21}
        drawn["sigma"] = rng.uniform(0.2, 3)
        if "aniso" in drawn["kind"]:
            drawn["sigmas"], drawn["theta"] = [drawn.pop("sigma"), rng.uniform(0.2, 3)], rng.uniform(-np.pi, np.pi)
        if "_" in drawn["kind"]:
            low, high = (0.5, 4) if drawn["kind"].startswith("generalized") else (1, 2)
            drawn["beta"] = rng.uniform(low, 1) if rng.uniform() < 0.5 else rng.uniform(1, high)
        close(kernel_drawn(step, drawn), theirs, 1e-7)


def kernel_drawn(step: Step, drawn: Drawn) -> np.ndarray:
    kernel = step.kernel(drawn)
    assert kernel is not None
    return kernel


def moments(kernel: np.ndarray) -> tuple[float, float, float]:
    """Largest value, and standard deviations of the positive part along the principal axes."""
    x = np.arange(len(kernel)) - len(kernel) // 2
    xy = np.stack(np.meshgrid(x, x)).reshape(2, -1)
    weight = kernel.clip(0) / kernel.clip(0).sum()
    low, high = np.linalg.eigvalsh((xy * weight.ravel()) @ xy.T)
    return kernel.max(), np.sqrt(max(high, 0)), np.sqrt(max(low, 0))


@pytest.mark.parametrize(
    ("recorded", "name"), [("kernel1", "first.blur"), ("kernel2", "second.blur"), ("sinc_kernel", "final.sinc")]
)
def test_kernel_statistics(recorded: str, name: str) -> None:
    """3000 draws, as the reference: quantiles, and the share of kernels with negative lobes."""
    step, rng = build(4).steps[name].step, np.random.default_rng(1)
    plans = [step.sample(rng, State((400, 400), (400, 400), 4, 4)) for _ in range(3000)]
    drawn = [np.ones((1, 1)) if plan is None else kernel_drawn(step, plan) for plan in plans]
    theirs = facts("kernel_stats")["stats"][recorded]
    assert abs(np.mean([kernel.min() < -1e-9 for kernel in drawn]) - theirs["frac_with_negative"]) < 0.03
    values = np.array([moments(kernel) for kernel in drawn]).T
    # The rank of a quantile errs by 0.9 % in each of two samples of 3000: the bound is four standard deviations.
    for ours, key in zip(values, ("max_q", "sigma_major_q", "sigma_minor_q"), strict=True):
        for quantile, value in zip((0.05, 0.25, 0.5, 0.75, 0.95), theirs[key], strict=True):
            tolerance = 1e-4 + 1e-3 * value
            below, at = (ours < value - tolerance).mean(), (ours <= value + tolerance).mean()
            assert below - 0.05 < quantile < at + 0.05, (key, quantile, value, below, at)


# --- steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", [convolve, convolve_batched])
def test_filtering(operation: Any) -> None:  # noqa: ANN401
    """One kernel per sample or one for all; the reference correlates, so its kernels are turned around."""
    stored = arrays("filter2d")
    for image, kernels, out in (("img", "kernels", "out_batch"), ("img21", "kernels21", "out21")):
        turned = [kernel[::-1, ::-1].astype(float) for kernel in stored[kernels]]
        close(operation(Ragged.of(tensor(stored[image])), turned).data, stored[out], 1e-5)
    shared = [stored["kernels"][0, ::-1, ::-1].astype(float)] * 3
    close(operation(Ragged.of(tensor(stored["img"])), shared).data, stored["out_shared"], 1e-5)


@pytest.mark.parametrize("operation", [convolve, convolve_batched])
def test_sharpening(operation: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    monkeypatch.setattr(sharpen, "convolve", operation)
    stored = arrays("usm")
    image = Ragged.of(tensor(stored["img"]))
    first = np.ascontiguousarray(sharpen.usm(image).data[0].permute(1, 2, 0))
    pairs = [(sharpen.usm(image).data, "out"), (sharpen.usm(image, 0.8, 50, 20).data, "out_w0.8_t20")]
    for ours, name in [*pairs, (first, "np_out_hwc")]:
        # A pixel just at the threshold may fall to the other side of the mask, which moves its surroundings a little.
        difference = np.abs(np.asarray(ours) - stored[name])
        assert difference.max() < 3e-4 and np.median(difference) < 1e-6, name


def record(monkeypatch: pytest.MonkeyPatch, fields: dict[int, Tensor], rates: dict[int, Tensor] | None = None) -> None:
    """Noise by the seed of a plan instead of generated: normal fields, or Poisson counts (whose rates are compared)."""

    def recorded(images: Ragged, seeds: Sequence[int], planes: Sequence[int]) -> Tensor:
        found = [fields[seed] for seed in seeds]
        assert [tuple(f.shape) for f in found] == [(n, *size) for n, size in zip(planes, images.sizes, strict=True)]
        return Ragged.pack(found).data

    def counts(levels: Ragged, peaks: Tensor, seeds: Sequence[int], planes: Sequence[int], most: float) -> Tensor:
        for image, peak, seed, n in zip(levels.images(), peaks, seeds, planes, strict=True):
            assert rates is None or (image[:n] / 255 * peak - rates[seed]).abs().max() < 1e-4
        return recorded(levels, seeds, planes)

    monkeypatch.setattr(noise, "normal_fields", recorded)
    monkeypatch.setattr(noise, "poisson_counts", counts)


@pytest.mark.parametrize(("mixed", "out"), [(True, "gauss_out_clip"), (False, "gauss_out_nogray")])
def test_gaussian_noise(mixed: bool, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = arrays("noise")
    gray = [mixed and bool(flag) for flag in stored["gray"]]
    field, color = tensor(stored["normal_gray"])[None], tensor(stored["normal_color"])
    record(monkeypatch, {i: field if flag else color[i] for i, flag in enumerate(gray)})
    drawn: list[Drawn] = [
        {"kind": "gray" if flag else "color", "level": float(level), "seed": i}
        for i, (flag, level) in enumerate(zip(gray, stored["sigma"], strict=True))
    ]
    step = STEPS.check({"type": "gaussian_noise", "levels": "continuous"}).component()
    close(step.apply(Ragged.of(tensor(stored["img"])), drawn).data, stored[out], 1e-6)
    assert step.sigma(drawn[0]) == pytest.approx(stored["sigma"][0] / 255)


@pytest.mark.parametrize(("mixed", "out"), [(True, "poi_out_clip"), (False, "poi_out_nogray")])
def test_poisson_noise(mixed: bool, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reference's counts, after its rates were found equal: luma, rounding and number of levels."""
    stored = arrays("noise")
    gray = [mixed and bool(flag) for flag in stored["gray"]]
    kinds = ["gray" if flag else "color" for flag in gray]
    counts, rates = (
        {i: tensor(stored[f"poi_{what}_{kind}"][i]) for i, kind in enumerate(kinds)} for what in ("count", "lambda")
    )
    record(monkeypatch, counts, rates)
    drawn: list[Drawn] = [
        {"gray": flag, "strength": float(strength), "seed": i}
        for i, (flag, strength) in enumerate(zip(gray, stored["scale"], strict=True))
    ]
    step = STEPS.check({"type": "poisson_noise", "peak": "levels", "base": "exact"}).component()
    close(step.apply(Ragged.of(tensor(stored["img"])), drawn).data, stored[out], 1e-6)


# --- JPEG -------------------------------------------------------------------------------------------------------


def test_jpeg_in_floating_point() -> None:
    stored, about = arrays("diffjpeg"), facts("diffjpeg")
    image = tensor(stored["img"])
    for name in ("q10", "q30", "q49.9", "q50", "q75", "q95"):
        close(diffjpeg(image, about[name]["quality"]), stored[name], 1e-6)
    quality = tensor(stored["q_tensor"])
    close(diffjpeg(image, quality), stored["out_tensor"], 1e-6)
    assert torch.equal(quality, tensor(stored["q_tensor"]))  # the released code writes its factors there
    close(diffjpeg(tensor(stored["img_aligned"]), about["aligned_quality"]), stored["out_aligned_q"], 1e-6)


def test_jpeg_coefficients() -> None:
    """Every quantised coefficient, with the transposed luma table."""
    stored = arrays("diffjpeg")
    factor = 5000 / facts("diffjpeg")["aligned_quality"] / 100
    assert np.array_equal(stored["y_table"], LUMA.T) and np.array_equal(stored["c_table"], CHROMA)
    r, g, b = (tensor(stored["img_aligned"]) * 255).split(1, dim=1)
    cb, cr = -0.168736 * r - 0.331264 * g + 0.5 * b, 0.5 * r - 0.418688 * g - 0.081312 * b
    luma = 0.299 * r + 0.587 * g + 0.114 * b - 128
    planes = {"y": (luma, LUMA.T), "cb": (F.avg_pool2d(cb, 2), CHROMA), "cr": (F.avg_pool2d(cr, 2), CHROMA)}
    for name, (plane, table) in planes.items():
        theirs = stored[f"coef_{name}"]
        ours = quantised(plane, torch.from_numpy(table * factor))[:, 0].transpose(1, 2).reshape(theirs.shape)
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["grad", "gradp"])
def test_jpeg_gradient(name: str) -> None:
    stored, about = arrays("diffjpeg"), facts("diffjpeg")
    image = tensor(stored[f"{name}_in"]).requires_grad_()
    made = diffjpeg(image, about[f"{name}_quality"], differentiable=True)
    (made * tensor(stored[f"{name}_w"])).sum().backward()
    assert image.grad is not None
    close(made.detach(), stored[f"{name}_out"], 1e-6)
    close(image.grad, stored[f"{name}_x"], 1e-5)
    close(diffjpeg(tensor(stored["img"]), about["diff_quality"], differentiable=True), stored["diff_q"], 1e-6)


# --- the whole --------------------------------------------------------------------------------------------------


RELEASED_JPEG = {"orders": {"first": {"jpeg": {"table": "released"}}}, "final": {"jpeg": {"table": "released"}}}


def build(scale: int, **options: Any) -> RealESRGAN:  # noqa: ANN401
    built = DEGRADATIONS.build({"type": "realesrgan", **options}, scale=scale)
    assert isinstance(built, RealESRGAN)
    return built


class Recorded(Step):
    """A blur whose plan holds the kernel itself."""

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return convolve(images, [np.asarray(values["kernel"]) for values in drawn])


@dataclass
class Run:
    """One recorded run of the released code as plans of two samples and the noise they name by seed."""

    name: str
    fields: dict[int, Tensor]

    def __post_init__(self) -> None:
        self.about, self.stored = facts("feed_data_trace")[self.name], arrays("feed_data_trace")
        self.events, self.scale = iter(self.about["events"]), self.about["scale"]

    def value(self, op: str) -> Any:  # noqa: ANN401
        event = next(self.events)
        assert event["op"] == op
        return event.get("value")

    def plans(self) -> list[Plan]:
        first, second, final = [{}, {}], [{}, {}], [{}, {}]
        self.blur(first, "kernel1")
        self.resize(first, (96, 96))
        self.noise(first, (1, 30), (0.05, 3))
        self.jpeg(first)
        if self.value("np_uniform") < 0.8:
            self.blur(second, "kernel2")
        self.resize(second, (96 // self.scale, 96 // self.scale), exact=False)
        self.noise(second, (1, 25), (0.05, 2.5))
        # The kernel of the low-pass is a delta where it does not happen.
        names = ("resize", "sinc", "jpeg") if self.value("np_uniform") < 0.5 else ("jpeg", "resize", "sinc")
        for name in names:
            if name == "sinc":
                self.blur(final, "sinc", "sinc")
            elif name == "jpeg":
                self.jpeg(final)
            else:
                mode, side = self.mode(), 96 // self.scale
                self.add(final, "resize", [{"mode": mode, "size": [side, side]}] * 2)
        self.add(final, "round", [{}, {}])
        crop = (self.value("randint"), self.value("randint"), self.about["gt_size"] // self.scale)
        rounds = {"first": first, "second": second, "final": final}
        steps = [
            tuple((f"{prefix}.{name}", drawn) for prefix, parts in rounds.items() for name, drawn in parts[i].items())
            for i in range(2)
        ]
        return [Plan((96, 96), self.scale, own, crop) for own in steps]

    def add(self, parts: list[dict[str, Drawn]], name: str, drawn: Sequence[Drawn]) -> None:
        for part, values in zip(parts, drawn, strict=True):
            part[name] = values

    def blur(self, parts: list[dict[str, Drawn]], kernels: str, name: str = "blur") -> None:
        self.add(parts, name, [{"kernel": kernel.tolist()} for kernel in self.stored[f"{self.name}_{kernels}"]])

    def mode(self) -> str:
        return {"area": "pool", "bilinear": "linear", "bicubic": "cubic"}[self.value("choice")]

    def resize(self, parts: list[dict[str, Drawn]], size: tuple[int, int], exact: bool = True) -> None:
        factor = 1.0 if self.value("choices") == "keep" else self.value("np_uniform")
        drawn: Drawn = {"mode": self.mode(), "size": [int(side * factor) for side in size]}
        self.add(parts, "resize", [{**drawn, **({"factor": factor} if exact else {})}] * 2)

    def jpeg(self, parts: list[dict[str, Drawn]]) -> None:
        self.add(parts, "jpeg", [{"quality": quality} for quality in self.value("uniform_")])

    def noise(self, parts: list[dict[str, Drawn]], levels: tuple[float, float], strengths: tuple[float, float]) -> None:
        gaussian = self.value("np_uniform") < 0.5
        low, high = levels if gaussian else strengths
        strength = [low + u * (high - low) for u in self.value("torch_rand")]
        gray = [u < 0.4 for u in self.value("torch_rand")]
        shared = self.field() if any(gray) else torch.empty(0)
        color = self.field()
        drawn: list[Drawn] = []
        for i in range(2):
            seed = len(self.fields)
            own = shared if shared.dim() == 2 else shared[i] if gray[i] else shared
            self.fields[seed] = own.reshape(1, *own.shape[-2:]) if gray[i] else color[i]
            kind: Drawn = {"kind": "gray" if gray[i] else "color", "level": strength[i]}
            photons: Drawn = {"gray": gray[i], "strength": strength[i]}
            which = "gaussian" if gaussian else "poisson"
            drawn.append({"which": which, "seed": seed, **(kind if gaussian else photons)})
        self.add(parts, "noise", drawn)

    def field(self) -> Tensor:
        event = next(self.events)
        if event["op"] == "torch_poisson":
            return tensor(self.stored[event["array"]]).float()
        seed = int(event["rule"].split("(")[1].split(")")[0])
        return tensor(np.random.RandomState(seed).standard_normal(event["shape"]).astype(np.float32))


@pytest.mark.parametrize("name", facts("feed_data_trace"))
def test_recorded_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The low-quality crop of complete runs: almost every pixel on the same level, hardly any two levels away."""
    fields: dict[int, Tensor] = {}
    run = Run(name, fields)
    plans = run.plans()
    record(monkeypatch, fields)
    degradation = build(run.scale, **RELEASED_JPEG)
    recorded = {step: Recorded() for step in ("first.blur", "second.blur", "final.sinc")}
    monkeypatch.setattr(degradation, "_by_name", {**degradation._by_name, **recorded})
    gt = synthetic_batch(2, 96, 96, int(name[1]))
    made = paired_crop(degradation.apply(gt, plans), plans)
    difference = np.abs(made.lq.numpy() - run.stored[f"{name}_lq"]) * 255
    assert (difference < 0.5).mean() >= 0.95 and (difference < 1.5).mean() >= 0.999
    if f"{name}_gt_usm_crop" in run.stored:  # the released code sharpens the crop once more, from the plain one
        sharp = sharpen.usm(Ragged.of(made.targets["plain"])).data
        assert np.abs(sharp.numpy() - run.stored[f"{name}_gt_usm_crop"]).max() < 3e-4


def statistics(made: Degraded, scale: int) -> list[float]:
    """What the reference recorded: PSNR against clean bicubic, Laplacian variance of luma in levels, mean, std."""
    clean = F.interpolate(made.targets["plain"], scale_factor=1 / scale, mode="bicubic", antialias=True)
    error = ((clean.clamp(0, 1) * 255).round() / 255 - made.lq).square().mean().item()
    luma = (made.lq[0] * 255 * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    laplacian = cv2.Laplacian(luma.numpy(), cv2.CV_32F, ksize=1, borderType=cv2.BORDER_REFLECT_101)
    return [-10 * np.log10(error), float(laplacian.var()), made.lq.mean().item(), made.lq.std().item()]


@pytest.mark.parametrize("scale", [4, 2])
def test_output_distribution(scale: int) -> None:
    """Two-sample Kolmogorov-Smirnov distances from the reference's 300 samples, below the critical value of 1 %.

    With its JPEG, whose black borders bleed inwards: with libjpeg's the x4 images have a median std of 0.205, not 0.22.
    """
    count, images = 150, (synthetic_batch(12, 400, 400, 0) * 255).round() / 255
    degradation, rows = build(scale, **RELEASED_JPEG), []
    for i in range(count):
        rng = np.random.default_rng(7000 + i)
        plan = degradation.sample(rng, (400, 400)).with_crop(rng, 256)
        rows.append(statistics(paired_crop(degradation.apply(images[i % 12][None], [plan]), [plan]), scale))
    theirs = arrays(f"pipeline_stats_x{scale}_rows")["rows"][:, :4]
    distances = np.array([ks_2samp(a, b) for a, b in zip(np.array(rows).T, theirs.T, strict=True)])[:, 0]
    assert distances.max() < 1.628 * np.sqrt(1 / count + 1 / 300), distances


def test_draws_per_batch() -> None:
    """With `draws: batch` the samples of one step share resizes, kind of noise, second blur and order, and no more."""
    degradation, seen, lowpass = build(4, draws="batch", **RELEASED_JPEG), set(), set()
    for step in range(400):
        shared = degradation.draw_shared(np.random.default_rng(step))
        plans = [degradation.sample(np.random.default_rng([step, i]), (400, 400), shared=shared) for i in range(3)]
        common = []
        for plan in plans:
            steps = [(name, d) for name, d in plan.steps if name != "final.sinc"]
            resizes = [d for name, d in steps if name.endswith("resize")]
            kinds = [d["which"] for name, d in steps if name.endswith("noise")]
            common.append(([name for name, _ in steps], resizes, kinds))
        assert common[0] == common[1] == common[2]
        assert len({str(dict(plan.steps)["first.blur"]) for plan in plans}) == 3
        assert len({str(dict(plan.steps)["first.jpeg"]) for plan in plans}) == 3
        lowpass.add(sum("final.sinc" in dict(plan.steps) for plan in plans))
        seen.add((tuple(common[0][0]), *common[0][2]))
    assert len(seen) == 2 * 2 * 4  # second blur or not, two ends, two noises of two kinds
    assert lowpass == {0, 1, 2, 3}  # for each sample
