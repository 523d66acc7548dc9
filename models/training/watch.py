"""What a run writes down while it trains: losses and rates, validation scores and sample images, bad batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from data.overlap import overlap
from data.training import Mix, ValidationSet
from degradations import Batch
from models.networks.blocks import EncoderNetwork
from models.training.experiment import Logger
from models.training.health import HealthWatch
from models.training.report import validate
from utils.images.sheet import sheet
from utils.logging import Console, MetricsLog, Progress, memory_mb
from utils.metrics.evaluate import mean_scores
from utils.options.fields import OptionError
from utils.processes import distributed
from utils.processes.distributed import AgreedError, Processes


class Diverged(Exception):  # noqa: N818 - handled once
    """Too many updates in a row had no finite gradient; raised on all ranks alike."""


class Watcher:
    """Metrics on disk and words on the console. What cannot be written is warned of; training goes on.

    Attributes:
        scores: the newest mean scores by validation set.
    """

    def __init__(
        self, logger: Logger, sets: Sequence[ValidationSet], folder: Path, processes: Processes, console: Console
    ) -> None:
        self.logger, self.sets, self.folder, self.processes, self.console = logger, sets, folder, processes, console
        self.log = MetricsLog(folder, tensorboard=logger.tensorboard) if processes.is_main else None
        self.scores: dict[str, dict[str, float]] = {}
        self.mishaps: set[str] = set()
        self.new_mishaps: dict[str, str] = {}
        self.health = HealthWatch(logger.health)
        self.nonfinite_in_a_row, self._nonfinite_phase = 0, ""

    def warn_of_overlap(self, mix: Mix) -> None:
        """Warns when validation images occur among those trained on."""
        if self.processes.is_main:
            held_out = {valid.name: valid.entry.source for valid in self.sets}
            trained = {name: entry.source for name, entry in zip(mix.names, mix.entries, strict=True)}
            for text in overlap(trained, held_out):
                self.console.warn(text)

    def report(
        self, stage: str, iteration: int, values: Mapping[str, Tensor], rate: float, progress: Progress
    ) -> dict[str, float]:
        """Writes losses (means over the ranks), learning rate, speed and memory to the log, and warns of what looks
        unwell; returns the losses for the progress line."""
        none = torch.zeros((), device=self.processes.device)
        stacked = torch.stack([value.detach().double() for value in values.values()] or [none])
        means = distributed.all_mean(stacked).tolist()[: len(values)]
        if self.log is None:
            return {}
        plain = {key.lstrip("_"): mean for key, mean in zip(values, means, strict=True)}
        everything = {**plain, "lr": rate, **progress.rates(), **memory_mb()}
        for text in self.health.look(iteration, everything):
            self.console.warn(f"{stage} {iteration}: {text}")
        with self.despite_full_disk():
            self.log.scalars(stage, iteration, everything)
        return {key: plain[key.lstrip("_")] for key in values if not key.startswith("_")}

    def validate(
        self, stage: str, iteration: int, network: nn.Module, device: torch.device, stopped: Callable[[], int]
    ) -> None:
        """Scores a network on every validation set and writes sample images, unless `stopped` meanwhile."""
        distributed.broadcast_buffers(network)  # of batch norm, which every rank has of its own images
        for valid in self.sets:
            found = validate(network, valid, device, self.processes.rank, self.logger.images, stopped)
            if found is None:
                return
            rows, strips = found
            self.scores[valid.name] = rows
            text = ", ".join(f"{metric} {value:.4g}" for metric, value in rows.items())
            self.console.info(f"{stage} {iteration}: {valid.name} {text}")
            if self.log is not None:
                with self.despite_full_disk():
                    self.log.scalars(stage, iteration, {f"{valid.name}/{k}": v for k, v in rows.items()})
                    if strips:
                        self.log.images(stage, iteration, valid.name, sheet(strips))
            if valid.entry.embedding is not None:
                with distributed.together():
                    self._report_embedding(stage, iteration, network, valid, valid.entry.embedding)

    def _report_embedding(
        self, stage: str, iteration: int, network: nn.Module, valid: ValidationSet, draws: int
    ) -> None:
        from models.embedding.report import validation_report  # plots, which few runs want

        if not isinstance(network, EncoderNetwork):
            text = f"{type(network).__name__} has no encoder; choose network_g dasr or cdsr, or remove this option"
            raise OptionError(f"data.validation.{valid.name}.embedding: {text}")
        if self.log is not None:
            with self.despite_full_disk():
                folder = self.folder / "embedding" / f"{valid.name}_{stage}_{iteration:08d}"
                found = validation_report(folder, network.encoder, valid, draws)
                told = {name: value for name, value in found.items() if value is not None}
                text = ", ".join(f"{name} {value:.3f}" for name, value in told.items())
                self.console.info(f"{stage} {iteration}: {valid.name} embedding: {text}")
                self.log.scalars(stage, iteration, {f"{valid.name}/embedding {k}": v for k, v in told.items()})

    def means(self) -> dict[str, float]:
        """What `best` is judged by: the means over the validation sets."""
        return mean_scores(list(self.scores.values()))

    def finite(self, phase: str) -> None:
        """A phase had a finite gradient: nothing is in a row any more, unless another phase still fails each time."""
        if phase == self._nonfinite_phase:
            self.nonfinite_in_a_row = 0

    def nonfinite(self, stage: str, iteration: int, phase: str, batches: Sequence[Batch]) -> None:
        """Writes down the plans of a batch without a finite gradient, for `degradations.preview --replay`. Raises
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
            text = f"{self.nonfinite_in_a_row} updates in a row had no finite gradient"
            raise Diverged(f"{text} (lower the learning rate or set stages.{stage}.clip_grad_norm)")

    def note_mishaps(self, micros: Sequence[Batch]) -> None:
        """Remembers files that could not be used until all ranks share them."""
        new = dict(item for batch in micros for item in batch.mishaps if item[0] not in self.mishaps)
        self.new_mishaps.update(new)

    def share_mishaps(self, limit: int) -> None:
        """Names each unusable file of any rank once. Raises AgreedError when there are more than the limit."""
        new, self.new_mishaps = self.new_mishaps, {}
        for path, reason in (item for found in distributed.gather_objects(new) for item in found.items()):
            if path not in self.mishaps:
                self.mishaps.add(path)
                self.console.warn(f"left out, another image is drawn instead: {reason}")
        if len(self.mishaps) > limit:
            raise AgreedError(
                f"data: {len(self.mishaps)} files could not be used, more than max_unreadable ({limit}); "
                "mend or remove those named above"
            )

    def resume(self, stage: str, iteration: int) -> None:
        """Cuts from the log what comes after the iteration that a run resumes from."""
        self.nonfinite_in_a_row = 0
        if self.log is not None:
            self.log.resume(stage, iteration)

    def close(self) -> None:
        """Writes out the logs."""
        if self.log is not None:
            with self.despite_full_disk():
                self.log.close()

    @contextmanager
    def despite_full_disk(self) -> Iterator[None]:
        """For what training can do without: a failure to write is warned of once."""
        try:
            yield
        except OSError as error:
            self.console.warn(f"{self.folder}: logs cannot be written, training goes on: {error}", once="log")
