"""``python -m lifealign``: the command line."""

from lifealign.cli.start import main

main()
