"""The doors: what is typed, and what is said of it.

Knows nothing of how anything is done. Each command has a room of its name, which is imported when it is typed.

    command       the one door: finds the command's room, and ends whatever happens as a line and an exit code
    arguments     what several commands take, and how single arguments are read
    manifests     the manifests that a command line names
    first_look    how far the look at what goes into their pictures is
    problems      errors, and problems of manifests, in lines

    validate      what is wrong with manifests
    plan          what would be rendered, and what that takes
    estimate      what one picture takes of memory
    estimate_answers   what it answers, of one device or several
    assumptions   the machine that both take this one to be
    status        what is done, and how a run stands
    render        a night
    add           a night that is on takes in manifests
    pause         a night that is on begins nothing more
    resume        and goes on
    stop          and ends
    wishing       which night is meant, and what it answers
    compare       a manifest at several precisions, side by side
    again         chosen pictures once more, another way
    export        chosen pictures, copied with a table
    replay        pictures once more, or as entries of a manifest
    serve         an HTTP server
    smoke         whether one draws
    merge         what several machines have rendered, together
    prune         pictures that no manifest names
    report        the page
    models        what lies here of models, and what is fetched
    doctor        this machine
    bench         how fast it is
    cluster       the machines of a Ray cluster
    schema        JSON Schemas
    completion    scripts for shells

    attended      a run with everybody who watches it
    console       what people, logs and programs read of it
    footer        its last lines on a terminal
    sentences     its words
    ping          an address that hears whether it ran
    notify        messages to somebody elsewhere
    refusals      manifests that it does not render, as long as they are not mended
"""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (`errors.py` lists them). `None`: those of this process."""
    from renderer.cli import command  # noqa: PLC0415  (the rooms of this wing are imported when they are needed)

    return command.main(arguments)
