"""What checks the files of cluster/ and infra/: one function per tool or rule, all of them `check(path)`.

Each raises `Refused` for a file that an operator had better not use. `table.py` says which file has which.
"""
