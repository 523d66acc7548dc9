"""torchrun without its page of tracebacks: `python -m utils.processes.launch`, then what torchrun is given.

A process that ends with an error has said why. torchrun prints that it failed, twice, with a traceback of its own, and
nothing that a worker does prevents it; so it is called from here.
"""

import logging
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from utils.logging import Console


def main() -> int:
    """Run torchrun with this command line. Return the exit status of the first process that failed, or 128 + the number
    of the signal that ended it, which no process can say itself."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        more = ", perhaps for want of memory" if name == "SIGKILL" else ""
        Console().error(f"rank {rank} was ended by {name}{more}")
        return 128 - failure.exitcode
    except SignalException as stopped:
        return 128 + stopped.sigval.value
    return 0


if __name__ == "__main__":
    sys.exit(main())
