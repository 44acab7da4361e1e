"""What is read before anything is sampled: problems with their gold answers, and pairs that were made elsewhere.

    readers   rows of files, folders and hub data sets, one at a time
    problems  these rows, or the built-in generator, to Problems     pairs  three forms of rows to Pairs
    shared    pairs, rollouts and targets that others have made: a file, a folder, or a data set on the hub

Every row is looked at, and what is wrong with one is said with its file and line.

May import: errors, io, records, prompts, recipe, verifier, pocket, backends.
May be imported by: run, training, pipeline, commands.
"""
