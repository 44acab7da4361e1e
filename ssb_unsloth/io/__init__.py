"""Files, the terminal, and what may be read from or written to either.

Names and contents from outside are looked at here before anything is made of them (`files`), what is written is on the
disk or not there at all (`disk`), and what is shown holds no secret and no control character (`terminal`). How many
cores and how much memory this process may use is read here too (`limits`).

May import: errors.
May be imported by: records, verifier, recipe, pocket, machine, backends, data, run, method, training, evaluation,
    report, pipeline, commands, cli.
"""
