"""``python -m tests.stopped_prepare NUMBER WORDS...``: ``toolkit WORDS...`` that gets a signal at a known place.

It comes after half of a hundred recordings, whose rows are then on disk, to the process group as from a terminal, or to
this process only where it cannot be caught.
"""

import os
import signal
import sys

AT = 50

if __name__ == "__main__":
    from toolkit.cli.app import main
    from toolkit.corpus.shards import Shards

    number, add, added = int(sys.argv.pop(1)), Shards.add, 0

    def add_then_stop(self, row, part):
        global added
        placed, added = add(self, row, part), added + 1
        if added == AT:
            self.commit()
            os.kill(os.getpid(), number) if number == signal.SIGKILL else os.killpg(0, number)
        return placed

    Shards.add = add_then_stop
    main()
