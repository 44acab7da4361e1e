"""One module a command of `ssb`, each with `main(arguments)`, which returns the exit code.

`cli` has the words and their help, and imports a command's module when it is called.

Imports every room; nothing imports this but `cli`.
"""
