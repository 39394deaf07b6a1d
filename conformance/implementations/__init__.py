"""The implementations under test, and the protocol a third party's implementation follows."""
