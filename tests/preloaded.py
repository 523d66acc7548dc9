"""What the server of `tests.programs` imports before it is forked: all that a program of ours loads on its way."""

import torch._dynamo  # noqa: F401  # the first optimizer would, for seconds

import models.training.preview  # noqa: F401
import test  # noqa: F401
import train  # noqa: F401
from data.source import DATASETS
from degradations import DEGRADATIONS, STEPS
from losses import LOSSES
from models.network import NETWORKS
from models.stages.stage import STAGES
from utils.metrics import METRICS
from utils.optim import SCHEDULES
from utils.storage.checkpoint import versions

for registry in (DATASETS, DEGRADATIONS, LOSSES, METRICS, NETWORKS, SCHEDULES, STAGES, STEPS):
    registry.names()
versions()
