"""Derived seeds."""

from aln.seeds import derived_seed


def test_a_seed_is_a_function_of_its_parts_and_of_their_order():
    seeds = {parts: derived_seed(*parts) for parts in [(0,), (0, 0), (1,), (0, 1), (1, 0), (0, 0, 1), (2**63, 5)]}
    assert len(set(seeds.values())) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds.values())
    assert all(derived_seed(*parts) == seed for parts, seed in seeds.items())


def test_the_seeds_do_not_change_between_versions():
    assert derived_seed(3, 4) == 4142466838686032688
