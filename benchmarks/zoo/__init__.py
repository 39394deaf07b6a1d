"""The page about the classes of a released library."""
