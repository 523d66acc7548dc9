"""Images inside tar files, as WebDataset writes them, on a disk or in object storage."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from data.shard_cache import FULL, Cache
from data.shard_index import PARTNER, ShardIndex
from data.source import DATASETS, Source, UnreadableImageError, remarks_on_cut
from utils.images.files import ImageError, decode_image
from utils.logging import first_few
from utils.options.fields import Bytes, OptionError, PositiveInt
from utils.storage.places import PlaceError

_SHOWN = 10  # names in a message
_AHEAD = 1024  # images that wait to be asked for; of those that never are, the oldest go


@DATASETS.register("shards")
class Shards(Source):
    """Images inside tar files, each read by its place in them, on a disk or behind a URL.

    `python -m data.prepare shards PHOTOS --out ROOT` makes such a set; `python -m data.prepare index ROOT` one of tars
    that WebDataset has written. Members NAME.gt.png and NAME.lq.png are pairs.

    Args:
        root: a folder, or a URL such as s3://bucket/set (extra `cloud`). Credentials come from the environment.
        cache: a folder on a local disk, shared by all processes of a node, that keeps what came from a URL.
        cache_size: bytes that it never passes; the least recently used go first.
        locality: images that stand together in a tar are read by one request, and come in the same 32 * `locality`
            samples (in at least 1000). A higher number suits a higher latency; needs a `cache`. 1 is a full shuffle.
        requests: so many requests are under way at a time for each worker, from a URL.
        scale: how many times larger the ground truth of a pair is; supplied by the experiment.

    As with `paired`, a ground truth that is larger by less than `scale` pixels is cut; `cut` counts those.

    Raises:
        OptionError: there is no set, its index was not made with it, or its images do not pair.
    """

    def __init__(
        self,
        root: str,
        cache: str | None = None,
        cache_size: Bytes = 100_000_000_000,
        locality: PositiveInt = 1,
        requests: PositiveInt = 8,
        scale: PositiveInt | None = None,
    ) -> None:
        if locality > 1 and cache is None:
            raise OptionError("locality: what is read together has to be kept; name a folder for it: `cache`")
        self.index = ShardIndex.read(root)
        self.locality = locality
        self._kept: Cache | None = None
        if cache is not None and self.index.place.remote:
            _refuse_too_small(cache_size, self.index.length, locality)
            self._kept = Cache(cache, cache_size)
        self.requests, self.scale, self.cut = requests, scale or 1, 0
        self._truths, self._partners = _pairs(self.index)
        self.paired = self._partners is not None
        if self._partners is not None:
            self._match(self._truths, self._partners)
        self._owner = 0
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[int, Future[bytes]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_owner": 0, "_pool": None, "_coming": {}}

    def _match(self, truths: torch.Tensor, partners: torch.Tensor) -> None:
        """Count what is cut. Raises OptionError naming the pairs whose sizes do not fit."""
        sides = (self.index.height, self.index.width)
        rest = torch.stack([side[truths] - side[partners] * self.scale for side in sides])
        wrong = ((rest < 0) | (rest >= self.scale)).any(0).nonzero().flatten().tolist()
        if wrong:
            lines = [f"{self.name(i)}: {self._size(truths[i])}, {self._size(partners[i])}" for i in wrong[:_SHOWN]]
            raise OptionError(
                f"root: {len(wrong)} pairs do not fit the scale {self.scale}; ground truth and low-quality image:\n  "
                + "\n  ".join([*lines, *["..."] * (len(wrong) > _SHOWN)])
            )
        self.cut = int((rest > 0).any(0).sum())

    def _size(self, member: torch.Tensor) -> str:
        return f"{self.index.height[member]}x{self.index.width[member]}"

    def __len__(self) -> int:
        return len(self._truths)

    def name(self, index: int) -> str:
        return self._name(int(self._truths[index]))

    def _name(self, member: int) -> str:
        return f"{self.index.place}/{self._tar(member)}/{self.index.name(member)}"

    def remarks(self) -> list[str]:
        return [*self.index.remarks, *remarks_on_cut(self.cut, self.scale)]

    def ahead(self, indices: Sequence[int]) -> None:
        if not self.index.place.remote:
            return
        if self._pool is None or self._owner != os.getpid():  # threads do not survive a fork
            self._pool, self._coming = ThreadPoolExecutor(self.requests, thread_name_prefix="shards"), {}
            self._owner = os.getpid()
        for member in (int(members[index]) for index in indices for members in self._parts()):
            if member not in self._coming:
                self._coming[member] = self._pool.submit(self._fetch, member)
        while len(self._coming) > _AHEAD:
            self._coming.pop(next(iter(self._coming)))

    def _parts(self) -> list[torch.Tensor]:
        return [self._truths] if self._partners is None else [self._truths, self._partners]

    def read(self, index: int) -> np.ndarray:
        image = self._image(int(self._truths[index]))
        if self._partners is None:
            return image
        partner = int(self._partners[index])
        return image[: int(self.index.height[partner]) * self.scale, : int(self.index.width[partner]) * self.scale]

    def read_lq(self, index: int) -> np.ndarray:
        return super().read_lq(index) if self._partners is None else self._image(int(self._partners[index]))

    def _image(self, member: int) -> np.ndarray:
        coming = self._coming.pop(member, None) if self._owner == os.getpid() else None
        try:
            return decode_image(self._fetch(member) if coming is None else coming.result(), self._name(member))
        except (ImageError, PlaceError, FileNotFoundError) as error:
            raise UnreadableImageError(f"{self._name(member)}: {error}") from error

    def _fetch(self, member: int) -> bytes:
        """Return the bytes of an image file. Raises OSError."""
        cache = self._kept
        if cache is None:
            return self._request(member)
        if (content := cache.get(self._key(member), self._check(member))) is not None:
            return content
        if self.locality == 1:
            content = self._request(member)
            cache.put(self._key(member), content)
            return content
        run = self._run(member)
        with cache.lock(f"{self.index.place}/{run[0]}"):  # another process may be reading just that
            return cache.get(self._key(member), self._check(member)) or self._request_run(member, run, cache)

    def _run(self, member: int) -> range:
        """Return the members that are read together with one."""
        length = self.locality * len(self._parts())
        first = member // length * length
        tars = self.index.tar[first : first + length]
        same = first + (tars == self.index.tar[member]).nonzero().flatten()
        return range(int(same[0]), int(same[-1]) + 1)

    def _request_run(self, member: int, run: range, cache: Cache) -> bytes:
        starts, lengths = self.index.offset[run.start : run.stop], self.index.length[run.start : run.stop]
        first, end = int(starts.min()), int((starts + lengths).max())
        content, wanted = self.index.place.read(self._tar(member), first, end), None
        for one, start, length in zip(run, starts.tolist(), lengths.tolist(), strict=True):
            part = content[start - first : start - first + length]
            if self._check(one)(part) is None:
                cache.put(self._key(one), part)
                wanted = part if one == member else wanted
        return self._request(member) if wanted is None else wanted  # which tries again, and says what is wrong

    def _request(self, member: int) -> bytes:
        start = int(self.index.offset[member])
        end = start + int(self.index.length[member])
        return self.index.place.read(self._tar(member), start, end, self._check(member))

    def _tar(self, member: int) -> str:
        return self.index.tars[int(self.index.tar[member])]

    def _key(self, member: int) -> str:
        where = (int(column[member]) for column in (self.index.offset, self.index.length, self.index.crc32))
        return " ".join(map(str, (self.index.place, self._tar(member), *where)))

    def _check(self, member: int) -> Callable[[bytes], str | None]:
        crc32 = int(self.index.crc32[member])
        said = "its checksum is another than in the index: the tar was damaged or replaced"
        return lambda content: None if zlib.crc32(content) == crc32 else said


def _refuse_too_small(cache_size: int, lengths: torch.Tensor, locality: int) -> None:
    """Raise OptionError for a cache that would keep some image never, or runs not until they are used."""
    needed, why = int(int(lengths.max()) / FULL) + 1, "the largest image"
    if locality > 1:
        together = int(2 * max(1000, 32 * locality) * lengths.double().mean())  # of two blocks of the order
        needed, why = (
            max(needed, min(int(lengths.sum() / FULL) + 1, together)),
            f"what locality {locality} reads together",
        )
    if cache_size < needed:
        raise OptionError(f"cache_size: found {cache_size}, expected at least {needed} bytes for {why}")


def _pairs(index: ShardIndex) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return which members are ground truths, and their partners where there are any.

    Raises OptionError naming what has no partner.
    """
    if b".lq." not in index.letters.numpy().tobytes():  # which takes no second for a million
        return torch.arange(len(index)), None
    parts = [PARTNER.fullmatch(index.name(member)) for member in range(len(index))]
    if not any(part is not None and part["part"] == "lq" for part in parts):
        return torch.arange(len(index)), None
    keys: dict[str, dict[tuple[int, str], int]] = {"gt": {}, "lq": {}}
    alone = []
    for member, part in enumerate(parts):
        if part is None:
            alone.append(index.name(member))
        else:
            keys[part["part"]][int(index.tar[member]), part["key"]] = member
    alone += [key for _, key in keys["gt"].keys() ^ keys["lq"].keys()]
    if alone:
        shown = first_few(sorted(alone), _SHOWN)
        raise OptionError(
            f"root: {len(alone)} images in {index.place} have no partner, NAME.gt.png and NAME.lq.png: {shown}"
        )
    return torch.tensor(list(keys["gt"].values())), torch.tensor([keys["lq"][key] for key in keys["gt"]])
