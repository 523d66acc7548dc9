"""Any architecture that spandrel knows, told by a weight file: SwinIR, HAT, DAT, SAFMN, SPAN, OmniSR and many more.

Needs the extra `archs`. Keys are those of the file, so that what is trained here is read by spandrel, and so by
ComfyUI and chaiNNer, again.
"""

from functools import partial
from importlib import import_module
from math import lcm
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.network import NETWORKS, Network
from models.networks.blocks import mirrored
from models.weights.files import weight_files
from models.weights.guess import UnknownNetwork
from models.weights.layouts import Prefer
from models.weights.load import as_written, read_weights
from utils.options.fields import OptionError, PositiveInt

SPANDREL = "spandrel"
HOW = "pip install 'spandrel==0.4.2', or -e '.[archs]'"
_SMALLEST = 16


@NETWORKS.register(SPANDREL)
class SpandrelNetwork(Network):
    """Map `lq` (B, C, h, w) to `sr` (B, C, h·scale, w·scale) by the network of a weight file, gray or RGB.

    It starts from the file's weights, with no `init_from`; the file is read again at a resume. Where an architecture
    drops paths at random in training (SwinIR), it draws from PyTorch's own generator.

    Args:
        file: a weight file of any layout, a run or a checkpoint folder of ours.
        scale: what the file's network is expected to have.
        weights: which to take from a file that holds averaged and raw ones.

    Raises:
        OptionError: if spandrel is not installed or does not know the file, or its network is of another scale, is told
            more than an image, or does not give what spandrel says.
    """

    finds_unused = True  # SPAN has weights for evaluation beside those that learn

    def __init__(self, file: str, scale: PositiveInt | None = None, weights: Prefer = "ema") -> None:
        super().__init__()
        found = _described(weight_files(Path(file).expanduser(), weights)[0], weights)
        self.begins = f"the weights of {file}"
        self.architecture = str(found.architecture.name)
        self.scale, self.channels = int(found.scale), int(found.input_channels)
        needs = found.size_requirements
        self._smallest, self._multiple, self._square = needs.minimum, needs.multiple_of, needs.square
        self.model: nn.Module = found.model
        _keep_names(self)
        text = f"spandrel takes {file} for {self.architecture} x{self.scale}"
        if scale not in (None, self.scale):
            raise OptionError(f"{text}, expected x{scale}")
        if found.output_channels != self.channels or self.channels not in (1, 3):
            channels = f"{self.channels} to {found.output_channels} channels"
            raise OptionError(f"{text}, which maps {channels}; expected an image alone, gray or RGB")
        self._try(text)

    def forward(self, lq: Tensor) -> Tensor:
        height, width = lq.shape[-2:]
        high, wide = (self._padded(side) for side in (height, width))
        if self._square:
            high = wide = max(high, wide)
        # A copy, since RCAN multiplies its input in place (see findings/spandrel_rcan.sh).
        sr = self.model(mirrored(lq, high - height, wide - width).clone())
        return sr[..., : height * self.scale, : width * self.scale]

    def _padded(self, side: int) -> int:
        return -(-max(side, self._smallest) // self._multiple) * self._multiple

    def _try(self, text: str) -> None:
        """Restore a small image. Raises OptionError for an architecture called in a way of its own, or a wrong scale:
        spandrel tells both from names and shapes, and these leave some open."""
        side = self._padded(lcm(_SMALLEST, self._multiple))
        self.eval()
        try:
            with torch.no_grad():
                sr = self(torch.full((1, self.channels, side, side), 0.5))
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise OptionError(f"{text}, which fails with an image alone ({_first_line(error)})") from error
        self.train()
        expected = (1, self.channels, side * self.scale, side * self.scale)
        if tuple(sr.shape) != expected:
            raise OptionError(f"{text}, but of {side}x{side} pixels it makes {tuple(sr.shape)}, not {expected}")


def _described(path: Path, weights: Prefer) -> Any:  # noqa: ANN401 - spandrel's descriptor
    """Return what spandrel makes of a file: under the names left when all wrapping is taken off, or as written."""
    try:
        spandrel = import_module("spandrel")
    except ImportError as error:
        raise OptionError(f"spandrel may know the network of {path.name}, but it is not installed; {HOW}") from error
    first: list[str] = []
    for read in (partial(read_weights, path, weights), partial(as_written, path)):
        tensors = read()
        first = first or list(tensors)[:5]
        try:
            found = spandrel.ModelLoader("cpu").load_from_state_dict(tensors)
        except spandrel.UnsupportedModelError:
            continue
        except (RuntimeError, ValueError, LookupError, TypeError, AssertionError) as error:
            text = f"spandrel knows a network like that of {path.name}, but cannot build it"
            raise OptionError(f"{text} ({_first_line(error)})") from error
        if not isinstance(found, spandrel.ImageModelDescriptor):
            raise OptionError(f"spandrel takes {path.name} for {found.architecture.name}, which fills masked images")
        return found
    names = ", ".join(first)
    raise UnknownNetwork(
        f"spandrel {spandrel.__version__} knows no network with such names as {path.name} has: {names}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _keep_names(network: SpandrelNetwork) -> None:
    """Let state dicts name tensors as the file does, without `model.` in front."""

    def take_off(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:  # noqa: ANN401
        inner = f"{prefix}model."
        for key in [key for key in state if key.startswith(inner)]:
            state[prefix + key.removeprefix(inner)] = state.pop(key)

    def put_on(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:  # noqa: ANN401
        for key in [key for key in state if key.startswith(prefix)]:
            state[f"{prefix}model.{key.removeprefix(prefix)}"] = state.pop(key)

    network.register_state_dict_post_hook(take_off)
    network.register_load_state_dict_pre_hook(put_on)
