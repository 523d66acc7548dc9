"""KernelGAN against values from running the released code (golden/realsr, README.md there)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from degradations.kernelgan.crops import centre_probabilities, corners
from degradations.kernelgan.estimate import Discriminators, Generators, ReleasedPace, Training
from degradations.kernelgan.losses import bicubic_loss, downscaled, kernel_losses
from degradations.kernelgan.shape import moved_to_centre, twice_applied, zeroised
from tests.golden.kair.synth import frozen_value

KEYS_G = ["first_layer", *(f"feature_block.{i}" for i in range(4)), "final_layer"]
KEYS_D = ["first_layer", *(f"feature_block.{i}" for i in (0, 3, 6, 9, 12)), "final_layer.0"]
NORMS_D = [f"feature_block.{i}" for i in (1, 4, 7, 10, 13)]


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "realsr" / f"kernelgan_{name}.npz") as held:
        return {key: held[key] for key in held.files}


def assert_close(found: Tensor | np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """The largest difference, relative to the largest expected value, is small."""
    values = found.detach().numpy() if isinstance(found, Tensor) else found
    assert values.shape == expected.shape
    assert np.abs(values - expected).max() <= tolerance * np.abs(expected).max()


def fill_generator(network: Generators) -> None:
    for key, weight in zip(KEYS_G, network.weights, strict=True):
        weight.data[0] = torch.from_numpy(frozen_value(f"{key}.weight", weight.shape[1:]))


def fill_discriminator(network: Discriminators) -> None:
    for i, key in enumerate(KEYS_D):
        network.weights[i].data[0] = torch.from_numpy(frozen_value(f"{key}.weight_orig", network.weights[i].shape[1:]))
        network.biases[i].data[0] = torch.from_numpy(frozen_value(f"{key}.bias", network.biases[i].shape[1:]))
        network.directions[i][0] = torch.from_numpy(frozen_value(f"{key}.weight_u", network.directions[i].shape[1:]))
    for i, key in enumerate(NORMS_D):
        network.scales[i].data[0] = torch.from_numpy(frozen_value(f"{key}.weight", (64,)))
        network.shifts[i].data[0] = torch.from_numpy(frozen_value(f"{key}.bias", (64,)))


def one() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(0)]


def test_generator() -> None:
    golden = arrays("networks")
    network = Generators(one())
    fill_generator(network)
    assert_close(network()[0], golden["curr_k"])
    assert_close(downscaled(torch.from_numpy(golden["g_in"]), network()), golden["g_out"])


def test_discriminator_and_its_spectral_normalisation() -> None:
    golden = arrays("networks")
    network = Discriminators(one())
    fill_discriminator(network)
    x = torch.from_numpy(golden["d_in"])
    assert_close(network(x), golden["d_train_first"][:, 0])
    assert_close(network.directions[0][0], golden["first_u_after1"])
    fill_discriminator(network)
    assert_close(network._normalised(0)[0], golden["first_weight_after1"])
    fill_discriminator(network)
    network(x)
    assert_close(network(x), golden["d_train_second"][:, 0])


@pytest.mark.parametrize("ours", ["sum", "boundaries", "central", "sparse"])
def test_losses_of_the_kernel(ours: str) -> None:
    golden = arrays("losses")
    kernel = torch.from_numpy(golden["k"]).requires_grad_()
    loss = kernel_losses(kernel[None])[ours]
    loss.sum().backward()
    theirs = {"sum": "sum2one", "central": "centralized"}.get(ours, ours)
    assert_close(loss[0], golden[theirs])
    assert kernel.grad is not None
    assert_close(kernel.grad, golden[f"grad_{theirs}"])


def test_released_bicubic_loss() -> None:
    golden = arrays("losses")
    outputs = torch.from_numpy(golden["bic_g_out"]).requires_grad_()
    loss = bicubic_loss(outputs, torch.from_numpy(golden["bic_g_in"]))
    loss.sum().backward()
    assert_close(loss[0], golden["bicubic"])
    assert outputs.grad is not None
    assert_close(outputs.grad, golden["grad_bicubic"])


def test_steps_of_both_networks() -> None:
    """In float64: Adam makes full steps of gradients that are rounding only, and in float32 these add up to 1e-3."""
    golden = arrays("steps")
    training = Training(one(), ReleasedPace(1))
    fill_generator(training.network_g)
    fill_discriminator(training.network_d)
    training.network_g.double(), training.network_d.double()
    training.network_d.directions = [u.double() for u in training.network_d.directions]
    training.pace.weights.update(bicubic=np.array([0.05]), central=np.array([1.0]), sparse=np.array([5.0]))
    for i in range(4):
        assert_close(training.network_g()[0], golden["curr_k_each"][i], 1e-6 if i == 0 else 5e-4)
        inputs, real, noise = (torch.from_numpy(golden[key][i : i + 1]).double() for key in ("g_in", "d_in", "noise"))
        losses = training.step(i, inputs, real, noise / 255)
        assert_close(losses["bicubic"][0], golden["loss_bicubic"][i], 1e-4)
    assert_close(training.network_g()[0], golden["curr_k_after"], 1e-3)
    assert_close(training.network_d.directions[0][0], golden["D_first_u"], 1e-3)


def test_schedule() -> None:
    golden = arrays("learner")
    pace = ReleasedPace(1)
    for i, loss in enumerate(golden["loss_bicubic_f64"]):
        pace.update(i, {"bicubic": torch.tensor([loss])})
        found = [*(pace.weights[name][0] for name in ("bicubic", "central", "sparse")), pace.rate_g]
        expected = golden["lambdaB_lambdaC_lambdaS_lr_similar_f64"][i]
        assert np.allclose([*found, pace.similar[0]], expected, rtol=1e-9), f"after iteration {i}"


def test_where_crops_are_taken() -> None:
    """The released halving cuts off taps beyond the left and upper border; the maps are zero there anyway."""
    golden = arrays("maps")
    image = golden["img_u8"][10:-10, 10:-10][:90, :110] / 255
    maps = [centre_probabilities(image, size == 64, size) for size in (64, 26)]
    for found, expected in zip(maps, ("prob_sml_G_f64", "prob_big_D_f64"), strict=True):
        assert np.abs(found - golden[expected]).max() <= 1e-7 * golden[expected].max()
    released = np.random.RandomState(int(golden["choice_seed"]))
    for found, key in zip(maps, ("crop_idx_G", "crop_idx_D"), strict=True):
        assert released.choice(found.size, size=12, p=found.ravel()).tolist() == golden[key].tolist()
    for size, key in ((64, "top_left_G"), (26, "top_left_D")):
        assert corners(golden["centers"], (90, 110), size).tolist() == golden[key].tolist()


def test_post_processing() -> None:
    golden = arrays("postprocess")
    for keep in (40, 25):
        clear = zeroised(golden["raw"], keep)
        assert_close(clear, golden[f"zeroized_n{keep}"], 1e-7)
        assert_close(moved_to_centre(clear, 2), golden[f"post_n{keep}"], 1e-6)
        assert_close(twice_applied(moved_to_centre(clear, 2)), golden[f"x4_n{keep}_f64"], 1e-6)
    assert_close(moved_to_centre(golden["raw"], 2), golden["shift_only_sf2"], 1e-6)
    assert_close(moved_to_centre(golden["raw"], 4), golden["shift_only_sf4"], 1e-6)
    assert_close(moved_to_centre(golden["raw"][:12, :12], 2), golden["shift_even_sf2"], 1e-6)
