"""A converted option file trains: the whole way from another framework's file to `--dry-run`."""

from pathlib import Path

import numpy as np
import pytest

from models.importing.__main__ import main
from tests.programs import call
from tests.unit.test_importing import BSRGAN, NET, SRRESNET, changed
from utils.images.files import write_image
from utils.options import files

SMALL = {
    NET: {
        **SRRESNET,
        "network_g": {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 4},
        "path.pretrain_network_g": None,
        "datasets.train.meta_info": None,
        "datasets.train.gt_size": 32,
        "datasets.train.batch_size_per_gpu": 2,
        "datasets.train.num_worker_per_gpu": 1,
        "train.total_iter": 4,
    },
    BSRGAN: {
        "datasets.train.H_size": 96,
        "datasets.train.lq_patchsize": 16,
        "datasets.train.dataloader_batch_size": 2,
        "datasets.train.dataloader_num_workers": 1,
        "datasets.test.dataroot_H": None,
        "netG.nf": 8,
        "netG.nb": 1,
        "netG.gc": 8,
        "netD.base_nc": 8,
        "train.F_lossfn_weight": 0,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SMALL))
def test_a_converted_file_passes_the_dry_run(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        small = rng.integers(0, 256, (25, 26, 3), dtype=np.uint8)
        write_image(tmp_path / "lq" / f"{i}.png", small)
        write_image(tmp_path / "gt" / f"{i}.png", small.repeat(4, 0).repeat(4, 1))
    keys = (
        ("datasets.train.dataroot_H",)
        if name == BSRGAN
        else ("datasets.train.dataroot_gt", "datasets.train.dataroot_lq")
    )
    roots = dict(zip(keys, (str(tmp_path / "gt"), str(tmp_path / "lq")), strict=False))
    source = tmp_path / "theirs.yml"
    source.write_text(files.dump(changed(name, {**SMALL[name], **roots})))
    assert main([str(source), "-o", str(tmp_path / "mine.yml"), "--iterations", "4"]) == 0
    done = call("train", "--opt", tmp_path / "mine.yml", "--dry-run", "--device", "cpu", cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
