"""The door to the models: `renderer models list | pull | pack | verify | remove`.

Words and exit codes for what `supplies` and `weights` do. Whatever takes time to import is imported by the command.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

from renderer import catalog
from renderer.catalog import Model
from renderer.cli import arguments
from renderer.cli.problems import print_error
from renderer.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, DiskError, RendererError, UsageError
from renderer.job import Stored
from renderer.job.precisions import DEFAULT_PRECISION, stored
from renderer.system import folders
from renderer.text import gb, wrap

if TYPE_CHECKING:
    from renderer.supervisor import provision
    from renderer.supervisor.settings import Terms
    from renderer.weights.needs import Need
    from renderer.weights.places import Whereabouts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the commands within this one."""
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    listing = commands.add_parser("list", help="the catalogue: what each is for, its size, what is here")
    arguments.add_json(listing)
    listing.set_defaults(what=_list)

    pull = commands.add_parser("pull", help="download a model's files: resumable, verified")
    pull.add_argument("model", metavar="ID", help="a catalogue id, or ID@REVISION")
    arguments.add_fetch_options(pull)
    pull.set_defaults(what=_pull)

    pack = commands.add_parser("pack", help="make a model's packed store, from what is here or is downloaded first")
    pack.add_argument("model", metavar="ID", help="a catalogue id, ID@REVISION, a folder, or files by part")
    pack.add_argument(
        "--precision",
        choices=get_args(Stored),
        default=stored(DEFAULT_PRECISION),
        help=f"default: {stored(DEFAULT_PRECISION)}",
    )
    pack.add_argument(
        "--lora", action="append", default=[], metavar="FILE", help="fuse a LoRA into it, an id or a file; repeatable"
    )
    pack.add_argument(
        "--weight", action="append", default=[], type=float, metavar="W", help="of each LoRA, in order; default: 1"
    )
    pack.add_argument("--discard-source", action="store_true", help="delete the originals once the store is verified")
    arguments.add_fetch_options(pack)
    pack.set_defaults(what=_pack)

    verify = commands.add_parser("verify", help="read every file and hold it against its hash")
    verify.add_argument("model", nargs="?", metavar="ID", help="when missing, all models that are here")
    verify.set_defaults(what=_verify)

    remove = commands.add_parser("remove", help="delete what lies of a model in the models folder")
    remove.add_argument("model", metavar="ID")
    remove.add_argument("--precision", choices=get_args(Stored), help="only the packed store of this precision")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    remove.set_defaults(what=_remove)


def run(options: argparse.Namespace) -> int:
    """Do what was asked for of `list`, `pull`, `pack`, `verify` and `remove`."""
    do: Callable[[argparse.Namespace], int] = options.what
    return do(options)


def terms(options: argparse.Namespace, *, most_bytes: int | None) -> Terms:
    """The terms that the options of `arguments.add_fetch_options` set."""
    from renderer.supervisor.settings import Terms  # noqa: PLC0415

    return Terms(offline=options.offline, source=options.source, most_bytes=most_bytes)


# ---- list ------------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    rows = [_row(model) for model in catalog.MODELS.values()]
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return EXIT_DONE

    print(f"models folder: {folders.models_folder()}")
    for row in rows:
        print(f"\n{row['id']}")
        for line in _lines(row):
            print("\n".join(wrap(f"  {line}", "    ")))
    return EXIT_DONE


def _row(model: Model) -> dict[str, Any]:
    """What is known of a model, ready for JSON."""
    from renderer.weights import places  # noqa: PLC0415
    from renderer.weights.index import INDEX  # noqa: PLC0415

    found = places.look(model)
    folders = {each: places.packed_folder(model, each) for each in get_args(Stored)} if model.parts else {}
    packed = {each: _weight(folder) for each, folder in folders.items() if (folder / INDEX).is_file()}
    return {
        "id": model.id,
        "about": model.about,
        "ability": model.ability,
        "renders": not model.unfit,
        "licence": model.licence or None,
        "base": model.base or None,
        "steps": model.steps,
        "cfg_scale": model.cfg_scale,
        "schedule": str(model.schedule),
        "revision": model.revision,
        "download_bytes": sum(part.bytes or 0 for part in model.parts) or None,
        "bytes": dict(model.gpu_bytes),
        "parts": [
            {"role": each.part.role, "place": each.kind, "folder": str(each.root or each.files[0]), "bytes": each.bytes}
            for each in found.found
        ],
        "missing": found.missing,
        "packed": packed,
    }


def _lines(row: dict[str, Any]) -> Iterator[str]:

    is_extra = row["ability"] in {"lora", "controlnet"}
    yield row["about"]
    if row["ability"] == "lora":
        yield f"{row['steps']} steps, cfg_scale {row['cfg_scale']:g}, schedule {row['schedule']}"
    yield f"licence: {row['licence'] or 'not known'}"
    if catalog.find(row["id"]).is_embedded:
        yield "here: it comes with the package"
        return
    sizes = ", ".join(f"{precision} {gb(count)}" for precision, count in row["bytes"].items())
    size = "of a size that is not known" if row["download_bytes"] is None else gb(row["download_bytes"])
    yield f"download {size}" + ("" if is_extra else f"; packed about {sizes}")
    if row["parts"]:
        by_place: dict[str, list[str]] = {}
        for part in row["parts"]:
            by_place.setdefault(part["place"], []).append(part["role"])
        yield "here: " + "; ".join(f"{', '.join(roles)} in the {place}" for place, roles in by_place.items())
        if row["missing"]:
            yield "missing: " + ", ".join(row["missing"])
    elif not row["packed"]:
        yield "not here"
    for precision, count in row["packed"].items():
        yield f"packed: {precision}, {gb(count)}"


# ---- pull, pack, verify ----------------------------------------------------------------------------------------------


def _pull(options: argparse.Namespace) -> int:
    from renderer.weights.needs import Need  # noqa: PLC0415

    return _obtain(Need(model=options.model, source=options.source, offline=options.offline), options)


def _pack(options: argparse.Namespace) -> int:
    from renderer.weights.needs import Need  # noqa: PLC0415

    reference = _derived(options)
    model = catalog.find(reference)
    if model.is_extra:
        what = "a LoRA" if model.ability == "lora" else "a ControlNet"
        raise UsageError(
            f"{model.id} is {what}, and only whole models are packed", hint="a run makes it ready by itself"
        )
    need = Need(
        model=reference,
        store=options.precision,
        source=options.source,
        offline=options.offline,
        discard_source=options.discard_source,
    )
    code = _obtain(need, options)
    if code == EXIT_DONE and options.lora:
        print(f"a manifest names it so:\n  model: {json.dumps(reference, ensure_ascii=False)}")
    return code


def _derived(options: argparse.Namespace) -> str:
    """The model that is to be packed, with the LoRAs that are to be fused into it."""
    files, weights = options.lora, options.weight
    if len(weights) not in (0, len(files)):
        hint = "give a --weight for each --lora, or none"
        raise UsageError(f"{len(files)} LoRAs, and {len(weights)} weights", hint=hint)
    pairs = zip(files, weights or [1.0] * len(files), strict=True)
    return catalog.name_derived(options.model, [catalog.Fused(file, weight) for file, weight in pairs])


def _obtain(need: Need, options: argparse.Namespace) -> int:
    """Meet a need that somebody asked for by name: that is all the consent it takes."""
    from renderer.supervisor import provision  # noqa: PLC0415
    from renderer.weights import needs, places, settle  # noqa: PLC0415

    if catalog.find(need.model).is_embedded:
        print(f"{need.model}: it comes with the package, and is packed where it is used")
        return EXIT_DONE
    if needs.is_met(need):
        if need.store:
            settle.sweep(places.packed_folder(catalog.find(need.model), need.store))
        print(f"{need.model}: {f'packed in {need.store}' if need.store else 'all'} here already")
        return EXIT_DONE
    with _Screen() as screen:
        try:
            provision.obtain([need], terms(options, most_bytes=None), screen.tell, lambda: False)
        except KeyboardInterrupt:
            screen.close()
            print("stopped; the same command goes on from here", file=sys.stderr)
            return EXIT_STOPPED
    return EXIT_DONE


def _verify(options: argparse.Namespace) -> int:
    from renderer.supervisor import provision  # noqa: PLC0415
    from renderer.weights.needs import Need  # noqa: PLC0415

    if options.model:
        wanted = [catalog.find(options.model).reference]
    else:
        rows = (_row(model) for model in catalog.MODELS.values())
        wanted = [row["id"] for row in rows if row["packed"] or (row["parts"] and not row["missing"])]
    if not wanted:
        print("no model is here")
    trouble = 0
    for reference in wanted:
        with _Screen() as screen:
            try:
                provision.verify(Need(model=reference), screen.tell)
            except KeyboardInterrupt:
                screen.close()
                print("stopped; nothing was changed", file=sys.stderr)
                return EXIT_STOPPED
            except RendererError as error:
                screen.close()
                print_error(error)
                trouble += 1
    return EXIT_FAILED if trouble else EXIT_DONE


class _Screen:
    """Where a supplier's words go: a bar on a terminal, lines for what is final."""

    def __init__(self) -> None:
        from renderer.cli import console, sentences  # noqa: PLC0415

        self._describe = sentences.supply
        self._bar = console.SupplyBar() if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, need: Need, answer: provision.SupplyEvent | None) -> None:
        if self._bar is not None:
            self._bar.show(answer)
        if line := self._describe(need, answer) if not (need.verify and answer is None) else None:
            print(line, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


# ---- remove ----------------------------------------------------------------------------------------------------------


def _remove(options: argparse.Namespace) -> int:
    from renderer.weights import places  # noqa: PLC0415

    model = catalog.find(options.model)
    whereabouts = places.look(model)
    doomed = [path for path in _doomed(model, whereabouts, options.precision) if path.exists() or path.is_symlink()]
    if not doomed:
        print(f"{model.id}: nothing in {folders.models_folder()}")
    else:
        _check_inside(doomed, folders.models_folder())
        total = sum(map(_weight, doomed))
        for path in doomed:
            print(f"{path}  {gb(_weight(path))}")
        for user in _users(model) if not options.precision else ():
            print(f"{user} uses the text encoder, the VAE and the tokenizer in it")
        if not _agreed(options, f"delete {gb(total)}?"):
            print("nothing was deleted")
            return EXIT_DONE
        for path in doomed:
            _delete(path)
        print(f"{gb(total)} deleted")
    for place in sorted({found.kind for found in whereabouts.found if found.kind not in ("models folder", "given")}):
        print(f"what lies in the {place} stays")
    return EXIT_DONE


def _doomed(model: Model, whereabouts: Whereabouts, precision: Stored | None) -> list[Path]:
    """What `remove` deletes: stores, or one of them, and the folder a model was fetched to, or a LoRA's file."""
    from renderer.weights import places, settle  # noqa: PLC0415
    from renderer.weights.adapters.whereabouts import identity_of, packed_adapter  # noqa: PLC0415

    if not model.parts and model.folder is None and not model.files:
        return []
    kinds = [precision] if precision else get_args(Stored)
    stores = [places.packed_folder(model, each) for each in kinds]
    packed = [path for store in stores for path in (*settle.leftovers(store), store)]
    if precision:
        return packed
    if model.is_extra:
        ours = [found for found in whereabouts.found if found.kind == "models folder"]
        packed_as = packed_adapter if model.ability == "lora" else None
        return [
            path
            for found in ours
            for file in found.files
            for path in (file, *([packed_as(identity_of(file))] if packed_as else []))
        ]
    own = next((part for part in model.parts if part.repository is None), None)
    return [*packed, *([places.fetch_folder(model, own)] if own else [])]


def _users(model: Model) -> Iterator[str]:
    """Other models, here, that take parts from this one's repository."""
    from renderer.weights import places  # noqa: PLC0415

    for other in catalog.MODELS.values():
        shares = any(part.repository == model.id for part in other.parts)
        if shares and any(found.part.role == "transformer" for found in places.look(other).found):
            yield other.id


def _check_inside(doomed: list[Path], folder: Path) -> None:
    """Raise `UsageError` for anything that is not below the models folder; a link is judged by where it stands."""
    root = folder.resolve()
    for path in doomed:
        place = path.parent.resolve() / path.name
        if not place.is_relative_to(root) or place == root:
            raise UsageError(f"{path} lies outside {folder}, and is not deleted")


def _agreed(options: argparse.Namespace, question: str) -> bool:
    if options.yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to be asked", hint="take --yes, which deletes without asking")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _delete(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise DiskError(f"cannot delete {path}: {error.strerror or error}") from error


def _weight(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; a link weighs nothing."""
    if path.is_symlink():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
