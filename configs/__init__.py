"""The configs that come with the package, by name: `--config=NAME`. Values only."""
