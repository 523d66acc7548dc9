"""Fuzzes one parser, or all by turns, guided by coverage: `python -m tests.fuzzing [--minutes 30] [PARSER ...]`.

Needs `pip install atheris`. Each parser works in a process of its own, forked when all is imported, with a limit of
memory and of 10 seconds for a file. What breaks it is kept in OUT/PARSER, named crash-, timeout- or oom-; `--file`
reads one such file again.
"""

import argparse
import os
import sys
from pathlib import Path

MEGABYTES, SECONDS, LARGEST = 3000, 10, 1 << 16
OURS = ("utils.images", "utils.options", "models.weights", "data.sources", "data.shard_index", "degradations.kernels")


def main() -> int:
    """Run the command line; return how many parsers broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parsers", nargs="*", metavar="PARSER")
    parser.add_argument("--minutes", type=float, default=30, help="in all (default: 30)")
    parser.add_argument("--out", type=Path, default=Path("fuzzing"), help="where files are kept (default: fuzzing)")
    parser.add_argument("--file", type=Path, help="read this file once, and do nothing else")
    args = parser.parse_args()
    if args.file is not None:
        from tests.fuzzing.parsers import PARSERS

        PARSERS[args.parsers[0] if args.parsers else "image"](args.file.read_bytes())
        return 0
    import atheris  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    with atheris.instrument_imports(include=[*OURS, "tifffile", "PIL"]):  # pyright: ignore[reportAttributeAccessIssue]
        from tests.fuzzing.parsers import PARSERS
    names, broke = args.parsers or list(PARSERS), 0
    for name in names:
        sys.stderr.write(f"--- {name}\n")
        if (child := os.fork()) == 0:
            fuzz(name, args.out / name, round(60 * args.minutes / len(names)))
        broke += os.waitpid(child, 0)[1] != 0
    return broke


def fuzz(name: str, folder: Path, seconds: int) -> None:
    """Change files until the time is over, keeping what reaches new code. Ends the process."""
    import atheris  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    from tests.fuzzing.parsers import PARSERS

    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(PARSERS[name].seeds()):
        (corpus / f"seed{number}").write_bytes(seed)
    limits = [f"-rss_limit_mb={MEGABYTES}", f"-timeout={SECONDS}", f"-max_len={LARGEST}"]
    kept = [f"-artifact_prefix={folder}/", f"-max_total_time={seconds}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, *kept], PARSERS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
