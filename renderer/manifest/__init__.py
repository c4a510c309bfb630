"""From text to pictures: every job with nothing left open, or all problems at once, each with its line.

Knows nothing of machines, or of what has been rendered. The way goes down this list.

    manifest        the whole way, and what stands at its end
    source          bytes, of a file or of standard input
    decoding        text
    yaml_reader     values, and where each stands; yaml_hints, what helps where the text is no YAML
    json_reader     the same of JSON
    scalars         what a word without quotes is
    document        what was read
    inherit         what it takes from another file

    jobs            head and jobs, each held against its fields
    fields          the fields
    kinds           the kinds of values they hold
    additions       those of what is added to a model: LoRAs, and a schedule
    control_kinds   those of what holds a picture to others: ControlNets
    lettering_kinds those of the texts that a picture is to show
    checking        what does not fit, in a manifest's words
    habits          hints for those who come from other tools
    complaints      what is wrong, collected

    tables          a table's file, to its rows
    rows            a job with a table, to a job a row
    recipe          a job with what the defaults add to it
    reading         what its fields mean
    matrices        its matrix: what is left out of it, what is drawn of it
    choices         {{red|blue}} in its texts
    draws           what is drawn by a seed
    wordings        what each of its pictures is asked for
    loras           its LoRAs, found, and what goes with them
    input_paths     what goes in: its files found
    looked_at       and looked at, each once; remembered while they do not change
    pictures_in     and what is made of them
    controlnets     its ControlNets, found, and how they count
    lettering       the texts that its pictures are to show
    expand          its pictures
    shelf           what a stranger's manifest may name
    naming          templates, ids, and names that are safe everywhere
    output_names    each picture's name
    doubts          what is valid and was hardly meant
    foreign         what in a prompt is meant for other tools

The way back:

    labels          what other tools, and this one, wrote into pictures
    refound         LoRAs and ControlNets of pictures, on this machine
    replay          a manifest's entries, of pictures
    replay_tables   the same as a table
"""
