"""`python -m wattgram` is `wattgram`."""

from wattgram.cli import main

main()
