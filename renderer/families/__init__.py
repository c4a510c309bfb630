"""What networks are: a folder a family, all of it data. Imports no torch, and knows nothing of files and pictures.

    family.py      a family in frozen values: networks, sections of alike blocks, what stands outside
    qwen_image/    Qwen-Image, and the demo model, which is a small member

A new family is a folder, a line here and rows in the catalogue.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from renderer.catalog import Role
from renderer.families.family import BlockPart, ControlNets, Family, Network, Outside, Section, Shapes, Staying
from renderer.families.qwen_image import QWEN_IMAGE_FAMILY

__all__ = [
    "FAMILIES",
    "QWEN_IMAGE_FAMILY",
    "BlockPart",
    "ControlNets",
    "Family",
    "Network",
    "Outside",
    "Section",
    "Shapes",
    "Staying",
    "find",
    "of_tensors",
]

FAMILIES: Mapping[str, Family] = MappingProxyType({QWEN_IMAGE_FAMILY.name: QWEN_IMAGE_FAMILY})
"""Every family by the name that the catalogue has."""


def find(name: str) -> Family:
    """A family by its name, as a row of the catalogue or a store's index tells it. Raises `LookupError`."""
    return FAMILIES[name]


def of_tensors(role: Role, names: Collection[str]) -> Family:
    """The family that a network's tensors are of, by any tool's names; the first, where nobody knows them."""
    for family in FAMILIES.values():
        for network in family.networks:
            if network.role == role and any(network.hub_name(name) in network.own for name in names):
                return family
    return next(iter(FAMILIES.values()))
