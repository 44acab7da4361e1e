"""One module a command of `ssb`, each with `main(arguments)`, which returns the exit code.

`words` has their words and help; `cli` imports a command's module when it is called.

May import: errors, published, io, records, prompts, recipe, verifier, pocket, machine, backends, data, run, method,
    evaluation, report, pipeline.
May be imported by: cli.
"""
