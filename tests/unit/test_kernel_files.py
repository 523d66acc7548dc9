"""Kernel files: every format, everything that can be wrong with one, and no code that runs."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.ndimage

from degradations import DEGRADATIONS, STEPS
from degradations.kernels.files import Bank, centred, content_hash, read_bank, read_kernels, usrnet_kernels
from tests.helpers import write_kernel_pool
from utils.options.fields import OptionError

A, B = usrnet_kernels()[4], usrnet_kernels()[1][5:20, 5:20] / usrnet_kernels()[1][5:20, 5:20].sum()


def cells(*kernels: np.ndarray) -> np.ndarray:
    result = np.empty((1, len(kernels)), object)
    for i, kernel in enumerate(kernels):
        result[0, i] = kernel
    return result


def write(path: Path, **variables: np.ndarray) -> Path:
    {".mat": scipy.io.savemat, ".npz": lambda p, v: np.savez(p, **v)}[path.suffix](path, variables)
    return path


@pytest.mark.filterwarnings("error")
def test_all_formats_give_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "stack.npy", np.stack([A, A[::-1]]))
    np.save(tmp_path / "one.npy", A.astype(np.float32))
    files = {
        write(tmp_path / "cells.mat", kernels=cells(A, B), about=np.zeros(3)): [A, B],
        write(tmp_path / "kernelgan.mat", Kernel=A, about=np.zeros(3)): [A],
        write(tmp_path / "any.mat", k=A): [A],
        write(tmp_path / "several.npz", a=A, b=np.stack([A, A.T])): [A, A, A.T],
        tmp_path / "stack.npy": [A, A[::-1]],
        tmp_path / "one.npy": [A],
    }
    for file, expected in files.items():
        for found, kernel in zip(read_kernels(file), expected, strict=True):
            assert found.dtype == np.float64 and np.abs(found - kernel).max() < 1e-7


def test_matlab_7_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "k.mat", "w", userblock_size=512) as file:  # as MATLAB writes it: by columns
        cells = [file.create_dataset(f"#refs#/{i}", data=kernel.T).ref for i, kernel in enumerate((A, B))]
        file.create_dataset("kernels", data=np.array(cells, object)[:, None], dtype=h5py.ref_dtype)
    start = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "k.mat").write_bytes(start + (tmp_path / "k.mat").read_bytes()[len(start) :])
    for found, kernel in zip(read_kernels(tmp_path / "k.mat"), (A, B), strict=True):
        assert np.abs(found - kernel).max() < 1e-12
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(OptionError, match="pip install h5py"):
        read_kernels(tmp_path / "k.mat")


def test_matlab_7_3_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(OptionError, match="k.mat: is a file of MATLAB 7.3.*pip install h5py"):
        read_kernels(tmp_path / "k.mat")


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.ones((4, 4)) / 16, "kernel 1: 4x4 has no middle pixel.*giving 5x5"),
        (np.ones((3, 5)) / 15, "kernel 1: found the shape 3x5, expected a square"),
        (np.ones(9) / 9, "found the shape"),
        (np.zeros((3, 3)), "kernel 1: sums to 0, expected 1"),
        (np.full((3, 3), 1e-9), "sums to 9e-09"),
        (np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0.0]]), "sums to 0"),
        (-A, "sums to -1"),
        (np.array([[0, 0, 0], [0, np.nan, 0], [0, 0, 0]]), "not finite"),
        (np.array([[0, 0, 0], [0, np.inf, 0], [0, 0, 0]]), "not finite"),
        (np.eye(3, dtype=complex), "complex"),
        (np.full((3, 3), "a"), "expected numbers"),
        (np.zeros((0, 0)), "found the shape 0x0"),
    ],
)
def test_what_is_no_kernel(kernel: np.ndarray, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "k.mat", kernels=cells(A, kernel))
    with pytest.raises(OptionError, match=message) as caught:
        read_kernels(path)
    assert str(path) in str(caught.value)


def test_a_sum_that_is_not_1_is_warned_of(tmp_path: Path) -> None:
    path = write(tmp_path / "k.npz", a=A, b=np.uint8(255 * A / A.max()))
    with pytest.warns(UserWarning, match=r"k\.npz, kernel 1: sums to .*, expected 1; it is divided by that") as caught:
        kernels = read_kernels(path)
    assert len(caught) == 1 and abs(kernels[1].sum() - 1) < 1e-12


def test_no_kernels_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "none.npz")
    (tmp_path / "image.png").write_bytes(b"")
    write(tmp_path / "two.mat", a=A, b=B)
    for name, message in (
        ("empty", "found no file of kernels"),
        ("missing.mat", "found no file of kernels"),
        ("*.mta", "found no file of kernels"),
        ("none.npz", "holds no kernels"),
        ("image.png", "found a .png file, expected one of .mat, .npy, .npz"),
        ("two.mat", "found the variables a, b, expected kernels, Kernel"),
    ):
        with pytest.raises(OptionError, match=message):
            read_bank(str(tmp_path / name))
    (tmp_path / "no.mat").write_bytes(write(tmp_path / "x.mat", kernels=cells()).read_bytes())
    with pytest.raises(OptionError, match="holds no kernels"):
        read_kernels(tmp_path / "no.mat")


def test_damaged_files_are_one_clear_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", A)
    for path in (write(tmp_path / "a.mat", kernels=cells(A, B)), write(tmp_path / "a.npz", a=A), tmp_path / "a.npy"):
        whole = path.read_bytes()
        for end in range(0, len(whole) - 1, max(1, len(whole) // 97)):
            path.write_bytes(whole[:end])
            with pytest.raises(OptionError, match=r"a\.(mat|npy|npz)"):
                read_kernels(path)


class Spell:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('the file has run code')",)


@pytest.mark.parametrize("name", ["k.npy", "k.npz", "k.mat"])
def test_no_file_runs_code(name: str, tmp_path: Path) -> None:
    spell = np.array([Spell()], object)
    if name == "k.mat":
        (tmp_path / name).write_bytes(pickle.dumps(spell))
    elif name == "k.npz":
        np.savez(tmp_path / name, a=A, b=spell)
    else:
        np.save(tmp_path / name, spell, allow_pickle=True)
    with pytest.raises(OptionError, match=f"{name}: cannot be read"):
        read_kernels(tmp_path / name)


def test_folders_and_patterns_in_order(tmp_path: Path) -> None:
    for image, kernel in (("b", A), ("a", A.T)):
        (tmp_path / image).mkdir()
        write(tmp_path / image / f"{image}_kernel_x2.mat", Kernel=B)
        write(tmp_path / image / f"{image}_kernel_x4.mat", Kernel=kernel)
    (tmp_path / "notes.txt").write_text("not a kernel")
    assert [k.shape[0] for k in read_bank(str(tmp_path))] == [15, 25, 15, 25]
    found = read_bank(str(tmp_path / "*" / "*_kernel_x4.mat"))
    assert np.allclose(found[0], A.T) and np.allclose(found[1], A) and len(found) == 2


def test_pools_of_estimates(tmp_path: Path) -> None:
    """The accepted kernels alone, as KernelGAN's files turned by 180 degrees; beside a pool nothing else is read."""
    skew = np.outer(np.arange(25) ** 2, np.arange(25) ** 3).astype(float)
    kernels = [A, skew / skew.sum(), B.mean() + np.zeros((25, 25))]
    pool = write_kernel_pool(tmp_path, kernels, 4, ["", "", "spread,loss"])
    write(tmp_path / "parts.mat", Kernel=kernels[1])
    found = Bank.read(str(tmp_path))
    assert found.scale == 4 and len(found.kernels) == 2 and Bank.read(str(pool)).hash == found.hash
    assert np.allclose(found.kernels[1], skew[::-1, ::-1] / skew.sum(), atol=1e-12)
    assert np.array_equal(read_kernels(tmp_path / "parts.mat")[0], found.kernels[1])
    write_kernel_pool(tmp_path, [A], 2)
    with pytest.raises(OptionError, match=r"kernels of several scales \(.*x2.npz for x2, .*x4.npz for x4\)"):
        Bank.read(str(tmp_path))
    write_kernel_pool(tmp_path / "empty", kernels, 2, ["split", "spread,split", "loss"])
    with pytest.raises(OptionError, match=r"none of its 3 kernels is accepted \(flaws: split 2, spread 1, loss 1\)"):
        Bank.read(str(tmp_path / "empty"))
    for scale, name in ((4, "b_kernel_x4.mat"), (None, "b.mat")):
        assert Bank.read(str(write(tmp_path / name, Kernel=A))).scale == scale


def test_hash_tells_content() -> None:
    kernels = usrnet_kernels()
    assert content_hash(kernels) == content_hash([k.copy(order="F") for k in kernels])
    assert content_hash(kernels) != content_hash(kernels[::-1])
    assert len({content_hash([A]), content_hash([A * (1 + 1e-9)]), content_hash([A.reshape(5, 125)])}) == 3


@pytest.mark.parametrize("shift", [0, 0.5, 1, 1.5])
def test_centred(shift: float) -> None:
    """Any kernel ends with its centre of mass there, and keeps its sum; the frame grows only where it must."""
    rng = np.random.default_rng(0)
    for kernel in (A, np.roll(A, (3, -2), (0, 1)), rng.random((9, 9)) ** 4, np.eye(1, 49, 3).reshape(7, 7)):
        kernel = kernel / kernel.sum()
        moved = centred(kernel, shift)
        place = np.array(scipy.ndimage.center_of_mass(moved))
        assert np.abs(place - (moved.shape[0] // 2 - shift)).max() < 1e-4
        assert abs(moved.sum() - 1) < 1e-6 and moved.min() >= 0 and moved.shape[0] % 2 == 1
    assert centred(usrnet_kernels()[1], shift).shape == (25, 25)


def test_bank_options(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="indices: found 8, but usrnet_8 holds 8, from 0"):
        STEPS.build({"type": "kernel_bank", "path": "usrnet_8", "indices": [8]})
    with pytest.raises(OptionError, match=r"found no file of kernels \(.mat, .npy, .npz\)"):
        classical = {"type": "classical", "steps": {"blur": {"type": "kernel_bank", "path": str(tmp_path)}}}
        DEGRADATIONS.build(classical, scale=2).sample(np.random.default_rng(0), (64, 64))  # `prepare` may have made it
