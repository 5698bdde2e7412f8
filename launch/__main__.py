"""`python -m launch NAME …` is `avemo launch NAME …`."""

import sys

from . import LAUNCHERS, main

if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
    width = max(map(len, LAUNCHERS))
    print("usage: launch NAME [--flags] -- train …\n")
    print("\n".join(f"  {name:<{width}}  {text}" for name, text in LAUNCHERS.items()))
    sys.exit(0)
sys.exit(main(sys.argv[1:]))
