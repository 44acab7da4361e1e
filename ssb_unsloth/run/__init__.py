"""What lies where: a run's folders, the manifests that close them, and the keys that say whether they are up to date.

    rundir     one folder a stage, written aside and then named     manifests  hashes of all that a stage wrote
    keys       what a recipe's part is to the stages it determines  kept       replies, as soon as they have come
    student    one student's name, recipe and folders               clock      what a stage's seconds went to

Knows no stage and no method.

May import: errors, io, records, verifier, recipe, pocket, backends, data.
May be imported by: method, training, evaluation, report, pipeline, commands.
"""
