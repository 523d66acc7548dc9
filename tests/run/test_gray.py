"""Gray training: networks of one channel learn, go on, are validated and restore."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.training.experiment import check_experiment, validation_sets
from tests.helpers import ROOT
from tests.run.tiny import (
    PREEMPTED,
    Training,
    assert_equal_states,
    environment,
    final_states,
    finished,
    option_tree,
    pictures,
    write_options,
)
from utils.images.files import read_image, write_image
from utils.options.fields import OptionError


def gray_tree(images: Path, psnr: int = 6) -> dict[str, Any]:
    tree = option_tree(images, psnr)
    tree["network_g"] |= {"num_in_ch": 1, "num_out_ch": 1}
    tree["stages"]["gan"]["network_d"]["num_in_ch"] = 1
    return tree


@pytest.mark.slow
def test_both_stages_go_on_bit_for_bit_and_restore(tmp_path: Path) -> None:
    options = write_options(tmp_path / "gray.yml", gray_tree(pictures(tmp_path / "images"), psnr=60))
    whole = finished(options, tmp_path / "whole")
    assert "bicubic, smoothed" in whole.out
    stopped = Training(options, tmp_path / "runs").until("psnr_00000005")
    stopped.stop(signal.SIGTERM)
    assert stopped.wait() == PREEMPTED
    assert_equal_states(final_states(finished(options, tmp_path / "runs").folder), final_states(whole.folder))

    (tmp_path / "in").mkdir()
    colour = read_image(tmp_path / "images" / "0.png")
    write_image(tmp_path / "in" / "colour.png", colour)
    write_image(tmp_path / "in" / "gray.png", colour[..., 0])
    command = [*("test.py", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")), "--weights", str(whole.folder)]
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment(), check=True, capture_output=True)
    gray, channels = (
        read_image(path) for path in sorted((tmp_path / "out").rglob("*.png"), key=lambda p: p.name)[::-1]
    )
    assert gray.shape == channels.shape == (96, 112, 3)
    np.testing.assert_array_equal(gray, channels[..., :1].repeat(3, 2))  # of colours, each channel is restored alone


def test_validation_measures_luma(tmp_path: Path) -> None:
    tree = {**gray_tree(pictures(tmp_path / "images")), "degradation": "bicubic"}
    experiment, colour = (
        check_experiment({**tree, "network_g": {**tree["network_g"], **more}, "stages": stages})
        for more, stages in (
            ({}, tree["stages"]),
            ({"num_in_ch": 3, "num_out_ch": 3}, {"psnr": tree["stages"]["psnr"]}),
        )
    )
    (valid,), (rgb,) = (validation_sets(e, e.degradation.component(scale=2)) for e in (experiment, colour))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    for mine, theirs in ((valid[0].gt, rgb[0].gt), (valid[0].batch.lq, rgb[0].batch.lq)):
        torch.testing.assert_close(mine, (theirs * weights).sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("place", "options", "message"),
    [
        ("network_g", {"type": "srvgg", "num_in_ch": 1}, "network_g: found 1 channels in and 3 out"),
        ("network_g", {"type": "rrdbnet", "num_in_ch": 2, "num_out_ch": 2}, "found 2 channels in and 2 out"),
        (
            "network_g",
            {"type": "rrdbnet"},
            r"stages\.gan\.network_d\.num_in_ch: found 1, but network_g makes images of 3",
        ),
        ("network_g", {"type": "usrnet", "in_nc": 2, "out_nc": 1}, "is told the noise of RGB images"),
    ],
)
def test_channels_that_do_not_fit(place: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        check_experiment({**gray_tree(pictures(tmp_path / "images")), place: options})
