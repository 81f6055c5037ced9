"""What the pages tell a reader to type is typed: every block of shell commands of README, SECURITY and docs/.

`kinds.py` says of each block how it is run, or why it cannot be here; `shell.py` runs them.
"""
