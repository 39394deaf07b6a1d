"""Detection power: what the suite catches of planted bugs, how soon, and what each of its ideas is worth."""
