"""What a run is asked to do: every key of a recipe, what it can be, and how it is read from YAML and the command line.

`schema` has the keys, with defaults and ranges; `loading` makes a Recipe of a file, its base, a preset, overrides and
variants, and `checks` refuses what cannot work. `benchmarks`, `methods`, `presets` and `trackers` are tables of what
goes by a name. May import `io` and `prompts`; every room but these two may import it. Nothing heavier than OmegaConf is
loaded, and by the tables not even that.
"""
