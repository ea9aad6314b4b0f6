"""`python -m whence`: the same as the command `whence`."""

from whence.cli import main

raise SystemExit(main())
