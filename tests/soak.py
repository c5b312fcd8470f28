"""A soak: the service under load while everything that may happen to it does, and a ledger of what came of it.

    python tests/soak.py --minutes 30 --seed 7 [--plot docs/soak.svg] [--docs docs/soak.md]

Clients of all manners ask a real service, which asks real upstreams, each in processes of their own; meanwhile its
workers, its fork server and itself are killed, stopped, reloaded and replaced.  What is asked and what is broken comes
from the seed.  The exit status is 0 if every request, stream and token is accounted for, everything is idle at the
end, and nothing has grown.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from fakes.soak.main import main

    sys.exit(main(sys.argv[1:]))
