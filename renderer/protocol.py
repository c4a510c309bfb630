"""What the supervisor and a worker say to each other, and how it goes through a pipe.

The supervisor sends orders; the worker answers with events. One frame is two big-endian lengths, a JSON header and a
payload of bytes (a picture's pixels; empty otherwise). Both sides use these values and nothing else of one another.
"""

from __future__ import annotations

import struct
from typing import IO, Annotated, Literal

from pydantic import Field, TypeAdapter

from renderer.job import (
    Engine,
    Gpu,
    Job,
    Memory,
    ModelIdentity,
    Precision,
    Profile,
    Sharing,
    Software,
    Stored,
    Timing,
    Value,
    Weights,
)
from renderer.job.precisions import multiplies_stored, stored

PROTOCOL_VERSION = 1
"""Goes up with each change of an order or an event: who is on another machine is asked for it before anything else."""

_LENGTHS = struct.Struct(">IQ")
MAX_FRAME_HEADER_BYTES = 16 * 2**20
MAX_PAYLOAD_BYTES = 2**30
_PASSED_OVER = 2**16


class Demand(Value):
    """A kind of picture that is to come: pixels, the most tokens of its prompts, whether it is guided, and takes in.

    `edited` are the sizes of what it edits, and `split` says whether that is modulated apart. `layer_num` is as jobs
    have it, which are taken apart; `controls` is how many ControlNets hold it, `region_tokens` the most tokens of its
    regions.

    `pictures` is how many there are (null: many), `steps` those of all of them together: what the kind weighs.
    """

    width: int
    height: int
    prompt_tokens: int
    negative_tokens: int
    guided: bool
    takes_in: bool = False
    edited: tuple[tuple[int, int], ...] = ()
    split: bool = False
    layer_num: int | None = None
    controls: int = 0
    region_tokens: int = 0
    context: bool = False
    pictures: int | None = None
    steps: int = 1


class HostCopy(Value):
    """Where the workers of a machine have one copy of a model's blocks between them, and how large it may be.

    `at` is where a shared memory is opened (`system.shared_memory`), `name` its name there, `ram_bytes` how much of the
    free host memory may be filled with blocks by all of them together.
    """

    at: str
    name: str
    ram_bytes: int


class Setup(Value):
    """What a worker opens, once: one model at one precision, placed by one profile.

    `model` is a catalogue id or a folder, `identity` which weights that were when the work was planned (null: whatever
    they are now), `precision` its jobs'. `vram_bytes` bounds what is taken on the GPU (null: all there is); by the
    profiles `fp8` and `disk`, the weights alone. For the profile `stream`: `store` is the packed store's folder,
    `slots` how many blocks are on the GPU and `in_flight` how many pictures at most (null: as many as there is room
    for, and use). `demands` are what the GPU's memory is shared out for, beside `extra_bytes`, which pictures' LoRAs
    and ControlNets take there at the least. `gpu` is what CUDA_VISIBLE_DEVICES must be for the worker (null: as it
    finds it). `ram_bytes` is how much of the free host memory it may fill with blocks, beside other workers (null: all
    of it), each with blocks of its own; `host_copy` is the copy that it shares with them, where it can (null: it has
    its own).
    """

    model: str
    identity: ModelIdentity | None = None
    precision: Precision
    profile: Profile
    vram_bytes: int | None = None
    offline: bool = False
    store: str | None = None
    slots: int | None = None
    in_flight: int | None = None
    demands: tuple[Demand, ...] = ()
    extra_bytes: int = 0
    gpu: str | None = None
    ram_bytes: int | None = None
    host_copy: HostCopy | None = None

    @property
    def weights(self) -> Weights:
        """Whose jobs it takes."""
        return Weights(self.model, self.precision)

    @property
    def stored(self) -> Stored:
        """The form of the weights."""
        return stored(self.precision)

    @property
    def multiplies_stored(self) -> bool:
        """Whether weights are to be multiplied as they are stored, where the GPU can."""
        return multiplies_stored(self.precision)


# ---- orders: supervisor to worker ------------------------------------------------------------------------------------


class Open(Value):
    """Open the pipeline; answered by `Opened` or `OpenFailed`."""

    order: Literal["open"] = "open"
    setup: Setup


class Render(Value):
    """Render one job; answered by `Started`, `Stepped`…, and then `Rendered` or `Failed`. `key` names it in answers.

    The payload is the files of its inputs, one after the other: `files` are the bytes of each, in the order of
    `job.inputs`. So many `previews` of it are wanted on its way.
    """

    order: Literal["render"] = "render"
    key: str
    job: Job
    files: tuple[int, ...] = ()
    previews: int = 0


class Withdraw(Value):
    """Give back every job that has not been started; answered by `Withdrawn`, and the others go on."""

    order: Literal["withdraw"] = "withdraw"


AnyOrder = Open | Render | Withdraw


# ---- events: worker to supervisor ------------------------------------------------------------------------------------


class Opening(Value):
    """A sign of life while the pipeline opens: which part is being loaded; or where it has no device yet, `placed`."""

    event: Literal["opening"] = "opening"
    what: str
    placed: bool = True


class Opened(Value):
    """The pipeline is open. `capacity` is how many jobs the worker takes at once, `notes` what to know of it."""

    event: Literal["opened"] = "opened"
    capacity: int
    load_s: float
    engine: Engine
    software: Software
    gpu: Gpu | None
    notes: tuple[str, ...] = ()


class OpenFailed(Value):
    """The pipeline cannot be opened on this machine, or used any longer; another try would fail as well."""

    event: Literal["open-failed"] = "open-failed"
    message: str
    hint: str = ""


class Started(Value):
    """A job's turn has come."""

    event: Literal["started"] = "started"
    key: str


class Stepped(Value):
    """`step` of `steps` denoising steps are done."""

    event: Literal["stepped"] = "stepped"
    key: str
    step: int
    steps: int


class Previewed(Value):
    """What a picture may look like, foreseen at a step: the payload is `height` x `width` x 3 bytes of RGB."""

    event: Literal["previewed"] = "previewed"
    key: str
    step: int
    width: int
    height: int


class Rendered(Value):
    """A picture is there: the payload is `height` x `width` x 3 bytes of RGB. `save_s` is still to come in `timing`.

    Behind them are its `layers`, if it has such: so many times `height` x `width` x 4 bytes of RGBA.
    """

    event: Literal["rendered"] = "rendered"
    key: str
    width: int
    height: int
    layers: int = 0
    timing: Timing
    memory: Memory
    sharing: Sharing | None = None
    warnings: tuple[str, ...] = ()


class Failed(Value):
    """A job failed; the worker lives and takes the next. `detail` is for the log."""

    event: Literal["failed"] = "failed"
    key: str
    kind: str
    message: str
    hint: str = ""
    detail: str = ""


class Withdrawn(Value):
    """These jobs were given back: nothing of them has been done, and nothing more will be told of them."""

    event: Literal["withdrawn"] = "withdrawn"
    keys: tuple[str, ...]


AnyEvent = Opening | Opened | OpenFailed | Started | Stepped | Previewed | Rendered | Failed | Withdrawn

_ORDERS: TypeAdapter[AnyOrder] = TypeAdapter(Annotated[AnyOrder, Field(discriminator="order")])
_EVENTS: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="event")])


def header_of(value: AnyOrder | AnyEvent) -> bytes:
    """An order or an event without its payload, as it is sent."""
    return value.model_dump_json().encode()


def order_of(header: bytes) -> AnyOrder:
    """The order that a header tells."""
    return _ORDERS.validate_json(header)


def event_of(header: bytes) -> AnyEvent:
    """The event that a header tells."""
    return _EVENTS.validate_json(header)


def write_frame(stream: IO[bytes], value: AnyOrder | AnyEvent, payload: bytes | memoryview = b"") -> None:
    """Write one frame and flush it. Raises `BrokenPipeError` when the other side is gone."""
    header = header_of(value)
    stream.write(_LENGTHS.pack(len(header), len(payload)))
    stream.write(header)
    stream.write(payload)
    stream.flush()


def _read_exactly(stream: IO[bytes], count: int) -> bytes:
    chunks = bytearray()
    _read_into(chunks, stream, count)
    return bytes(chunks)


def _read_into(chunks: bytearray, stream: IO[bytes], count: int) -> None:
    while len(chunks) < count:
        chunk = stream.read(count - len(chunks))
        if not chunk:
            raise EOFError
        chunks += chunk


def _read_payload(stream: IO[bytes], count: int) -> bytes:
    """As many bytes; none where there is no memory for them: they are passed over, and the next frame is read."""
    chunks = bytearray()
    try:
        _read_into(chunks, stream, count)
        return bytes(chunks)
    except MemoryError:
        left = count - len(chunks)
        chunks.clear()
    while left:
        left -= len(_read_exactly(stream, min(left, _PASSED_OVER)))
    return b""


def _read_frame(stream: IO[bytes]) -> tuple[bytes, bytes]:
    """One frame's header and payload. Raises `EOFError` at the end, also in the middle of a frame.

    A payload that there is no memory for is empty: it is that picture's loss, and not the worker's or the run's.
    """
    header_bytes, payload_bytes = _LENGTHS.unpack(_read_exactly(stream, _LENGTHS.size))
    if header_bytes > MAX_FRAME_HEADER_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
        raise EOFError(f"not a frame: {header_bytes} and {payload_bytes} bytes announced")
    return _read_exactly(stream, header_bytes), _read_payload(stream, payload_bytes)


def read_order(stream: IO[bytes]) -> tuple[AnyOrder, bytes]:
    """The next order and its payload. Raises `EOFError` when the supervisor is gone."""
    header, payload = _read_frame(stream)
    return order_of(header), payload


def read_event(stream: IO[bytes]) -> tuple[AnyEvent, bytes]:
    """The next event and its payload. Raises `EOFError` when the worker is gone."""
    header, payload = _read_frame(stream)
    return event_of(header), payload
