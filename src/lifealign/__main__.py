"""``python -m lifealign``: the command line."""

from lifealign.cli import main

main()
