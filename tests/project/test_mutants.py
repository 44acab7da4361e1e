"""The mistakes of scripts/mutants.py are still mistakes in what stands there, and their tests are where they were."""

from scripts import mutants


def test_every_module_and_test_that_is_named_exists_and_every_named_mistake_can_be_made():
    assert len(mutants.named(list(mutants.TESTS))) == len(mutants.NAMED)
    for tests in mutants.TESTS.values():
        assert len(mutants.files_of(tests)) == len(tests.split())
    assert [module for module in mutants.TESTS if not mutants.source_of(module).exists()] == []
