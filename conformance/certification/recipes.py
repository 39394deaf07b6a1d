"""What a recipe is written with, under the name that users' recipes import it by."""

from conformance.subjects.recipes import Build, Geometry, Recipe, recipe

__all__ = ["Build", "Geometry", "Recipe", "recipe"]
