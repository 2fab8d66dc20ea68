"""`python -m settx_fast.cli`: the command line where its script is not on the path."""

from settx_fast.cli import main

main()
