"""Reading and writing ncnn's models: by hand-written graphs, by the way back, and by what does not belong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.network import NETWORKS
from models.publishing.ncnn import ncnn_files
from models.weights.ncnn import read_ncnn
from utils.options.fields import OptionError

SMALL = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 5, "num_block": 2, "num_grow_ch": 3}
RRDBNETS = [
    {"type": "rrdbnet", "scale": scale, **SMALL, "upsampling": form}
    for scale, form in ((4, "steps"), (2, "unshuffle"), (1, "unshuffle"), (2, "steps"), (3, "steps"), (8, "steps"))
]
SRVGGS = [
    {"type": "srvgg", "scale": scale, "num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_conv": 2, **more}
    for scale, more in (
        (4, {"act_type": "prelu", "upscale": 4}),
        (2, {"act_type": "prelu", "upscale": 4}),
        (3, {"act_type": "leakyrelu", "upscale": 3}),
        (1, {"act_type": "relu", "upscale": 1}),
    )
]
ALL = [pytest.param(options, id=f"{options['type']}{number}") for number, options in enumerate([*RRDBNETS, *SRVGGS])]


def network(options: dict) -> nn.Module:
    torch.manual_seed(1)
    built = NETWORKS.build(options)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.1)
    return built


def written(folder: Path, options: dict, state: dict[str, Tensor], half: bool = True) -> Path:
    text, data = ncnn_files(options, state, half)
    (folder / "net.param").write_text(text)
    (folder / "net.bin").write_bytes(data)
    return folder / "net.param"


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("options", ALL)
def test_the_way_back_is_exact(options: dict, half: bool, tmp_path: Path) -> None:
    state = network(options).state_dict()
    path = written(tmp_path, options, state, half)
    model = read_ncnn(path.with_suffix(".bin"))
    assert model.options == options and model.state.keys() == state.keys()
    for key, value in model.state.items():
        expected = state[key].half().float() if half and value.ndim == 4 else state[key]
        assert torch.equal(value, expected), key
    assert ncnn_files(model.options, model.state, half) == (path.read_text(), path.with_suffix(".bin").read_bytes())


@pytest.mark.parametrize("options", ALL)
def test_ncnn_itself_computes_the_same(options: dict, tmp_path: Path) -> None:
    ncnn = pytest.importorskip("ncnn", reason="needs the extra `publish`")
    ours = network(options).eval()
    path = written(tmp_path, options, ours.state_dict(), half=False)
    lq = torch.rand(1, 3, 12, 20)
    net = ncnn.Net()
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    assert net.load_param(str(path)) == 0 and net.load_model(str(path.with_suffix(".bin"))) == 0
    extractor, pixels = net.create_extractor(), lq[0].numpy()
    extractor.input("data", ncnn.Mat(pixels))
    _, out = extractor.extract("output")
    sr = ours(lq)[0].detach()
    torch.testing.assert_close(torch.from_numpy(np.array(out)), sr, atol=1e-4 * float(sr.abs().max()), rtol=0)


def test_subnormal_weights_are_kept(tmp_path: Path) -> None:
    options = SRVGGS[0]
    state = {key: torch.full_like(value, 3e-7) for key, value in network(options).state_dict().items()}
    kept = read_ncnn(written(tmp_path, options, state)).state["body.0.weight"]
    assert kept.unique().tolist() == [np.float32(np.float16(3e-7))] and kept.min() > 0
    state["body.2.weight"][0] = 1e5
    with pytest.raises(OptionError, match=r"body\.2: a weight of 100000 is more than float16 holds"):
        ncnn_files(options, state)


OTHERS_RRDB = """
Input in0 0 1 in0
Convolution c0 1 1 in0 1 0=2 1=3 11=3 4=1 5=1 6=54
Split s0 1 8 1 1a 1b 1c 1d 1e 1f 1g 1h
Convolution c1 1 1 1a 2 0=2 1=3 4=1 5=1 6=36
ReLU r1 1 1 2 2r 0=2.000000e-01
Split s1 1 4 2r 2a 2b 2c 2d
Concat k1 2 1 1b 2a 3
Convolution c2 1 1 3 4 0=2 1=3 4=1 5=1 6=72 9=2 -23310=1,2.000000e-01
Split s2 1 3 4 4a 4b 4c
Concat k2 3 1 1c 2b 4a 5
Convolution c3 1 1 5 6 0=2 1=3 4=1 5=1 6=108 9=2 -23310=1,2.000000e-01
Split s3 1 2 6 6a 6b
Concat k3 4 1 1d 2c 4b 6a 7
Convolution c4 1 1 7 8 0=2 1=3 4=1 5=1 6=144 9=2 -23310=1,2.000000e-01
Concat k4 5 1 1e 2d 4c 6b 8 9
Convolution c5 1 1 9 10 0=2 1=3 4=1 5=1 6=180
BinaryOp m1 1 1 10 11 0=2 1=1 2=2.000000e-01
BinaryOp a1 2 1 1f 11 body.0.rdb1.sum 0=0
"""


def test_other_ways_to_write_the_same(tmp_path: Path) -> None:
    """A damped sum as a product and a sum, an activation as a layer of its own, other names and defaults."""
    options = {**RRDBNETS[0], "num_feat": 2, "num_grow_ch": 2, "num_block": 1}
    state = network(options).state_dict()
    path = written(tmp_path, options, state, half=False)
    lines = path.read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if " body.0.rdb1.sum " in line)
    rest = "\n".join(lines[end + 1 :]).replace("conv_first_6", "1g").replace("conv_first_7", "1h")
    both = [*OTHERS_RRDB.strip().splitlines(), *rest.splitlines()]
    path.write_text("\n".join([lines[0], f"{len(both)} 99", *both]) + "\n")
    model = read_ncnn(path)
    assert model.options == options
    assert all(torch.equal(value, state[key]) for key, value in model.state.items())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Eltwise", "Softmax", r"layer body\.0\.rdb1\.sum \(Softmax\) is the first that does not fit"),
        ("2.000000e-01,1.000000e+00", "3.000000e-01,1.000000e+00", r"layer body\.0\.rdb1\.sum \(Eltwise\)"),
        ("7767517", "7767518", "is no ncnn graph"),
        ("0=5 1=3 4=1 5=1 6=225 9=2", "0=5 1=3 4=1 5=1 6=225 8=2 9=2", r"conv_up1 \(Convolution\)"),
        ("Input ", "Input x y", "expected a layer of ncnn"),
    ],
)
def test_other_graphs_are_refused_by_layer(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, RRDBNETS[0], network(RRDBNETS[0]).state_dict())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(OptionError, match=words) as caught:
        read_ncnn(path)
    assert str(path) in str(caught.value)


def test_weights_that_do_not_go_with_their_graph(tmp_path: Path) -> None:
    path = written(tmp_path, SRVGGS[0], network(SRVGGS[0]).state_dict())
    data = path.with_suffix(".bin").read_bytes()
    path.with_suffix(".bin").write_bytes(data[:-5])
    with pytest.raises(OptionError, match=r"net\.bin: ends after .* in the middle of layer body\.6"):
        read_ncnn(path)
    path.with_suffix(".bin").write_bytes(data + b"1234")
    with pytest.raises(OptionError, match="but the graph beside it has weights of"):
        read_ncnn(path)
    path.with_suffix(".bin").write_bytes(0x000D4B38.to_bytes(4, "little") + data[4:])
    with pytest.raises(OptionError, match=r"layer body\.0 are int8"):
        read_ncnn(path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(OptionError, match="two files of one name"):
        read_ncnn(path)
