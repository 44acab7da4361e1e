"""One module a command of `ssb`, each with `main(arguments)`, which returns the exit code.

`cli` has the words and their help, and imports a command's module when it is called.

May import: errors, published, io, records, prompts, recipe, verifier, pocket, machine, backends, data, run, method,
    evaluation, report, pipeline.
May be imported by: cli.
"""
