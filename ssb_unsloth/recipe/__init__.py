"""What a run is asked to do: every key of a recipe, what it can be, and how it is read from YAML and the command line.

    schema      the keys, each with its type, default and range (ranges)      checks    what no range says
    loading     a Recipe out of its layers: file over base and preset,        file      a layer's text to plain values
                overrides, variants; and back to a file                       renamed   keys under their old names
    benchmarks, methods, presets, trackers: tables of what goes by a name

Nothing heavier than OmegaConf is loaded, and by the tables not even that.

May import: errors, io, prompts, verifier.
May be imported by: machine, backends, data, run, method, training, evaluation, report, pipeline, commands, cli.
"""
