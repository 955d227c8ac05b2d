"""``python -m lifealign``: the command line."""

from lifealign.cli.app import main

main()
