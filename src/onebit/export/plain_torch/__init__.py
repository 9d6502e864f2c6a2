"""The export target `torch`: weights, and a program in plain torch that loads them."""
