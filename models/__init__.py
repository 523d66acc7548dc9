"""Networks and the stages that train them, each chosen by name from an option file."""

from models.network import NETWORKS, Network
from models.stages.stage import STAGES, Phase, Stage, StageSettings

__all__ = ["NETWORKS", "STAGES", "Network", "Phase", "Stage", "StageSettings"]
