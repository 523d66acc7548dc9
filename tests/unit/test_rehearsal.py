"""What a profile makes of the profiler's events."""

from types import SimpleNamespace

from torch.autograd import DeviceType

from models.training.rehearsal import covered, of_device


def test_kernels_count_once_and_without_the_operators_that_launched_them() -> None:
    operator, kernel, range_ = (
        SimpleNamespace(device_type=kind, is_user_annotation=ours)
        for kind, ours in ((DeviceType.CPU, False), (DeviceType.CUDA, False), (DeviceType.CUDA, True))
    )
    assert of_device([operator, kernel, range_], gpu=True) == [kernel]
    assert of_device([operator, kernel, range_], gpu=False) == [operator]


def test_streams_that_overlap_cover_their_time_once() -> None:
    assert covered([(5, 7), (0, 2), (1, 4), (1, 3), (7, 8)]) == 7
    assert covered([]) == 0
