"""Pairs of given low-quality and ground-truth images in two folders."""

from pathlib import Path

import numpy as np

from data.source import DATASETS, Source, UnreadableImageError, remarks_on_cut
from data.sources.folder import listed_images, present, read_list, read_listed, whole_folder
from utils.images.files import ImageError, changes, headers, read_header, read_image
from utils.options.fields import PositiveInt
from utils.storage.files import located

Size = tuple[int, int]


@DATASETS.register("paired")
class Paired(Source):
    """Low-quality images with their ground truths, matched by name.

    Args:
        gt_root: folder of ground truths, at any depth.
        lq_root: folder of low-quality images, laid out as `gt_root`; the file formats may differ.
        names: a text file that lists the ground truths to use, as for `folder`, or pairs `gt/0.png, lq/0.png`
            (Real-ESRGAN's), which then need not be called alike.
        pattern: the name of a low-quality image without its ending, `{}` standing for the name of its ground truth:
            `{}x4` finds 0001x4.png for 0001.png.
        scale: how many times larger the ground truth is; supplied by the experiment.

    A ground truth that is larger than `scale` times its partner by less than `scale` pixels is cut at the bottom and
    right, as is customary; `cut` counts those.

    Raises:
        ValueError: naming all pairs that do not match.
    """

    paired = keeps = True

    def __init__(
        self,
        gt_root: str,
        lq_root: str,
        scale: PositiveInt,
        names: str | None = None,
        pattern: str = "{}",
    ) -> None:
        if pattern.count("{}") != 1:
            raise ValueError(f"pattern: found {pattern!r}, expected one {{}} in the place of the ground truth's name")
        self.scale, self.cut = scale, 0
        roots, listing = (located(gt_root), located(lq_root)), None if names is None else located(names)
        matched, problems, self._left_out = _listed_pairs(*roots, listing, pattern) or pairs_by_name(
            *roots, listing, pattern
        )
        self._pairs: list[tuple[str, str]] = []
        for gt, lq in matched:
            if (problem := self._mismatch(gt, lq)) is None:
                self._pairs.append((str(gt), str(lq)))
            else:
                problems.append(problem)
        if problems:
            raise ValueError(f"{len(problems)} of the images do not pair at scale {scale}:\n  " + "\n  ".join(problems))

    def _mismatch(self, gt: Path, lq: Path) -> str | None:
        """Return what is wrong with the sizes of a pair, or None."""
        try:
            (gt_height, gt_width), (lq_height, lq_width) = image_size(gt), image_size(lq)
        except ImageError as error:
            return str(error)
        height, width = lq_height * self.scale, lq_width * self.scale
        rest = (gt_height - height, gt_width - width)
        if all(0 <= r < self.scale for r in rest):
            self.cut += rest != (0, 0)
            return None
        return f"{gt} is {gt_height}x{gt_width}, expected {height}x{width}, for {lq} is {lq_height}x{lq_width}"

    def __len__(self) -> int:
        return len(self._pairs)

    def name(self, index: int) -> str:
        return self._pairs[index][0]

    def path(self, index: int) -> Path:
        return Path(self._pairs[index][0])

    def remarks(self) -> list[str]:
        small = changes(headers(lq for _, lq in self._pairs))
        said = [*self._left_out, *remarks_on_cut(self.cut, self.scale), *super().remarks()]
        return said + [f"low quality: {text}" for text in small]

    def read(self, index: int) -> np.ndarray:
        gt, (height, width) = read_listed(self._pairs[index][0], self.cache), self._lq_size(index)
        cut = gt[: height * self.scale, : width * self.scale]
        if cut.shape[:2] != (height * self.scale, width * self.scale):  # a file was replaced since the start
            problem = self._mismatch(*map(Path, self._pairs[index]))
            raise UnreadableImageError(problem or f"{self._pairs[index][0]}: its header tells another size")
        return cut

    def read_lq(self, index: int) -> np.ndarray:
        return read_listed(self._pairs[index][1], self.cache)

    def _lq_size(self, index: int) -> Size:
        try:
            return image_size(Path(self._pairs[index][1]))
        except ImageError as error:
            raise UnreadableImageError(str(error)) from error


def image_size(path: Path) -> Size:
    """Return (height, width) of an image as it is read, from the head of its file where that tells.

    Raises ImageError.
    """
    height, width = read_header(path).upright or read_image(path).shape[:2]
    return height, width


Pairs = tuple[list[tuple[Path, Path]], list[str], list[str]]
"""(ground truth, low-quality image) of each pair, what is wrong with others, and what the folders hold besides."""


def _listed_pairs(gt_root: Path, lq_root: Path, listing: Path | None, pattern: str) -> Pairs | None:
    """Return the pairs of a list, or None where it lists ground truths alone."""
    lines = [] if listing is None else read_list(listing)
    if listing is None or not any(len(line) == 2 for line in lines):
        return None
    if pattern != "{}" or not all(len(line) == 2 for line in lines):
        raise ValueError(f"names: {listing} lists pairs; expected two names in every line, and no `pattern` beside it")
    gts = present(gt_root, [line[0] for line in lines], listing, "gt_root")
    return list(zip(gts, present(lq_root, [line[1] for line in lines], listing, "lq_root"), strict=True)), [], []


def pairs_by_name(gt_root: Path, lq_root: Path, names: Path | None, pattern: str) -> Pairs:
    """Return the pairs of two folders. Raises OptionError for one without images."""
    whole = [] if names is not None else [whole_folder(gt_root, "gt_root")]
    truths = listed_images(gt_root, names) if names is not None else whole[0].files
    whole.append(whole_folder(lq_root, "lq_root"))
    partners = _by_stem(whole[-1].files, lq_root)
    pairs, problems = [], []
    for gt in truths:
        key = str(gt.relative_to(gt_root).parent / pattern.replace("{}", gt.stem))
        candidates = partners.pop(key, [])
        if len(candidates) == 1:
            pairs.append((gt, candidates[0]))
        else:
            several = f"{len(candidates)} partners: {', '.join(map(str, candidates))}"
            what = several if candidates else f"no partner {key}.*"
            problems.append(f"{gt}: {what} in {lq_root}")
    if names is not None:
        return pairs, problems, []
    problems += [f"{path}: no ground truth in {gt_root}" for paths in partners.values() for path in paths]
    return pairs, problems, [listing.remark for listing in whole if listing.remark]


def _by_stem(paths: list[Path], root: Path) -> dict[str, list[Path]]:
    by_stem: dict[str, list[Path]] = {}
    for path in paths:
        by_stem.setdefault(str(path.relative_to(root).with_suffix("")), []).append(path)
    return by_stem
