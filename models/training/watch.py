"""What a run tells while it trains: losses and rates, scores and sample images, what goes wrong, fast or slowly."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.overlap import overlap
from data.training import Mix
from data.validation import ValidationSet
from degradations import Batch
from models.networks.blocks import EncoderNetwork
from models.training.experiment import Health, Logger
from models.training.validation import Diverged, Scorer, evaluate
from utils.boards import Board, TensorBoard, WeightsAndBiases
from utils.images.sheet import sheet
from utils.logging import Console, MetricsLog, Progress, memory_mb
from utils.metrics.evaluate import mean_scores
from utils.processes import distributed
from utils.processes.distributed import Processes


class Watcher:
    """Metrics on disk and words on the console. What cannot be written is warned of; training goes on.

    Attributes:
        scores: the newest mean scores by validation set.
        scored_at: the iteration that they are of.
    """

    def __init__(
        self,
        logger: Logger,
        sets: Sequence[ValidationSet],
        folder: Path,
        processes: Processes,
        console: Console,
        options: Mapping[str, Any] = {},  # noqa: B006 - never written to
    ) -> None:
        self.logger, self.sets, self.folder, self.processes, self.console = logger, sets, folder, processes, console
        self.log: MetricsLog | None = None
        if processes.is_main:
            boards: list[Board] = [TensorBoard(folder)] if logger.tensorboard else []
            boards += [WeightsAndBiases(folder, options)] if logger.wandb else []
            self.log = MetricsLog(folder, boards)
        self.scores: dict[str, dict[str, float]] = {}
        self.scored_at: int | None = None
        self.mishaps: set[str] = set()
        self.new_mishaps: dict[str, str] = {}
        self.too_many_mishaps = ""
        self.health = HealthWatch(logger.health)
        self.scorer = Scorer.build(logger, processes.device)
        self.nonfinite_in_a_row, self._nonfinite_phase = 0, ""

    def tell_of_images(self, mix: Mix) -> None:
        """Say what reading leaves out or changes; warn when validation images occur among those trained on."""
        if self.processes.is_main:
            held_out = {valid.name: valid.entry.source for valid in self.sets}
            trained = {name: entry.source for name, entry in zip(mix.names, mix.entries, strict=True)}
            for where, sources in {"data.train": trained, "data.validation": held_out}.items():
                for name, source in sources.items():
                    for remark in source.remarks():
                        self.console.info(f"{where}.{name}: {remark}")
            for warning in overlap(trained, held_out):
                self.console.warn(warning)

    def record(
        self,
        stage: str,
        iteration: int,
        values: Mapping[str, float],
        pictures: Mapping[str, np.ndarray] | None = None,
        losses: Collection[str] = (),
    ) -> None:
        """Write numbers, some of them losses, and pictures (H, W, 3) to the logs. Nothing else writes there."""
        if self.log is not None:
            with self.despite_full_disk():
                self.log.scalars(stage, iteration, values, losses)
                for name, picture in (pictures or {}).items():
                    self.log.image(stage, iteration, name, picture)

    def report(
        self, stage: str, iteration: int, values: Mapping[str, Tensor], rate: float, progress: Progress
    ) -> dict[str, float]:
        """Record losses (means over the ranks), learning rate, speed and memory; warn of what looks unwell.

        Returns:
            The losses, for the progress line.
        """
        none = torch.zeros((), device=self.processes.device)
        stacked = torch.stack([value.detach().double() for value in values.values()] or [none])
        means = dict(zip(values, distributed.all_mean(stacked).tolist(), strict=False))
        if not self.processes.is_main:
            return {}
        plain = {name.lstrip("_"): mean for name, mean in means.items()}
        everything = {**plain, "lr": rate, **progress.rates(), **memory_mb()}
        for warning in self.health.look(iteration, everything):
            self.console.warn(f"{stage} {iteration}: {warning}")
        losses = {name: mean for name, mean in means.items() if not name.startswith("_")}
        self.record(stage, iteration, everything, losses=losses)
        return losses

    def validate(
        self,
        stage: str,
        iteration: int,
        network: nn.Module,
        device: torch.device,
        stopped: Callable[[], int],
        restores: bool = True,
    ) -> None:
        """Score a network on every validation set and record sample images, unless `stopped` meanwhile. Where it learns
        no super-resolution (not `restores`), only its embedding is looked at."""
        distributed.broadcast_buffers(network)  # of batch norm, which every rank has of its own images
        of_sets: dict[str, dict[str, float]] = {}
        for valid in self.sets:
            if restores:
                result = evaluate(network, valid, device, self.processes.rank, self.logger.images, self.scorer, stopped)
                if result is None:
                    return
                scores, strips = result
                of_sets[valid.name] = scores
                self._tell(stage, iteration, valid.name, scores, {valid.name: sheet(strips)} if strips else None)
            if (draws := valid.entry.embedding) is not None:
                with distributed.together():
                    self._report_embedding(stage, iteration, network, valid, draws)
        if of_sets:  # of all sets or none, since their mean tells which checkpoint is best
            self.scores, self.scored_at = of_sets, iteration

    def _report_embedding(
        self, stage: str, iteration: int, network: nn.Module, valid: ValidationSet, draws: int
    ) -> None:
        from models.embedding.report import validation_report  # it draws figures, and few runs want them

        assert isinstance(network, EncoderNetwork), "the options were checked"
        if self.processes.is_main:
            with self.despite_full_disk():
                folder = self.folder / "embedding" / f"{valid.name}_{stage}_{iteration:08d}"
                scores = validation_report(folder, network.encoder, valid, draws)
                known = {f"embedding {name}": score for name, score in scores.items() if score is not None}
                self._tell(stage, iteration, valid.name, known)

    def _tell(
        self,
        stage: str,
        iteration: int,
        name: str,
        scores: Mapping[str, float],
        pictures: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Say and record the scores of a validation set."""
        words = ", ".join(f"{metric} {score:.4g}" for metric, score in scores.items())
        self.console.info(f"{stage} {iteration}: {name} {words}")
        self.record(stage, iteration, {f"{name}/{metric}": score for metric, score in scores.items()}, pictures)

    def means(self) -> dict[str, float]:
        """Return what `best` is judged by: the means over the validation sets."""
        return mean_scores(list(self.scores.values()))

    def finite(self, phase: str) -> None:
        """Note that a phase had a finite gradient: nothing is in a row any more, unless another phase still fails."""
        if phase == self._nonfinite_phase:
            self.nonfinite_in_a_row = 0

    def nonfinite(self, stage: str, iteration: int, phase: str, batches: Sequence[Batch]) -> None:
        """Write down the plans of a batch without a finite gradient, for `degradations.preview --replay`. Raises
        Diverged if there were too many in a row."""
        self.nonfinite_in_a_row += 1
        self._nonfinite_phase = phase
        path = self.folder / f"nonfinite_{stage}_{iteration}_rank{self.processes.rank}.jsonl"
        lines = [
            f'{{"path": {json.dumps(p)}, "plan": {plan.to_json()}}}\n'
            for batch in batches
            for p, plan in zip(batch.paths, batch.plans, strict=True)
        ]
        with self.despite_full_disk():
            path.write_text("".join(lines), encoding="utf-8")
        self.console.warn(f"step {iteration}, phase {phase}: the gradient is not finite; skipped, see {path}")
        if self.nonfinite_in_a_row >= self.logger.nonfinite_in_a_row:
            raise Diverged(
                f"{self.nonfinite_in_a_row} updates in a row had no finite gradient (lower the learning rate or set "
                f"stages.{stage}.clip_grad_norm)"
            )

    def note_mishaps(self, micros: Sequence[Batch]) -> None:
        """Remember files that could not be used until all ranks share them."""
        new = dict(item for batch in micros for item in batch.mishaps if item[0] not in self.mishaps)
        self.new_mishaps.update(new)

    def share_mishaps(self, limit: int) -> None:
        """Name each unusable file of any rank once. Above the limit, `too_many_mishaps` says so on every rank."""
        new, self.new_mishaps = self.new_mishaps, {}
        for path, reason in (item for of_rank in distributed.gather_objects(new) for item in of_rank.items()):
            if path not in self.mishaps:
                self.mishaps.add(path)
                self.console.warn(f"left out, another image is drawn instead: {reason}")
        if len(self.mishaps) > limit:
            self.too_many_mishaps = (
                f"data: {len(self.mishaps)} files could not be used, more than max_unreadable ({limit}); "
                "mend or remove those named above"
            )

    def enter_stage(self) -> None:
        """Forget what was counted and scored in another stage, or before a run went back. On every rank."""
        self.nonfinite_in_a_row = 0
        self.scores, self.scored_at = {}, None

    def resume(self, stage: str, iteration: int) -> None:
        """Cut from the log what comes after the iteration that a run resumes from."""
        if self.log is not None:
            with self.despite_full_disk():
                self.log.resume(stage, iteration)

    def close(self) -> None:
        """Write out the logs."""
        if self.log is not None:
            with self.despite_full_disk():
                self.log.close()

    @contextmanager
    def despite_full_disk(self) -> Iterator[None]:
        """Do what training can do without: a failure to write is warned of once."""
        try:
            yield
        except OSError as error:
            self.console.warn(f"{self.folder}: logs cannot be written, training goes on: {error}", once="log")


# Logged value: (threshold's name, what it means, what to change).
_RULES = {
    "d_accuracy": (
        "d_accuracy",
        "the discriminator tells restored from real images almost always, so the generator learns little from it",
        "lower optim_d.lr, let it step less often (turn_d.every), or give the gan loss less weight",
    ),
    "colour_drift": (
        "colour_drift",
        "the mean colour of the output leaves that of the input (8-bit levels)",
        "give the pixel loss more weight or lower optim_g.lr; if colours are meant to change, raise the threshold",
    ),
    "wait_share": (
        "data_wait",
        "the step waits for data this share of the time",
        "raise data.workers, cut images into tiles (python -m data.prepare tiles), or set degradation.where: device",
    ),
}


class HealthWatch:
    """Follows logged values; speaks once when one has been above its threshold for long enough, and again only after
    it was below."""

    def __init__(self, health: Health) -> None:
        self.health = health
        self._since: dict[str, int] = {}
        self._told: set[str] = set()
        self._newest = 0

    def look(self, iteration: int, values: Mapping[str, float]) -> list[str]:
        """Return the warnings that the values of an iteration give rise to."""
        warnings = []
        if iteration < self._newest:  # another stage, or back to a checkpoint
            self._since.clear()
            self._told.clear()
        self._newest = iteration
        for key, (threshold, meaning, advice) in _RULES.items():
            limit = getattr(self.health, threshold)
            if key not in values or limit is None:
                continue
            if values[key] <= limit:
                self._since.pop(key, None)
                self._told.discard(key)
                continue
            since = self._since.setdefault(key, iteration)
            if iteration - since >= self.health.steps and key not in self._told:
                self._told.add(key)
                warnings.append(
                    f"{key} is {values[key]:.3g}, above {limit:g} since iteration {since}: {meaning}; {advice} "
                    f"(threshold: logger.health.{threshold})"
                )
        return warnings
