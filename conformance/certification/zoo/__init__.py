"""Recipes for classes of released libraries whose constructors say too little: class path to recipe."""

RECIPES: dict[str, str] = {}
