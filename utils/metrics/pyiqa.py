"""Some sixty metrics, with or without a ground truth, of the package pyiqa.

Its licence is PolyForm Noncommercial 1.0.0: no commercial use. It installs some eighty packages, and downloads weights
on first use.
"""

from typing import Any

import torch

from utils.metrics import METRICS
from utils.metrics.learned import Learned, imported, loaded
from utils.options.components import nearest
from utils.options.fields import OptionError

_OF_FOLDERS = ("fid", "fid_dinov2", "fid_mmd", "inception_score")  # need sets of images; no value for a single one


@METRICS.register("pyiqa")
class Pyiqa(Learned):
    """Measure by a metric of pyiqa, which knows whether it needs a ground truth and which direction is better.

    The package is for noncommercial use only (PolyForm Noncommercial 1.0.0).

    Args:
        name: pyiqa's name for it, such as lpips, dists, musiq, maniqa, clipiqa.
        device: where it is computed.

    Raises:
        OptionError: the package is not installed, has no such metric, or cannot load its weights.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        package = imported("pyiqa")
        known = package.list_models()
        if name not in known:
            raise OptionError(f"name: pyiqa has no metric {name!r}{nearest(name, sorted(known))}")
        if name in _OF_FOLDERS:
            raise OptionError(f"name: {name} compares sets of images, and a benchmark needs a value for each image")
        self.network: Any = loaded(f"pyiqa's {name}", lambda: package.create_metric(name, device=torch.device(device)))
        self.device = device
        self.needs_gt = self.network.metric_mode == "FR"
        self.higher_is_better = not self.network.lower_better
        net = getattr(self.network, "net", None)
        if getattr(net, "test_y_channel", False) and getattr(net, "color_space", "yiq") == "yiq":
            self.remark = (
                f"pyiqa's {name} is of luma from 0 to 255, not of the papers' Y from 16 to 235: PSNR is 1.3 dB lower"
            )
