"""A recipe's stages: their order, what determines each, the students they are for, the processes they run in.

    table      the stages in their order            stages/    one module each: what it reads, is determined by, does
    students   which a recipe asks for, and what    process    one stage in a process of its own
               they share                           sweep      all of them, as far as they are not up to date
                                                    together   one stage's work by several processes

A stage's module imports no other stage's.

May import: errors, published, io, records, prompts, recipe, machine, backends, data, run, method, training,
    evaluation, report.
May be imported by: commands, cli.
"""
