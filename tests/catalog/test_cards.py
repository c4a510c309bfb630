from __future__ import annotations

import pytest

from renderer.catalog import cards
from renderer.errors import UsageError
from renderer.text import GIB


class TestFind:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("rtx 3080", "GeForce RTX 3080 10GB"),
            ("NVIDIA GeForce RTX 3080", "GeForce RTX 3080 10GB"),
            ("RTX3080 12 GB", "GeForce RTX 3080 12GB"),
            ("4090", "GeForce RTX 4090"),
            ("RTX 4070 Ti SUPER", "GeForce RTX 4070 Ti Super"),
            ("A6000", "RTX A6000"),
            ("Tesla V100-SXM2-32GB", "V100 32GB"),
            ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
            ("NVIDIA H100 80GB HBM3", "H100 80GB"),
            ("NVIDIA H100 PCIe", "H100 PCIe"),
            ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
            ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
        ],
    )
    def test_loose_names(self, name: str, meant: str) -> None:
        """Names as people write them and as drivers tell them find their card."""
        assert cards.find(name).card.name == meant

    def test_every_card_by_its_own_name(self) -> None:
        """No row hides another."""
        assert [cards.find(card.name).card for card in cards.CARDS] == list(cards.CARDS)

    def test_ambiguous_names_say_so(self) -> None:
        """The smaller of two is taken, and the other is named; a full name needs no note."""
        assert "there is also GeForce RTX 3080 12GB" in cards.find("3080").note
        assert cards.find("3080 12GB").note == ""

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("RTX 3080 Ti", "did you mean RTX 3080 10GB or RTX 3080 12GB?"),
            ("RTX 6000", "did you mean RTX 6000 Ada or RTX PRO 6000 Blackwell?"),
            ("5090 24GB", "did you mean RTX 5090?"),
            ("", "there are RTX 3060 12GB"),
            ("RTX 3080 Laptop GPU", "give its memory instead"),
        ],
    )
    def test_what_is_not_there_is_refused(self, name: str, hint: str) -> None:
        """No card is taken for another: what comes near is named."""
        with pytest.raises(UsageError) as refused:
            cards.find(name)
        assert hint in refused.value.hint


class TestOfGpu:
    def test_memory_tells_two_of_a_name_apart(self) -> None:
        """What a driver calls the same is told by its bytes."""
        found = cards.of_gpu("NVIDIA GeForce RTX 3080", 12 * GIB)
        assert found is not None
        assert found.name == "GeForce RTX 3080 12GB"

    def test_a_card_with_other_memory_is_another_card(self) -> None:
        """An 8 GB card of that name, and one that nobody knows, are not in the table."""
        assert cards.of_gpu("NVIDIA GeForce RTX 4060 Ti", 8 * GIB) is None
        assert cards.of_gpu("A card", 8 * GIB) is None


def test_figures_are_of_one_kind() -> None:
    """FP8 is twice bf16 and from compute capability 8.9 only; nothing is a sparse rate by mistake."""
    for card in cards.CARDS:
        assert (card.fp8_flops is not None) == (card.compute_capability >= (8, 9)), card.name
        assert (card.accumulates == "emulated") == (card.compute_capability < (8, 0)), card.name
        if card.fp8_flops is not None:
            assert card.fp8_flops == pytest.approx(2 * card.bf16_flops, rel=0.03), card.name
        assert card.source.strip().endswith(tuple(str(year) for year in range(2018, 2027))), card.name
