"""Shifted and mirrored images."""

import torch

from haste_compiler.prom.augment import shifted

PIXELS = torch.randint(1, 256, (200, 3, 16, 16), dtype=torch.uint8)


def test_every_image_is_a_shift_of_itself_or_of_its_mirror_image() -> None:
    found, mirrored = set(), 0
    made = shifted(PIXELS, torch.Generator().manual_seed(0), mirrored=True)
    for image, was in zip(made, PIXELS, strict=True):
        place, turned = _place(image, was)
        found.add(place)
        mirrored += turned
    # 2 pixels up or down, left or right.
    assert len(found) == 25 and 60 < mirrored < 140


def test_none_is_mirrored_where_that_is_another_image() -> None:
    made = shifted(PIXELS, torch.Generator().manual_seed(0), mirrored=False)
    assert not any(_place(image, was)[1] for image, was in zip(made, PIXELS, strict=True))


def test_the_generator_alone_decides() -> None:
    once, again = (shifted(PIXELS, torch.Generator().manual_seed(3), mirrored=True) for _ in range(2))
    other = shifted(PIXELS, torch.Generator().manual_seed(4), mirrored=True)
    assert torch.equal(once, again) and not torch.equal(once, other)


def _place(image: torch.Tensor, was: torch.Tensor) -> tuple[tuple[int, int], bool]:
    for turned in (False, True):
        padded = torch.nn.functional.pad(was.flip(2) if turned else was, (2, 2, 2, 2))
        for down in range(5):
            for across in range(5):
                if torch.equal(image, padded[:, down : down + 16, across : across + 16]):
                    return (down, across), turned
    raise AssertionError("it is no shift")
